"""The frame of one of the server's processes: bound to its parent, told when to stop, telling when it is ready.

Not for: what the process does (`compose`), or for the parent's side (`processes`). Invariant: the process does not
outlive its parent, whatever ends the parent.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from freehold import startup

READY = b"ready"
RETIRE = b"retire"
"""In place of a new configuration: another process has taken over."""
RELOADED = b"reloaded"
MAX_REPORT_BYTES = 16 * 1024
MAX_CONFIG_BYTES = 128 * 1024
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger(__name__)


class CannotServe(Exception):
    """The process can't do its work on this host or data directory. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the parent says on the command line; nothing secret is among it."""

    name: str
    config_fd: int
    ready_fd: int
    reload_fd: int
    """A socket of kind SEQPACKET on which new configurations come, each a packet, and are answered by one."""
    parent_pid: int

    @classmethod
    def parse(cls, words: list[str]) -> Arguments:
        name, *numbers = words
        return cls(name, *(int(number) for number in numbers))

    def words(self) -> list[str]:
        return [self.name, *map(str, (self.config_fd, self.ready_fd, self.reload_fd, self.parent_pid))]

    def read_config(self) -> bytes:
        with os.fdopen(self.config_fd, "rb") as pipe:
            return pipe.read()


@dataclass(slots=True)
class Life:
    """What a process's main coroutine is given."""

    ready_fd: int
    reload_fd: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is to end."""
    retire: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is to take no more work, and to end when it has done what it has."""
    is_ready: bool = False

    def ready(self) -> None:
        """The process serves now."""
        startup.started()
        os.write(self.ready_fd, READY)
        self.is_ready = True

    def on_reload(self, apply: Callable[[bytes], None]) -> None:
        """Have `apply` called with each new configuration that comes, and tell the parent when that is done.

        What `apply` raises is told to the parent instead, and the process goes on as before.
        """
        os.set_inheritable(self.reload_fd, False)
        channel = socket.socket(fileno=self.reload_fd)
        channel.setblocking(False)
        asyncio.get_running_loop().add_reader(channel, _reload, channel, apply, self.retire)

    async def until_stopped(self, *work: Awaitable[None]) -> None:
        """Run `work` until the stop; then cancel it. Raises what any of it raises, or when any ends by itself."""
        stopped = asyncio.ensure_future(self.stop.wait())
        tasks = [asyncio.ensure_future(part) for part in work]
        try:
            await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
                    raise RuntimeError("a part of the process ended by itself")
        finally:
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)


def die_with_parent(parent_pid: int, with_signal: signal.Signals) -> None:
    """Have the kernel send `with_signal` when the parent ends; end now if it has ended already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(1)


def run(
    arguments: Arguments,
    main: Callable[[Life], Awaitable[None]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run `main` to its end; returns the process's exit status."""
    life = Life(arguments.ready_fd, arguments.reload_fd)

    async def framed() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, life.stop.set)
        # Ctrl-C reaches the whole group; the parent decides the order of the end.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        # So does the hangup of a terminal. Not ignored, since agents would inherit that.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        await main(life)

    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(framed())
    except CannotServe as error:
        log.error("process.cannot_serve", reason=str(error))
        report(life, str(error))
        return 1
    except Exception as error:
        log.exception("process.failed")
        report(life, f"{type(error).__name__}: {error}")
        return 1
    return 0


def _reload(channel: socket.socket, apply: Callable[[bytes], None], retire: asyncio.Event) -> None:
    try:
        data = channel.recv(MAX_CONFIG_BYTES)
    except BlockingIOError:
        return
    if not data:
        # The parent has gone; the kernel tells this process in its own way.
        asyncio.get_running_loop().remove_reader(channel)
        channel.close()
        return
    if data == RETIRE:
        retire.set()
        return
    answer = RELOADED
    try:
        apply(data)
    except Exception as error:
        log.exception("process.reload_failed")
        answer = f"{type(error).__name__}: {error}".encode()[:MAX_REPORT_BYTES]
    try:
        channel.send(answer)
    except OSError as error:
        log.warning("process.reload_unanswered", error=error.strerror)


def report(life: Life, reason: str) -> None:
    """Tell the parent, if it still waits for readiness, why it will not come."""
    if not life.is_ready:
        os.write(life.ready_fd, reason.encode()[:MAX_REPORT_BYTES])


def write_privately(path: Path, data: bytes) -> None:
    """Replace a file as a whole, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    temporary.replace(path)
