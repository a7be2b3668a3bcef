"""Makes a data directory of a backup.

Not for merging: the data directory must be empty or not exist. The tar file is read as if an enemy had written it:
only names that `backup` gives, only regular files, each once, written by this module and never by tarfile's own
extraction. Invariant: what was not restored wholly is refused by servers, because a directory says so until the end.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from freehold.artifacts import bucket_layout, trees
from freehold.datadir import backup, custody
from freehold.datadir.custody import UNFINISHED_RESTORE
from freehold.store import sqlite
from freehold.store.base import StoreRefused

_COPY_BYTES: Final = 1 << 20
_MAX_HEADER_BYTES: Final = 1 << 20
_MAX_SMALL_BYTES: Final = 64 * 1024
"""Of the manifest, the key and the count of starts."""
_MAX_MTIME: Final = 1 << 40
_SMALL: Final = (backup.MANIFEST, backup.MASTER_KEY, backup.BOOTS)
_HARMLESS: Final = ("lock", "lost+found")
_BROKEN: Final = (tarfile.TarError, EOFError, RecursionError, OverflowError, UnicodeError, ValueError)
"""What tarfile raises for files that are none."""


class RestoreFailed(Exception):
    """Nothing was restored. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Restored:
    manifest: backup.Manifest
    objects: int
    has_keys: bool


def restore(file: Path, data_dir: Path) -> Restored:
    """Restore the backup `file` into `data_dir`. Raises RestoreFailed, DataDirRefused, StoreRefused."""
    made = False
    try:
        if not data_dir.exists():
            data_dir.mkdir(mode=0o700, parents=True)
            made = True
        if custody.is_locked(data_dir):
            raise RestoreFailed(f"a server runs with the data directory {data_dir}: restore into another one")
        _check_empty(data_dir)
        resolved = custody.check(data_dir)
        resolved.chmod(0o700)
        with custody.lock(resolved, wait_s=0.0):
            _check_empty(data_dir)
            return _restore(file, resolved)
    except (OSError, RestoreFailed, StoreRefused, custody.DataDirRefused) as error:
        if made and data_dir.is_dir():
            (data_dir / "lock").unlink(missing_ok=True)
            data_dir.rmdir()
        if isinstance(error, OSError):
            raise RestoreFailed(f"the backup {file} can't be restored: {_explain(error)}") from error
        raise


def _check_empty(data_dir: Path) -> None:
    there = [entry.name for entry in data_dir.iterdir() if entry.name not in _HARMLESS]
    if there:
        raise RestoreFailed(
            f"{data_dir} is not empty (it holds {', '.join(sorted(there)[:5])}): restore into an empty directory, "
            "or into one that does not exist yet"
        )


def _restore(file: Path, data_dir: Path) -> Restored:
    staging = data_dir / UNFINISHED_RESTORE
    staging.mkdir(mode=0o700)
    try:
        try:
            restored = _unpack(file, staging)
        except _BROKEN as error:
            raise RestoreFailed(f"{file} can't be read as a tar file: {error}") from error
        database = staging / backup.DATABASE
        if not database.exists():
            raise RestoreFailed(f"{file} holds no database")
        try:
            sqlite.check(database)
        except StoreRefused as error:
            raise RestoreFailed(f"the database in {file} can't be used: {error}") from error
        trees.sync_file_system(staging)
    except BaseException:
        trees.remove(staging)
        raise
    # From here on everything is there; a crash leaves `staging`, which servers refuse.
    for name in sorted(entry.name for entry in staging.iterdir()):
        (staging / name).rename(data_dir / name)
    trees.sync_directory(data_dir)
    staging.rmdir()
    trees.sync_directory(data_dir)
    return restored


def _unpack(file: Path, staging: Path) -> Restored:
    manifest: backup.Manifest | None = None
    seen: set[str] = set()
    objects = 0
    with file.open("rb") as raw:
        for member, content in _members(file, raw):
            _check_member(file, member, seen)
            if member.name == backup.MANIFEST:
                manifest = _read_manifest(file, content)
                continue
            if manifest is None:
                raise _not_a_backup(file)
            _write(staging, member, content)
            objects += member.name.startswith(f"{backup.BUCKETS}/")
    if manifest is None:
        raise _not_a_backup(file)
    return Restored(manifest, objects, backup.MASTER_KEY in seen)


def _members(file: Path, raw: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    with tarfile.open(fileobj=cast(IO[bytes], _BoundedReads(raw)), mode="r:", errors="strict") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None
            if content is None or member.issparse():
                raise RestoreFailed(f"{file} is refused: {member.name!r} in it is not a regular file")
            yield member, content


def _check_member(file: Path, member: tarfile.TarInfo, seen: set[str]) -> None:
    name = member.name
    parts = tuple(name.split("/"))
    known = name in (*_SMALL, backup.DATABASE) or (parts[0] == backup.BUCKETS and backup.is_object(parts[1:]))
    if not known:
        raise RestoreFailed(f"{file} is refused: no backup holds a file {name!r}")
    if name in seen:
        raise RestoreFailed(f"{file} is refused: {name!r} is in it twice")
    if name in _SMALL and member.size > _MAX_SMALL_BYTES:
        raise RestoreFailed(f"{file} is refused: {name!r} in it has {member.size} bytes")
    seen.add(name)


def _read_manifest(file: Path, content: IO[bytes]) -> backup.Manifest:
    try:
        manifest = msgspec.json.decode(content.read(), type=backup.Manifest)
    except msgspec.DecodeError as error:
        raise _not_a_backup(file) from error
    if manifest.format != backup.FORMAT:
        raise RestoreFailed(
            f"{file} has format {manifest.format}, and this Freehold knows {backup.FORMAT}: restore it with the "
            "release that wrote it"
        )
    return manifest


def _write(staging: Path, member: tarfile.TarInfo, content: IO[bytes]) -> None:
    path = staging / member.name
    # Nothing but this function writes below `staging`, and it makes no links, so the path leads where it says.
    for parent in reversed(path.relative_to(staging).parents):
        (staging / parent).mkdir(mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as target:
        left = member.size
        while left:
            data = content.read(min(left, _COPY_BYTES))
            if not data:
                raise RestoreFailed(f"the backup ends within {member.name!r}: it is not whole")
            target.write(data)
            left -= len(data)
        if path.is_relative_to(staging / backup.BUCKETS / bucket_layout.VERSIONS):
            os.fchmod(fd, 0o400)  # as uploads leave them
    mtime = min(max(int(member.mtime), 0), _MAX_MTIME)
    os.utime(path, (mtime, mtime))


class _BoundedReads:
    """A file that is not read in large pieces: tarfile reads a header of any claimed length into memory."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= max(_MAX_HEADER_BYTES, _COPY_BYTES):
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._raw.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _not_a_backup(file: Path) -> RestoreFailed:
    return RestoreFailed(f"{file} is not a backup of Freehold: it does not begin with a {backup.MANIFEST}")


def _explain(error: OSError) -> str:
    named = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{named}"
