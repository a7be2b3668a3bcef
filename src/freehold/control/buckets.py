"""Local buckets: where code zips are put, so that S3 locations in requests name something on this machine.

For: uploads through the operator API. Not for reading (`artifacts`) and not an S3. Invariant: what is written lies
below the bucket's own directory, whatever the key says and whatever links lie there; an object is there whole or
not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import Final

from freehold.domain.errors import FieldProblem, QuotaExceeded, ValidationFailed

MAX_KEY_BYTES: Final = 1024
_MAX_PART_BYTES: Final = 255
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UPLOADS: Final = ".uploads"
"""Beside the buckets, in the same file system; no bucket's name begins with a dot."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_IN_THE_WAY: Final = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG)


class Buckets:
    """All buckets below `root`. Blocking: for worker threads."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self) -> None:
        """Make the directories, and remove uploads that an earlier run did not finish."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        uploads = self._root / _UPLOADS
        uploads.mkdir(mode=0o700, exist_ok=True)
        for leftover in uploads.iterdir():
            leftover.unlink()

    def begin_upload(self, bucket: str, key: str) -> Upload:
        """Begin to write an object. Raises ValidationFailed for a name that can't be kept."""
        parts = _parts(bucket, key)
        with _explained(bucket, key):
            return Upload(self._root, parts)


class Upload:
    """One object on its way in: `write` its bytes in order, then `commit`; `abort` in any case."""

    def __init__(self, root: Path, parts: list[str]) -> None:
        self._root = root
        self._parts = parts
        self._name = secrets.token_hex(16)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd: int | None = os.open(root / _UPLOADS / self._name, flags, 0o600)

    def write(self, data: bytes) -> None:
        """Append. Raises QuotaExceeded when the disk is full."""
        assert self._fd is not None, "the upload has ended"
        view = memoryview(data)
        with _explained(*self._named):
            while view:
                view = view[os.write(self._fd, view) :]

    def commit(self) -> None:
        """Put the object in its place, durably, instead of whatever object was there."""
        assert self._fd is not None, "the upload has ended"
        with _explained(*self._named):
            os.fsync(self._fd)
            with _descend(self._root, self._parts[:-1]) as target, _descend(self._root, [_UPLOADS]) as source:
                os.rename(self._name, self._parts[-1], src_dir_fd=source, dst_dir_fd=target)
                os.fsync(target)
        self._close()

    def abort(self) -> None:
        """Leave nothing behind, unless it was committed."""
        self._close()
        (self._root / _UPLOADS / self._name).unlink(missing_ok=True)

    @property
    def _named(self) -> tuple[str, str]:
        return self._parts[0], "/".join(self._parts[1:])

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _parts(bucket: str, key: str) -> list[str]:
    """Bucket and key as the names of directories and a file. Raises ValidationFailed."""
    if not _BUCKET.fullmatch(bucket):
        raise _refused("bucket", f"a bucket's name has the form {_BUCKET.pattern}")
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raise _refused("key", "a key is UTF-8 text") from None
    if not key or len(raw) > MAX_KEY_BYTES:
        raise _refused("key", f"a key has 1 to {MAX_KEY_BYTES} bytes")
    if _CONTROL.search(key):
        raise _refused("key", "a key holds no control characters")
    parts = key.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > _MAX_PART_BYTES for part in parts):
        raise _refused("key", f"the parts of a key between '/' are 1 to {_MAX_PART_BYTES} bytes and not '.' or '..'")
    return [bucket, *parts]


@contextlib.contextmanager
def _descend(root: Path, names: list[str]) -> Generator[int]:
    """A descriptor of the directory `names` below `root`, made as needed, following no link."""
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            made = False
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=current)
                made = True
            below = os.open(name, _DIRECTORY, dir_fd=current)
            try:
                if made:
                    os.fsync(current)
            except BaseException:
                os.close(below)
                raise
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


@contextlib.contextmanager
def _explained(bucket: str, key: str) -> Generator[None]:
    """Turn what the file system says into what the caller can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise QuotaExceeded("The server's disk is full") from error
        if error.errno in _IN_THE_WAY:
            raise _refused("key", f"another object is in the way of {key} in bucket {bucket}") from error
        raise


def _refused(name: str, message: str) -> ValidationFailed:
    return ValidationFailed(f"Can't keep this object: {message}", fields=(FieldProblem(name, message),))
