"""One session's supervisor: connects to the agent, asks it to end, tells how it ended.

A fork of the launcher, single-threaded, because joining a namespace is one way. It talks to the warden alone, over
the session's own socket; the agent has no channel to it. Not for: how an agent is started and killed (the subclasses).
Standard library only. Invariant: the supervisor reports the end of the agent only when every process of the session
has gone.

Asked: `{"do": "dial", "id", "port", "wait_s"}`, `{"do": "stop", "grace_s"}` and `{"do": "returned", "inlet"}`. Told:
`{"event": "running"}`, `{"event": "failed", "reason"}`, `{"event": "exited", "status"}` (negative for a signal), to a
dial `{"id"}` with a socket or `{"id", "error"}`, and `{"inlet"}` with a socket that the agent has connected to one
(`inlets`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from freehold.backends.supervision.inlets import HeldInlet, Inlet

SETUP_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
"""How long connects may hang (an agent that accepts nothing and whose queue is full)."""
CONNECT_PATIENCE_S = 0.02
"""How long the first connect may hang before another is tried; each next one may hang twice as long. A listener that
comes up just as the SYN arrives may lose it, and TCP would send it again only after a second."""
RETRY_PAUSE_S = (0.002, 0.025)
KILL_TIMEOUT_S = 10.0
ASK_PAUSE_S = 0.01
MAX_REQUEST_BYTES = 4096


class SupervisorModule(Protocol):
    """A module that the launcher can be started for."""

    ENDS_WITH_PARENT: bool
    """Whether all below the launcher ends by the kernel's means alone when the launcher is killed."""

    def main(self, launcher_pid: int, session: socket.socket, plan_fd: int, stdout: int, stderr: int) -> None:
        """Supervise one session to its end, in a fresh fork of the launcher."""
        ...


class NotStarted(Exception):
    """The session could not be started; the message says why."""


def read_plan(fd: int) -> dict[str, Any]:
    """The plan that the backend wrote into the file `fd`, which is closed."""
    with open(fd, "rb") as file:
        file.seek(0)
        return json.load(file)


@dataclass
class _Dial:
    port: int
    began_at: float
    deadline: float
    sock: socket.socket | None = None
    connect_until: float = 0.0
    hanging_since: float | None = None
    patience_s: float = CONNECT_PATIENCE_S
    retry_at: float = 0.0
    addresses: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])


class Supervisor(ABC):
    """The parent of one agent."""

    def __init__(self, session: socket.socket) -> None:
        self._session = session
        self._dials: dict[int, _Dial] = {}
        self._kill_at: float | None = None
        self._ask_at: float | None = None
        self._inlets: dict[int, HeldInlet] = {}
        """By descriptor."""
        self.child = -1
        """Descriptor of the process whose end is the session's."""

    @abstractmethod
    def start(self, stdout: int, stderr: int) -> None:
        """Start the agent. Raises NotStarted."""

    @abstractmethod
    def ask_to_end(self) -> bool:
        """SIGTERM to the agent; False when it is not there yet."""

    @abstractmethod
    def kill(self) -> None:
        """Kill every process of the session, and wait until they have gone. Also when it was not started wholly."""

    @abstractmethod
    def reap(self) -> int:
        """The exit status of `child`, which has ended; negative for a signal."""

    def tidy(self) -> None:  # noqa: B027 - not every supervisor has something to do
        """Whatever is to be done now and then."""

    @abstractmethod
    def addresses(self, port: int) -> list[tuple[str, int]]:
        """Where in this process's network an agent may be that listens on `port`."""

    def supervise(self, stdout: int, stderr: int) -> None:
        """The whole life."""
        try:
            self.start(stdout, stderr)
        except NotStarted as error:
            self.kill()
            _tell(self._session, {"event": "failed", "reason": str(error)})
            return
        _tell(self._session, {"event": "running"})
        self._run()

    def _run(self) -> None:
        """Answer until the agent has ended or the warden has gone."""
        while True:
            now = time.monotonic()
            self._act_on_time(now)
            self.tidy()
            poll = select.poll()
            poll.register(self._session, select.POLLIN)
            poll.register(self.child, select.POLLIN)
            for held in self._inlets.values():
                if held.takes_more:
                    poll.register(held.socket, select.POLLIN)
            by_fd: dict[int, int] = {}
            for number, dial in self._dials.items():
                if dial.sock is not None:
                    by_fd[dial.sock.fileno()] = number
                    poll.register(dial.sock, select.POLLOUT)
            for fd, _ in poll.poll(self._pause_ms(now)):
                if fd == self.child:
                    self._agent_ended()
                    return
                if fd == self._session.fileno():
                    if not self._hear():
                        self.kill()
                        return
                elif fd in self._inlets:
                    self._pass_on(self._inlets[fd])
                elif by_fd[fd] in self._dials:
                    self._connected(by_fd[fd])

    def _pause_ms(self, now: float) -> float | None:
        instants = [dial.retry_at if dial.sock is None else dial.connect_until for dial in self._dials.values()]
        instants += [instant for instant in (self._ask_at, self._kill_at) if instant is not None]
        return max(0.0, min(instants) - now) * 1000 + 0.5 if instants else None

    def _act_on_time(self, now: float) -> None:
        if self._ask_at is not None and now >= self._ask_at:
            self._ask_at = None if self.ask_to_end() else now + ASK_PAUSE_S
        if self._kill_at is not None and now >= self._kill_at:
            self._ask_at = None
            self._kill_at = None
            self.kill()
        for number, dial in list(self._dials.items()):
            if dial.sock is None and now >= dial.retry_at:
                dial.addresses = self.addresses(dial.port)
                self._try(number, dial)
            elif dial.sock is not None and now >= dial.connect_until:
                self._connect_hangs(number, dial, now)

    def _hear(self) -> bool:
        """Take one request; False when the warden has gone."""
        data = self._session.recv(MAX_REQUEST_BYTES)
        if not data:
            return False
        request: dict[str, Any] = json.loads(data)
        match request["do"]:
            case "dial":
                now = time.monotonic()
                dial = _Dial(request["port"], began_at=now, deadline=now + request["wait_s"], retry_at=now)
                self._dials[request["id"]] = dial
            case "stop":
                self._ask_at = time.monotonic()
                self._kill_at = self._ask_at + request["grace_s"]
            case "returned":
                for held in self._inlets.values():
                    if held.name == request["inlet"]:
                        held.held -= 1
            case other:
                raise ValueError(f"not a request: {other}")
        return True

    # -- inlets ----------------------------------------------------------------------------------------------

    def open_inlets(self, inlets: Iterable[Inlet]) -> None:
        """Listen in this process's network. Raises OSError."""
        for inlet in inlets:
            held = HeldInlet(inlet)
            self._inlets[held.socket.fileno()] = held

    def _pass_on(self, held: HeldInlet) -> None:
        try:
            accepted = held.accept()
            if accepted is None:
                return
            with accepted:
                socket.send_fds(self._session, [json.dumps({"inlet": held.name}).encode()], [accepted.fileno()])
        except (BrokenPipeError, ConnectionResetError):
            # The warden has gone: the next look at its socket says so.
            return
        except OSError:
            # No descriptors are left, here or in flight. A listener that can't be served would be polled for ever.
            del self._inlets[held.socket.fileno()]
            held.socket.close()

    def _agent_ended(self) -> None:
        for number in list(self._dials):
            self._refuse(number, "the agent has ended")
        # Its end need not be that of all it has started.
        self.kill()
        _tell(self._session, {"event": "exited", "status": self.reap()})

    # -- dial ------------------------------------------------------------------------------------------------

    def _try(self, number: int, dial: _Dial) -> None:
        """Begin to connect to the next address; retry later or refuse when none is left."""
        while dial.addresses:
            host, port = dial.addresses.pop(0)
            sock: socket.socket | None = None
            try:
                sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
                sock.setblocking(False)
                code = sock.connect_ex((host, port))
            except OSError:
                # No IPv6 here, or no descriptors left: the next address, or a later try, may do.
                if sock is not None:
                    sock.close()
                continue
            if code in (0, errno.EINPROGRESS):
                dial.sock = sock
                dial.connect_until = time.monotonic() + dial.patience_s
                return
            sock.close()
        now = time.monotonic()
        if now >= dial.deadline:
            self._refuse(number, "nobody listens")
            return
        # In proportion to the time waited already, so a slow start costs few tries and a fast one little delay.
        dial.retry_at = now + min(max((now - dial.began_at) * 0.05, RETRY_PAUSE_S[0]), RETRY_PAUSE_S[1])

    def _connect_hangs(self, number: int, dial: _Dial, now: float) -> None:
        """Try once more, from the first address, until it has hung for long enough."""
        if dial.hanging_since is None:
            dial.hanging_since = now - dial.patience_s
        if now - dial.hanging_since >= CONNECT_TIMEOUT_S:
            self._refuse(number, "the agent does not accept connections")
            return
        assert dial.sock is not None
        dial.sock.close()
        dial.sock = None
        dial.patience_s *= 2
        dial.addresses = self.addresses(dial.port)
        self._try(number, dial)

    def _connected(self, number: int) -> None:
        dial = self._dials[number]
        sock = dial.sock
        assert sock is not None
        dial.sock = None
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
            sock.close()
            self._try(number, dial)
            return
        del self._dials[number]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _tell(self._session, {"id": number}, [sock.fileno()])
        sock.close()

    def _refuse(self, number: int, reason: str) -> None:
        dial = self._dials.pop(number)
        if dial.sock is not None:
            dial.sock.close()
        _tell(self._session, {"id": number, "error": reason})


# -- small parts ----------------------------------------------------------------------------------------------------


def _tell(session: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Nothing when the warden has gone: the next look at the socket says so."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        socket.send_fds(session, [json.dumps(message).encode()], fds or [])


def is_readable(fd: int | socket.socket) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def read_all(fd: int, timeout_s: float) -> bytes:
    """All that is written to a pipe until it is closed. Raises NotStarted when that takes too long."""
    deadline = time.monotonic() + timeout_s
    data = b""
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        more = os.read(fd, 4096)
        if not more:
            return data
        data += more
    raise NotStarted("the process could not be set up in time")


def limit(kind: int, wanted: int) -> None:
    """Set a resource limit of this process, no higher than it may be."""
    _, hard = resource.getrlimit(kind)
    bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (bound, bound))
