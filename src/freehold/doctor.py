"""What of this host a server depends on, looked at as a server would: `freehold doctor`.

Works without a running server and changes nothing that stays. Not for printing (`cli.doctor`). Invariant: what is
called in force has been tried out here and now by the code that the server uses.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from freehold.artifacts.interpreters import Interpreters
from freehold.backends.base import BackendUnavailable
from freehold.backends.sandbox import bubblewrap, refusal
from freehold.backends.sandbox.backend import SandboxBackend, SandboxLimits
from freehold.backends.sandbox.supervisor import STAGE
from freehold.datadir import custody
from freehold.domain.runtimes import MANAGED_RUNTIMES
from freehold.gateway import fast
from freehold.settings import Settings

MIB: Final = 1024 * 1024
LITTLE_SPACE_BYTES: Final = 2048 * MIB
NO_SPACE_BYTES: Final = 128 * MIB
DESCRIPTORS_PER_SESSION: Final = 8


class State(StrEnum):
    """OK: in force. WARNING: a server starts without it. FAILED: no server can start."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` says how to get what is missing."""

    what: str
    state: State
    told: str
    remedy: str | None = None


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that a server with these settings depends on. Blocking, for some seconds at the most."""
    return [
        *_bubblewrap(settings),
        *_user_namespaces(settings),
        *_sandbox(settings),
        *_identity(settings),
        *_interpreters(settings),
        *_data_dir(settings),
        *_space(settings),
        *_port(settings),
        *of_gateway(settings),
        *_descriptors(settings),
    ]


# -- isolation ----------------------------------------------------------------------------------------------------


def _bubblewrap(settings: Settings) -> Iterator[Finding]:
    found = bubblewrap.find(STAGE)
    if found is None:
        yield Finding("bubblewrap", _missing(settings), "not found", refusal.NO_BUBBLEWRAP)
    else:
        version = ".".join(map(str, bubblewrap.version(found.executable)))
        yield Finding("bubblewrap", State.OK, f"{version} at {found.executable}")


def _user_namespaces(settings: Settings) -> Iterator[Finding]:
    host = refusal.look()
    switches = {
        "user.max_user_namespaces": (host.max_user_namespaces, "0", "15000"),
        "kernel.unprivileged_userns_clone": (host.unprivileged_clone, "0", "1"),
        "kernel.apparmor_restrict_unprivileged_userns": (host.apparmor_restricts, "1", "0"),
    }
    closed = [name for name, (value, bad, _) in switches.items() if value == bad]
    if not closed:
        yield Finding("user namespaces", State.OK, "permitted by the kernel's settings")
        return
    for name in closed:
        # Root may be exempt: whether a sandbox starts is what counts, and is tried below.
        yield Finding(
            "user namespaces",
            State.WARNING,
            f"{name} is {switches[name][0]}",
            f"sysctl -w {name}={switches[name][2]}",
        )


def _sandbox(settings: Settings) -> Iterator[Finding]:
    """Start a whole sandbox once, in a place that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="freehold-doctor-") as place:
        try:
            unlimited = asyncio.run(_try_sandbox(Path(place) / "sessions", settings))
        except BackendUnavailable as error:
            yield Finding("sandbox", _missing(settings), "does not start", str(error))
            return
    if settings.sandbox.mode == "process":
        yield Finding(
            "sandbox",
            State.WARNING,
            "would start, but sandbox.mode is 'process': agents run as this user, without isolation",
            "set sandbox.mode = 'auto'",
        )
        return
    yield Finding(
        "sandbox",
        State.OK,
        "a trial has run: own user, process, mount, network, IPC and host name namespaces, read-only root, "
        "no capabilities, no new privileges",
    )
    yield Finding("seccomp", State.OK, "the trial ran under the filter of system calls")
    yield from _cgroups(settings, unlimited)


async def _try_sandbox(root: Path, settings: Settings) -> tuple[str, ...]:
    backend = SandboxBackend(
        root,
        instance=f"doctor-{os.getpid()}",
        limits=SandboxLimits(
            settings.sandbox.memory_mib * MIB, settings.sandbox.processes, settings.sandbox.open_files
        ),
        uid_first=settings.sandbox.uid_first,
        on_line=lambda _generation, _stream, _line: None,
    )
    try:
        await backend.open()
        return backend.unlimited
    finally:
        await backend.aclose()


def _cgroups(settings: Settings, unlimited: tuple[str, ...]) -> Iterator[Finding]:
    limits = {
        "memory": f"{settings.sandbox.memory_mib} MiB of memory",
        "pids": f"{settings.sandbox.processes} processes",
    }
    in_force = [told for controller, told in limits.items() if controller not in unlimited]
    if in_force:
        yield Finding("cgroup limits", State.OK, f"each session has at most {' and '.join(in_force)}")
    if unlimited:
        yield Finding(
            "cgroup limits",
            State.WARNING,
            f"not limited per session: {', '.join(unlimited)}; no cgroup can be written here",
            "run as root, or as a systemd service with Delegate=yes and DelegateSubgroup=server",
        )


def _identity(settings: Settings) -> Iterator[Finding]:
    if settings.sandbox.mode == "process":
        return
    if os.geteuid() == 0:
        yield Finding("user per session", State.OK, f"each session has a host uid from {settings.sandbox.uid_first} on")
    else:
        yield Finding(
            "user per session",
            State.WARNING,
            f"all sessions are this user (uid {os.geteuid()}) on the host; namespaces alone keep them apart",
            "run the server as root: each session then has a host uid of its own",
        )


def _missing(settings: Settings) -> State:
    return State.FAILED if settings.sandbox.mode == "auto" else State.WARNING


# -- the rest of the host -----------------------------------------------------------------------------------------


def _interpreters(settings: Settings) -> Iterator[Finding]:
    found = Interpreters(settings.artifacts.interpreters).available()
    missing = [name for name in MANAGED_RUNTIMES if name not in found]
    if found:
        yield Finding("managed runtimes", State.OK, ", ".join(found))
    if missing:
        pythons = [name.removeprefix("PYTHON_").replace("_", ".") for name in missing if name.startswith("PYTHON_")]
        ways = [f"uv python install {' '.join(pythons)}"] if pythons else []
        if "NODE_22" in missing:
            ways.append("install Node.js 22 on the server's PATH")
        yield Finding("managed runtimes", State.WARNING, f"not installed: {', '.join(missing)}", "; ".join(ways))


def _data_dir(settings: Settings) -> Iterator[Finding]:
    if not settings.data_dir.exists():
        yield Finding("data directory", State.OK, f"{settings.data_dir} is made at the first start")
        return
    try:
        custody.check(settings.data_dir)
    except custody.DataDirRefused as error:
        yield Finding("data directory", State.FAILED, "can't be used", str(error))
    else:
        yield Finding("data directory", State.OK, f"{settings.data_dir} belongs to this user alone")


def _space(settings: Settings) -> Iterator[Finding]:
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    told = f"{free // MIB} MiB free at {place}"
    if free < NO_SPACE_BYTES:
        yield Finding("disk space", State.FAILED, told, "make room, or set data_dir elsewhere")
    elif free < LITTLE_SPACE_BYTES:
        yield Finding("disk space", State.WARNING, told, "make room: code takes up to 750 MiB a version")
    else:
        yield Finding("disk space", State.OK, told)


def _port(settings: Settings) -> Iterator[Finding]:
    host, port = settings.server.host, settings.server.port
    if settings.data_dir.exists() and custody.is_locked(settings.data_dir):
        yield Finding("port", State.OK, "a server runs with this data directory")
        return
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        yield Finding(
            "port", State.FAILED, f"{host} port {port}: {error.strerror or error}", "choose another server.port"
        )
    else:
        yield Finding("port", State.OK, f"{host} port {port} is free" if port else f"any free one of {host}")


def of_gateway(settings: Settings) -> Iterator[Finding]:
    choice = settings.gateway.compiled
    if choice == "never":
        yield Finding("gateway", State.OK, "in pure Python, as gateway.compiled says")
        return
    try:
        fast.find()
    except fast.NotBuilt as reason:
        state = State.FAILED if choice == "always" else State.WARNING
        yield Finding("gateway", state, f"{reason}: in pure Python it takes longer", fast.HOW_TO_BUILD)
    else:
        yield Finding("gateway", State.OK, "compiled")


def _descriptors(settings: Settings) -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.sessions.max_sessions * DESCRIPTORS_PER_SESSION
    if most != resource.RLIM_INFINITY and most < wanted:
        yield Finding(
            "open files",
            State.WARNING,
            f"at most {most}, and {settings.sessions.max_sessions} sessions may take {wanted}",
            f"raise the hard limit: ulimit -Hn {wanted}, or LimitNOFILE={wanted} in a unit",
        )
    else:
        yield Finding("open files", State.OK, "no limit" if most == resource.RLIM_INFINITY else f"at most {most}")
