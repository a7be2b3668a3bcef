"""The parent of a running server: takes the data directory, opens the sockets, keeps the three processes running.

Not for: what the processes do (`compose` builds them). The parent holds every listening socket, so a process that is
killed is replaced and finds its callers waiting in the queue. Invariant: one server per data directory, held by a
lock that the kernel drops when the last of its processes has gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from freehold import child, compose, ipc
from freehold.observe import logs
from freehold.settings import Settings

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
RESTART_PAUSES_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
"""Before the n-th restart in a row of a process that did not live for STEADY_S."""
STEADY_S = 10.0


class CannotStart(Exception):
    """The server can't start. The message says why and what to do."""


@dataclass
class _Running:
    name: str
    process: subprocess.Popen[bytes]
    ready: int
    """Read end of the pipe on which the process says that it is ready, or why it can't be."""
    started_at: float
    restarts: int = 0


@dataclass
class _Plan:
    """How to start one process: its role's configuration and the descriptors it inherits."""

    name: str
    config: compose.Config
    inherited: tuple[int, ...]


@dataclass
class Server:
    """A server being run by this process. `url` is known once it listens."""

    settings: Settings
    url: str = ""
    _running: dict[str, _Running] = field(default_factory=dict[str, _Running])
    _plans: dict[str, _Plan] = field(default_factory=dict[str, _Plan])
    _stopping: bool = False

    def run(self, on_ready: Callable[[Server], None]) -> None:
        """Serve until SIGINT or SIGTERM. Raises CannotStart."""
        logs.configure(process="parent", level=self.settings.log.level, json_lines=self.settings.log.format == "json")
        with contextlib.ExitStack() as stack:
            wake = stack.enter_context(_signals())
            data_dir = _prepare_data_dir(self.settings.data_dir)
            lock = stack.enter_context(_lock(data_dir))
            self._plan(stack, data_dir, lock)
            try:
                if self._start_all(wake):
                    on_ready(self)
                    self._keep_running(wake)
            finally:
                self._stop_all()
                compose.remove_run_files(data_dir)

    # -- starting --------------------------------------------------------------------------------------------

    def _plan(self, stack: contextlib.ExitStack, data_dir: Path, lock: int) -> None:
        run_dir = data_dir / "run"
        public = stack.enter_context(_listen(self.settings.server.host, self.settings.server.port))
        warden = stack.enter_context(ipc.listen(run_dir / "warden.sock"))
        feed = stack.enter_context(ipc.listen(run_dir / "feed.sock"))
        http = stack.enter_context(ipc.bind_unix(run_dir / "control.sock", socket.SOCK_STREAM))
        host, port = public.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        configs = compose.plan(self.settings, data_dir=data_dir, url=self.settings.server.public_url or self.url)
        self._plans["warden"] = _Plan("warden", configs.warden(warden.fileno()), (warden.fileno(), lock))
        self._plans["control"] = _Plan(
            "control", configs.control(feed.fileno(), http.fileno()), (feed.fileno(), http.fileno(), lock)
        )
        for number in range(self.settings.server.workers):
            name = f"gateway-{number}"
            self._plans[name] = _Plan(name, configs.gateway(number, public.fileno()), (public.fileno(),))

    def _start_all(self, wake: int) -> bool:
        """Start every process and wait until each is ready; False when a signal came first."""
        for plan in self._plans.values():
            self._running[plan.name] = _spawn(plan)
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = {running.ready: running for running in self._running.values()}
        while waiting:
            readable, _, _ = select.select([wake, *waiting], [], [], max(0.0, deadline - time.monotonic()))
            if wake in readable and _stop_requested(wake):
                return False
            if not readable:
                names = ", ".join(running.name for running in waiting.values())
                raise CannotStart(f"not ready within {START_TIMEOUT_S:g} s: {names}")
            for fd in readable:
                if fd in waiting:
                    _await_ready(waiting.pop(fd))
        return True

    # -- running ---------------------------------------------------------------------------------------------

    def _keep_running(self, wake: int) -> None:
        due: dict[str, float] = {}
        while True:
            pause = min(due.values()) - time.monotonic() if due else None
            select.select([wake], [], [], None if pause is None else max(0.0, pause))
            if _stop_requested(wake):
                return
            now = time.monotonic()
            for running in list(self._running.values()):
                if running.name not in due and (code := running.process.poll()) is not None:
                    restarts = 0 if now - running.started_at >= STEADY_S else running.restarts
                    running.restarts = restarts + 1
                    due[running.name] = now + RESTART_PAUSES_S[min(restarts, len(RESTART_PAUSES_S) - 1)]
                    log.error("process.ended", name=running.name, status=code)
            for name in [name for name, instant in due.items() if instant <= now]:
                del due[name]
                old = self._running[name]
                os.close(old.ready)
                self._running[name] = _spawn(self._plans[name])
                self._running[name].restarts = old.restarts

    def _stop_all(self) -> None:
        """Gateways first, so that no new work comes; the warden last, so that running answers can end."""
        for role in ("gateway", "control", "warden"):
            ending = [running for name, running in self._running.items() if name.startswith(role)]
            for running in ending:
                with contextlib.suppress(ProcessLookupError):
                    running.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            for running in ending:
                try:
                    running.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    log.error("process.killed", name=running.name, reason=f"did not stop within {STOP_TIMEOUT_S:g} s")
                    running.process.kill()
                    running.process.wait()
                os.close(running.ready)
        self._running.clear()


def _spawn(plan: _Plan) -> _Running:
    """Start one process. Its configuration goes through a pipe, so that nothing of it shows in a process list."""
    config = msgspec.json.encode(plan.config)
    config_read, config_write = os.pipe()
    ready_read, ready_write = os.pipe()
    arguments = child.Arguments(plan.name, config_read, ready_write, os.getpid())
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "freehold.compose", *arguments.words()],
            pass_fds=(config_read, ready_write, *plan.inherited),
            stdin=subprocess.DEVNULL,
        )
    finally:
        os.close(config_read)
        os.close(ready_write)
    with os.fdopen(config_write, "wb") as pipe, contextlib.suppress(BrokenPipeError):
        pipe.write(config)
    return _Running(plan.name, process, ready_read, time.monotonic())


def _await_ready(running: _Running) -> None:
    told = os.read(running.ready, child.MAX_REPORT_BYTES)
    if told == child.READY:
        return
    code = running.process.wait()
    reason = told.decode(errors="replace") or f"it ended with status {code}; its log says why"
    raise CannotStart(f"{running.name} can't start: {reason}")


# -- parts of the host ---------------------------------------------------------------------------------------------


def _prepare_data_dir(data_dir: Path) -> Path:
    try:
        for directory in (data_dir, data_dir / "run"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
    except OSError as error:
        raise CannotStart(f"the data directory {data_dir} can't be used: {error.strerror}") from error
    return data_dir.resolve()


@contextlib.contextmanager
def _lock(data_dir: Path) -> Generator[int]:
    fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # A killed server's processes need a moment to go; they hold the lock until they have gone.
        deadline = time.monotonic() + 3.0
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise CannotStart(f"another Freehold server uses the data directory {data_dir}") from None
                time.sleep(0.05)
        yield fd
    finally:
        os.close(fd)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise CannotStart(f"can't listen on {host} port {port}: {error.strerror or error}") from error
    sock.listen(4096)
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def _signals() -> Generator[int]:
    """A descriptor that becomes readable when a signal came: SIGINT, SIGTERM to stop, SIGCHLD when a child ended."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in wanted}
    old_wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def _stop_requested(wake: int) -> bool:
    try:
        seen = os.read(wake, 4096)
    except BlockingIOError:
        return False
    return signal.SIGINT in seen or signal.SIGTERM in seen
