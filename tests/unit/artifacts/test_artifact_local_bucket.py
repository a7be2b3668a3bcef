"""Reading objects of local buckets, whatever the key says and whatever lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from freehold.artifacts.base import ArtifactRejected, S3Object
from freehold.artifacts.bucket_layout import versions_parts
from freehold.artifacts.local_bucket import LocalBuckets


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bucket `code` with `agent.zip` and `deep/er/agent.zip`, and a secret beside the buckets."""
    root = tmp_path / "buckets"
    (root / "code" / "deep" / "er").mkdir(parents=True)
    (root / "code" / "agent.zip").write_bytes(b"zip")
    (root / "code" / "deep" / "er" / "agent.zip").write_bytes(b"deep zip")
    (root / ".uploads").mkdir()
    (root / ".uploads" / "half").write_bytes(b"half")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def refusal(root: Path, bucket: str, key: str, version_id: str | None = None) -> str:
    with pytest.raises(ArtifactRejected) as caught:
        LocalBuckets(root).open(S3Object(bucket, key, version_id))
    return str(caught.value)


@pytest.mark.parametrize(("key", "data"), [("agent.zip", b"zip"), ("deep/er/agent.zip", b"deep zip")])
def test_an_object_is_read(root: Path, key: str, data: bytes) -> None:
    with LocalBuckets(root).open(S3Object("code", key)) as file:
        assert file.read() == data


@pytest.mark.parametrize(
    "key",
    [
        "other.zip",
        "deep/other/agent.zip",
        "agent.zip/more",
        "deep",
        "",
        "../secret",
        "../../secret",
        "deep/../../../secret",
        "/etc/passwd",
        "deep//er/agent.zip",
        "./agent.zip",
        "agent.zip/",
        "agent.zip\0",
        "a\nb",
        "\ud800",
        "x" * 1025,
        "x" * 300,
    ],
)
def test_what_is_no_object_does_not_exist(root: Path, key: str) -> None:
    message = refusal(root, "code", key)
    assert message.startswith("s3://code/")
    assert message.endswith("does not exist in this server's buckets.")
    assert message.isprintable()


@pytest.mark.parametrize("bucket", ["other", "..", ".uploads", ".", "code/deep", "/etc", "co", "Code", "code\0"])
def test_what_is_no_bucket_does_not_exist(root: Path, bucket: str) -> None:
    assert "does not exist" in refusal(root, bucket, "half")


def test_links_are_not_followed(root: Path) -> None:
    (root / "code" / "link.zip").symlink_to(root.parent / "secret")
    (root / "code" / "inside.zip").symlink_to("agent.zip")
    (root / "code" / "up").symlink_to(root.parent)
    (root / "linked").symlink_to(root.parent)
    for bucket, key in [("code", "link.zip"), ("code", "inside.zip"), ("code", "up/secret"), ("linked", "secret")]:
        assert "does not exist" in refusal(root, bucket, key)


def test_a_named_pipe_is_no_object_and_nobody_waits_for_it(root: Path) -> None:
    os.mkfifo(root / "code" / "pipe.zip")
    assert "does not exist" in refusal(root, "code", "pipe.zip")


VERSION = "0123456789abcdef" * 2


def put_version(root: Path, key: str, version_id: str, data: bytes) -> None:
    directory = root.joinpath(*versions_parts("code", key))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / version_id).write_bytes(data)


def test_a_version_is_read_whatever_has_become_of_the_object(root: Path) -> None:
    put_version(root, "agent.zip", VERSION, b"older zip")
    for _ in range(2):
        with LocalBuckets(root).open(S3Object("code", "agent.zip", VERSION)) as file:
            assert file.read() == b"older zip"
        (root / "code" / "agent.zip").unlink(missing_ok=True)


def test_the_version_null_is_the_file_that_was_put_by_hand(root: Path) -> None:
    with LocalBuckets(root).open(S3Object("code", "agent.zip", "null")) as file:
        assert file.read() == b"zip"


@pytest.mark.parametrize(
    "version_id", ["v1", "f" * 32, VERSION.upper(), "", "..", "../agent.zip", "a" * 31 + "/", VERSION + "\n", "\0"]
)
def test_a_version_that_is_not_kept_is_told(root: Path, version_id: str) -> None:
    put_version(root, "agent.zip", VERSION, b"older zip")
    message = refusal(root, "code", "agent.zip", version_id)
    assert message.startswith("s3://code/agent.zip has no version ")
    assert "artifacts.local_versions" in message
    assert message.isprintable()


def test_a_version_of_one_object_is_none_of_another(root: Path) -> None:
    put_version(root, "agent.zip", VERSION, b"older zip")
    assert "has no version" in refusal(root, "code", "deep/er/agent.zip", VERSION)


def test_a_bucket_is_a_directory_with_a_buckets_name(root: Path) -> None:
    (root / "file").write_bytes(b"")
    (root / "linked").symlink_to(root / "code")
    found = [name for name in ("code", "file", "linked", "other", ".uploads", "..", "") if LocalBuckets(root).has(name)]
    assert found == ["code"]


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for key in ("other", "deep", "deep/er", "agent.zip/x", "deep/er/agent.zip/y"):
        refusal(root, "code", key)
    assert len(os.listdir("/proc/self/fd")) == before
