"""Limits of memory and processes by cgroup, where the host lets us write some: version 1, version 2 or both at once.

Not for: killing (`removal`). Every session gets a cgroup named for its generation under one named for this server,
which is under the server's own, so that its limits hold for all sessions together. Invariant: nothing is written
outside of cgroups that this module has made, save to let a version 2 parent pass its controllers on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from freehold.domain.usage import Usage

CONTROLLERS = ("memory", "pids")
_COUNTERS = {
    1: {"memory_bytes": "memory.usage_in_bytes", "memory_peak_bytes": "memory.max_usage_in_bytes"},
    2: {"memory_bytes": "memory.current", "memory_peak_bytes": "memory.peak"},
}


@dataclass(frozen=True, slots=True)
class Limits:
    memory_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted hierarchy: `controllers` is empty for version 2; `own` is our cgroup's directory in it."""

    directory: Path
    own: Path
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Parent:
    """A cgroup of ours in which sessions' cgroups are made."""

    directory: Path
    controllers: frozenset[str]
    version: int


class Cgroups:
    """The cgroups of one server. `missing` names the controllers that can't be written here."""

    def __init__(self, instance: str, parents: Iterable[Parent], mounts: Iterable[Mount]) -> None:
        self._name = group_name(instance)
        self._parents = tuple(parents)
        self._mounts = tuple(mounts)
        limited = {controller for parent in self._parents for controller in parent.controllers}
        self.missing = tuple(controller for controller in CONTROLLERS if controller not in limited)

    def make(self, generation: int, limits: Limits) -> list[str]:
        """Make a session's cgroups. Returns the files to which its first process writes "0" to join."""
        joins: list[str] = []
        for parent in self._parents:
            directory = parent.directory / str(generation)
            directory.mkdir(exist_ok=True)
            for file, value in _settings(parent, limits):
                _write(directory / file, value)
            # A single thread that moves itself through `tasks` spares version 1 a wait for every CPU.
            joins.append(str(directory / ("tasks" if parent.version == 1 else "cgroup.procs")))
        return joins

    def of(self, generation: int) -> list[str]:
        """The directories of a session's cgroups, whether they exist or not."""
        return [str(parent.directory / str(generation)) for parent in self._parents]

    def usage(self, generation: int) -> Usage:
        """What a session's cgroups have counted, also of processes that have ended."""
        counted: dict[str, int] = {}
        for parent in self._parents:
            directory = parent.directory / str(generation)
            for name, file in _COUNTERS[parent.version].items():
                if (value := _number(directory / file)) is not None:
                    counted[name] = value
            if parent.version == 2 and (used_us := _flat(directory / "cpu.stat", "usage_usec")) is not None:
                counted["cpu_us"] = used_us
        cpu_us = counted.get("cpu_us")
        return Usage(
            cpu_s=None if cpu_us is None else cpu_us / 1_000_000,
            memory_bytes=counted.get("memory_bytes"),
            memory_peak_bytes=counted.get("memory_peak_bytes"),
        )

    def leftover(self) -> dict[int, list[str]]:
        """Every session's cgroups by generation, wherever in the mounted hierarchies an earlier run made them."""
        found: dict[int, list[str]] = {}
        for group in self._groups():
            for session in group.iterdir():
                if session.is_dir() and session.name.isdigit():
                    found.setdefault(int(session.name), []).append(str(session))
        return found

    def close(self) -> None:
        """Remove the server's own cgroups. The sessions' have been removed; those of an earlier place may be busy."""
        for group in self._groups():
            try:
                group.rmdir()
            except OSError:
                if any(entry.is_dir() for entry in group.iterdir()):
                    continue
                raise

    def _groups(self) -> set[Path]:
        return {
            Path(directory) / self._name
            for mount in self._mounts
            for directory, names, _ in os.walk(mount.directory)
            if self._name in names
        }


def group_name(instance: str) -> str:
    return f"freehold-{instance}"


def discover(instance: str, mounts: Iterable[Mount]) -> Cgroups:
    """Make the server's own cgroup in every hierarchy that can limit something; what can't be written is left out."""
    mounts = tuple(mounts)
    parents: list[Parent] = []
    for mount in mounts:
        parent = _first_version(instance, mount) if mount.controllers else _second_version(instance, mount)
        if parent is not None:
            parents.append(parent)
    return Cgroups(instance, parents, mounts)


def mounted_here() -> list[Mount]:
    """The hierarchies that this process sees."""
    return mounted(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def mounted(mountinfo: str, membership: str) -> list[Mount]:
    """The hierarchies that /proc/self/mountinfo shows, with our place by /proc/self/cgroup."""
    places: dict[frozenset[str], str] = {}
    for line in membership.splitlines():
        _, names, place = line.split(":", 2)
        places[frozenset(filter(None, names.split(",")))] = place
    mounts: list[Mount] = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, directory = (_unescape(word) for word in fields.split()[3:5])
        if kind == "cgroup2":
            controllers = frozenset[str]()
        elif kind == "cgroup":
            controllers = frozenset(options.split(",")) & frozenset(CONTROLLERS)
            if not controllers:
                continue
        else:
            continue
        place = next(
            (place for names, place in places.items() if names >= controllers and bool(names) == bool(controllers)),
            None,
        )
        if place is not None:
            mounts.append(Mount(Path(directory), _own(Path(directory), root, place), controllers))
    return mounts


def _own(directory: Path, root: str, place: str) -> Path:
    """Our cgroup's directory; the mount's top when our place is outside of what is mounted."""
    if root == "/":
        relative = place
    elif place == root or place.startswith(root + "/"):
        relative = place[len(root) :]
    else:
        relative = ""
    own = directory / relative.lstrip("/")
    return own if own.is_dir() else directory


def _first_version(instance: str, mount: Mount) -> Parent | None:
    directory = mount.own / group_name(instance)
    try:
        directory.mkdir(exist_ok=True)
    except OSError:
        return None
    return Parent(directory, mount.controllers, 1)


def _second_version(instance: str, mount: Mount) -> Parent | None:
    """The nearest cgroup from ours upwards that holds no process itself, so that it may pass controllers on.

    A service gets one by `Delegate=yes` with `DelegateSubgroup=`; a user's processes have one by their own manager.
    """
    place = mount.own
    while True:
        directory = place / group_name(instance)
        passed = _pass_on(place)
        if passed:
            try:
                directory.mkdir(exist_ok=True)
                if _pass_on(directory) == passed and _may_join(place):
                    return Parent(directory, passed, 2)
                directory.rmdir()
            except OSError:
                # Not ours to write: perhaps the next one up is.
                pass
        if place == mount.directory:
            return None
        place = place.parent


def _pass_on(place: Path) -> frozenset[str]:
    """Have `place` pass the controllers that it has on to its children; returns those it does pass on."""
    try:
        available = frozenset((place / "cgroup.controllers").read_text().split()) & frozenset(CONTROLLERS)
        passed = frozenset((place / "cgroup.subtree_control").read_text().split()) & available
        if available - passed:
            _write(place / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(available - passed)))
            passed = available
    except OSError:
        return frozenset()
    return passed


def _may_join(place: Path) -> bool:
    """To move a process one must be able to write to the nearest cgroup above both places."""
    return os.access(place / "cgroup.procs", os.W_OK)


def _settings(parent: Parent, limits: Limits) -> list[tuple[str, str]]:
    settings: list[tuple[str, str]] = []
    if "memory" in parent.controllers:
        if parent.version == 1:
            settings.append(("memory.limit_in_bytes", str(limits.memory_bytes)))
            if (parent.directory / "memory.memsw.limit_in_bytes").exists():
                settings.append(("memory.memsw.limit_in_bytes", str(limits.memory_bytes)))
        else:
            settings.append(("memory.max", str(limits.memory_bytes)))
            if (parent.directory / "memory.swap.max").exists():
                settings.append(("memory.swap.max", "0"))
            # One process too many for the memory ends the session as a whole, not a random part of it.
            settings.append(("memory.oom.group", "1"))
    if "pids" in parent.controllers:
        settings.append(("pids.max", str(limits.processes)))
    return settings


def _write(path: Path, value: str) -> None:
    # Unbuffered: an error at the implicit close of a buffered file would be lost.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _number(path: Path) -> int | None:
    """The number in a file; None when the hierarchy, the kernel or the session has no such file."""
    try:
        return int(path.read_text())
    except OSError:
        return None


def _flat(path: Path, name: str) -> int | None:
    """One value of a file of `name value` lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)


def _unescape(word: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word
