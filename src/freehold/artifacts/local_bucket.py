"""Reads objects of local buckets, as `artifacts.bucket_layout` lays them out.

Not for writing them (`control.buckets`), and not an S3. Invariant: what is opened is a regular file below the bucket's
own directories, whatever the key and the version say and whatever links lie there.
"""

from __future__ import annotations

import errno
import hashlib
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
SMALL_BYTES: Final = 256 * 1024
"""Up to so many bytes are read sooner than prepared again, while their file can't be told from another yet."""


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
            return stat.S_ISDIR(os.lstat(f"{self._root}/{name}").st_mode)
        except (bucket_layout.BadName, FileNotFoundError):
            return False

    def check(self, source: S3Object) -> Stamp | None:
        """Raise ArtifactRejected unless the object is there, can be read and is small enough."""
        fd, found = self._opened(source)
        try:
            if found.st_size > source.max_bytes:
                raise too_large(source, found.st_size)
            return self._stamp(found) or _read_stamp(fd)
        finally:
            os.close(fd)

    def fetch(self, source: S3Object, copy: Path, stop: threading.Event) -> Stamp | None:
        """Copy the object, whose file may grow and change while it is read. Raises ArtifactRejected, Stopped."""
        copied, hashed = 0, hashlib.sha256()
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
                if copied <= SMALL_BYTES:
                    hashed.update(data)
            if before is not None and before == self._stamp(os.fstat(file.fileno())):
                return before
            return _stamp_of(hashed.digest()) if copied <= SMALL_BYTES else None

    def _stamp(self, found: os.stat_result) -> Stamp | None:
        """Every change of a file sets its ctime, which nobody can set: but two changes may fall into one tick of it.

        So a file that changed just now has none of these yet.
        """
        if self._now_ns() - found.st_ctime_ns < SETTLED_NS:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def open(self, source: S3Object) -> BinaryIO:
        """The object, opened for reading. Raises ArtifactRejected when it doesn't exist or can't be read."""
        fd, _ = self._opened(source)
        return os.fdopen(fd, "rb")

    def _opened(self, source: S3Object) -> tuple[int, os.stat_result]:
        """A descriptor of the object's file, and what that is. Raises as `open`."""
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
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise _missing(source)
        except BaseException:
            os.close(fd)
            raise
        return fd, found


def _read_stamp(fd: int) -> Stamp | None:
    """Of the bytes themselves, if they are few."""
    data = b""
    while part := os.read(fd, SMALL_BYTES + 1 - len(data)):
        data += part
    return _stamp_of(hashlib.sha256(data).digest()) if len(data) <= SMALL_BYTES else None


def _stamp_of(digest: bytes) -> Stamp:
    return (int.from_bytes(digest),)


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
