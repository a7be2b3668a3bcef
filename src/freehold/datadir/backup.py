"""Writes a backup: what a data directory holds that can't be made again, in one tar file, also while a server runs.

Not for reading one (`restore`). Left out: unpacked code, sessions' files, logs and sockets; the keys too, unless they
are asked for, because with them the file opens everything. Invariant: the file appears under its name whole and
durable, readable by its owner only, and the database in it is one state that was committed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import stat
import tarfile
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from freehold.artifacts import bucket_layout, trees
from freehold.datadir import custody
from freehold.datadir.layout import Layout
from freehold.store import sqlite

FORMAT: Final = 1
MANIFEST: Final = "freehold-backup.json"
DATABASE: Final = "state/freehold.db"
MASTER_KEY: Final = "keys/master.key"
BOOTS: Final = "run/sessions/boots"
"""The count of starts: with it, no number of a session is given twice, so logs that are kept elsewhere stay apart."""
BUCKETS: Final = "buckets"


class BackupFailed(Exception):
    """There is no backup. The message says why and what to do."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The first member of a backup."""

    format: int
    schema: str
    """The database's revision."""
    written_at: datetime
    has_keys: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What a backup holds. `skipped` is what lies in `buckets` and is no object: links, devices, names no key has."""

    objects: int
    bytes: int
    has_keys: bool
    skipped: tuple[str, ...]


def backup(data_dir: Path, output: Path, *, with_keys: bool = False, now: datetime | None = None) -> Written:
    """Back the data directory up into the new file `output`. Raises DataDirRefused, StoreRefused, BackupFailed."""
    layout = Layout(custody.check(data_dir))
    place = output.parent.resolve() / output.name
    if place.is_relative_to(layout.data_dir):
        raise BackupFailed(f"{output} lies in the data directory: a backup belongs elsewhere")
    if not layout.database.exists():
        raise BackupFailed(f"{data_dir} holds no database, so there is nothing to back up")
    try:
        with tempfile.TemporaryDirectory(prefix=".freehold-backup-", dir=place.parent) as scratch:
            # The database before the buckets: what it refers to has been put there already.
            copy = Path(scratch, "freehold.db")
            sqlite.snapshot(layout.database, copy)
            manifest = Manifest(
                format=FORMAT,
                schema=sqlite.revision(copy),
                written_at=now or datetime.now(UTC),
                has_keys=with_keys,
            )
            with _appearing(place) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                return _write(_Tar(tar), layout, copy, manifest)
    except OSError as error:
        raise BackupFailed(f"{output} can't be written: {_explain(error)}") from error


def _write(tar: _Tar, layout: Layout, copy: Path, manifest: Manifest) -> Written:
    tar.add_bytes(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    tar.add_file(DATABASE, copy)
    if manifest.has_keys:
        if not layout.master_key.exists():
            raise BackupFailed(f"there is no master key at {layout.master_key}, which --with-keys asks for")
        tar.add_file(MASTER_KEY, layout.master_key)
    boots = layout.journal / "boots"
    if boots.exists():
        tar.add_file(BOOTS, boots)
    before = tar.members
    skipped: list[str] = []
    for path in _objects(layout.buckets, skipped):
        tar.add_file(f"{BUCKETS}/{path.relative_to(layout.buckets)}", path)
    return Written(tar.members - before, tar.bytes, manifest.has_keys, tuple(skipped))


def is_object(parts: tuple[str, ...]) -> bool:
    """Whether a path below `buckets` is that of an object, or of a version of one, and so belongs into a backup."""
    if len(parts) == 4 and parts[0] == bucket_layout.VERSIONS:
        is_place = re.fullmatch(r"[0-9a-f]{64}", parts[2]) is not None
        return is_place and bucket_layout.is_version_id(parts[3]) and _is_key(parts[1], "a")
    return len(parts) > 1 and _is_key(parts[0], "/".join(parts[1:]))


def _is_key(bucket: str, key: str) -> bool:
    try:
        bucket_layout.object_parts(bucket, key)
    except bucket_layout.BadName:
        return False
    return True


def _objects(root: Path, skipped: list[str]) -> Iterator[Path]:
    """Every object of the buckets, in order; no link is followed but `root` itself."""
    for directory, subdirectories, files in os.walk(root):
        if Path(directory) == root and bucket_layout.UPLOADS in subdirectories:
            subdirectories.remove(bucket_layout.UPLOADS)
        subdirectories.sort()
        # `os.walk` names links to directories among the directories, and does not enter them.
        skipped += [str(Path(directory, name)) for name in subdirectories if Path(directory, name).is_symlink()]
        for name in sorted(files):
            path = Path(directory, name)
            try:
                regular = stat.S_ISREG(path.lstat().st_mode)
            except FileNotFoundError:
                continue  # an old version that was removed meanwhile
            if regular and is_object(path.relative_to(root).parts):
                yield path
            else:
                skipped.append(str(path))


class _Tar:
    """Members that say nothing of who wrote them: no users, no modes of theirs."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.members = 0
        self.bytes = 0

    def add_bytes(self, name: str, data: bytes) -> None:
        self._add(name, io.BytesIO(data), len(data), 0)

    def add_file(self, name: str, path: Path) -> None:
        """Add a file, unless it has gone meanwhile. Raises BackupFailed when it is being written to."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise BackupFailed(f"{path} is not a regular file")
            try:
                self._add(name, file, found.st_size, int(found.st_mtime))
            except OSError as error:
                if error.errno is None:  # the file ended early, says tarfile
                    raise _changed(path) from error
                raise
            after = os.fstat(fd)
            if (after.st_size, after.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
                raise _changed(path)

    def _add(self, name: str, file: Any, size: int, mtime: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = size, mtime, 0o600
        self._tar.addfile(member, file)
        self.members += 1
        self.bytes += size


def _changed(path: Path) -> BackupFailed:
    return BackupFailed(f"{path} changed while it was read: back up again")


@contextlib.contextmanager
def _appearing(place: Path) -> Generator[Any]:
    """A private file that gets the name `place` at the end, if nothing bears it and nothing failed."""
    if place.exists():
        raise BackupFailed(f"{place} exists already: a backup replaces nothing")
    unfinished = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        try:
            os.link(unfinished, place)
        except FileExistsError:
            raise BackupFailed(f"{place} exists already: a backup replaces nothing") from None
        except PermissionError:
            # A file system without hard links.
            unfinished.rename(place)
    finally:
        unfinished.unlink(missing_ok=True)
    trees.sync_directory(place.parent)


def _explain(error: OSError) -> str:
    named = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{named}"
