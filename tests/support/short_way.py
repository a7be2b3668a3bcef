"""The short way of requests in both its forms, without sockets: what each does with the same bytes, told as plain data.

What no two requests share is taken out of it: ids of requests and traces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Final

from freehold.auth.jwt_claims import Authorizer
from freehold.aws import model
from freehold.control.protocol import Contract, EndpointRoute
from freehold.domain.principals import Principal
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import SessionKey
from freehold.gateway.bearers import Verdict
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.connection import ClientConnection
from freehold.gateway.contracts.http import RULES
from freehold.gateway.familiar import Reader
from freehold.gateway.fast import Compiled
from freehold.gateway.headers import SESSION_ID, AgentHead, caller_lines
from freehold.gateway.members import Members
from freehold.gateway.observer import Observer
from freehold.gateway.passages import Passages
from freehold.gateway.seats import Seats
from freehold.gateway.sweeper import NEVER, Sweeper
from freehold.gateway.targets import Named, Target
from freehold.gateway.upstream import Upstream
from freehold.observe.access_log import AccessLog
from freehold.observe.tracing import Tracer

ACCOUNT, RUNTIME, SESSION = "111122223333", "agent-0123456789", "s" * 40
LINE: Final = b"POST /runtimes/arn/invocations?qualifier=DEFAULT HTTP/1.1\r\n"
HEADERS: Final = (
    b"Host: agents.example\r\nAccept: */*\r\nContent-Type: application/json\r\n%b: %b\r\nConnection: keep-alive\r\n"
    b"Authorization: Bearer good\r\nUser-Agent: me\r\nContent-Length: "
) % (SESSION_ID, SESSION.encode())
USUAL: Final = LINE + HEADERS + b"2\r\n\r\n{}"
TRACED: Final = LINE + b"Traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00\r\n" + HEADERS + b"2\r\n\r\n{}"
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
_MEMBERS: Final = Members(
    model.load("bedrock-agentcore", ["InvokeAgentRuntime", "StopRuntimeSession", "GetAgentCard"]).to_data()
)
_AUTHORIZER: Final = Authorizer("digest", "keys")
_IDS: Final = re.compile(
    rb"(?<=request-id: )[0-9a-f-]{36}|(?<=requestid: )[0-9a-f-]{36}|(?<=\"request_id\":\")[0-9a-f-]{36}"
    rb"|(?<=Root=1-)[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16}|(?<=traceparent: 00-)[0-9a-f]{32}-[0-9a-f]{16}"
    rb"|(?<=\"trace_id\":\")[0-9a-f]{32}"
)


def alike(told: bytes) -> bytes:
    """Without what differs between any two requests."""
    return _IDS.sub(b"-", told)


class _Transport:
    """Of a connection that is open and has not sent all that was written before."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.written: list[bytes] = []
        self.write = self.written.append
        protocol.connection_made(self)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, _name: str) -> _Transport:
        return self

    def fileno(self) -> int:
        return -1

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 1

    def abort(self) -> None:
        self.write(b"")


class _Nobody:
    """A Sink that takes whatever comes."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_told: None


class _Agent(Upstream):
    """Idle since then."""

    def __init__(
        self, idle_since: float, is_closed: bool, is_good: bool, compiled: Compiled | None, reader: Reader
    ) -> None:
        nothing: Any = None
        super().__init__(nothing, nothing, reader.read_response, None if compiled is None else compiled.agent)
        self.idle_since, self.closed, self.is_good = idle_since, is_closed, is_good
        self.has_left = False
        self.transport = _Transport(self)

    def is_usable(self) -> bool:
        return self.is_good

    def leave(self) -> None:
        self.has_left = True


class _Client(ClientConnection):
    """Says what is no passage, and leaves it at that."""

    def __init__(self, host: Any) -> None:
        super().__init__(host)
        self.is_passage = True
        self.wire = _Transport(self)

    def receive(self, data: bytes) -> None:
        self.is_passage = False


class _Claims(Claims):
    """Without a warden: of what a passage needs of it, nothing asks one."""

    def __init__(self, limits: GatewayLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock


class _Widening(Passages):
    """Says so, and leaves it at that: what a passage becomes is the same in both forms."""

    def widen(self, passage: Any) -> Any:
        told = (passage.request_id, passage.body, passage.trace.trace_id, passage.trace.span_id, passage.trace.sampled)
        self.widened.append((passage.head.headers, passage.head.raw_path, passage.body, passage.started_at))
        assert all(isinstance(part, str | bytes | bool) for part in told)
        passage.upstream.hand_over(_Nobody())
        return None

    def dial(self, passage: Any) -> None:
        self.widened.append(("dials", passage.head.headers, passage.body, passage.started_at))

    def wait_for_connection(self, connection: Any, head: Any, seat: Any, body: bytes, now: float) -> None:
        self.widened.append(("waits", head.headers, head.raw_path, seat.key, body, now))

    widened: list[Any]


class _KeySet:
    """A key_sets.Entry."""

    ask_again_at = NEVER

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def keys(self) -> Any:
        return self._world.keys


class World:
    """A worker with one session in use, whose requests look like USUAL or TRACED."""

    def __init__(self, compiled: Compiled | None, *, ratio: float | None = None) -> None:
        self.now, self.wall = 100.0, 1_764_000_000.25
        self.clock: Callable[[], float] = lambda: self.now
        self.draining = False
        self.reader = Reader()
        self.owner = "owner"
        self.good = {b"Bearer good": "owner", b"Bearer other": "another"}
        self.keys: Any = object()
        self.asked: list[bytes] = []
        self.lines: list[str] = []
        contract = Contract(1, ServerProtocol.HTTP, 8080, [], authorizer=_AUTHORIZER)
        route = EndpointRoute(ACCOUNT, RUNTIME, "DEFAULT", 1)
        self.target = Target(Named("arn", ACCOUNT, RUNTIME, "DEFAULT"), route, contract, RULES)
        key = SessionKey(ACCOUNT, RUNTIME, "DEFAULT", self.owner, SESSION)
        self.claim = LiveClaim(key, 7, 1, self.now)
        self.seats = Seats(_MEMBERS)
        sweeper = Sweeper(self.clock)
        log = AccessLog(process="gateway-0", json_lines=True, write=self.lines.append, wall=lambda: self.wall)
        self.observer = Observer(region="eu-central-1", access_log=log)
        world, limits = self, GatewayLimits()

        class _Callers:
            @staticmethod
            def bearer_at_once(_target: Target, sent: bytes) -> Verdict | None:
                world.asked.append(sent)
                owner = world.good.get(sent)
                if owner is None:
                    return None
                return Verdict(Principal(ACCOUNT, "", owner, by_token=True), world.keys, world.now + 60)

            key_sets: ClassVar = {_AUTHORIZER.key_set: _KeySet(self)}

            signer_at_once = signer = known_template = now = None

        class _Host:
            reader = self.reader
            passages: Passages | None = None
            receiver: Any = None

            def __init__(self) -> None:
                self.limits, self.clock = limits, world.clock
                self.loop = self

            @property
            def draining(self) -> bool:
                return world.draining

            @staticmethod
            def opened(_connection: ClientConnection) -> bool:
                return True

            @staticmethod
            def call_later(_delay_s: float, callback: Callable[[], None]) -> None:
                world.later.append(callback)

        class _Invocations:
            seats = self.seats
            begin_again = None

        parts: dict[str, Any] = {"invocations": _Invocations(), "callers": _Callers()}
        self.host: Any = _Host()
        self.later: list[Callable[[], None]] = []
        self.passages = _Widening(
            self.host,
            **parts,
            claims=_Claims(limits, self.clock),
            sweeper=sweeper,
            limits=limits,
            tracer=Tracer(ratio, chance=lambda: 0.5),
            observer=self.observer,
        )
        self.passages.widened = []
        if compiled is None:
            self.host.passages = self.passages
        else:
            self.host.receiver = compiled.passages(self.passages).receiver
        self.compiled = compiled
        self.begin_again()
        self.has_connection = True
        self.age: tuple[float, bool, bool] | None = None
        """For how long the connection has been idle, whether it is closed, and whether a look at it says it is good."""
        self._know(ANSWER)

    def begin_again(self) -> None:
        """Have seats as the first requests get them."""
        for request in (TRACED, USUAL):
            self._have_a_seat_for(request)

    def _have_a_seat_for(self, request: bytes) -> None:
        whole = request[: -len(b"{}")]
        self.reader.read(whole)
        head = self.reader.read(whole)
        agent_head = AgentHead(
            b"/invocations", head.headers, rules=RULES, allowlist=(), session_id=SESSION, port=8080, by_token=True
        )
        self.seats.keep(
            head, target=self.target, rules=RULES, key=self.claim.key, claim=self.claim, agent_head=agent_head
        )

    def _know(self, answer: bytes) -> None:
        head = self.reader.read_response(answer[: answer.find(b"\r\n\r\n") + 4], request_method="POST")
        caller_lines(head, rules=RULES, session_id=SESSION.encode(), trace=None)

    def sends(self, data: bytes) -> tuple[Any, ...]:
        """What comes of the bytes that a client has sent."""
        idle_s, is_closed, is_good = self.age or (0.0, False, True)
        self.agent = _Agent(self.now - idle_s, is_closed, is_good, self.compiled, self.reader)
        self.claim.idle.clear()
        if self.has_connection:
            self.claim.idle.append(self.agent)
        self.client = client = _Client(self.host)
        client.wire.protocol.data_received(data)
        widened, self.passages.widened = self.passages.widened, []
        return (
            client.is_passage,
            [alike(request) for request in self.agent.transport.written],
            (client.deadline, client.state),
            (self.claim.in_flight, self.claim.requests, len(self.claim.idle)),
            widened,
        )

    def answers(self, data: bytes) -> tuple[Any, ...]:
        """What comes of the bytes that the agent has answered, to a request that was taken."""
        self.agent.transport.protocol.data_received(data)
        widened, self.passages.widened = self.passages.widened, []
        self.observer.flush()
        lines, self.lines[:] = [alike(line.encode()) for line in self.lines], []
        counted = [(series.invocations, series.latency_sum_s, series.latency_buckets, series.bytes_in, series.bytes_out)
                   for series in self.observer.counts.page(0)]  # fmt: skip
        agent = self.agent
        return (
            self.client.passage is None,
            [alike(answer) for answer in self.client.wire.written],
            (self.client.deadline, self.client.state),
            (agent.has_left, agent.is_reused, agent.sink is None, agent.passage is None),
            (self.claim.in_flight, self.claim.idle_since, len(self.claim.idle)),
            widened,
            lines,
            counted,
        )


def same(pair: tuple[World, World], sent: bytes, answered: bytes = ANSWER) -> tuple[Any, ...]:
    """What both do with a request, and with its answer if they take it."""
    for world in pair:
        world.now += 0.0123
        world.claim.in_flight = 0
    one, other = pair
    found = one.sends(sent)
    assert found == other.sends(sent)
    if found[0] and not found[-1]:
        found += one.answers(answered)
        assert found[5:] == other.answers(answered)
    return found
