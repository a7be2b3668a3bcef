"""Local buckets: where code zips are put, so that S3 locations in requests name something on this machine.

For: uploads through the operator API. Not for reading (`artifacts`) and not an S3. Invariant: what is written lies
below the bucket's own directories, whatever the key says and whatever links lie there; an object is there whole or
not at all, and a version never changes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from freehold.artifacts import bucket_layout
from freehold.artifacts.bucket_layout import UPLOADS
from freehold.domain.errors import FieldProblem, QuotaExceeded, ValidationFailed

DEFAULT_VERSIONS: Final = 5
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES: Final = 64 * 1024 * 1024
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_IN_THE_WAY: Final = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG)


class Buckets:
    """All buckets below `root`. Blocking: for worker threads. Of every object the last `versions` uploads are kept."""

    def __init__(
        self, root: Path, *, versions: int = DEFAULT_VERSIONS, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._root = root
        self._versions = versions
        self._now_ns = now_ns
        self._committing = threading.Lock()

    def open(self) -> None:
        """Make the directories, and remove uploads that an earlier run did not finish."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        uploads = self._root / UPLOADS
        uploads.mkdir(mode=0o700, exist_ok=True)
        for leftover in uploads.iterdir():
            leftover.unlink()

    def begin_upload(self, bucket: str, key: str) -> Upload:
        """Begin to write an object. Raises ValidationFailed for a name that can't be kept."""
        try:
            parts = bucket_layout.object_parts(bucket, key)
        except bucket_layout.BadName as error:
            raise _refused(error.member, error.rule) from error
        with _explained(bucket, key):
            return Upload(self._root, parts, self._keep)

    def _keep(self, parts: list[str], name: str, copy: str) -> str:
        """Make the upload `name` the object's newest version and its `copy` the object; the version's id."""
        above = bucket_layout.versions_parts(parts[0], "/".join(parts[1:]))
        # One at a time: ids are in order, and what is old is decided on what is there.
        with (
            self._committing,
            _descend(self._root, [UPLOADS]) as source,
            _descend(self._root, parts[:-1]) as target,
            _descend(self._root, above) as versions,
        ):
            there = os.listdir(versions)  # noqa: PTH208 - a descriptor, not a path
            kept = sorted(filter(bucket_layout.is_version_id, there))
            version_id = bucket_layout.new_version_id(kept, self._now_ns())
            os.rename(copy, parts[-1], src_dir_fd=source, dst_dir_fd=target)
            os.rename(name, version_id, src_dir_fd=source, dst_dir_fd=versions)
            os.fsync(target)
            os.fsync(versions)
            for old in [*kept, version_id][: -self._versions]:
                os.unlink(old, dir_fd=versions)
        return version_id


class Upload:
    """One object on its way in: `write` its bytes in order, then `commit`; `abort` in any case."""

    def __init__(self, root: Path, parts: list[str], keep: Callable[[list[str], str, str], str]) -> None:
        self._uploads = root / UPLOADS
        self._parts = parts
        self._keep = keep
        self._name = secrets.token_hex(16)
        self._copy = f"{self._name}-copy"
        self._fd: int | None = os.open(self._uploads / self._name, _NEW, 0o600)

    def write(self, data: bytes) -> None:
        """Append. Raises QuotaExceeded when the disk is full."""
        assert self._fd is not None, "the upload has ended"
        view = memoryview(data)
        with _explained(*self._named):
            while view:
                view = view[os.write(self._fd, view) :]

    def commit(self) -> str:
        """Put the object in its place, durably, instead of whatever object was there. Its version id."""
        assert self._fd is not None, "the upload has ended"
        with _explained(*self._named):
            os.fchmod(self._fd, 0o400)
            os.fsync(self._fd)
            _copy(self._uploads / self._name, self._uploads / self._copy)
            version_id = self._keep(self._parts, self._name, self._copy)
        self._close()
        return version_id

    def abort(self) -> None:
        """Leave nothing behind, unless it was committed."""
        self._close()
        for name in (self._name, self._copy):
            (self._uploads / name).unlink(missing_ok=True)

    @property
    def _named(self) -> tuple[str, str]:
        return self._parts[0], "/".join(self._parts[1:])

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _copy(source: Path, target: Path) -> None:
    """A durable copy, which shares its blocks where the file system can."""
    with source.open("rb") as original, open(os.open(target, _NEW, 0o600), "wb") as copy:  # noqa: PTH123 - a descriptor
        try:
            while os.copy_file_range(original.fileno(), copy.fileno(), _COPY_BYTES):
                pass
        except OSError as error:
            # File systems that can't do it in the kernel.
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            while data := original.read(_COPY_BYTES):
                copy.write(data)
        copy.flush()
        os.fsync(copy.fileno())


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
