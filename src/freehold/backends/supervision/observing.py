"""What sessions' processes use and which ports they listen on, read from /proc.

For: operators, and for telling why a start failed. Blocking: call it in a worker thread. Not for: finding processes to
end them (`removal`). Invariant: a process that ends meanwhile, or may not be looked at, is left out and raises nothing.
"""

# ruff: noqa: PTH115, PTH123, PTH208
# Thousands of small files: plain names are several times faster than paths.

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from freehold.domain.usage import Usage

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_LISTEN: Final = "0A"


@dataclass(frozen=True, slots=True)
class Seen:
    """One process at one moment."""

    pid: int
    parent: int
    cpu_s: float
    """Its own and that of children it has waited for."""
    memory_bytes: int


def processes_of(markers: Mapping[str, int]) -> dict[int, list[Seen]]:
    """Every session's processes by generation: those that show its marker, and all that descend from them."""
    wanted = {os.fsencode(marker): generation for marker, generation in markers.items()}
    seen = {one.pid: one for pid in filter(str.isdigit, os.listdir("/proc")) if (one := _look(int(pid))) is not None}
    owners = {pid: owner for pid in seen if (owner := _marked(pid, wanted)) is not None}
    found: dict[int, list[Seen]] = {generation: [] for generation in markers.values()}
    for one in seen.values():
        owner = _owner(one, seen, owners)
        if owner is not None:
            found[owner].append(one)
    return found


def usage_of(processes: Collection[Seen]) -> Usage:
    """The sum over a session's processes."""
    return Usage(
        cpu_s=round(sum(one.cpu_s for one in processes), 2),
        memory_bytes=sum(one.memory_bytes for one in processes),
        memory_peak_bytes=sum(_peak_bytes(one.pid) for one in processes),
        processes=len(processes),
    )


def listening(processes: Iterable[Seen]) -> frozenset[int]:
    """The TCP ports that these processes listen on, each in its own network."""
    by_network: defaultdict[str, set[int]] = defaultdict(set)
    for one in processes:
        try:
            by_network[os.readlink(f"/proc/{one.pid}/ns/net")].add(one.pid)
        except OSError:
            continue
    here = os.readlink("/proc/self/ns/net")
    ports: set[int] = set()
    for network, pids in by_network.items():
        sockets = None
        if network == here:
            # A network that is shared with others: only what these processes hold open is theirs.
            sockets = {inode for pid in pids for inode in _sockets(pid)}
        for inode, port in _listeners(min(pids)):
            if sockets is None or inode in sockets:
                ports.add(port)
    return frozenset(ports)


def _look(pid: int) -> Seen | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold anything.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Seen(pid, int(fields[1]), sum(map(int, fields[11:15])) / _TICKS, int(fields[21]) * _PAGE)


def _marked(pid: int, wanted: Mapping[bytes, int]) -> int | None:
    for place in ("cmdline", "environ"):
        try:
            with open(f"/proc/{pid}/{place}", "rb") as file:
                for word in file.read().split(b"\0"):
                    if word in wanted:
                        return wanted[word]
        except OSError:
            continue
    return None


def _owner(one: Seen, seen: Mapping[int, Seen], owners: Mapping[int, int]) -> int | None:
    """The session of the nearest ancestor that shows one. Process ids may be used again between two looks: bounded."""
    current: Seen | None = one
    for _ in range(len(seen)):
        if current is None:
            return None
        if current.pid in owners:
            return owners[current.pid]
        current = seen.get(current.parent)
    return None


def _peak_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def _sockets(pid: int) -> Iterable[int]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _listeners(pid: int) -> Iterable[tuple[int, int]]:
    """(inode, port) of every listening TCP socket in the network of `pid`."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with open(f"/proc/{pid}/net/tcp{'6' if family == socket.AF_INET6 else ''}") as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN:
                yield int(fields[9]), int(fields[1].rpartition(":")[2], 16)
