"""One request at an agent: its body out, the response back, unbuffered, with backpressure both ways.

Not for who may and where to (`invoke`). Invariant: a request is written to a second connection only when the
kernel says that not one byte of it reached the agent, and the claim is left exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from freehold.domain.errors import AgentFailed, FreeholdError
from freehold.gateway import errors, fast, framing, headers, keepalive
from freehold.gateway.bodies import AtHand, Body, Streamed
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.claims import Claims, LiveClaim
from freehold.gateway.contracts.base import Rules
from freehold.gateway.exchange import ClientGone, Exchange
from freehold.gateway.framing import Chunked, Length
from freehold.gateway.heads import ResponseHead
from freehold.gateway.resends import Resend
from freehold.gateway.run_on import RunOn
from freehold.gateway.spool import Spool, too_large
from freehold.gateway.sweeper import NEVER, Sweeper
from freehold.gateway.upstream import Receive, Upstream
from freehold.observe.trace_context import Context

_MAX_SIZE_LINES: Final = 4096
_size_lines: dict[int, bytes] = {}
"""By the length of a whole chunk: the line with its size, as an agent has spelled it, without extensions."""
_MAX_JOINED_BYTES: Final = 64 * 1024
"""A body up to this size goes out with its head, in one write."""

Admit = Callable[[ResponseHead], Coroutine[Any, Any, None] | None]
"""What has to be done before an answer with this head is given; its errors take the answer's place."""

log = structlog.get_logger(__name__)


def _learn_size_line(data: bytes) -> None:
    """Remember how a chunk begins that is as long as `data`, if that is one whole chunk, and not the last."""
    line = framing.PLAIN_SIZE_LINE.match(data)
    if line is None:
        return
    length = int(line[1], 16)
    if length and line.end() + length + 2 == len(data):
        if len(_size_lines) >= _MAX_SIZE_LINES:
            _size_lines.clear()
        _size_lines[len(data)] = line[0]


class AgentRelay:
    """Relays one exchange. Made for one request; `begin` starts it."""

    __slots__ = (
        "_admit",
        "_allowed_s",
        "_answer_by",
        "_body",
        "_body_bytes",
        "_claims",
        "_connection",
        "_head",
        "_keepalive",
        "_limits",
        "_relaying",
        "_request_head",
        "_resend",
        "_retry",
        "_rules",
        "_session_id",
        "_sweeper",
        "_trace",
        "claim",
        "ended",
        "exchange",
    )

    def __init__(
        self,
        exchange: Exchange,
        *,
        claims: Claims,
        claim: LiveClaim,
        rules: Rules,
        request_head: bytes,
        body: Body,
        session_id: bytes,
        sweeper: Sweeper,
        limits: GatewayLimits,
        trace: Context | None = None,
        admit: Admit | None = None,
        resend: Resend | None = None,
    ) -> None:
        """`admit` is asked of the head of an answer that succeeds, before anything of it reaches the caller."""
        self.exchange = exchange
        self._resend = resend
        self._admit = admit
        self._trace = trace
        self._claims = claims
        self.claim = claim
        self._rules = rules
        self._request_head = request_head
        self._body = body
        self._body_bytes = 0
        self._answer_by = NEVER
        self._allowed_s = 0.0
        self._keepalive: keepalive.Keepalive | None = None
        self._session_id = session_id
        self._sweeper = sweeper
        self._limits = limits
        self._connection: Upstream | None = None
        self._head: ResponseHead | None = None
        self._relaying = False
        self.ended = False
        self._retry: Callable[[AgentRelay], None] | None = None

    def begin(self, connection: Upstream, *, retry: Callable[[AgentRelay], None] | None) -> None:
        """Send the request over `connection`.

        `retry` is called, and the relay is left as it was before, when the connection turns out to have
        been closed before anything of the request reached the agent. Raises ClientGone.
        """
        try:
            self.exchange.attach(self)
        except ClientGone:
            connection.leave()
            self._finish()
            raise
        if self._resend is not None:
            self._resend.reached = True
        self._connection = connection
        self._retry = retry if connection.is_reused else None
        self._allow(self._limits.first_byte_timeout_s)
        connection.begin(self, "POST")
        body = self._body
        if isinstance(body, Streamed):
            connection.request_done = False
            connection.write(self._request_head)
            return
        whole = body.data if isinstance(body, AtHand) else body.in_memory()
        if whole is not None and len(whole) <= _MAX_JOINED_BYTES:
            connection.write(self._request_head + whole)
            return
        connection.request_done = False
        connection.write(self._request_head)
        if whole is not None:
            connection.write(whole)
            connection.request_done = True
            return
        assert isinstance(body, Spool)  # all others are whole, or stream
        try:
            body.rewind()
        except OSError as error:
            self._fail(error)
            return
        self.upstream_writable()

    def take_over(self, connection: Upstream, since: float, *, retry: Callable[[AgentRelay], None] | None) -> None:
        """Go on as after `begin`, with a request that has been sent over `connection` at the instant `since`."""
        self._connection = connection
        self._retry = retry if connection.is_reused else None
        self._allowed_s = self._limits.first_byte_timeout_s
        self._answer_by = since + self._allowed_s
        connection.hand_over(self)

    # -- a body that streams ----------------------------------------------------------------------------------------

    def take_body(self, raw: bytes) -> None:
        """Pass on what came of a Streamed body, framing included. Raises PayloadTooLarge."""
        body, connection = self._body, self._connection
        if connection is None or connection.closed or not isinstance(body, Streamed):
            return
        self._body_bytes += len(raw)
        if self._body_bytes > body.max_bytes:
            raise too_large(body.max_bytes)
        connection.write(raw)
        if not connection.may_write:
            self.exchange.pause_body()
            self.exchange.set_deadline(self._answer_by)  # it is the agent who keeps us waiting

    def body_sent(self) -> None:
        """All of a Streamed body has been passed on."""
        if self.ended:
            return
        if self._connection is not None:
            self._connection.request_done = True
        self.exchange.set_deadline(self._answer_by)

    def body_broke_off(self) -> None:
        """There will be no more of a Streamed body; whoever says so answers the caller."""
        self.client_gone()

    # -- Sink: the agent's side -----------------------------------------------------------------------------------

    def upstream_writable(self) -> None:
        connection, body = self._connection, self._body
        if connection is None or connection.request_done:
            return
        if isinstance(body, Streamed):
            self.exchange.resume_body()
            return
        assert isinstance(body, Spool)
        try:
            while connection.may_write and not connection.closed:
                part = body.read()
                if not part:
                    connection.request_done = True
                    return
                connection.write(part)
        except OSError as error:
            self._fail(error)

    def response_head(self, head: ResponseHead) -> None:
        if not self._rules.lets_pass(head.status):
            # Redirects too: where they lead to is not for the caller to follow.
            self._fail(errors.answered_error(head.status))
            return
        waiting = self._admit(head) if self._admit is not None and head.status < 300 else None
        connection = self._connection
        if waiting is None or connection is None:
            self._answer(head)
            return
        connection.hold()
        self.exchange.continue_in(self._answer_after(waiting, head, connection))

    async def _answer_after(self, waiting: Coroutine[Any, Any, None], head: ResponseHead, connection: Upstream) -> None:
        try:
            await waiting
        except FreeholdError as error:
            self._fail(error)
            return
        if not self.ended:
            self._answer(head)
            connection.release()
            self.client_writable(self.exchange.client_takes)

    def _answer(self, head: ResponseHead) -> None:
        self._head = head
        kept = self._caller_lines(head)
        self._relaying = True
        body, connection = head.framing, self._connection
        if self._resend is not None:
            self._resend.begin_answer(head.status, kept, body)
        if not isinstance(body, Length):
            self._allow(self._limits.stream_timeout_s)
        if isinstance(body, Chunked):
            body.max_chunk_bytes = self._limits.max_chunk_bytes
        self.exchange.start_relay(head.status, kept, body)
        if self._limits.sse_keepalive_s and keepalive.is_possible(head):
            self._keepalive = keepalive.Keepalive(self.exchange, body, self._sweeper, self._limits.sse_keepalive_s)
        elif connection is not None and isinstance(body, Chunked) and body.content is None:
            connection.receive_with(self._short_way(connection, body))
        if not self.exchange.client_takes and connection is not None:
            connection.pause_reading()

    def _short_way(self, connection: Upstream, body: Chunked) -> Receive:
        """What passes on whole chunks as they come, which nearly all events of streams are; all else goes the long way.

        With it an event costs little more than through a pipe that looks at nothing.
        """
        compiled = fast.compiled()
        if compiled is not None:
            transport = self.exchange.write_through()
            return compiled.chunks(self, self.exchange, body, connection.data_received, transport).data_received
        # Local variables all of them: attributes would be felt.
        exchange, most, long_way = self.exchange, body.max_chunk_bytes, connection.data_received
        size_line, write = _size_lines.get, exchange.write_through().write
        is_open = False
        """Whether what comes next begins where a chunk does, and all that came before has been passed on."""

        def data_received(data: bytes) -> None:
            nonlocal is_open
            size = len(data)
            if is_open and not self.ended:
                line = size_line(size)
                if line is not None and data.startswith(line) and data[-2:] == b"\r\n" and size <= most:
                    exchange.bytes_out += size
                    write(data)
                    return
                _learn_size_line(data)
            long_way(data)
            is_open = body.between_chunks and not body.done

        return data_received

    def response_body(self, raw: bytes) -> None:
        if self._head is not None and not self.ended:
            if self._keepalive is not None:
                self._keepalive.follow(raw)
            if self._resend is not None:
                self._resend.take(raw)
            self.exchange.relay_body(raw, self._head.framing)

    def response_end(self) -> None:
        if self.ended:
            return
        connection = self._connection
        self._finish()
        if connection is not None:
            self._claims.keep(self.claim, connection)
        self.exchange.end_relay()

    def response_failed(self, why: str) -> None:
        if self.ended:
            return
        connection, retry = self._connection, self._retry
        if not self._relaying and retry is not None and connection is not None and self.claim.ended is None:
            self._retry = None
            if connection.was_request_undelivered():
                self._connection = None
                if self._resend is not None:
                    self._resend.reached = False
                retry(self)
                return
        if self.claim.ended is not None:
            why = self.claim.ended
        self._fail(AgentFailed(f"The runtime broke off before it had answered: {why}."))

    # -- Relay: the caller's side ---------------------------------------------------------------------------------

    def client_gone(self) -> None:
        if self.ended:
            return
        connection = self._connection
        if self._limits.runs_on and connection is not None and connection.request_done and not connection.closed:
            self._end()
            RunOn(
                self._claims,
                self.claim,
                connection,
                self._sweeper,
                self._answer_by,
                resend=self._resend,
                lines=lambda head: self._caller_lines(head) if self._rules.lets_pass(head.status) else None,
            )
            return
        self._drop_connection()
        self._finish()

    def _caller_lines(self, head: ResponseHead) -> bytes:
        """The headers that the caller is given with this answer of the agent."""
        return headers.caller_lines(head, rules=self._rules, session_id=self._session_id, trace=self._trace)

    def client_writable(self, writable: bool) -> None:
        if self._connection is None or self.ended:
            return
        if writable:
            self._connection.resume_reading()
        else:
            self._connection.pause_reading()

    def deadline_passed(self) -> None:
        self._fail(AgentFailed(f"The runtime did not complete its answer within {self._allowed_s:g} s."))

    # -- ends -----------------------------------------------------------------------------------------------------

    def _allow(self, seconds: float) -> None:
        self._allowed_s = seconds
        self._answer_by = self._sweeper.clock() + seconds
        self.exchange.set_deadline(self._answer_by)

    def fail(self, error: FreeholdError) -> None:
        """Give up for a reason found outside."""
        self._fail(error)

    def give_up(self) -> None:
        """Nothing was sent, and somebody else answers."""
        self._finish()

    def _fail(self, error: Exception) -> None:
        if self.ended:
            return
        if not isinstance(error, FreeholdError):
            log.error("gateway.relay_failed", request_id=self.exchange.request_id, exc_info=error)
        self._drop_connection()
        self._finish()
        self.exchange.answer_error(error)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()

    def _finish(self) -> None:
        self._end()
        self._claims.leave(self.claim, self._resend)

    def _end(self) -> None:
        self.ended = True
        self._connection = None
        self._body.close()
        if self._keepalive is not None:
            self._keepalive.stop()
