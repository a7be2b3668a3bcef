"""Removing what a session has left: processes, cgroups, directories.

Runs in a short-lived fork of the launcher. Standard library only. Invariant: nothing outside of the named
directories is touched, whatever an agent has put into them; its processes have gone before its files are looked at.
"""

# ruff: noqa: PTH106, PTH123, PTH208
# Pathlib knows no directory descriptors, and every fork would carry it.

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from dataclasses import dataclass, field

PROCESSES_TIMEOUT_S = 5.0
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Remains:
    """What to remove of one session."""

    directory: str
    """The session's directory on the host. Its parent is ours alone."""
    cgroups: list[str] = field(default_factory=list[str])
    uid: int | None = None
    """The host uid that only this session has had, when its processes are to be looked for by it."""
    marker: str | None = None
    """An argument or a variable of only this session's processes, when they are to be looked for by it."""


def remove(remains: Remains) -> None:
    """Kill, wait, remove. Raises OSError or TimeoutError; may be repeated."""
    deadline = time.monotonic() + PROCESSES_TIMEOUT_S
    while found := _processes(remains):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"processes of an ended session do not end: {sorted(found)}")
        for pid in found:
            _kill(pid, remains)
        time.sleep(0.005)
    for path in remains.cgroups:
        _remove_cgroup(path, deadline)
    remove_tree(remains.directory)


# -- processes ------------------------------------------------------------------------------------------------------


def _processes(remains: Remains) -> set[int]:
    found: set[int] = set()
    for path in remains.cgroups:
        with contextlib.suppress(FileNotFoundError), open(f"{path}/cgroup.procs") as file:
            found.update(map(int, file.read().split()))
    if remains.uid is not None or remains.marker is not None:
        found.update(pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _belongs(pid, remains))
    # 0 stands for a process that can't be seen from here; the cgroup's removal will tell whether it has gone.
    return found - {0, os.getpid()}


def _belongs(pid: int, remains: Remains) -> bool:
    """Whether a process shows the session's uid or marker. One that has ended, or can't be looked at, doesn't."""
    try:
        if remains.uid is not None:
            with open(f"/proc/{pid}/status", "rb") as file:
                for line in file:
                    if line.startswith(b"State:") and line.split()[1] in (b"Z", b"X"):
                        return False
                    if line.startswith(b"Uid:"):
                        return str(remains.uid).encode() in line.split()[1:]
        if remains.marker is not None:
            for place in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{place}", "rb") as file:
                    if os.fsencode(remains.marker) in file.read().split(b"\0"):
                        return True
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return False


def _kill(pid: int, remains: Remains) -> None:
    try:
        held = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Only now is it certain which process the number means.
        if pid in _processes(remains):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, signal.SIGKILL)
    finally:
        os.close(held)


def _remove_cgroup(path: str, deadline: float) -> None:
    """A cgroup stays busy for a moment after its last process has ended."""
    while True:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.002)


# -- files ----------------------------------------------------------------------------------------------------------


def remove_tree(path: str) -> None:
    """Remove a directory and all in it, never following a symbolic link; nothing when there is none.

    Directories found inside are first moved to the top, so that neither depth nor number costs memory, stack or
    descriptors; an agent may nest them deeper than any path can name.
    """
    try:
        top = _open_directory(None, path)
    except FileNotFoundError:
        return
    try:
        moved = 0
        while True:
            directories = [entry.name for entry in _entries(top) if _empty_of_files(entry, top)]
            if not directories:
                break
            for name in directories:
                moved = _lift_directories(top, name, moved)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _lift_directories(top: int, name: str, moved: int) -> int:
    """Remove the files in directory `name` of `top`, and move the directories in it to `top`."""
    inner = _open_directory(top, name)
    try:
        for entry in _entries(inner):
            if not _empty_of_files(entry, inner):
                continue
            _make_accessible(inner, entry.name)
            while True:
                moved += 1
                target = f".removed-{moved}"
                try:
                    os.stat(target, dir_fd=top, follow_symlinks=False)
                except FileNotFoundError:
                    break
            os.rename(entry.name, target, src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    return moved


def _empty_of_files(entry: os.DirEntry[str], parent: int) -> bool:
    """Whether the entry is a directory; anything else is removed."""
    if entry.is_dir(follow_symlinks=False):
        return True
    os.unlink(entry.name, dir_fd=parent)
    return False


def _entries(fd: int) -> list[os.DirEntry[str]]:
    with os.scandir(fd) as entries:
        return list(entries)


def _open_directory(parent: int | None, name: str) -> int:
    """Open a directory that may be closed to its owner, and open it to its owner."""
    _make_accessible(parent, name)
    return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)


def _make_accessible(parent: int | None, name: str) -> None:
    """Give the owner every right to a directory. The session's processes have gone: nobody exchanges it meanwhile."""
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode) and found.st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=parent)
