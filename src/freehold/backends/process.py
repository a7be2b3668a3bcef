"""Sessions as plain child processes, without isolation: the SessionBackend for agents that are trusted.

Each agent listens on a loopback port of its own: a shim in the agent's language redirects its bind of the contract
port (`shims/`). Not for: agents of others. Invariant: everything made for a session is in
`<sessions_root>/<generation>`, and its processes bear a variable that names that directory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

import structlog

from freehold.backends import process_supervisor
from freehold.backends.base import Exit, SessionRef, StartSpec
from freehold.backends.supervision import observing
from freehold.backends.supervision.output import OnLine
from freehold.backends.supervision.removal import Remains
from freehold.backends.supervision.sessions import STOP_GRACE_S, Sessions, raise_descriptor_limit
from freehold.domain.errors import StartFailed
from freehold.domain.usage import Usage

SHIMS = Path(__file__).parent / "shims"

log = structlog.get_logger(__name__)


class ProcessBackend:
    """See `backends.base.SessionBackend`. `sessions_root` belongs to this backend alone.

    `open_files` limits each process; None leaves it at the server's own limit. `on_line` gets each line that an agent
    prints.
    """

    def __init__(
        self,
        sessions_root: Path,
        *,
        on_line: OnLine,
        open_files: int | None = None,
        stop_grace_s: float = STOP_GRACE_S,
    ) -> None:
        self._root = sessions_root
        self._open_files = open_files
        self._sessions = Sessions(
            sessions_root,
            supervisor=process_supervisor.__name__,
            on_line=on_line,
            stop_grace_s=stop_grace_s,
        )

    async def open(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root.chmod(0o700)
        raise_descriptor_limit()
        log.warning("process_backend.no_isolation", runs_agents_as=os.geteuid(), reason="sandbox.mode is 'process'")

    async def start(self, spec: StartSpec) -> AsyncGenerator[SessionRef]:
        program = spec.launch.program
        session = self._sessions.add(spec.generation)
        plan = process_supervisor.Plan(
            executable=program.interpreter.executable,
            args=list(program.args),
            environment=self._environment(spec),
            directory=spec.launch.code_dir,
            contract_port=spec.launch.port,
            open_files=self._open_files,
        )
        try:
            self._sessions.make_directories(session)
            yield SessionRef(spec.generation, {"step": "prepared"})
            await self._sessions.launch(session, dataclasses.asdict(plan))
        except OSError as error:
            raise StartFailed(f"The session could not be started: {error}") from error
        yield SessionRef(spec.generation, {"step": "running"})

    def _environment(self, spec: StartSpec) -> dict[str, str]:
        """What the agent finds; nothing of the server's own environment."""
        own = spec.environment
        directory = self._sessions.directory(spec.generation)
        marker, _, value = self._sessions.marker(spec.generation).partition("=")
        path = [str(Path(spec.launch.program.interpreter.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
        places = {
            "HOME": str(directory / "home"),
            "PATH": ":".join(dict.fromkeys(path)),
            "TMPDIR": str(directory / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        searched = [str(SHIMS / "python"), spec.launch.code_dir, own.get("PYTHONPATH", "")]
        node_options = [f'--require "{SHIMS / "node.cjs"}"', own.get("NODE_OPTIONS", "")]
        return (
            places
            | dict(own)
            | {
                "PYTHONPATH": ":".join(filter(None, searched)),
                "NODE_OPTIONS": " ".join(filter(None, node_options)),
                marker: value,
            }
        )

    async def dial(self, ref: SessionRef, port: int, *, wait_s: float = 0.0) -> socket.socket:
        return await self._sessions.dial(ref.generation, port, wait_s)

    async def exited(self, ref: SessionRef) -> Exit:
        return await self._sessions.exited(ref.generation)

    def output_tail(self, ref: SessionRef) -> str:
        return self._sessions.output_tail(ref.generation)

    async def usage(self, refs: Collection[SessionRef]) -> dict[int, Usage]:
        markers = {self._sessions.marker(ref.generation): ref.generation for ref in refs}
        found = await self._sessions.processes(markers)
        return {generation: observing.usage_of(processes) for generation, processes in found.items() if processes}

    async def listening(self, ref: SessionRef) -> frozenset[int]:
        found = await self._sessions.processes({self._sessions.marker(ref.generation): ref.generation})
        return await asyncio.to_thread(observing.listening, found.get(ref.generation, []))

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
            await self._remove(session.generation, ended_cleanly=session.ended_cleanly)
            self._sessions.forget(session)

    async def sweep(self, leftover: Collection[SessionRef]) -> None:
        for generation in sorted({ref.generation for ref in leftover} | self._sessions.on_disk()):
            if generation not in self._sessions:
                await self._remove(generation, ended_cleanly=False)

    async def aclose(self) -> None:
        ends = [self.stop(SessionRef(generation)) for generation in self._sessions.generations()]
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(error, BaseException):
                # The next run sweeps it.
                log.error("process_backend.not_removed", error=str(error))
        await self._sessions.aclose()

    async def _remove(self, generation: int, *, ended_cleanly: bool) -> None:
        remains = Remains(
            directory=str(self._sessions.directory(generation)),
            marker=None if ended_cleanly else self._sessions.marker(generation),
        )
        await self._sessions.remove(generation, remains)
