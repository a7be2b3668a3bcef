"""A request that needs nothing but to be passed on, from its client to the agent and back: two steps, and no more.

For: requests of sessions in use (`seats`) that have come whole, whose callers are known at once, and whose answers come
whole. What turns out to be anything else is an Exchange at an AgentRelay from then on (`Passage.widen`): streams, large
bodies, failures, clients that leave, time that is up. Not for deciding anything that is not decided there, too.
Invariant: nobody outside can tell a passage from an exchange, and whoever gets a widened one finds it as if it had been
one from its first byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from freehold.domain.errors import FreeholdError, NotFound
from freehold.gateway import cors, eager, observer
from freehold.gateway.bodies import AtHand
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.callers import Callers
from freehold.gateway.claims import Claims
from freehold.gateway.exchange import Exchange
from freehold.gateway.familiar import FamiliarHead, Reader
from freehold.gateway.heads import RequestHead, ResponseHead
from freehold.gateway.invoke import Invocations
from freehold.gateway.joins import note
from freehold.gateway.members import INVOKE
from freehold.gateway.relay import AgentRelay
from freehold.gateway.seats import Seat
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.upstream import Upstream
from freehold.observe import ids
from freehold.observe.tracing import Trace, Tracer

if TYPE_CHECKING:
    import asyncio

    from freehold.gateway.connection import ClientConnection

_HEAD_END: Final = b"\r\n\r\n"
_OK: Final = b"HTTP/1.1 200 OK\r\n"


class Host(Protocol):
    """The worker's server."""

    draining: bool
    reader: Reader
    loop: asyncio.AbstractEventLoop


class Waiting(observer.Passage, Protocol):
    """One request, before it is sent to the agent."""

    @property
    def connection(self) -> ClientConnection: ...
    @property
    def head(self) -> RequestHead: ...


class Begun(Waiting, Protocol):
    """One that has been sent."""

    @property
    def upstream(self) -> Upstream: ...


class Passages:
    """Takes requests, if they are such."""

    def __init__(
        self,
        host: Host,
        *,
        invocations: Invocations,
        callers: Callers,
        claims: Claims,
        sweeper: Sweeper,
        limits: GatewayLimits,
        tracer: Tracer,
        observer: observer.Observer,
    ) -> None:
        self.host: Final = host
        self.invocations: Final = invocations
        self.callers: Final = callers
        self.claims: Final = claims
        self.sweeper: Final = sweeper
        self.limits: Final = limits
        self.observer: Final = observer
        self.clock: Final = sweeper.clock
        self.known_response: Final = host.reader.known_response
        self.tracer: Final = tracer
        self._bearer = callers.bearer_at_once
        self._signer = callers.signer_at_once
        self._recognise_head = host.reader.recognise

    def take(self, connection: ClientConnection, data: bytes) -> bool:
        """Pass on the request that `data` is, if that is all it takes; otherwise nothing is done."""
        seats = self.invocations.seats
        end = data.find(_HEAD_END) + 4
        if seats is None or end < 4 or self.host.draining:
            return False
        size = len(data) - end
        head = self._recognise_head(data[:end])
        if head is None or head.content_length != size or size > self.limits.max_payload_bytes:
            return False
        found = seats.find(head)
        if found is None:
            return False
        seat, authorization = found
        claim = seat.claim
        if claim.ended is not None:
            return False
        body = data[end:]
        if seat.by_token:
            verdict = self._bearer(seat.target, authorization)
            principal = None if verdict is None else verdict.principal
        else:
            principal = self._signer(head, body, seat.target, authorization)
        if principal is None or principal.owner != seat.key.owner:
            return False
        now = self.clock()
        upstream = self.claims.idle_connection(claim, now)
        if upstream is None:
            self.wait_for_connection(connection, head, seat, body, now)
            return True
        self.claims.rejoin(claim)
        trace = self.tracer.begin(head.headers) if seat.is_traced else self.tracer.begin_new()
        passage = Passage(self, connection, head, seat, body, trace, upstream, now)
        connection.begin_passage(passage, now + self.limits.first_byte_timeout_s)
        upstream.begin_passage(passage, seat.agent_head.with_body(passage.request_id, body, trace.lines))
        if trace.recorded:
            passage.widen()
        return True

    def wait_for_connection(
        self, connection: ClientConnection, head: FamiliarHead, seat: Seat, body: bytes, now: float
    ) -> None:
        """Pass on a request whose caller is known, and for which there is no connection to the agent at hand."""
        self.claims.rejoin(seat.claim)
        trace = self.tracer.begin(head.headers) if seat.is_traced else self.tracer.begin_new()
        relay = self._relay(connection, head, seat, body, request_id=ids.request_id(), trace=trace, since=now)
        connection.begin_exchange(relay.exchange, relay)
        relay.exchange.continue_in(self._begin_later(connection, relay, head, body))

    def dial(self, passage: Waiting) -> None:
        """Have `passage`, of which nothing has been sent and which has joined its session, go on as an exchange with a
        connection of its own."""
        relay = self._of(passage)
        relay.exchange.continue_in(self._begin_later(passage.connection, relay, passage.head, passage.body))

    async def _begin_later(
        self, connection: ClientConnection, relay: AgentRelay, head: RequestHead, body: bytes
    ) -> None:
        await eager.in_task()
        try:
            upstream = await self.claims.connection(relay.claim, fresh=True)
        except NotFound:
            # Nothing has been sent: the request goes where it would have gone without this session.
            if not relay.ended:
                self.claims.forget(relay.claim)
                relay.give_up()
                connection.start_over(relay.exchange, head, body)
            return
        except FreeholdError as error:
            relay.fail(error)
            return
        if relay.ended:
            self.claims.keep(relay.claim, upstream)
        else:
            relay.begin(upstream, retry=self.invocations.begin_again)

    def widen(self, passage: Begun) -> AgentRelay:
        """Have `passage` go on as an exchange, as if it had been one from its beginning."""
        relay = self._of(passage)
        relay.take_over(passage.upstream, passage.started_at, retry=self.invocations.begin_again)
        return relay

    def _of(self, passage: Waiting) -> AgentRelay:
        relay = self._relay(
            passage.connection,
            passage.head,
            passage.seat,
            passage.body,
            request_id=passage.request_id,
            trace=passage.trace,
            since=passage.started_at,
        )
        passage.connection.widen_passage(relay.exchange, relay)
        return relay

    def _relay(
        self,
        connection: ClientConnection,
        head: RequestHead,
        seat: Seat,
        body: bytes,
        *,
        request_id: str,
        trace: Trace,
        since: float,
    ) -> AgentRelay:
        """An exchange, as it is when all that leads to a session has been gone through."""
        exchange = Exchange(connection, head)
        exchange.request_id = request_id
        exchange.operation = INVOKE
        exchange.started_at = since
        exchange.account = seat.key.account
        if seat.target.contract.authorizer is not None:
            exchange.also = cors.ANSWER
        exchange.render_error = seat.rules.render_error
        exchange.generation = seat.claim.generation
        exchange.trace = trace
        exchange.bytes_in = len(body)
        note(exchange, seat.target, seat.key.session_id)
        return AgentRelay(
            exchange,
            claims=self.claims,
            claim=seat.claim,
            rules=seat.rules,
            request_head=seat.agent_head.of(request_id, len(body), trace),
            body=AtHand(body),
            session_id=seat.session_id,
            sweeper=self.sweeper,
            limits=self.limits,
            trace=trace,
        )


class Passage:
    """One that has begun. Also the Sink of its response."""

    __slots__ = ("_passages", "body", "connection", "head", "request_id", "seat", "started_at", "trace", "upstream")

    def __init__(
        self,
        passages: Passages,
        connection: ClientConnection,
        head: FamiliarHead,
        seat: Seat,
        body: bytes,
        trace: Trace,
        upstream: Upstream,
        started_at: float,
    ) -> None:
        self._passages = passages
        self.connection = connection
        self.upstream = upstream
        self.head = head
        self.seat = seat
        self.body = body
        self.trace = trace
        self.request_id = ids.request_id()
        self.started_at = started_at

    def answered(self, data: bytes) -> bool:
        """Pass on what came first from the agent, if it is the whole answer; otherwise this has become an exchange."""
        passages, seat = self._passages, self.seat
        end = data.find(_HEAD_END) + 4
        known = passages.known_response(data[:end])
        kept = None if known is None else known.kept.get(seat.rules)
        size = len(data) - end
        if kept is None or known is None or known.length != size or not known.keep_alive:
            self.widen()
            return False
        if passages.host.draining:
            self.widen()
            return False
        now = passages.clock()
        passages.claims.passed(seat.claim, self.upstream, now)
        passages.observer.passed(self, now, size)
        lines, has_trace = kept
        self.connection.end_passage(
            b"".join(
                (
                    _OK,
                    lines,
                    known.length_line,
                    b"" if has_trace else self.trace.lines,
                    seat.answer_lines,
                    b"x-amzn-requestid: ",
                    self.request_id.encode(),
                    b"\r\ndate: ",
                    passages.sweeper.http_date,
                    _HEAD_END,
                    data[end:],
                )
            ),
            now,
        )
        return True

    def widen(self) -> AgentRelay:
        return self._passages.widen(self)

    # -- Sink ---------------------------------------------------------------------------------------------------------

    def response_head(self, head: ResponseHead) -> None:
        self.widen().response_head(head)

    def response_body(self, raw: bytes) -> None:
        raise AssertionError("a response begins with its head")

    def response_end(self) -> None:
        raise AssertionError("a response begins with its head")

    def response_failed(self, why: str) -> None:
        self.widen().response_failed(why)

    def upstream_writable(self) -> None:
        """All that there is has been written."""
