"""Takes a data directory into custody: nobody else may have had a hand in it, and one program at a time writes to it.

Not for what lies in it. Invariant: whoever holds the lock has been told that the directory and what is directly below
it belong to this process's user and can be written by nobody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from freehold.datadir.layout import Layout

LOCK_WAIT_S: Final = 3.0
"""A killed server's processes need a moment to go; they hold the lock until they have gone."""
UNFINISHED_RESTORE: Final = ".restoring"
"""The directory in which a restore unpacks; that it is there means that the restore has not ended."""
_OF_FILE_SYSTEMS: Final = ("lost+found",)
"""What is there before anybody puts anything there, when the data directory is a file system of its own."""
_OTHERS_PASS: Final = stat.S_IXGRP | stat.S_IXOTH
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class DataDirRefused(Exception):
    """The data directory can't be used. The message says why and what to do."""


class InUse(DataDirRefused):
    """A server, or a command that needs the data directory for itself, is at work in it."""


def prepare(data_dir: Path) -> Path:
    """The data directory `data_dir` for a server: resolved, made if there is none, checked, and closed to others.

    Raises DataDirRefused.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        resolved = check(data_dir)
        for directory in (resolved, Layout(resolved).run):
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)
    except OSError as error:
        raise DataDirRefused(f"the data directory {data_dir} can't be used: {error.strerror}") from error
    return resolved


def check(data_dir: Path) -> Path:
    """The existing data directory `data_dir`, resolved. Raises DataDirRefused unless it is ours alone."""
    try:
        resolved = data_dir.resolve(strict=True)
        closed = _check_owner(resolved, resolved)
        if (resolved / UNFINISHED_RESTORE).exists():
            raise DataDirRefused(
                f"a restore into {data_dir} did not end: remove what is in that directory and restore again"
            )
        for entry in sorted(resolved.iterdir()):
            if entry.name not in _OF_FILE_SYSTEMS:
                # Behind a door that is shut to others it does not matter what they could do.
                _check_owner(entry, resolved, behind_door=closed and not entry.is_symlink())
    except OSError as error:
        raise DataDirRefused(f"the data directory {data_dir} can't be used: {error.strerror}") from error
    return resolved


@contextlib.contextmanager
def lock(data_dir: Path, *, wait_s: float = LOCK_WAIT_S) -> Generator[int]:
    """Hold the data directory's lock, which processes that inherit the descriptor hold too. Raises InUse."""
    try:
        fd = os.open(Layout(data_dir).lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DataDirRefused(f"the lock of {data_dir} can't be opened: {error.strerror}") from error
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise InUse(f"another Freehold server uses the data directory {data_dir}") from None
                time.sleep(0.05)
        yield fd
    finally:
        os.close(fd)


def is_locked(data_dir: Path) -> bool:
    """Whether somebody holds the data directory's lock."""
    try:
        with Layout(data_dir).lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _check_owner(path: Path, data_dir: Path, *, behind_door: bool = False) -> bool:
    """Raise DataDirRefused unless `path`, or what it links to, is ours to write alone; whether others can't pass it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        # A socket or temporary file that has gone meanwhile, or a link to nowhere, which the user of it will refuse.
        return True
    us = os.geteuid()
    if found.st_uid != us:
        raise DataDirRefused(
            f"{path} belongs to {_user(found.st_uid)}, and this is {_user(us)}: run Freehold as "
            f"{_user(found.st_uid)}, or give it the whole directory with chown -R {us} {data_dir}"
        )
    if found.st_mode & _OTHERS_WRITE and not behind_door:
        raise DataDirRefused(
            f"{path} can be written by others than its owner, who may have put code or keys there: look what is in it, "
            f"then chmod -R go-w {data_dir}"
        )
    return not found.st_mode & _OTHERS_PASS


def _user(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with id {uid}"
