"""Sessions in sandboxes: the SessionBackend by bubblewrap, as root and as an ordinary user.

Each session has a directory with its HOME and /tmp, a cgroup where one can be made, and, when the server runs as
root, a host uid of its own. Not for: readiness, timers, claims (`warden`). Invariant: everything made for a session
is named by its generation: `<sessions_root>/<generation>`, and cgroups of that name.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import platform
import socket
import sys
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from freehold.backends.base import BackendUnavailable, Exit, SessionRef, StartSpec
from freehold.backends.sandbox import bubblewrap, cgroups, etc, refusal, seccomp
from freehold.backends.sandbox.supervisor import STAGE, Plan
from freehold.backends.sandbox.uids import NoUidLeft, Uids, reserved_ranges
from freehold.backends.supervision import observing
from freehold.backends.supervision.inlets import Inlet, OnInlet
from freehold.backends.supervision.output import OnLine
from freehold.backends.supervision.removal import Remains
from freehold.backends.supervision.sessions import STOP_GRACE_S, Session, Sessions, raise_descriptor_limit
from freehold.domain.errors import StartFailed
from freehold.domain.usage import Usage

BWRAP_PROCESSES = 2
"""bwrap's own, which are counted with an agent's."""
PROBE = 0
"""The generation of the trial at `open`; the warden's begin at 1."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Of each session."""

    memory_bytes: int
    processes: int
    open_files: int


class SandboxBackend:
    """See `backends.base.SessionBackend`.

    `sessions_root` and the directory `sandbox` beside it belong to this backend alone; their parent is the server's
    data directory, which no agent may see.
    `instance` names the server among others on this host. `uid_first` is used by root only. `on_line` gets each line
    that an agent prints. `inlets` are addresses in each session's own network; `on_inlet` gets the connections that
    agents make to them.
    """

    def __init__(
        self,
        sessions_root: Path,
        *,
        instance: str,
        limits: SandboxLimits,
        uid_first: int,
        on_line: OnLine,
        inlets: Collection[Inlet] = (),
        on_inlet: OnInlet | None = None,
        stop_grace_s: float = STOP_GRACE_S,
    ) -> None:
        self._root = sessions_root
        self._etc = sessions_root.with_name("sandbox") / "etc"
        self._instance = instance
        self._limits = limits
        self._inlets = [(inlet.name, inlet.host, inlet.port) for inlet in inlets]
        self._uids = Uids(uid_first, _subuids()) if os.geteuid() == 0 else None
        self._sessions = Sessions(
            sessions_root,
            supervisor="freehold.backends.sandbox.supervisor",
            on_line=on_line,
            on_inlet=on_inlet,
            stop_grace_s=stop_grace_s,
        )
        self._bwrap: bubblewrap.Bubblewrap | None = None
        self._cgroups: cgroups.Cgroups | None = None
        self._filter = ""

    # -- open and close --------------------------------------------------------------------------------------

    async def open(self) -> None:
        machine = platform.machine()
        if sys.platform != "linux" or machine not in seccomp.ARCHITECTURES:
            raise BackendUnavailable(
                f"the sandbox needs Linux on x86_64 or aarch64, and this is {sys.platform} on {machine}: for agents "
                "you trust set sandbox.mode = 'process'"
            )
        self._bwrap = bubblewrap.find(STAGE)
        if self._bwrap is None:
            raise BackendUnavailable(refusal.NO_BUBBLEWRAP)
        self._filter = seccomp.program(machine).hex()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root.chmod(0o700)
        raise_descriptor_limit()
        etc.build(self._etc)
        self._cgroups = cgroups.discover(self._instance, cgroups.mounted_here())
        if self._cgroups.missing:
            log.warning(
                "sandbox.unlimited",
                not_limited_per_session=list(self._cgroups.missing),
                reason="there is no cgroup that this server may write",
                remedy="run as root, or as a systemd service with Delegate=yes and DelegateSubgroup=server",
            )
        await self._try_out()

    @property
    def unlimited(self) -> tuple[str, ...]:
        """What is not limited for each session, since no cgroup can be written for it. Known once it is open."""
        assert self._cgroups is not None
        return self._cgroups.missing

    async def _try_out(self) -> None:
        """Start a whole sandbox once. Raises BackendUnavailable."""
        # A trial that was cut short by a kill has left its own.
        await self._remove(PROBE, ended_cleanly=False)
        session = self._sessions.add(PROBE)
        try:
            self._prepare(session)
            view = self._view(session, str(self._etc), [], [], {})
            await self._sessions.launch(session, dataclasses.asdict(self._plan(session, view, ["/bin/sh", "-c", ":"])))
            how = await session.exit
            if how != Exit(0, None):
                raise StartFailed(f"the trial ended with {how}", output_tail=session.output.tail())
        except (StartFailed, OSError, NoUidLeft) as error:
            tail = error.output_tail if isinstance(error, StartFailed) else ""
            raise BackendUnavailable(refusal.explain(f"{error} {tail}", refusal.look())) from error
        finally:
            await self.stop(SessionRef(PROBE))

    async def aclose(self) -> None:
        ends = [self.stop(SessionRef(generation)) for generation in self._sessions.generations()]
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(error, BaseException):
                # The next run sweeps it.
                log.error("sandbox.not_removed", error=str(error))
        await self._sessions.aclose()
        if self._cgroups is not None:
            self._cgroups.close()

    async def sweep(self, leftover: Collection[SessionRef]) -> None:
        assert self._cgroups is not None
        elsewhere = self._cgroups.leftover()
        known = {ref.generation for ref in leftover} | self._sessions.on_disk() | elsewhere.keys()
        for generation in sorted(known):
            if generation not in self._sessions:
                await self._remove(generation, ended_cleanly=False, more_cgroups=elsewhere.get(generation, []))

    # -- start -----------------------------------------------------------------------------------------------

    async def start(self, spec: StartSpec) -> AsyncGenerator[SessionRef]:
        launch = spec.launch
        interpreter = launch.program.interpreter
        session = self._sessions.add(spec.generation)
        try:
            self._prepare(session)
            yield SessionRef(spec.generation, {"step": "prepared"})
            view = self._view(
                session,
                launch.code_dir,
                interpreter.prefixes,
                interpreter.site_dirs,
                bubblewrap.environment(spec.environment, interpreter.executable),
            )
            plan = self._plan(session, view, [interpreter.executable, *launch.program.args])
            await self._sessions.launch(session, dataclasses.asdict(plan))
        except (OSError, NoUidLeft, ValueError) as error:
            raise StartFailed(f"The session could not be started: {error}") from error
        yield SessionRef(spec.generation, {"step": "running"})

    def _prepare(self, session: Session) -> None:
        if self._uids is not None:
            session.uid = self._uids.lease()
        self._sessions.make_directories(session)

    def _view(
        self,
        session: Session,
        code_dir: str,
        prefixes: Collection[str],
        site_dirs: Collection[str],
        environment: dict[str, str],
    ) -> bubblewrap.View:
        directory = self._sessions.directory(session.generation)
        shown = (*prefixes, "/usr")
        masked = [path for path in site_dirs if Path(path).is_dir() and _is_below(path, shown)]
        if _is_below(str(self._root.parent), shown):
            masked.append(str(self._root.parent))
        return bubblewrap.View(
            etc=str(self._etc),
            home=str(directory / "home"),
            tmp=str(directory / "tmp"),
            code=os.path.realpath(code_dir),
            prefixes={prefix: os.path.realpath(prefix) for prefix in prefixes},
            masked=masked,
            environment=environment,
        )

    def _plan(self, session: Session, view: bubblewrap.View, command: list[str]) -> Plan:
        assert self._bwrap is not None
        assert self._cgroups is not None
        executable = str(self._bwrap.executable)
        stage: dict[str, str] = {}
        if session.uid is not None:
            view, stage = bubblewrap.staged(view, STAGE)
            stage |= self._bwrap.stage
            executable = self._bwrap.staged_executable
        processes = self._limits.processes + BWRAP_PROCESSES
        return Plan(
            bwrap=executable,
            args=bubblewrap.arguments(view),
            command=command,
            name=self._bwrap_name(session.generation),
            seccomp=self._filter,
            open_files=self._limits.open_files,
            processes=processes if session.uid is not None or _counts_by_namespace() else None,
            cgroups=self._cgroups.make(session.generation, cgroups.Limits(self._limits.memory_bytes, processes)),
            inlets=self._inlets,
            uid=session.uid,
            stage=stage,
        )

    # -- while it runs ---------------------------------------------------------------------------------------

    async def dial(self, ref: SessionRef, port: int, *, wait_s: float = 0.0) -> socket.socket:
        return await self._sessions.dial(ref.generation, port, wait_s)

    async def exited(self, ref: SessionRef) -> Exit:
        return await self._sessions.exited(ref.generation)

    def output_tail(self, ref: SessionRef) -> str:
        return self._sessions.output_tail(ref.generation)

    async def usage(self, refs: Collection[SessionRef]) -> dict[int, Usage]:
        groups = self._cgroups
        assert groups is not None
        found = await self._sessions.processes({self._bwrap_name(ref.generation): ref.generation for ref in refs})

        def counted(generation: int, processes: list[observing.Seen]) -> Usage:
            seen = observing.usage_of(processes)
            by_group = groups.usage(generation)
            return Usage(
                # Of a session whose processes have ended only a cgroup still knows.
                cpu_s=seen.cpu_s if by_group.cpu_s is None and processes else by_group.cpu_s,
                memory_bytes=seen.memory_bytes if by_group.memory_bytes is None else by_group.memory_bytes,
                memory_peak_bytes=by_group.memory_peak_bytes or seen.memory_peak_bytes,
                processes=seen.processes,
            )

        return await asyncio.to_thread(lambda: {key: counted(key, processes) for key, processes in found.items()})

    async def listening(self, ref: SessionRef) -> frozenset[int]:
        found = await self._sessions.processes({self._bwrap_name(ref.generation): ref.generation})
        return await asyncio.to_thread(observing.listening, found.get(ref.generation, []))

    # -- stop ------------------------------------------------------------------------------------------------

    async def stop(self, ref: SessionRef) -> None:
        session = self._sessions.find(ref.generation)
        if session is None:
            if ref.generation in self._sessions.on_disk():
                await self._remove(ref.generation, ended_cleanly=False)
            return
        async with session.stopping:
            if self._sessions.find(ref.generation) is not session:
                return
            await self._sessions.end_processes(session)
            await self._remove(session.generation, ended_cleanly=session.ended_cleanly, uid=session.uid)
            if self._uids is not None and session.uid is not None:
                self._uids.release(session.uid)
            self._sessions.forget(session)

    async def _remove(
        self, generation: int, *, ended_cleanly: bool, uid: int | None = None, more_cgroups: Collection[str] = ()
    ) -> None:
        """Remove a session's cgroups and directories, and its processes if it is not known that they have gone."""
        assert self._cgroups is not None
        home = self._sessions.directory(generation) / "home"
        borrowed = self._borrow_uid(home) if uid is None and self._uids is not None else None
        remains = Remains(
            directory=str(home.parent),
            cgroups=sorted({*self._cgroups.of(generation), *more_cgroups}),
            uid=None if ended_cleanly else uid or borrowed,
            marker=None if ended_cleanly else self._bwrap_name(generation),
        )
        try:
            await self._sessions.remove(generation, remains)
        finally:
            if self._uids is not None and borrowed is not None:
                self._uids.release(borrowed)

    def _bwrap_name(self, generation: int) -> str:
        """What a session's bwrap is called in process lists."""
        return f"bwrap {self._sessions.marker(generation)}"

    def _borrow_uid(self, home: Path) -> int | None:
        """The uid of a session that an earlier run has left, unless another server has it by now."""
        assert self._uids is not None
        try:
            uid = home.lstat().st_uid
        except FileNotFoundError:
            return None
        return uid if uid in self._uids.range and uid not in self._uids and self._uids.take(uid) else None


def _is_below(path: str, directories: Collection[str]) -> bool:
    return any(Path(path).is_relative_to(directory) for directory in directories)


def _subuids() -> list[range]:
    try:
        return reserved_ranges(Path("/etc/subuid").read_text())
    except FileNotFoundError:
        return []


def _counts_by_namespace() -> bool:
    """Whether the limit of processes counts within a user namespace (Linux 5.14), not over all of a user's."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int(minor.partition("-")[0])) >= (5, 14)
