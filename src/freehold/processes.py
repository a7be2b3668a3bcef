"""The parent of a running server: takes the data directory, opens the sockets, keeps the three processes running.

Not for: what the processes do (`compose` builds them). The parent holds every listening socket, so a process that is
killed is replaced and finds its callers waiting in the queue. Invariant: one server per data directory, held by a
lock that the kernel drops when the last of its processes has gone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from freehold import child, configs, ipc, reload, startup
from freehold.datadir import custody
from freehold.notify import Notifier
from freehold.observe import logs
from freehold.running import remove_run_files
from freehold.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
RESTART_PAUSES_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
"""Before the n-th restart in a row of a process that did not live for STEADY_S."""
STEADY_S = 10.0


RELOAD_TIMEOUT_S = 5.0
"""For every process to say that it has taken over new settings."""


class CannotStart(Exception):
    """The server can't start. The message says why and what to do."""


class _Signalled(Exception):
    """The server is to stop."""


@dataclass(eq=False)
class _Running:
    name: str
    process: subprocess.Popen[bytes]
    ready: int
    """Read end of the pipe on which the process says that it is ready, or why it can't be."""
    reload: socket.socket
    """New configurations go out here, and what became of them comes back (`child.Life.on_reload`)."""
    started_at: float
    restarts: int = 0

    def close(self) -> None:
        os.close(self.ready)
        self.reload.close()


@dataclass
class _Retiring:
    """A gateway worker in whose place another one accepts."""

    running: _Running
    stop_at: float
    """When it has had its time for what is under way."""
    is_told: bool = False
    """To stop."""


@dataclass
class _Plan:
    """How to start one process: its role's configuration and the descriptors it inherits."""

    name: str
    config: Callable[[configs.Plan], configs.Config]
    inherited: tuple[int, ...]


@dataclass
class Server:
    """A server being run by this process. `url` is known once it listens."""

    settings: Settings
    load: Callable[[], Settings] | None = None
    """Reads the settings again, for SIGHUP. Raises SettingsError."""
    url: str = ""
    _running: dict[str, _Running] = field(default_factory=dict[str, _Running])
    _plans: dict[str, _Plan] = field(default_factory=dict[str, _Plan])
    _data_dir: Path = Path()
    _retiring: list[_Retiring] = field(default_factory=list["_Retiring"])
    _workers_made: int = 0
    _listener_fd: int = -1
    _reload_wanted: bool = False
    _had_terminal: bool = False
    _notifier: Notifier = field(default_factory=lambda: Notifier(None))

    def run(self, on_ready: Callable[[Server], None]) -> None:
        """Serve until SIGINT or SIGTERM. Raises CannotStart, DataDirRefused."""
        logs.configure(process="parent", level=self.settings.log.level, json_lines=self.settings.log.format == "json")
        self._notifier = Notifier.from_environment()
        self._had_terminal = _has_terminal()
        with contextlib.ExitStack() as stack:
            wake = stack.enter_context(_signals())
            self._data_dir = custody.prepare(self.settings.data_dir)
            lock = stack.enter_context(custody.lock(self._data_dir))
            self._plan(stack, lock)
            try:
                self._start_all(wake)
                startup.started()
                on_ready(self)
                self._notifier.ready(f"Serving at {self.url}")
                self._keep_running(wake)
            except _Signalled:
                pass
            finally:
                self._notifier.stopping()
                self._stop_all()
                remove_run_files(self._data_dir)

    # -- starting --------------------------------------------------------------------------------------------

    def _plan(self, stack: contextlib.ExitStack, lock: int) -> None:
        run_dir = self._data_dir / "run"
        public = stack.enter_context(_listen(self.settings.server.host, self.settings.server.port))
        warden = stack.enter_context(ipc.listen(run_dir / "warden.sock"))
        feed = stack.enter_context(ipc.listen(run_dir / "feed.sock"))
        http = stack.enter_context(ipc.bind_unix(run_dir / "control.sock", socket.SOCK_STREAM))
        host, port = public.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._plans["warden"] = _Plan("warden", lambda plan: plan.warden(warden.fileno()), (warden.fileno(), lock))
        self._plans["control"] = _Plan(
            "control",
            lambda plan: plan.control(feed.fileno(), http.fileno()),
            (feed.fileno(), http.fileno(), lock),
        )
        self._listener_fd = public.fileno()
        self._plans |= {plan.name: plan for plan in self._plan_workers()}

    def _plan_workers(self) -> list[_Plan]:
        """As many new workers as the settings say. No name is used twice: two generations of them may run at once."""
        first, fd = self._workers_made, self._listener_fd
        self._workers_made += self.settings.server.workers
        return [
            _Plan(f"gateway-{number}", lambda plan, number=number: plan.gateway(number, fd), (fd,))
            for number in range(first, self._workers_made)
        ]

    def _config(self, plan: _Plan) -> bytes:
        """A process's configuration as the settings are now."""
        url = self.settings.server.public_url or self.url
        return msgspec.json.encode(plan.config(configs.plan(self.settings, data_dir=self._data_dir, url=url)))

    def _spawn(self, plan: _Plan) -> _Running:
        return _spawn(plan, self._config(plan))

    def _start_all(self, wake: int) -> None:
        """Start every process and wait until each is ready. Raises _Signalled."""
        for plan in self._plans.values():
            self._running[plan.name] = self._spawn(plan)
        self._await_all(self._running.values(), wake)

    def _await_all(self, starting: Iterable[_Running], wake: int) -> None:
        """Wait until each is ready. Raises _Signalled, CannotStart."""
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = {running.ready: running for running in starting}
        while waiting:
            readable, _, _ = select.select([wake, *waiting], [], [], max(0.0, deadline - time.monotonic()))
            if wake in readable:
                self._take_signals(wake)
            if not readable:
                names = ", ".join(running.name for running in waiting.values())
                raise CannotStart(f"not ready within {START_TIMEOUT_S:g} s: {names}")
            for fd in readable:
                if fd in waiting:
                    _await_ready(waiting.pop(fd))

    # -- running ---------------------------------------------------------------------------------------------

    def _keep_running(self, wake: int) -> None:
        due: dict[str, float] = {}
        while True:
            instants = [*due.values(), *(retiring.stop_at for retiring in self._retiring)]
            pause = 0.0 if self._reload_wanted else min(instants) - time.monotonic() if instants else None
            select.select([wake], [], [], None if pause is None else max(0.0, pause))
            self._take_signals(wake)
            if self._reload_wanted:
                self._reload_wanted = False
                self._reload(wake)
                due = {name: instant for name, instant in due.items() if name in self._running}
            now = time.monotonic()
            self._end_retired(now)
            for running in list(self._running.values()):
                if running.name not in due and (code := running.process.poll()) is not None:
                    restarts = 0 if now - running.started_at >= STEADY_S else running.restarts
                    running.restarts = restarts + 1
                    due[running.name] = now + RESTART_PAUSES_S[min(restarts, len(RESTART_PAUSES_S) - 1)]
                    log.error("process.ended", name=running.name, status=code)
            for name in [name for name, instant in due.items() if instant <= now]:
                del due[name]
                old = self._running[name]
                old.close()
                self._running[name] = self._spawn(self._plans[name])
                self._running[name].restarts = old.restarts

    def _stop_all(self) -> None:
        """Gateways first, so that no new work comes; the warden last, so that running answers can end."""
        for role in ("gateway", "control", "warden"):
            ending = [running for name, running in self._running.items() if name.startswith(role)]
            if role == "gateway":
                ending += [retiring.running for retiring in self._retiring]
            for running in ending:
                with contextlib.suppress(ProcessLookupError):
                    running.process.send_signal(signal.SIGTERM)
            draining_s = self.settings.gateway.drain_timeout_s if role == "gateway" else 0.0
            deadline = time.monotonic() + draining_s + STOP_TIMEOUT_S
            for running in ending:
                try:
                    running.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    log.error("process.killed", name=running.name, reason="did not stop in time")
                    running.process.kill()
                    running.process.wait()
                running.close()
        self._running.clear()

    # -- signals ---------------------------------------------------------------------------------------------

    def _take_signals(self, wake: int) -> None:
        """Note what came. Raises _Signalled for a stop."""
        try:
            seen = os.read(wake, 4096)
        except BlockingIOError:
            return
        if signal.SIGINT in seen or signal.SIGTERM in seen:
            raise _Signalled
        if signal.SIGHUP in seen:
            if self._had_terminal and not _has_terminal():
                raise _Signalled
            self._reload_wanted = True

    def _reload(self, wake: int) -> None:
        """Read the settings again and take over what can be; what is wrong with them changes nothing."""
        self._notifier.reloading()
        try:
            if self.load is None:
                raise SettingsError("this server was not started from settings that can be read again")
            reloaded = reload.reload(
                self.settings, self.load(), lambda name: name in configs.RELOADABLE or configs.needs_new_workers(name)
            )
        except SettingsError as error:
            log.error("settings.reload_refused", reason=str(error))
        else:
            self._take_over(reloaded, wake)
        self._notifier.ready(f"Serving at {self.url}")

    def _take_over(self, reloaded: reload.Reloaded, wake: int) -> None:
        self.settings = reloaded.settings
        if reloaded.need_restart:
            log.warning("settings.restart_needed", settings=list(reloaded.need_restart))
        if reloaded.taken_over:
            logs.set_level(self.settings.log.level)
            _tell({running: self._config(self._plans[name]) for name, running in self._running.items()})
        if any(configs.needs_new_workers(name) for name in reloaded.taken_over):
            self._replace_workers(wake)
        log.info("settings.reloaded", settings=list(reloaded.taken_over))

    def _replace_workers(self, wake: int) -> None:
        """New workers accept beside the old ones, which then accept no more and end with what they have under way.

        Where the new ones can't start, the old ones go on. Raises _Signalled.
        """
        plans = self._plan_workers()
        started = {plan.name: self._spawn(plan) for plan in plans}
        try:
            self._await_all(started.values(), wake)
        except (CannotStart, _Signalled) as error:
            for running in started.values():
                running.process.kill()
                running.process.wait()
                running.close()
            if isinstance(error, _Signalled):
                raise
            log.error("workers.not_replaced", reason=str(error))
            return
        stop_at = time.monotonic() + self.settings.gateway.retire_timeout_s
        for name in [name for name in self._running if name.startswith("gateway")]:
            del self._plans[name]
            old = self._running.pop(name)
            # What it can't be told, since it has ended, it need not know.
            with contextlib.suppress(OSError):
                old.reload.send(child.RETIRE)
            self._retiring.append(_Retiring(old, stop_at))
        self._plans |= {plan.name: plan for plan in plans}
        self._running |= started
        log.info("workers.replaced", names=list(started))

    def _end_retired(self, now: float) -> None:
        """Forget retired workers that have ended; those whose time is up are told to stop, and killed in the end."""
        for retiring in list(self._retiring):
            running = retiring.running
            if running.process.poll() is not None:
                running.close()
                self._retiring.remove(retiring)
            elif retiring.stop_at <= now and not retiring.is_told:
                retiring.is_told = True
                retiring.stop_at = now + self.settings.gateway.drain_timeout_s + STOP_TIMEOUT_S
                running.process.send_signal(signal.SIGTERM)
            elif retiring.stop_at <= now:
                log.error("process.killed", name=running.name, reason="it was replaced, and did not stop")
                running.process.kill()
                retiring.stop_at = now + STOP_TIMEOUT_S


def _spawn(plan: _Plan, config: bytes) -> _Running:
    """Start one process. Its configuration goes through a pipe, so that nothing of it shows in a process list."""
    config_read, config_write = os.pipe()
    ready_read, ready_write = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = child.Arguments(plan.name, config_read, ready_write, theirs.fileno(), os.getpid())
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "freehold.process", *arguments.words()],
            pass_fds=(config_read, ready_write, theirs.fileno(), *plan.inherited),
            stdin=subprocess.DEVNULL,
        )
    finally:
        os.close(config_read)
        os.close(ready_write)
        theirs.close()
    with os.fdopen(config_write, "wb") as pipe, contextlib.suppress(BrokenPipeError):
        pipe.write(config)
    return _Running(plan.name, process, ready_read, ours, time.monotonic())


def _tell(news: dict[_Running, bytes]) -> None:
    """Hand out new configurations, and wait a bounded while until they have taken effect."""
    waiting: dict[socket.socket, _Running] = {}
    for running, config in news.items():
        running.reload.setblocking(False)
        try:
            running.reload.send(config)
            waiting[running.reload] = running
        except OSError as error:
            # It has ended, and the next one starts with the new settings.
            log.info("settings.not_told", name=running.name, error=error.strerror)
    deadline = time.monotonic() + RELOAD_TIMEOUT_S
    while waiting:
        readable, _, _ = select.select([*waiting], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            names = [running.name for running in waiting.values()]
            log.error("settings.not_taken_over", names=names, reason=f"no answer within {RELOAD_TIMEOUT_S:g} s")
            return
        for channel in readable:
            name = waiting.pop(channel).name
            try:
                told = channel.recv(child.MAX_REPORT_BYTES)
            except ConnectionError:
                told = b""
            if told and told != child.RELOADED:
                log.error("settings.not_taken_over", names=[name], reason=told.decode(errors="replace"))


def _await_ready(running: _Running) -> None:
    told = os.read(running.ready, child.MAX_REPORT_BYTES)
    if told == child.READY:
        return
    code = running.process.wait()
    reason = told.decode(errors="replace") or f"it ended with status {code}; its log says why"
    raise CannotStart(f"{running.name} can't start: {reason}")


# -- parts of the host ---------------------------------------------------------------------------------------------


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
    """A descriptor that becomes readable when a signal came.

    SIGINT and SIGTERM stop the server, SIGHUP has it read its settings again, SIGCHLD says that a child ended.
    """
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
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


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal, and that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
