"""Which processes a process has started, and what they hold, as /proc says. Those that end meanwhile don't count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of some processes together."""

    processes: int
    descriptors: int
    memory_mib: float


def children_by_parent() -> dict[int, list[int]]:
    """Of all the host's processes."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            try:
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(directory.name))
    return children


def tree(root: int) -> list[int]:
    """The process `root`, and all below it."""
    children = children_by_parent()
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def command_line(pid: int) -> bytes:
    """Its words, each with a NUL after it; empty for a process that has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def footprint(pids: Iterable[int]) -> Footprint:
    """What the processes `pids` hold."""
    processes = descriptors = memory_kib = 0
    for pid in pids:
        try:
            opened = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        processes, descriptors = processes + 1, descriptors + opened
        memory_kib += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return Footprint(processes, descriptors, round(memory_kib / 1024, 1))
