"""Reading objects of local buckets, whatever the key says and whatever lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from freehold.artifacts.base import ArtifactRejected, S3Object
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


def test_a_version_of_an_object_is_refused_with_what_to_do(root: Path) -> None:
    message = refusal(root, "code", "agent.zip", "v1")
    assert (
        message == "s3://code/agent.zip is in a local bucket, and local buckets keep no versions: leave out versionId."
    )


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for key in ("other", "deep", "deep/er", "agent.zip/x", "deep/er/agent.zip/y"):
        refusal(root, "code", key)
    assert len(os.listdir("/proc/self/fd")) == before
