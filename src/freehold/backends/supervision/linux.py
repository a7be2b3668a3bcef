"""The Linux calls that Python's standard library lacks, by their kernel names.

For: the launcher and its children. Not for: policy. Standard library only, so that a launcher starts fast and its
forks stay small. Invariant: every failure is an OSError that names the call.
"""

# ruff: noqa: PTH123, PTH208
# Every fork would carry pathlib.

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Collection

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000

NS_GET_USERNS = 0xB701
"""ioctl_ns(2): a descriptor of the user namespace that owns a namespace."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent (its spawning thread) ends; end now when it has ended already.

    A change of credentials clears this: call it again afterwards.
    """
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(1)


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), f"setns({kind:#x})")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        flags,
        None if data is None else data.encode(),
    )
    _check(result, f"mount on {target}")


def drop_all_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


def drop_to(uid: int) -> None:
    """Become the user and group `uid` for good, with no other group."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def close_all_but(kept: Collection[int]) -> None:
    """Close every descriptor except `kept`."""
    first = 0
    for fd in sorted(kept):
        # closerange(0, 0) closes everything.
        if first < fd:
            os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 2**31 - 1)


def restore_signals() -> None:
    """What a program expects at its start: default dispositions, nothing blocked."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def parent_of(pid: int) -> int | None:
    """The parent's process id, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything.
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def children_of(pid: int) -> list[int]:
    """The process ids of the children of a process, from a look at every process there is."""
    return [other for other in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent_of(other) == pid]
