"""One client's connection: HTTP/1.1, read strictly, answered in order.

For: heads, bodies, pipelining, `Expect`, timeouts, backpressure, and clients that go away. Not for what a request
means (`exchange.Handler`). Invariant: one Exchange at a time, and its answer is whole or the connection is broken
off: a client never takes a part for the whole.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import structlog

from freehold.domain import errors
from freehold.gateway import eager, framing, heads
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.errors import WireError, envelope
from freehold.gateway.exchange import ClientGone, Exchange, Handler, Relay, Tunnel
from freehold.gateway.familiar import Reader
from freehold.gateway.heads import RequestHead
from freehold.gateway.reading import Source
from freehold.gateway.sweeper import NEVER, Sweeper
from freehold.observe import ids

MAX_PIPELINED_BYTES: Final = 64 * 1024
"""Of requests that wait for the one before them."""
MAX_DISCARDED_BYTES: Final = 64 * 1024
"""Of a refused request's body: read and dropped for the sake of the connection. More, and the connection ends."""

log = structlog.get_logger(__name__)

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
_REFUSALS: Final = {408: "RequestTimeoutException", 503: "ServiceUnavailableException"}
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


class State(Enum):
    HEAD = auto()
    """Between requests, or in the middle of a head."""
    ANSWERING = auto()
    """A request's head is read; its body may not be."""
    DISCARDING = auto()
    """Answered; the rest of the body is read and dropped."""
    SWITCHED = auto()
    """Not HTTP any more: a Tunnel has its bytes."""
    LINGERING = auto()
    """Answered and shut for writing; whatever comes is dropped."""
    CLOSED = auto()


class Passage(Protocol):
    """A request that is passed on without having become an exchange."""

    def widen(self) -> object:
        """Make it one: see ClientConnection.widen_passage."""
        ...


class Passages(Protocol):
    def take(self, connection: ClientConnection, data: bytes) -> bool:
        """Take the request that `data` is, and say so; see ClientConnection.begin_passage."""
        ...


class Receiver(Protocol):
    """Makes what stands between a connection and its transport: that takes requests in the place of Passages, hands
    `receive` what it does not take, and tells of the rest; see `fastpath.Client`."""

    def __call__(self, connection: ClientConnection, transport: asyncio.Transport) -> Source: ...


class Host(Protocol):
    """What the connections of one worker share."""

    handler: Handler
    reader: Reader
    passages: Passages | None
    """Who takes requests that need not be exchanges."""
    receiver: Receiver | None
    sweeper: Sweeper
    limits: GatewayLimits
    clock: Callable[[], float]
    loop: asyncio.AbstractEventLoop
    draining: bool
    """Whether each connection's next answer is its last."""
    stopping: bool
    """Whether connections end without waiting for another request."""

    def opened(self, connection: ClientConnection) -> bool:
        """Whether there is room for one more."""
        ...

    def closed(self, connection: ClientConnection) -> None: ...

    def stalled(self, connection: ClientConnection, is_stalled: bool) -> None:
        """Whether the client of `connection` takes nothing."""
        ...

    def ended(self, exchange: Exchange, *, whole: bool) -> None:
        """`exchange` is over; `whole` says whether all of its answer was sent."""
        ...

    def refused(self, code: str, status: int) -> None:
        """Something came that is no request."""
        ...


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._limits = server.limits
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._source: Source | asyncio.Transport = self._transport
        self.state = State.HEAD
        self.buffer = b""
        self._scanned = 0
        self._processing = False
        self._exchange: Exchange | None = None
        self.passage: Passage | None = None
        """The request under way, as long as it need not be an exchange."""
        self._task: asyncio.Task[None] | None = None
        self._relay: Relay | None = None
        self._tunnel: Tunnel | None = None
        self._body: framing.Framing | None = None
        self._take: Callable[[framing.Framing, bytes], None] | None = None
        self._body_waiter: asyncio.Future[None] | None = None
        self._owes_continue = False
        self._slowest = NEVER
        """When the body is too slow, unless more of it comes."""
        self._paused_at = NEVER
        """Since when nobody takes the body, if nobody does."""
        self._keep_alive = True
        self.reading = True
        self.writable = True
        self._write_deadline = NEVER
        self.deadline = NEVER

    @property
    def is_idle(self) -> bool:
        return self._exchange is None and self.passage is None

    @property
    def transport(self) -> asyncio.Transport:
        return self._transport

    @property
    def peer(self) -> str:
        """The address at the other end."""
        name: tuple[str, int] | str | None = self._transport.get_extra_info("peername")
        return name[0] if isinstance(name, tuple) else ""

    @property
    def exchange(self) -> Exchange | None:
        """The one that is not answered yet."""
        return self._exchange

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._source = self._transport
        if self._server.receiver is not None:
            self._source = self._server.receiver(self, self._transport)
            self._transport.set_protocol(self._source)
        self.deadline = self._server.clock() + self._limits.keep_alive_timeout_s
        if not self._server.opened(self):
            self._refuse(heads.BadHead("Too many connections", 503))

    def data_received(self, data: bytes) -> None:
        if self.state is State.HEAD and not self.buffer and self.writable:
            passages = self._server.passages
            if passages is not None and passages.take(self, data):
                return
        self.receive(data)

    def receive(self, data: bytes) -> None:
        """Take what has come and is no passage."""
        if self.state is State.LINGERING or self.state is State.CLOSED:
            return
        if self._take is not None or self.state is State.DISCARDING:
            self._feed_body(data)
            return
        self.buffer = self.buffer + data if self.buffer else data
        if self.state is State.HEAD:
            self._process()
        if len(self.buffer) > MAX_PIPELINED_BYTES and self.state in (State.HEAD, State.ANSWERING):
            self._set_reading(False)

    def eof_received(self) -> bool:
        # A client that shuts down its side has gone: nothing else would tell of one that left an idle stream.
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.passage is not None:
            self.passage.widen()
        self.state = State.CLOSED
        self._source = self._transport  # what stood between refers to this: nothing is left to the garbage collector
        self._server.closed(self)
        self.buffer = b""
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.client_gone()
        self._fail_body(ClientGone())
        if self._task is not None:
            self._task.cancel()
        if self._exchange is not None:
            self._server.ended(self._exchange, whole=False)
            self._exchange = None

    def pause_writing(self) -> None:
        self.writable = False
        self._write_deadline = self._server.clock() + self._limits.slow_reader_timeout_s
        self._server.stalled(self, True)
        if self._relay is not None:
            self._relay.client_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        self._write_deadline = NEVER
        self._server.stalled(self, False)
        if self._relay is not None:
            self._relay.client_writable(True)
        elif self.state is State.HEAD:
            self.go_on()

    # -- time -----------------------------------------------------------------------------------------------------

    def expired(self, now: float) -> None:
        """A deadline has passed (see Sweeper)."""
        if self.passage is not None:
            self.passage.widen()
        if self.state is State.HEAD:
            if self.buffer and self._exchange is None:
                self._refuse(heads.BadHead("The request's head did not come in time", 408))
            elif not self._has_unread():
                self.buffer = b""
                self._close()
                self.deadline = now + self._limits.slow_reader_timeout_s
        elif self.state is State.CLOSED:
            self._transport.abort()
        elif self._take is not None and self.reading:
            self._fail_body(errors.TooSlow("The request's body did not come in time"))
        elif self._relay is not None and self.state in (State.ANSWERING, State.SWITCHED):
            self.deadline = NEVER
            self._relay.deadline_passed()
        else:
            self.abort()

    def check_slow_reader(self, now: float) -> None:
        if self._write_deadline <= now:
            self.abort()

    # -- requests -------------------------------------------------------------------------------------------------

    def _process(self) -> None:
        """Read heads, and start answering, as long as there are any and the client takes answers."""
        if self._processing:
            return
        self._processing = True
        try:
            while self.state is State.HEAD and self.writable and self._next_request():
                pass
        finally:
            self._processing = False

    def _next_request(self) -> bool:
        buffer = self.buffer
        while buffer[:2] == b"\r\n":
            buffer = self.buffer = buffer[2:]
        if not buffer:
            return False
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0 or end + 4 > heads.MAX_HEAD_BYTES:
            if self._scanned == 0:
                self.deadline = self._server.clock() + self._limits.head_timeout_s
            self._scanned = len(buffer)
            if len(buffer) > heads.MAX_HEAD_BYTES:
                self._refuse(heads.BadHead(f"The request's head is larger than {heads.MAX_HEAD_BYTES} bytes", 431))
            return False
        self._scanned = 0
        self.buffer = buffer[end + 4 :]
        try:
            head = self._server.reader.read(buffer[: end + 4])
        except heads.BadHead as error:
            self._refuse(error)
            return False
        self._start(head)
        return self.state is State.HEAD

    def _start(self, head: RequestHead) -> None:
        exchange = Exchange(self, head)
        exchange.started_at = self._server.clock()
        self._exchange = exchange
        self.state = State.ANSWERING
        self._keep_alive = head.keep_alive and not self._server.draining
        self._owes_continue = head.expects_continue
        self._body = head.body_framing()
        self.deadline = NEVER
        try:
            coroutine = self._server.handler.handle(exchange)
        except Exception as error:
            self._failed(exchange, error)
            return
        if coroutine is not None:
            self.continue_in(exchange, coroutine)

    def continue_in(self, exchange: Exchange, coroutine: Coroutine[Any, Any, None]) -> None:
        task = eager.start(self._answer(exchange, coroutine), self._server.loop)
        if task is not None:
            self._task = task

    async def _answer(self, exchange: Exchange, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
            if self.state is State.ANSWERING and self._exchange is exchange and self._relay is None:
                raise RuntimeError("the handler neither answered nor handed over")
        except (Exception, asyncio.CancelledError) as error:
            self._failed(exchange, error)
        finally:
            if self._exchange is exchange:
                self._task = None

    def _failed(self, exchange: Exchange, error: BaseException) -> None:
        """What answers `exchange` has raised `error`."""
        if isinstance(error, ClientGone | asyncio.CancelledError):
            if self._exchange is exchange:
                self.abort()
            return
        if not isinstance(error, errors.FreeholdError):
            log.error(
                "gateway.request_failed",
                request_id=exchange.request_id,
                method=exchange.head.method,
                exc_info=error,
            )
        exchange.answer_error(error)

    def _refuse(self, error: heads.BadHead) -> None:
        """Answer what is no request, and end the connection."""
        code = _REFUSALS.get(error.status, "ValidationException")
        answer = envelope(WireError(code, error.status, error.message))
        self._keep_alive = False
        self._exchange = None
        lines = heads.lines_of([*answer.headers, (b"content-length", b"%d" % len(answer.body))])
        self._server.refused(code, answer.status)
        self._transport.write(self._head_bytes(answer.status, lines, ids.request_id()) + answer.body)
        self._linger()

    # -- a request's body -----------------------------------------------------------------------------------------

    def read_body(
        self, exchange: Exchange, take: Callable[[framing.Framing, bytes], None], *, wants_content: bool
    ) -> asyncio.Future[None] | None:
        """See Exchange.read_body. None when all of it has been taken; else what to wait for."""
        body = self._body
        if self._exchange is not exchange or body is None:
            raise ClientGone
        if body.done:
            return None
        if self._owes_continue and not self.buffer:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._owes_continue = False
        if wants_content and isinstance(body, framing.Chunked):
            body.content = []
        self._take = take
        self._paused_at = NEVER
        self._slowest = self._server.clock() + self._limits.body_grace_s
        buffer, self.buffer = self.buffer, b""
        self._expect_body(len(buffer))
        self._set_reading(True)
        try:
            self._take_body(body, take, buffer)
        except (framing.BadFraming, errors.FreeholdError) as error:
            self._take = None
            self.deadline = NEVER
            if isinstance(error, framing.BadFraming):
                raise errors.ValidationFailed(f"The request's body: {error}", reason="CannotParse") from None
            raise
        if body.done:
            self._set_reading(len(self.buffer) <= MAX_PIPELINED_BYTES)
            return None
        self._body_waiter = self._server.loop.create_future()
        return self._body_waiter

    def body_at_hand(self, exchange: Exchange) -> bytes | None:
        """See Exchange.body_at_hand."""
        body, buffer = self._body, self.buffer
        if self._exchange is not exchange or not isinstance(body, framing.Length) or body.left > len(buffer):
            return None
        used = body.feed(buffer)
        self.buffer = buffer[used:]
        exchange.bytes_in += used
        self._owes_continue = False
        return buffer if used == len(buffer) else buffer[:used]

    def pause_body(self) -> None:
        if self._take is not None and self.reading:
            self._paused_at = self._server.clock()
            self._set_reading(False)

    def resume_body(self) -> None:
        if self._take is not None and not self.reading:
            # While nobody took it, it could not come. Else it has no more time than one that nobody kept waiting.
            self._slowest += self._server.clock() - self._paused_at
            self._expect_body(0)
            self._set_reading(True)

    def _expect_body(self, come: int) -> None:
        """More of the body is to come in time, of which `come` bytes just came."""
        limits = self._limits
        self.deadline = self._server.clock() + limits.body_progress_timeout_s
        if limits.body_min_bytes_per_s:
            self._slowest += come / limits.body_min_bytes_per_s
            self.deadline = min(self.deadline, self._slowest)

    def _take_body(
        self, body: framing.Framing, take: Callable[[framing.Framing, bytes], None] | None, data: bytes
    ) -> None:
        used = body.feed(data)
        if used < len(data):
            self.buffer = data[used:]
            data = data[:used]
        if self._exchange is not None:
            self._exchange.bytes_in += used
        if body.done:
            self._take = None
            self.deadline = NEVER
        if take is not None and data:
            take(body, data)

    def _feed_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        discarding = self.state is State.DISCARDING
        self._expect_body(len(data))
        try:
            self._take_body(body, self._take, data)
        except framing.BadFraming as error:
            self._fail_body(errors.ValidationFailed(f"The request's body: {error}", reason="CannotParse"))
            return
        except errors.FreeholdError as error:
            self._fail_body(error)
            return
        if not body.done:
            return
        if discarding:
            self._ready_for_next()
            return
        waiter, self._body_waiter = self._body_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail_body(self, error: Exception) -> None:
        self._take = None
        waiter, self._body_waiter = self._body_waiter, None
        if waiter is not None and not waiter.done():
            self.deadline = NEVER
            self._set_reading(False)  # until the answer decides what to do with the rest
            waiter.set_exception(error)

    def _can_discard(self) -> bool:
        body = self._body
        return isinstance(body, framing.Length) and body.left <= MAX_DISCARDED_BYTES and not self._owes_continue

    # -- answers --------------------------------------------------------------------------------------------------

    def attach(self, relay: Relay) -> None:
        if self.state is not State.ANSWERING:
            raise ClientGone
        self._relay = relay

    def close_after(self) -> None:
        self._keep_alive = False

    def response_head(self, exchange: Exchange, status: int, lines: bytes) -> bytes:
        """An answer's head, of which `lines` are the headers. Decides whether the connection is kept after it."""
        if self._server.draining or (self._body is not None and not self._body.done and not self._can_discard()):
            self._keep_alive = False
        exchange.first_byte_at = self._server.clock()
        return self._head_bytes(status, lines, exchange.request_id)

    def write(self, exchange: Exchange, data: bytes) -> None:
        if self._exchange is exchange and self.state is State.ANSWERING:
            self._transport.write(data)

    def answered(self, exchange: Exchange) -> None:
        """The answer is written whole: on to the next request."""
        if self._exchange is not exchange:
            return
        self._server.ended(exchange, whole=True)
        self._exchange = None
        self._relay = None
        self._fail_body(ClientGone())  # whoever passes the body on can stop
        self.deadline = NEVER
        if self._body is None or self._body.done:
            self._ready_for_next()
        elif self._keep_alive:
            self.state = State.DISCARDING
            self._slowest = self._server.clock() + self._limits.body_grace_s
            self._set_reading(True)
            buffer, self.buffer = self.buffer, b""
            self._feed_body(buffer)
        else:
            self._linger()

    def abort(self) -> None:
        """Break the connection off."""
        if self.passage is not None:
            self.passage.widen()
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            if self._exchange is not None and self._exchange.ends_with_connection:
                # An orderly end would be that of the answer.
                sock: socket.socket = self._transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            self._transport.abort()

    def close_if_idle(self) -> None:
        if self.state is State.HEAD:
            if not self._has_unread():
                self._close()
        elif self._tunnel is not None:
            self._tunnel.going_away()

    # -- passages -------------------------------------------------------------------------------------------------

    def begin_passage(self, passage: Passage, deadline: float) -> None:
        """The request that has come is passed on."""
        # As fastpath does it.
        self.passage = passage
        self.state = State.ANSWERING
        self.deadline = deadline

    def end_passage(self, answer: bytes, now: float) -> None:
        """At `now` the whole answer has come."""
        self.passage = None
        self.state = State.HEAD
        self.deadline = now + self._limits.keep_alive_timeout_s
        self._transport.write(answer)
        if self.buffer or not self.reading:
            self.go_on()

    def go_on(self) -> None:
        """Read the requests that came while another one was answered."""
        self._set_reading(True)
        self._process()

    def begin_exchange(self, exchange: Exchange, relay: Relay) -> None:
        """The request that has come, whole, is `relay`'s to answer."""
        self.state = State.ANSWERING
        self._keep_alive = True
        self.deadline = NEVER
        self.widen_passage(exchange, relay)

    def start_over(self, exchange: Exchange, head: RequestHead, body: bytes) -> None:
        """Answer a request from its beginning, of which nothing has been answered: `body` is all of its body."""
        if self._exchange is exchange and self.state is State.ANSWERING:
            self._relay = None
            self.buffer = body + self.buffer
            self._start(head)

    def widen_passage(self, exchange: Exchange, relay: Relay) -> None:
        """What was passed on is an exchange from now on, attached to `relay`."""
        self.passage = None
        self._exchange = exchange
        self._relay = relay
        self._body = framing.Length(0)
        self._owes_continue = False

    # -- another protocol -----------------------------------------------------------------------------------------

    def switch_protocols(
        self, exchange: Exchange, headers: heads.Headers, tunnel: Tunnel
    ) -> tuple[asyncio.Transport, bytes, asyncio.Protocol]:
        """See Exchange.switch_protocols."""
        if self._exchange is not exchange or self.state is not State.ANSWERING:
            raise ClientGone
        self._keep_alive = True  # what is said of it here would be of the other protocol
        exchange.first_byte_at = self._server.clock()
        self._transport.write(self._head_bytes(101, heads.lines_of(headers), exchange.request_id))
        self.state = State.SWITCHED
        self._source.resume_reading()
        self._relay = self._tunnel = tunnel
        self._set_reading(True)
        buffer, self.buffer = self.buffer, b""
        if self._server.stopping:
            self._server.loop.call_soon(tunnel.going_away)
        return self._transport, buffer, self

    def set_reading(self, exchange: Exchange, wanted: bool) -> None:
        """Whether a Tunnel takes more of what the client sends."""
        if self._exchange is exchange:
            self._set_reading(wanted)

    def tunnel_ended(self, exchange: Exchange, *, whole: bool) -> None:
        """The Tunnel has nothing more to say: whatever the client still sends is dropped until it has closed, too."""
        if self._exchange is not exchange:
            return
        self._server.ended(exchange, whole=whole)
        self._exchange = None
        self._relay = self._tunnel = None
        if self.state is State.SWITCHED:
            self._transport.set_protocol(self)
            self._linger()

    def _ready_for_next(self) -> None:
        self._body = None
        if not self._keep_alive or self._server.stopping:
            self._close()
            return
        self.state = State.HEAD
        self._scanned = 0
        self.deadline = self._server.clock() + self._limits.keep_alive_timeout_s
        self._set_reading(True)
        self._process()

    def _close(self) -> None:
        """Close once everything is sent; a client that doesn't take it is broken off by the sweeper."""
        if self.buffer:
            self._linger()  # closing with bytes unread would reset the connection, and the answer with it
            return
        self.state = State.CLOSED
        self.deadline = self._server.clock() + self._limits.slow_reader_timeout_s
        self._transport.close()

    def _linger(self) -> None:
        self.state = State.LINGERING
        self.buffer = b""
        self._take = None
        self._body = None
        self.deadline = self._server.clock() + self._limits.linger_timeout_s
        self._set_reading(True)
        if not self._transport.is_closing():
            self._transport.write_eof()

    def _has_unread(self) -> bool:
        """Whether a request has come that is read next: a loop that is late looks at deadlines before it reads."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or not self.reading or self._transport.is_closing():
            return False
        waiting = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
        return waiting != bytes(4)

    def _set_reading(self, wanted: bool) -> None:
        if wanted != self.reading and self.state is not State.CLOSED and not self._transport.is_closing():
            self.reading = wanted
            if wanted:
                self._source.resume_reading()
            else:
                self._source.pause_reading()

    def _head_bytes(self, status: int, lines: bytes, request_id: str) -> bytes:
        end = b"\r\n"
        if not self._keep_alive:
            end = b"connection: close\r\n\r\n"
        elif self._exchange is not None and self._exchange.head.is_http_1_0:
            end = b"connection: keep-alive\r\n\r\n"
        first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        date = self._server.sweeper.http_date
        return b"".join((first, lines, b"x-amzn-requestid: ", request_id.encode(), b"\r\ndate: ", date, b"\r\n", end))
