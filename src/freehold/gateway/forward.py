"""Everything that is not data plane: handed to control's own HTTP server, as it came.

Not for deciding anything about it. Invariant: control sees no header about where a request comes from that the
client could have made up, and a request is sent again only when the kernel says that control has not read all of it:
control acts on whole requests only, since the signature covers the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from freehold import ipc
from freehold.domain.errors import FreeholdError, Unavailable
from freehold.gateway import eager, headers
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.exchange import Exchange
from freehold.gateway.heads import ResponseHead
from freehold.gateway.sweeper import Sweeper
from freehold.gateway.upstream import Upstream, attach

_SAID_BY_US: Final = frozenset({b"date", b"server"})
_OPERATION: Final = b"x-freehold-operation"
_ACCOUNT: Final = b"x-freehold-account"
"""What control tells of an exchange, for the gateway alone."""
_FORWARDED: Final = "Control"
"""The operation until control has said which."""
_ENDLESS: Final = b"application/x-ndjson"
"""The type of answers that may have no end: logs that are followed."""
_PAUSE_S: Final = 0.05
"""Between tries to reach control while it starts again."""
_MAX_RESENDS: Final = 2
_MAX_KEPT_BYTES: Final = 64 * 1024
"""Of a request's body, in case that it has to be sent again."""
_PLAIN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ControlForwarder:
    """Relays exchanges to control's Unix socket."""

    def __init__(self, path: str, sweeper: Sweeper, limits: GatewayLimits) -> None:
        self._connections = _Connections(path, sweeper, limits)
        self._sweeper = sweeper
        self._limits = limits
        self._endless: set[_ControlRelay] = set()
        """Relays of answers that go on until somebody ends them."""

    def end_streams(self) -> None:
        """Break off the answers that would not end by themselves: the worker stops."""
        for relay in list(self._endless):
            relay.deadline_passed()

    def close(self) -> None:
        """Close what no request uses."""
        self._connections.close()

    async def handle(self, exchange: Exchange) -> None:
        """See exchange.Handler. Raises Unavailable when control can't be reached for a while."""
        exchange.operation = _FORWARDED
        relay = _ControlRelay(exchange, self._connections, self._allow_time, self._endless)
        connection = await self._connections.take()
        try:
            exchange.attach(relay)
        except BaseException:
            connection.leave()
            raise
        self._allow_time(exchange)
        relay.begin(connection)
        try:
            await exchange.pass_body(relay.take_body)
        except BaseException:
            relay.client_gone()
            raise
        relay.request_sent()
        if not relay.ended:
            self._allow_time(exchange)

    def _allow_time(self, exchange: Exchange) -> None:
        exchange.set_deadline(self._sweeper.clock() + self._limits.control_answer_timeout_s)


class _Connections:
    """Connections to control: used again by one request after another, never by two at once."""

    def __init__(self, path: str, sweeper: Sweeper, limits: GatewayLimits) -> None:
        self._path = path
        self._sweeper = sweeper
        self._limits = limits
        self._idle: list[Upstream] = []
        self._closed = False

    async def take(self) -> Upstream:
        """One that nobody uses. Waits while control starts; raises Unavailable when it is away for too long."""
        while self._idle:
            found = self._idle.pop()
            if found.is_usable():
                return found
            found.leave()
        await eager.in_task()
        deadline = self._sweeper.clock() + self._limits.away_timeout_s
        while True:
            try:
                return await attach(ipc.connect_unix_stream(self._path), self._lost)
            except OSError:
                # Nothing of the request has been read: waiting costs nothing but time.
                if self._sweeper.clock() >= deadline:
                    raise Unavailable("The server is starting again, please retry") from None
            await asyncio.sleep(_PAUSE_S)

    def keep(self, connection: Upstream) -> None:
        """The answer has ended: have the connection ready for another request, if it can be."""
        if connection.closed:
            return
        if self._closed or len(self._idle) >= self._limits.max_idle_control_connections:
            connection.leave()
        else:
            connection.resume_reading()  # its last client may have been slow
            self._idle.append(connection)

    def close(self) -> None:
        self._closed = True
        for connection in list(self._idle):
            connection.leave()

    def _lost(self, connection: Upstream) -> None:
        if connection in self._idle:
            self._idle.remove(connection)


class _ControlFailed(FreeholdError):
    """Control broke off: what it did of the request is not known. Told as an internal error."""


class _ControlRelay:
    """One exchange at control."""

    def __init__(
        self,
        exchange: Exchange,
        connections: _Connections,
        allow_time: Callable[[Exchange], None],
        endless: set[_ControlRelay],
    ) -> None:
        self._exchange = exchange
        self._connections = connections
        self._allow_time = allow_time
        self._endless = endless
        self._connection: Upstream | None = None
        self._head: ResponseHead | None = None
        self._resends = 0
        self._sent: bytearray | None = bytearray()
        """What was sent of the request; None once that is too much to be kept."""
        self.ended = False

    def begin(self, connection: Upstream) -> None:
        self._connection = connection
        connection.begin(self, self._exchange.head.method)
        connection.request_done = False
        head = self._request_head()
        self._sent = bytearray(head)
        connection.write(head)

    def _request_head(self) -> bytes:
        head = self._exchange.head
        target = head.raw_path + (b"?" + head.raw_query if head.raw_query else b"")
        lines = [b"%b %b HTTP/1.1\r\n" % (head.method.encode(), target)]
        lines += [b"%b: %b\r\n" % header for header in headers.end_to_end(head.headers)]
        if head.chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif head.content_length is not None:
            lines.append(b"content-length: %d\r\n" % head.content_length)
        if head.chunked or head.method not in _PLAIN_METHODS:
            # Where two readers of HTTP might see different ends, nobody else's request comes after it.
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def take_body(self, raw: bytes) -> None:
        sent = self._sent
        if sent is not None:
            if len(sent) + len(raw) > _MAX_KEPT_BYTES:
                self._sent = None
            else:
                sent += raw
        connection = self._connection
        if connection is None or connection.closed:
            return
        connection.write(raw)
        if not connection.may_write:
            self._exchange.pause_body()

    def request_sent(self) -> None:
        if self._connection is not None:
            self._connection.request_done = True

    # -- Sink -----------------------------------------------------------------------------------------------------

    def upstream_writable(self) -> None:
        self._exchange.resume_body()

    def response_head(self, head: ResponseHead) -> None:
        self._head = head
        if (b"content-type", _ENDLESS) in head.headers:
            self._endless.add(self)
        kept: headers.Headers = []
        for name, value in headers.end_to_end(head.headers):
            if name == b"x-amzn-requestid":
                self._exchange.request_id = value.decode("latin-1")  # so that both logs have the same
            elif name == _OPERATION:
                self._exchange.operation = value.decode("latin-1")
            elif name == _ACCOUNT:
                self._exchange.account = value.decode("latin-1")
            elif name not in _SAID_BY_US:
                if name == b"x-amzn-errortype":
                    self._exchange.error_code = value.decode("latin-1")
                kept.append((name, value))
        body = head.framing
        if self._exchange.head.method == "HEAD":
            lengths = [(name, value) for name, value in head.headers if name == b"content-length"]
            self._exchange.start_bodiless(head.status, [*kept, *lengths])
        elif head.status in (204, 304):
            self._exchange.start_bodiless(head.status, kept)
        else:
            self._exchange.start_relay(head.status, kept, body)
        if self._connection is not None and not self._exchange.client_takes:
            self._connection.pause_reading()

    def response_body(self, raw: bytes) -> None:
        if self._head is not None and not self.ended:
            # An answer may go on for as long as something comes (logs that are followed).
            self._allow_time(self._exchange)
            self._exchange.relay_body(raw, self._head.framing)

    def response_end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._endless.discard(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            self._connections.keep(connection)
        self._exchange.end_relay()

    def response_failed(self, why: str) -> None:
        connection = self._connection
        if connection is None or not connection.broke_off or self._head is not None:
            self._fail(_ControlFailed(why))
        elif self._can_resend(connection):
            self._connection = None
            self._resends += 1
            self._exchange.continue_in(self._resend())
        else:
            # Killed and restarted, most likely. SDKs repeat this, with the same client token where there is one.
            self._fail(Unavailable("The server restarted while it worked on the request, please repeat it"))

    def _can_resend(self, connection: Upstream) -> bool:
        """Whether it is certain that control has not begun with the request, and all of the request is here."""
        return (
            connection.was_request_unread()
            and connection.request_done
            and self._sent is not None
            and self._resends < _MAX_RESENDS
        )

    async def _resend(self) -> None:
        sent = self._sent
        assert sent is not None
        try:
            connection = await self._connections.take()
        except FreeholdError as error:
            self._fail(error)
            return
        if self.ended:
            self._connections.keep(connection)
            return
        self._connection = connection
        connection.begin(self, self._exchange.head.method)
        connection.write(bytes(sent))

    # -- Relay ----------------------------------------------------------------------------------------------------

    def client_gone(self) -> None:
        self.ended = True
        self._drop_connection()

    def client_writable(self, writable: bool) -> None:
        if self._connection is None:
            return
        if writable:
            self._connection.resume_reading()
        else:
            self._connection.pause_reading()

    def deadline_passed(self) -> None:
        self._fail(Unavailable("The server did not answer in time, please retry"))

    def _fail(self, error: FreeholdError) -> None:
        if self.ended:
            return
        self.ended = True
        self._drop_connection()
        self._exchange.answer_error(error)

    def _drop_connection(self) -> None:
        self._endless.discard(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()
