"""A connection to a server behind the gateway: an agent, or control. Reads responses, one at a time.

Not for what a response means (its `Sink` knows). Invariant: a connection is idle, or its response belongs to exactly
one Sink, which hears of exactly one end: `response_end` or `response_failed`.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from abc import abstractmethod
from collections.abc import Callable
from typing import Final, Protocol, cast

from freehold.gateway import heads
from freehold.gateway.framing import BadFraming, UntilClose
from freehold.gateway.reading import Source

_TCP_ESTABLISHED_BYTES_ACKED: Final = 120
"""Offset of `tcpi_bytes_acked` in Linux's `struct tcp_info`."""
_OF_PASSAGES: Final = "POST"
"""Their method: a connection is ready for one between responses."""
MAX_INTERIM: Final = 32
"""Of one response's interim heads (1xx)."""


class Sink(Protocol):
    """Who takes a response."""

    def response_head(self, head: heads.ResponseHead) -> None:
        """The final head. May set `head.framing.content` to collect what the body says."""
        ...

    def response_body(self, raw: bytes) -> None:
        """Bytes of the body as they came, framing included."""
        ...

    def response_end(self) -> None: ...

    def response_failed(self, why: str) -> None:
        """There will be no more: the connection broke, or what came is no HTTP."""
        ...

    def upstream_writable(self) -> None:
        """More of the request may be written."""
        ...


class Passage(Sink, Protocol):
    """A Sink that may take a response at once."""

    def answered(self, data: bytes) -> bool:
        """Whether `data`, what came first, is the response and has been taken. Otherwise there is another Sink now."""
        ...


class Receive(Protocol):
    """See asyncio.Protocol.data_received."""

    def __call__(self, data: bytes) -> None: ...


class ReadResponse(Protocol):
    """See heads.parse_response."""

    def __call__(self, data: bytes, *, request_method: str) -> heads.ResponseHead: ...


class AgentSource(Source):
    """What stands between a connection and its transport."""

    @abstractmethod
    def receive_with(self, receive: Receive | None) -> None:
        """As Upstream.receive_with, until it is called with None."""


class Receiver(Protocol):
    """Makes what stands between a connection and its transport: that takes passages' responses, hands `data_received`
    what it does not take, and tells of the rest; see `fastpath.Agent`."""

    def __call__(self, upstream: Upstream, transport: asyncio.Transport) -> AgentSource: ...


class Upstream(asyncio.Protocol):
    """One connection. `on_lost` is called once when it is gone."""

    def __init__(
        self,
        sock: socket.socket,
        on_lost: Callable[[Upstream], None],
        read_response: ReadResponse = heads.parse_response,
        receiver: Receiver | None = None,
    ) -> None:
        self._sock = sock
        self._poll: select.poll | None = None
        self._on_lost = on_lost
        self._read_response = read_response
        self._make_receiver = receiver
        self.receiver: AgentSource | None = None
        """What the transport hands to what comes, in the place of this, as long as it is open."""
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.sink: Sink | None = None
        self.passage: Passage | None = None
        """The Sink, if it is to be asked first whether what comes is the whole response."""
        self._is_received_elsewhere = False
        self._head: heads.ResponseHead | None = None
        self._method = _OF_PASSAGES
        self._interim = 0
        self._may_switch = False
        self._buffer = b""
        self._paused_by_transport = False
        self._why_closed = ""
        self._held = False
        self._ended_by_us = False
        self._closed_orderly = False
        """Whether the other side's FIN came, and before any reset."""
        self._lost: Exception | None = None
        self.written_before = 0
        self.written = 0
        self.is_reused = False
        self.idle_since = 0.0
        """When it last became idle, for whoever keeps it."""
        self.request_done = True
        """Whoever writes a request over time clears this until its last byte is written."""
        self.closed = False

    # -- for those who use it -------------------------------------------------------------------------------------

    def begin(self, sink: Sink, method: str, *, may_switch: bool = False) -> None:
        """The next response is for `sink`. With `may_switch` it may be a 101; then see `switch`."""
        assert self.sink is None
        self.sink = sink
        self._method = method
        self._may_switch = may_switch
        self.written_before = self.written

    def begin_passage(self, passage: Passage, request: bytes) -> None:
        """As `begin` and `write`, for a POST of which everything is written at once; `passage` is asked first."""
        # As fastpath does it.
        self.sink = self.passage = passage
        self.written_before = self.written
        self.written += len(request)
        self._transport.write(request)

    def hand_over(self, sink: Sink) -> None:
        """The response that is waited for is for `sink`."""
        self.passage = None
        self.sink = sink

    def end_passage(self) -> None:
        """The response has been taken whole."""
        self.sink = None
        self.is_reused = True

    def receive_with(self, receive: Receive) -> None:
        """Until the response ends, `receive` gets what comes of it, and hands to `data_received` what it does not take.

        Also what comes after another Sink has taken over: that is for `data_received`.
        """
        self._is_received_elsewhere = True
        if self.receiver is not None:
            self.receiver.receive_with(receive)
        else:
            self._transport.set_protocol(_Receiving(self, receive))

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._transport.write(data)

    @property
    def may_write(self) -> bool:
        return not self._paused_by_transport

    @property
    def _source(self) -> Source | asyncio.Transport:
        """What reads."""
        return self.receiver or self._transport

    def pause_reading(self) -> None:
        if not self.closed:
            self._source.pause_reading()

    def resume_reading(self) -> None:
        if not self.closed:
            self._source.resume_reading()

    def hold(self) -> None:
        """Take no more of the response, whose head has just come, until `release`."""
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        """Go on after `hold`."""
        self._held = False
        self.resume_reading()
        data, self._buffer = self._buffer, b""
        self._feed_body(data)

    def is_usable(self) -> bool:
        """Whether an idle connection can carry another request: nothing came, and nobody closed it."""
        if self.closed:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._sock, select.POLLIN | select.POLLRDHUP)
        return not self._poll.poll(0)

    def abort(self, why: str = "") -> None:
        """Close at once. A Sink that still waits hears `why`."""
        if self.closed:
            return
        self.closed = True
        self._why_closed = why
        self._ended_by_us = True
        self._transport.abort()
        self._fail(why)

    def leave(self) -> None:
        """The Sink wants no more; the connection is of no use."""
        self.sink = None
        self._held = False
        self.abort()

    def pass_to(self, sink: Sink) -> None:
        """What is still to come of the response is for `sink`."""
        self.sink = sink

    def switch(self) -> tuple[asyncio.Transport, bytes]:
        """After a 101: the transport, and what has come already, for somebody who sets the transport's protocol before
        it waits; and who tells us of the connection's end."""
        self.sink = None
        self._source.resume_reading()
        buffer, self._buffer = self._buffer, b""
        return self._transport, buffer

    def was_request_undelivered(self) -> bool:
        """Whether the kernel knows that no byte of the last request reached the peer's. Only then may it be sent again.

        Counts what the peer's TCP had acknowledged when the peer closed. Where that can't be known, the answer is no;
        after a reset it can't, since a peer may read, wait with its acknowledgement, and reset without one.
        """
        if not self._closed_orderly:
            return False
        if self._sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        except OSError:
            return False
        if len(info) < _TCP_ESTABLISHED_BYTES_ACKED + 8:
            return False
        acked: int = struct.unpack_from("=Q", info, _TCP_ESTABLISHED_BYTES_ACKED)[0]
        # The SYN may count as one.
        return acked <= self.written_before + 1

    def was_request_unread(self) -> bool:
        """Whether the kernel knows that the peer has not read all of the last request, on a Unix socket that broke.

        ECONNRESET there means that the peer closed with bytes unread in its queue, and only that; EPIPE that it had
        closed before the write. Where that can't be known, the answer is no. Requests must not be pipelined.
        """
        return self._sock.family == socket.AF_UNIX and isinstance(self._lost, ConnectionResetError | BrokenPipeError)

    @property
    def closed_unasked(self) -> bool:
        """Whether the other side closed it between requests, or with a request of which it has said nothing."""
        return self.closed and not self._ended_by_us and self._head is None

    @property
    def broke_off(self) -> bool:
        """Whether the other side went away by itself: not we ended this, for something that it said."""
        return self.closed and not self._why_closed

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._make_receiver is not None:
            self.receiver = self._make_receiver(self, self._transport)
            self._transport.set_protocol(self.receiver)

    def pause_writing(self) -> None:
        self._paused_by_transport = True

    def resume_writing(self) -> None:
        self._paused_by_transport = False
        if self.sink is not None:
            self.sink.upstream_writable()

    def data_received(self, data: bytes) -> None:
        passage = self.passage
        if passage is not None:
            self.passage = None
            if passage.answered(data):
                return
        sink, head = self.sink, self._head
        if sink is None:
            self.abort()  # nobody asked
            return
        if head is None:
            try:
                data = self._read_head(data)
            except heads.BadResponse as error:
                self.abort(f"an answer that is not HTTP: {error}")
                return
            if self._head is None:
                return
        if self._held:
            self._buffer += data
        else:
            self._feed_body(data)

    def _feed_body(self, data: bytes) -> None:
        sink, head = self.sink, self._head
        if sink is None or head is None:
            return
        body = head.framing
        try:
            used = body.feed(data)
        except BadFraming as error:
            self.abort(f"a body that is not HTTP: {error}")
            return
        if used == len(data):
            if used or not body.done:
                # Nothing, too: it means that the head is not to wait for more.
                sink.response_body(data)
        else:
            if used or not body.done:
                sink.response_body(data[:used])
            if body.done:
                head.keep_alive = False  # more than was asked for: not to be trusted with another request
        if body.done:
            self._end()

    def eof_received(self) -> bool:
        self._closed_orderly = True
        head = self._head
        if self.sink is not None and head is not None and isinstance(head.framing, UntilClose):
            head.framing.done = True
            self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if isinstance(exc, BrokenPipeError):
            self._closed_orderly = True  # what Linux calls a reset that comes after a FIN
        self._lost = exc
        self.receiver = None
        self._fail("the connection broke" if exc is not None else "the connection was closed")
        self._on_lost(self)

    # -- the response ---------------------------------------------------------------------------------------------

    def _read_head(self, data: bytes) -> bytes:
        """Read heads up to the final one; what follows it, or nothing yet."""
        data = self._buffer + data if self._buffer else data
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end + 4 > heads.MAX_HEAD_BYTES:
                if len(data) > heads.MAX_HEAD_BYTES:
                    raise heads.BadResponse(f"the head is larger than {heads.MAX_HEAD_BYTES} bytes")
                self._buffer = data
                return b""
            whole = data[: end + 4]
            if self._may_switch:
                head = heads.parse_response(whole, request_method=self._method, may_switch=True)
            else:
                head = self._read_response(whole, request_method=self._method)
            data = data[end + 4 :]
            if head.status == 101:
                self._buffer = data
                assert self.sink is not None
                self.sink.response_head(head)
                return b""
            if head.status >= 200:
                break
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise heads.BadResponse(f"more than {MAX_INTERIM} interim answers")
        self._buffer = b""
        self._head = head
        assert self.sink is not None
        self.sink.response_head(head)
        return data

    def _end(self) -> None:
        sink, head = self.sink, self._head
        if sink is None or head is None:
            return
        self.sink = None
        self._head = None
        self._interim = 0
        self._method = _OF_PASSAGES
        self._may_switch = False
        if self._is_received_elsewhere:
            self._is_received_elsewhere = False
            if self.receiver is not None:
                self.receiver.receive_with(None)
            else:
                self._transport.set_protocol(self)
        if not head.keep_alive or not self.request_done:
            self.abort()
        self.is_reused = True
        sink.response_end()

    def _fail(self, why: str) -> None:
        sink = self.sink
        if sink is not None:
            self.sink = None
            sink.response_failed(self._why_closed or why)


class _Receiving(asyncio.Protocol):
    """A connection as the event loop sees it while what comes goes elsewhere at once."""

    def __init__(self, upstream: Upstream, receive: Receive) -> None:
        self.data_received = receive
        self.eof_received = upstream.eof_received
        self.connection_lost = upstream.connection_lost
        self.pause_writing = upstream.pause_writing
        self.resume_writing = upstream.resume_writing


async def attach(
    sock: socket.socket,
    on_lost: Callable[[Upstream], None],
    read_response: ReadResponse = heads.parse_response,
    receiver: Receiver | None = None,
) -> Upstream:
    """Make a connection of a connected socket, which it then owns. Raises OSError."""
    loop = asyncio.get_running_loop()
    made = Upstream(sock, on_lost, read_response, receiver)
    try:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            await loop.create_unix_connection(lambda: made, sock=sock)
        else:
            await loop.create_connection(lambda: made, sock=sock)
    except BaseException:
        sock.close()
        raise
    return made
