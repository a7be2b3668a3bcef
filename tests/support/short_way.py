"""The short way of requests in both its forms, without sockets: what each does with the same bytes, told as plain data.

What no two requests share is taken out of it: ids of requests and traces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from freehold.auth.jwt_claims import Authorizer
from freehold.aws import model
from freehold.control.protocol import Contract, EndpointRoute
from freehold.domain.principals import Principal
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import SessionKey
from freehold.gateway.bearers import Verdict
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.contracts.http import RULES
from freehold.gateway.familiar import Reader
from freehold.gateway.fast import Compiled
from freehold.gateway.headers import SESSION_ID, AgentHead, caller_lines
from freehold.gateway.members import Members
from freehold.gateway.observer import Observer
from freehold.gateway.passages import Passages
from freehold.gateway.seats import Seats
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.targets import Named, Target
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


@dataclass
class _Agent:
    """An upstream.Upstream."""

    idle_since: float
    closed: bool = False
    is_good: bool = True
    is_reused: bool = True
    passage: Any = None
    sent: list[bytes] = field(default_factory=list[bytes])
    ends: list[str] = field(default_factory=list[str])

    def is_usable(self) -> bool:
        return self.is_good

    def begin_passage(self, passage: Any, request: bytes) -> None:
        self.passage = passage
        self.sent.append(request)

    def end_passage(self) -> None:
        self.ends.append("ended")

    def leave(self) -> None:
        self.ends.append("left")


@dataclass
class _Client:
    """A connection.ClientConnection."""

    deadline: float = 0.0
    answers: list[bytes] = field(default_factory=list[bytes])

    def begin_passage(self, passage: Any, deadline: float) -> None:
        self.deadline = deadline

    def end_passage(self, answer: bytes, now: float) -> None:
        self.answers.append(answer)
        self.deadline = now


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
        return None

    def wait_for_connection(self, connection: Any, head: Any, seat: Any, body: bytes, now: float) -> None:
        self.widened.append(("waits", head.headers, head.raw_path, seat.key, body, now))

    widened: list[Any]


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

            @staticmethod
            def current_keys(_name: str) -> Any:
                return world.keys

            signer_at_once = signer = known_template = now = None

        class _Host:
            reader = self.reader

            @property
            def draining(self) -> bool:
                return world.draining

        class _Invocations:
            seats = self.seats
            begin_again = None

        parts: dict[str, Any] = {"invocations": _Invocations(), "callers": _Callers()}
        self.passages = _Widening(
            _Host(),
            **parts,
            claims=_Claims(limits, self.clock),
            sweeper=sweeper,
            limits=limits,
            tracer=Tracer(ratio, chance=lambda: 0.5),
            observer=self.observer,
        )
        self.passages.widened = []
        self.taker: Any = self.passages if compiled is None else compiled.passages(self.passages)
        self.begin_again()
        self.agent = _Agent(self.now)
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
        self.agent = _Agent(self.now - idle_s, is_closed, is_good)
        self.claim.idle.clear()
        agent: Any = self.agent
        if self.has_connection:
            self.claim.idle.append(agent)
        client: Any = _Client()
        self.client = client
        taken = self.taker.take(client, data)
        assert isinstance(taken, bool)
        widened, self.passages.widened = self.passages.widened, []
        return (
            taken,
            [alike(request) for request in self.agent.sent],
            client.deadline,
            (self.claim.in_flight, self.claim.requests, len(self.claim.idle)),
            widened,
        )

    def answers(self, data: bytes) -> tuple[Any, ...]:
        """What comes of the bytes that the agent has answered, to a request that was taken."""
        taken = self.agent.passage.answered(data)
        widened, self.passages.widened = self.passages.widened, []
        self.observer.flush()
        lines, self.lines[:] = [alike(line.encode()) for line in self.lines], []
        counted = [(series.invocations, series.latency_sum_s, series.latency_buckets, series.bytes_in, series.bytes_out)
                   for series in self.observer.counts.page(0)]  # fmt: skip
        return (
            taken,
            [alike(answer) for answer in self.client.answers],
            self.client.deadline,
            self.agent.ends,
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
