"""The warden's side of supervised sessions: start, dial, exit, output, stop, removal, through one launcher.

For: backends whose agents are processes of this host. Not for: what an agent is confined by (the backends). Invariant:
a session stays in the table until everything made for it has been removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from freehold.backends.base import Exit
from freehold.backends.supervision import observing
from freehold.backends.supervision.channel import Channel
from freehold.backends.supervision.inlets import OnInlet
from freehold.backends.supervision.output import OnLine, Output
from freehold.backends.supervision.removal import Remains
from freehold.backends.supervision.supervisor import CONNECT_TIMEOUT_S, KILL_TIMEOUT_S, SETUP_TIMEOUT_S
from freehold.domain.errors import StartFailed

STOP_GRACE_S = 3.0
"""Between SIGTERM and SIGKILL."""
DRAIN_TIMEOUT_S = 0.5
REMOVE_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 5.0
"""Beyond the time that the work itself may take."""


@dataclass(slots=True, eq=False)
class Session:
    """One session that is being started, runs or is being stopped."""

    generation: int
    output: Output
    exit: asyncio.Future[Exit]
    started: asyncio.Future[None]
    uid: int | None = None
    """The host uid that this session alone has."""
    channel: Channel | None = None
    launched: bool = False
    """There is, or was, a supervisor."""
    supervisor_gone: asyncio.Event = field(default_factory=asyncio.Event)
    ended_cleanly: bool = False
    """The supervisor has seen every process of the session end."""
    stopping: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sessions:
    """The table of sessions under `root`, and the launcher for supervisors of the module `supervisor`."""

    def __init__(
        self, root: Path, *, supervisor: str, on_line: OnLine, stop_grace_s: float, on_inlet: OnInlet | None = None
    ) -> None:
        self.root = root
        self._supervisor = supervisor
        self._on_line = on_line
        self._on_inlet = on_inlet
        self._stop_grace_s = stop_grace_s
        self._sessions: dict[int, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._launcher: Channel | None = None
        self._launcher_process: subprocess.Popen[bytes] | None = None

    def __contains__(self, generation: int) -> bool:
        return generation in self._sessions

    def generations(self) -> list[int]:
        return list(self._sessions)

    def on_disk(self) -> set[int]:
        """The generations that have a directory."""
        return {int(path.name) for path in self.root.iterdir() if path.name.isdigit()}

    def directory(self, generation: int) -> Path:
        return self.root / str(generation)

    def marker(self, generation: int) -> str:
        """What a session's processes show, so that they can be found when nobody remembers them."""
        return f"freehold-session={self.directory(generation)}"

    def find(self, generation: int) -> Session | None:
        return self._sessions.get(generation)

    # -- start -----------------------------------------------------------------------------------------------

    def add(self, generation: int) -> Session:
        """A session that nothing has been made for yet."""
        loop = asyncio.get_running_loop()
        session = Session(generation, Output(generation, self._on_line), loop.create_future(), loop.create_future())
        # Nobody need be waiting for a start that fails or is given up.
        session.started.add_done_callback(lambda started: started.cancelled() or started.exception())
        self._sessions[generation] = session
        return session

    def make_directories(self, session: Session) -> None:
        """HOME and /tmp: usable by the session's uid alone, under a directory that is ours alone."""
        directory = self.directory(session.generation)
        directory.mkdir(mode=0o700)
        for name in ("home", "tmp"):
            path = directory / name
            path.mkdir(mode=0o700)
            if session.uid is not None:
                os.chown(path, session.uid, session.uid)

    async def launch(self, session: Session, plan: dict[str, Any]) -> None:
        """Have the launcher start a supervisor with `plan`, and wait until the agent runs. Raises StartFailed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        handed: list[int] = [theirs.detach()]
        session.channel = Channel(
            ours,
            on_event=lambda event: self._on_event(session, event),
            on_close=lambda: self._on_supervisor_closed(session),
            on_descriptor=lambda event, fd: self._on_connection(session, event["inlet"], fd),
        )
        try:
            handed.append(_memory_file(json.dumps(plan).encode()))
            for stream in ("stdout", "stderr"):
                read, write = os.pipe()
                handed.append(write)
                session.output.read_from(read, stream)
            self.launcher().send({"do": "start", "generation": session.generation}, handed)
            session.launched = True
        finally:
            for fd in handed:
                os.close(fd)
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S + ANSWER_TIMEOUT_S):
                await asyncio.shield(session.started)
        except TimeoutError:
            raise StartFailed("The session could not be started: its supervisor does not answer") from None

    # -- while it runs ---------------------------------------------------------------------------------------

    async def dial(self, generation: int, port: int, wait_s: float) -> socket.socket:
        """See `backends.base.SessionBackend.dial`."""
        session = self._sessions.get(generation)
        if session is None or session.channel is None:
            raise ConnectionRefusedError("the session does not run")
        try:
            reply, fds = await session.channel.call(
                {"do": "dial", "port": port, "wait_s": wait_s},
                timeout_s=wait_s + 2 * CONNECT_TIMEOUT_S + ANSWER_TIMEOUT_S,
            )
        except TimeoutError as error:
            raise ConnectionAbortedError("the session's supervisor does not answer") from error
        if not fds:
            raise ConnectionRefusedError(reply["error"])
        connected = socket.socket(fileno=fds[0])
        connected.setblocking(False)
        return connected

    async def exited(self, generation: int) -> Exit:
        """See `backends.base.SessionBackend.exited`. Raises KeyError for a session that has been removed."""
        return await asyncio.shield(self._sessions[generation].exit)

    def output_tail(self, generation: int) -> str:
        session = self._sessions.get(generation)
        return "" if session is None else session.output.tail()

    async def processes(self, markers: dict[str, int]) -> dict[int, list[observing.Seen]]:
        """Running sessions' processes by generation. `markers` is what each one's show."""
        running = {marker: generation for marker, generation in markers.items() if generation in self._sessions}
        return await asyncio.to_thread(observing.processes_of, running)

    def _on_event(self, session: Session, event: dict[str, Any]) -> None:
        match event["event"]:
            case "running":
                if not session.started.done():
                    session.started.set_result(None)
            case "failed":
                self._in_background(self._end(session, None, event["reason"]))
            case _:
                session.ended_cleanly = True
                status = event["status"]
                how = Exit(status, None) if status >= 0 else Exit(None, -status)
                self._in_background(self._end(session, how, f"it ended with {how}"))

    def _on_connection(self, session: Session, inlet: str, fd: int) -> None:
        """The agent has connected to an inlet."""
        connection = socket.socket(fileno=fd)
        channel = session.channel
        if self._on_inlet is None or channel is None:
            connection.close()
            return
        self._on_inlet(session.generation, inlet, connection, lambda: channel.send({"do": "returned", "inlet": inlet}))

    def _on_supervisor_closed(self, session: Session) -> None:
        """The supervisor has gone; when it had not told how the agent ended, it was killed, and the agent with it."""
        self._in_background(self._end(session, Exit(None, 9), "its supervisor has ended"))

    async def _end(self, session: Session, how: Exit | None, reason: str) -> None:
        """Tell the end, or the failed start, once the agent's last words have been read."""
        await session.output.drained(DRAIN_TIMEOUT_S)
        if not session.started.done():
            tail = session.output.tail()
            session.started.set_exception(StartFailed(f"The session could not be started: {reason}", output_tail=tail))
        if how is not None and not session.exit.done():
            session.exit.set_result(how)

    # -- the end ---------------------------------------------------------------------------------------------

    async def end_processes(self, session: Session) -> None:
        """End the agent and all it has started, in time bounded by the grace and the kernel's."""
        channel = session.channel
        if channel is None or not session.launched:
            session.output.close()
            if channel is not None:
                channel.close()
            return
        if not channel.closed and not session.exit.done():
            channel.send({"do": "stop", "grace_s": self._stop_grace_s})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stop_grace_s + KILL_TIMEOUT_S):
                    await asyncio.shield(session.exit)
        # A supervisor that has told the end ends by itself; one that hangs is killed.
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S if session.exit.done() else 0.0):
                await session.supervisor_gone.wait()
        except TimeoutError:
            session.ended_cleanly = False
            if self._launcher is not None:
                self._launcher.send({"do": "kill", "generation": session.generation})
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await session.supervisor_gone.wait()
        channel.close()
        session.output.close()

    async def remove(self, generation: int, remains: Remains) -> None:
        """Remove what a session has left. Raises OSError, TimeoutError; may be repeated."""
        reply, _ = await self.launcher().call(
            {"do": "remove", "remains": dataclasses.asdict(remains)}, timeout_s=REMOVE_TIMEOUT_S
        )
        if reply["error"] is not None:
            raise OSError(f"session {generation} could not be removed: {reply['error']}")

    def forget(self, session: Session) -> None:
        """Nothing of the session is left."""
        del self._sessions[session.generation]

    # -- the launcher ----------------------------------------------------------------------------------------

    def launcher(self) -> Channel:
        """The launcher, started when there is none or the last one has been killed."""
        if self._launcher is not None and not self._launcher.closed:
            return self._launcher
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # From this thread, which lives as long as the process: a child ends with the thread that made it.
            self._launcher_process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-m", "freehold.backends.supervision.launcher", self._supervisor),
                    *(str(theirs.fileno()), str(os.getpid())),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Nothing of the server's environment; a Python that needs this one could not start without it.
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                cwd="/",
                start_new_session=True,
            )
        self._launcher = Channel(ours, on_event=self._on_launcher_event, on_close=self._on_launcher_closed)
        return self._launcher

    async def aclose(self) -> None:
        """End the launcher. The sessions have been ended."""
        if self._launcher is not None:
            self._launcher.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_launcher_event(self, event: dict[str, Any]) -> None:
        session = self._sessions.get(event["gone"])
        if session is not None:
            session.supervisor_gone.set()

    def _on_launcher_closed(self) -> None:
        """The launcher has ended. Supervisors end by that, or by the end of their sockets."""
        assert self._launcher_process is not None
        self._launcher_process.kill()
        self._launcher_process.wait()
        for session in self._sessions.values():
            session.supervisor_gone.set()
            if session.channel is not None:
                session.channel.close()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def raise_descriptor_limit() -> None:
    """Let this process and the launcher have as many descriptors as they may: a session takes four and one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("plan", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd
