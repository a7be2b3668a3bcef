"""Reads objects of local buckets, as `artifacts.bucket_layout` lays them out.

Not for writing them (`control.buckets`), and not an S3. Invariant: what is opened is a regular file below the bucket's
own directories, whatever the key and the version say and whatever links lie there.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from freehold.artifacts import bucket_layout
from freehold.artifacts.base import ArtifactRejected, S3Object
from freehold.artifacts.source import Stamp, Stopped, printable, too_large, uri

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: opening a named pipe must not wait for somebody to write to it."""
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENAMETOOLONG, errno.ENXIO)
_CHUNK: Final = 1024 * 1024
SETTLED_NS: Final = 2_000_000_000
"""Far more than a tick of any file system's clock."""


class LocalBuckets:
    """All buckets below `root`, as an `artifacts.source.Source`."""

    def __init__(self, root: Path, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        """`now_ns`: the time of day, by the clock of the file system."""
        self._root = root
        self._now_ns = now_ns

    def has(self, bucket: str) -> bool:
        """Whether there is a bucket of this name."""
        try:
            name, _ = bucket_layout.object_parts(bucket, "any")
            return stat.S_ISDIR(os.lstat(self._root / name).st_mode)
        except (bucket_layout.BadName, FileNotFoundError):
            return False

    def check(self, source: S3Object) -> Stamp | None:
        """Raise ArtifactRejected unless the object is there, can be read and is small enough."""
        with self.open(source) as file:
            found = os.fstat(file.fileno())
        if found.st_size > source.max_bytes:
            raise too_large(source, found.st_size)
        return self._stamp(found)

    def fetch(self, source: S3Object, copy: Path, stop: threading.Event) -> Stamp | None:
        """Copy the object, whose file may grow and change while it is read. Raises ArtifactRejected, Stopped."""
        copied = 0
        with self.open(source) as file, copy.open("xb") as out:
            before = self._stamp(os.fstat(file.fileno()))
            os.fchmod(out.fileno(), 0o600)
            while data := file.read(_CHUNK):
                if stop.is_set():
                    raise Stopped
                copied += len(data)
                if copied > source.max_bytes:
                    raise too_large(source, max(copied, os.fstat(file.fileno()).st_size))
                out.write(data)
            return before if before == self._stamp(os.fstat(file.fileno())) else None

    def _stamp(self, found: os.stat_result) -> Stamp | None:
        """Every change of a file sets its ctime, which nobody can set: but two changes may fall into one tick of it.

        So a file that changed just now has no stamp yet.
        """
        if self._now_ns() - found.st_ctime_ns < SETTLED_NS:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def open(self, source: S3Object) -> BinaryIO:
        """The object, opened for reading. Raises ArtifactRejected when it doesn't exist or can't be read."""
        try:
            parts = _parts(source)
        except bucket_layout.BadName as error:
            raise _missing(source) from error
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


def _parts(source: S3Object) -> list[str]:
    """Where the object, or the version asked for, lies below the root. Raises ArtifactRejected, BadName."""
    if source.version_id is None or source.version_id == bucket_layout.NO_VERSION:
        return bucket_layout.object_parts(source.bucket, source.key)
    above = bucket_layout.versions_parts(source.bucket, source.key)
    if not bucket_layout.is_version_id(source.version_id):
        raise _missing(source)
    return [*above, source.version_id]


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
    if source.version_id is None or source.version_id == bucket_layout.NO_VERSION:
        return ArtifactRejected(f"{uri(source)} does not exist in this server's buckets.")
    return ArtifactRejected(
        f"{uri(source)} has no version {printable(source.version_id)} in this server's buckets. Only uploads are given "
        "versions, and only the last few are kept (artifacts.local_versions)."
    )
