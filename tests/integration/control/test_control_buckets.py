"""Uploads into local buckets stay in their bucket, whatever keys and links say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.artifacts.base import ArtifactRejected, S3Object
from freehold.artifacts.bucket_layout import VERSIONS
from freehold.artifacts.local_bucket import LocalBuckets
from freehold.control.buckets import Buckets
from freehold.domain.errors import ValidationFailed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "buckets"


@pytest.fixture
def buckets(root: Path) -> Buckets:
    opened = Buckets(root)
    opened.open()
    return opened


def put(buckets: Buckets, bucket: str, key: str, data: bytes) -> str:
    upload = buckets.begin_upload(bucket, key)
    try:
        upload.write(data)
        return upload.commit()
    finally:
        upload.abort()


def files(below: Path) -> set[str]:
    """All files but the versions that are kept of uploads."""
    found = {path.relative_to(below) for path in below.rglob("*") if not path.is_dir()}
    return {str(path) for path in found if VERSIONS not in path.parts}


def versions(root: Path) -> list[bytes]:
    """What the kept versions hold, the oldest first; of all objects."""
    return [path.read_bytes() for path in sorted((root / VERSIONS).rglob("*")) if path.is_file()]


def read(root: Path, bucket: str, key: str, version_id: str | None = None) -> bytes:
    with LocalBuckets(root).open(S3Object(bucket, key, version_id)) as file:
        return file.read()


def test_an_object_is_there_whole_or_not_at_all(buckets: Buckets, root: Path):
    upload = buckets.begin_upload("code", "a/b/c.zip")
    upload.write(b"one")
    assert not (root / "code").exists()
    upload.write(b"two")
    upload.commit()
    upload.abort()
    assert (root / "code/a/b/c.zip").read_bytes() == b"onetwo"
    assert files(root) == {"code/a/b/c.zip"}


def test_an_aborted_upload_leaves_nothing_and_keeps_what_was_there(buckets: Buckets, root: Path):
    put(buckets, "code", "a.zip", b"old")
    upload = buckets.begin_upload("code", "a.zip")
    upload.write(b"new")
    upload.abort()
    upload.abort()
    assert (root / "code/a.zip").read_bytes() == b"old"
    assert files(root) == {"code/a.zip"}


def test_uploads_that_a_crash_left_are_swept_at_the_next_start(buckets: Buckets, root: Path):
    buckets.begin_upload("code", "a.zip").write(b"half")
    assert len(files(root)) == 1
    Buckets(root).open()
    assert files(root) == set()


BAD_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a\0b",
    "a\nb",
    "\x7f",
    "a" * 256,
    "a/" * 600,
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_is_no_path_below_its_bucket_is_refused(buckets: Buckets, root: Path, key: str):
    with pytest.raises(ValidationFailed):
        put(buckets, "code", key, b"x")
    assert files(root.parent) == set()


@pytest.mark.parametrize("bucket", ["", "..", ".uploads", "A", "a", "ab", "a/b", "-ab", "ab-", "a" * 64, "a\nb", "äöü"])
def test_a_name_that_no_bucket_can_have_is_refused(buckets: Buckets, root: Path, bucket: str):
    with pytest.raises(ValidationFailed):
        put(buckets, bucket, "k", b"x")
    assert files(root.parent) == set()


def test_a_link_on_the_way_is_not_followed(buckets: Buckets, root: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "code").mkdir()
    (root / "code/link").symlink_to(outside)
    (root / "linked").symlink_to(outside)
    for bucket, key in (("code", "link/a.zip"), ("linked", "a.zip")):
        with pytest.raises(ValidationFailed, match="in the way"):
            put(buckets, bucket, key, b"x")
    assert list(outside.iterdir()) == []


def test_a_link_in_the_objects_place_is_replaced_not_followed(buckets: Buckets, root: Path, tmp_path: Path):
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    (root / "code").mkdir()
    (root / "code/a.zip").symlink_to(target)
    put(buckets, "code", "a.zip", b"ours")
    assert target.read_bytes() == b"theirs"
    assert (root / "code/a.zip").read_bytes() == b"ours"
    assert not (root / "code/a.zip").is_symlink()


def test_an_object_in_the_way_of_a_directory_is_told(buckets: Buckets, root: Path):
    put(buckets, "code", "a", b"x")
    with pytest.raises(ValidationFailed, match="in the way"):
        put(buckets, "code", "a/b", b"x")
    put(buckets, "code", "d/e", b"x")
    with pytest.raises(ValidationFailed, match="in the way"):
        put(buckets, "code", "d", b"x")
    assert files(root) == {"code/a", "code/d/e"}


# -- versions ------------------------------------------------------------------------------------------------------


def test_every_upload_has_a_version_that_can_be_read_for_ever_after(buckets: Buckets, root: Path):
    ids = [put(buckets, "code", "a.zip", data) for data in (b"one", b"two", b"three")]
    assert len(set(ids)) == 3
    assert [read(root, "code", "a.zip", version_id) for version_id in ids] == [b"one", b"two", b"three"]
    assert read(root, "code", "a.zip") == b"three"


def test_writing_into_an_objects_file_by_hand_changes_no_version(buckets: Buckets, root: Path):
    version_id = put(buckets, "code", "a.zip", b"uploaded")
    with (root / "code/a.zip").open("r+b") as file:
        file.write(b"by hand!")
    assert read(root, "code", "a.zip") == b"by hand!"
    assert read(root, "code", "a.zip", "null") == b"by hand!"
    assert read(root, "code", "a.zip", version_id) == b"uploaded"


def test_only_the_last_versions_are_kept_of_each_object(root: Path):
    buckets = Buckets(root, versions=2)
    buckets.open()
    other = put(buckets, "code", "other.zip", b"other")
    ids = [put(buckets, "code", "a.zip", b"%d" % number) for number in range(5)]
    for gone in ids[:3]:
        with pytest.raises(ArtifactRejected, match="has no version"):
            read(root, "code", "a.zip", gone)
    assert [read(root, "code", "a.zip", kept) for kept in ids[3:]] == [b"3", b"4"]
    assert read(root, "code", "other.zip", other) == b"other"


def test_versions_are_in_order_even_when_the_clock_goes_back(root: Path):
    times = iter([500, 400, 400, 100])
    buckets = Buckets(root, versions=3, now_ns=lambda: next(times))
    buckets.open()
    ids = [put(buckets, "code", "a.zip", b"%d" % number) for number in range(4)]
    assert ids == sorted(ids)
    assert versions(root) == [b"1", b"2", b"3"]


def test_a_key_can_not_name_the_versions(buckets: Buckets, root: Path):
    put(buckets, "code", "a.zip", b"x")
    put(buckets, "code", ".versions/a.zip", b"an ordinary object")
    assert read(root, "code", ".versions/a.zip") == b"an ordinary object"
    with pytest.raises(ValidationFailed):
        put(buckets, ".versions", "code/a.zip", b"x")


def test_a_link_in_the_place_of_the_versions_is_not_followed(buckets: Buckets, root: Path, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / VERSIONS).symlink_to(outside)
    with pytest.raises(ValidationFailed, match="in the way"):
        put(buckets, "code", "a.zip", b"x")
    assert list(outside.iterdir()) == []


def test_uploads_of_one_object_at_once_are_all_kept(root: Path):
    buckets = Buckets(root, versions=50)
    buckets.open()
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda number: put(buckets, "code", "a.zip", b"%d" % number), range(40)))
    assert [read(root, "code", "a.zip", version_id) for version_id in ids] == [b"%d" % number for number in range(40)]
    assert read(root, "code", "a.zip") == read(root, "code", "a.zip", max(ids))


@given(key=st.text(max_size=60), bucket=st.sampled_from(["code", "other.bucket"]))
def test_any_key_ends_below_its_bucket_or_is_refused(tmp_path_factory: pytest.TempPathFactory, key: str, bucket: str):
    top = tmp_path_factory.mktemp("top", numbered=True)
    buckets = Buckets(top / "buckets")
    buckets.open()
    try:
        put(buckets, bucket, key, b"x")
    except ValidationFailed:
        assert files(top) == set()
    else:
        assert files(top) == {f"buckets/{bucket}/{key}"}
        assert versions(top / "buckets") == [b"x"]
