"""Reads objects of local buckets: files `<root>/<bucket>/<key>` that `control.buckets` has put there.

Not for writing them, and not an S3. Invariant: what is opened is a regular file below the bucket's own directory,
whatever the key says and whatever links lie there.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Final

from freehold.artifacts.base import ArtifactRejected, S3Object
from freehold.artifacts.source import uri

MAX_KEY_BYTES: Final = 1024
MAX_PART_BYTES: Final = 255
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: opening a named pipe must not wait for somebody to write to it."""
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENAMETOOLONG, errno.ENXIO)


class LocalBuckets:
    """All buckets below `root`, as an `artifacts.source.Source`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, source: S3Object) -> BinaryIO:
        """The object, opened for reading.

        Raises ArtifactRejected when it doesn't exist, can't be read, or a version of it is asked for.
        """
        if source.version_id is not None:
            raise ArtifactRejected(
                f"{uri(source)} is in a local bucket, and local buckets keep no versions: leave out versionId."
            )
        parts = _parts(source.bucket, source.key)
        if parts is None:
            raise _missing(source)
        try:
            fd = _open_below(self._root, parts)
        except OSError as error:
            if error.errno in _NOT_THERE:
                raise _missing(source) from error
            if error.errno in (errno.EACCES, errno.EPERM):
                raise ArtifactRejected(f"{uri(source)} can't be read: {error.strerror}.") from error
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _missing(source)
        return os.fdopen(fd, "rb")


def _parts(bucket: str, key: str) -> list[str] | None:
    """Bucket and key as the names of directories and a file; None for names that no object can have."""
    if not _BUCKET.fullmatch(bucket) or not key or _CONTROL.search(key):
        return None
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        return None
    parts = raw.split(b"/")
    if len(raw) > MAX_KEY_BYTES or any(part in (b"", b".", b"..") or len(part) > MAX_PART_BYTES for part in parts):
        return None
    return [bucket, *key.split("/")]


def _open_below(root: Path, parts: list[str]) -> int:
    """A descriptor of the file `parts` below `root`, reached without following a link."""
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in parts[:-1]:
            below = os.open(name, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
        return os.open(parts[-1], _FILE, dir_fd=current)
    finally:
        os.close(current)


def _missing(source: S3Object) -> ArtifactRejected:
    return ArtifactRejected(f"{uri(source)} does not exist in this server's buckets.")
