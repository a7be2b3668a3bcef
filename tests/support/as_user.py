"""Run a command as an ordinary user of this host: `as_user.py UID HOME command...`. Needs root.

The interpreter and this checkout may lie where only root can go. In a mount namespace of the command's own, the
directories on the way to them are covered by ones that anybody may pass, which hold nothing else.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, str(target), kind)]
    check(libc.mount(*encoded, flags, None if data is None else data.encode()), f"mount {source} on {target}")


def barrier(path: Path) -> Path | None:
    """The first directory on the way to `path` that others may not pass."""
    for directory in [*reversed(path.parents), path]:
        if not directory.stat().st_mode & 0o001:
            return directory
    return None


def expose(wanted: list[Path]) -> None:
    """Make the directories `wanted` reachable for everybody, in a mount namespace of our own."""
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    by_barrier: dict[Path, list[Path]] = {}
    for path in wanted:
        if (covered := barrier(path)) is not None:
            by_barrier.setdefault(covered, []).append(path)
    for covered, paths in by_barrier.items():
        handles = [(path, os.open(path, os.O_PATH | os.O_DIRECTORY)) for path in paths]
        mount("tmpfs", covered, "tmpfs", 0, "mode=755")
        for path, handle in handles:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            mount(f"/proc/self/fd/{handle}", path, None, MS_BIND | MS_REC)
            os.close(handle)


def main() -> None:
    uid, home, *command = sys.argv[1:]
    checkout = Path(__file__).resolve().parents[2]
    expose([Path(sys.base_prefix).resolve(), checkout])
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    os.chdir("/")
    os.execve(command[0], command, os.environ | {"HOME": home})


if __name__ == "__main__":
    main()
