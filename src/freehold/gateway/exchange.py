"""One request and its answer, whoever gives it.

For: those who answer requests (`Handler`) or relay them (`Relay`). Not for the connection under it (`connection`).
Invariant: an answer is given once, and is whole or visibly broken off.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from freehold.gateway import eager, framing
from freehold.gateway.errors import Answer, WireError, envelope, to_wire
from freehold.gateway.heads import Headers, RequestHead, lines_of
from freehold.observe import ids
from freehold.observe.tracing import Trace

_VERSION_4: Final = (0x4 << 76) | (0x2 << 62)
_NOT_VERSION: Final = ~((0xF << 76) | (0x3 << 62))


def new_id() -> str:
    """A random UUID (version 4) as text, for half of what the standard library takes to make one."""
    bits = (int.from_bytes(os.urandom(16)) & _NOT_VERSION) | _VERSION_4
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Handler(Protocol):
    """Who answers requests."""

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """Answer, or hand over to something that will, or return what is going to. Errors of all of it are told.

        What is returned is started by `eager.start`, so it awaits `eager.in_task()` before it really waits.
        """
        ...


class Relay(Protocol):
    """What an exchange was handed over to, as its client sees it."""

    def client_gone(self) -> None: ...

    def client_writable(self, writable: bool) -> None:
        """Whether the client takes more just now."""
        ...

    def deadline_passed(self) -> None: ...


class Tunnel(Relay, Protocol):
    """A Relay in another protocol than HTTP, to which a connection has switched."""

    def going_away(self) -> None:
        """The server stops: tell the client, and end."""
        ...


class Line(Protocol):
    """What an exchange needs of the connection that it came over. Calls for an exchange that has ended do nothing."""

    deadline: float
    writable: bool

    @property
    def peer(self) -> str:
        """The address at the other end."""
        ...

    def read_body(
        self, exchange: Exchange, take: Callable[[framing.Framing, bytes], None], *, wants_content: bool
    ) -> asyncio.Future[None] | None:
        """Give the body to `take`. None when all of it has been taken; else what to wait for."""
        ...

    def body_at_hand(self, exchange: Exchange) -> bytes | None:
        """See Exchange.body_at_hand."""
        ...

    def pause_body(self) -> None: ...

    def resume_body(self) -> None: ...

    def response_head(self, exchange: Exchange, status: int, lines: bytes) -> bytes:
        """An answer's head, of which `lines` are the headers. Decides whether the connection is kept after it."""
        ...

    def close_after(self) -> None:
        """Let this be the connection's last exchange."""
        ...

    def write(self, exchange: Exchange, data: bytes) -> None: ...

    @property
    def transport(self) -> asyncio.Transport:
        """What `write` uses."""
        ...

    def answered(self, exchange: Exchange) -> None:
        """The answer is written whole."""
        ...

    def attach(self, relay: Relay) -> None: ...

    def continue_in(self, exchange: Exchange, coroutine: Coroutine[Any, Any, None]) -> None: ...

    def abort(self) -> None: ...

    def switch_protocols(
        self, exchange: Exchange, headers: Headers, tunnel: Tunnel
    ) -> tuple[asyncio.Transport, bytes, asyncio.Protocol]:
        """See Exchange.switch_protocols."""
        ...

    def set_reading(self, exchange: Exchange, wanted: bool) -> None: ...

    def tunnel_ended(self, exchange: Exchange, *, whole: bool) -> None: ...


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_chunks_out",
        "_connection",
        "_content_only",
        "_held",
        "account",
        "also",
        "bytes_in",
        "bytes_out",
        "close_code",
        "endpoint",
        "ends_with_connection",
        "error",
        "error_code",
        "first_byte_at",
        "generation",
        "head",
        "is_stream",
        "operation",
        "render_error",
        "request_id",
        "response_started",
        "runtime_id",
        "session_id",
        "started_at",
        "status",
        "trace",
    )

    def __init__(self, connection: Line, head: RequestHead) -> None:
        self._connection = connection
        self.head = head
        self.request_id = ids.request_id()
        self.render_error: Callable[[WireError], Answer] = envelope
        """How this exchange's caller is told of failures."""
        self.also = b""
        """Header lines of the answer, whatever it is."""
        self.response_started = False
        self.status = 0
        # What is told of the exchange once it has ended (`observer`). Of the caller and of what was asked for only
        # what is certain: nothing of a runtime before its caller has been recognised.
        self.operation = ""
        self.account = ""
        self.runtime_id = ""
        self.endpoint = ""
        self.session_id = ""
        self.generation = 0
        self.trace: Trace | None = None
        self.error: WireError | None = None
        """What went wrong, also where the answer had begun."""
        self.error_code = ""
        """What control has told went wrong."""
        self.is_stream = False
        """Whether the answer's length was not known when it began."""
        self.ends_with_connection = False
        """Whether the end of the answer's body is that of the connection."""
        self.close_code = 0
        """How a WebSocket was closed; 0 when it was not, or was none."""
        self.started_at = 0.0
        self.first_byte_at = 0.0
        """Of the answer; 0 when it has none. Instants are those of the connection's clock."""
        self.bytes_in = 0
        self.bytes_out = 0
        """Of the bodies, with chunk framing."""
        self._chunks_out = False
        self._content_only = False
        """Whether the client gets the content of chunks, without their framing."""
        self._held = b""
        """The head of an answer, until the first bytes of its body can go out with it."""

    @property
    def peer(self) -> str:
        """The address at the other end: its client's, or that of a proxy."""
        return self._connection.peer

    # -- the request ----------------------------------------------------------------------------------------------

    async def read_body(self, take: Callable[[bytes], None]) -> None:
        """Give the whole body, without its framing, to `take`; its errors are raised here.

        Raises ClientGone, ValidationFailed.
        """
        waiting = self._connection.read_body(self, _contents(take), wants_content=True)
        if waiting is not None:
            await eager.in_task()
            await waiting

    def body_at_hand(self) -> bytes | None:
        """The whole body, if all of it came with its head and is not chunked; it is taken then."""
        return self._connection.body_at_hand(self)

    async def pass_body(self, take: Callable[[bytes], None]) -> None:
        """As read_body, but with the framing, as the bytes came."""
        waiting = self._connection.read_body(self, lambda _framing, raw: take(raw), wants_content=False)
        if waiting is not None:
            await eager.in_task()
            await waiting

    def pause_body(self) -> None:
        self._connection.pause_body()

    def resume_body(self) -> None:
        self._connection.resume_body()

    # -- the answer -----------------------------------------------------------------------------------------------

    def answer(self, status: int, headers: Headers | bytes, body: bytes) -> None:
        """Give the whole answer. `headers` may be lines that are ready to be written."""
        lines = headers if isinstance(headers, bytes) else lines_of(headers)
        self._start(status, lines + b"content-length: %d\r\n" % len(body))
        self._send(b"" if self.head.method == "HEAD" else body)
        self._connection.answered(self)

    def answer_error(self, error: BaseException) -> None:
        """Tell of a failure; where the answer has begun, break it off."""
        self.error = to_wire(error)
        if self.response_started:
            self.abort()
            return
        answer = self.render_error(self.error)
        self.answer(answer.status, list(answer.headers), answer.body)

    def start_relay(self, status: int, headers: Headers | bytes, body: framing.Framing) -> None:
        """Begin an answer whose body follows in `relay_body`, framed by `body`. Nothing is sent before that.

        `headers` may be lines that are ready to be written.
        """
        lines = headers if isinstance(headers, bytes) else lines_of(headers)
        if isinstance(body, framing.Length):
            lines += b"content-length: %d\r\n" % body.left
        else:
            self.is_stream = True
            if self.head.is_http_1_0:
                self._connection.close_after()
                self.ends_with_connection = True
                if isinstance(body, framing.Chunked):
                    self._content_only = True
                    body.content = []
            else:
                lines += b"transfer-encoding: chunked\r\n"
                self._chunks_out = isinstance(body, framing.UntilClose)
        self._start(status, lines)

    def start_bodiless(self, status: int, headers: Headers) -> None:
        """Begin an answer that has no body, whatever its headers say of one; `end_relay` ends it."""
        self._start(status, lines_of(headers))

    def relay_body(self, raw: bytes, body: framing.Framing) -> None:
        """Pass on what came of the body: nothing, too, since the head has to go out."""
        if self._content_only and body.content is not None:
            raw = b"".join(body.content)
            body.content.clear()
        elif self._chunks_out and raw:
            raw = b"%x\r\n%b\r\n" % (len(raw), raw)
        self._send(raw)

    def write_through(self) -> asyncio.Transport:
        """What takes parts of a body that are sent as they came, as long as its relay is attached and the head is out.
        Whoever uses it adds to `bytes_out`."""
        return self._connection.transport

    def insert(self, content: bytes) -> None:
        """Send something of our own, where `relay_body` may go on with another chunk."""
        self._send(content if self.ends_with_connection else b"%x\r\n%b\r\n" % (len(content), content))

    def end_relay(self) -> None:
        self._send(b"0\r\n\r\n" if self._chunks_out else b"")
        self._connection.answered(self)

    def close_after(self) -> None:
        """Let this be the connection's last exchange."""
        self._connection.close_after()

    def abort(self) -> None:
        """Break off: the client must see that the answer is not whole."""
        self._connection.abort()

    @property
    def client_takes(self) -> bool:
        """Whether the client takes more just now; an attached relay is told of changes."""
        return self._connection.writable

    def attach(self, relay: Relay) -> None:
        """From now on `relay` hears of the client."""
        self._connection.attach(relay)

    def continue_in(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Go on with this exchange in another coroutine (see Handler); its errors become the answer."""
        self._connection.continue_in(self, coroutine)

    def set_deadline(self, deadline: float) -> None:
        """When the attached relay is to be told that its time is up."""
        self._connection.deadline = deadline

    # -- another protocol -----------------------------------------------------------------------------------------

    def switch_protocols(self, headers: Headers, tunnel: Tunnel) -> tuple[asyncio.Transport, bytes, asyncio.Protocol]:
        """Answer 101. From now on `tunnel` hears of the client; it sets the transport's protocol before it waits.

        Returns the transport, what the client has sent already, and the protocol that is to hear of the connection
        whatever is not bytes. Raises ClientGone.
        """
        found = self._connection.switch_protocols(self, headers, tunnel)
        self.response_started = True
        self.status = 101
        self.is_stream = True
        return found

    def set_reading(self, wanted: bool) -> None:
        """Whether the tunnel takes more of what the client sends."""
        self._connection.set_reading(self, wanted)

    def end_tunnel(self, *, whole: bool) -> None:
        """The tunnel has written all it had to. `whole` says whether it ended as its protocol wants."""
        self._connection.tunnel_ended(self, whole=whole)

    def _start(self, status: int, lines: bytes) -> None:
        self.response_started = True
        self.status = status
        self._held = self._connection.response_head(self, status, lines + self.also)

    def _send(self, data: bytes) -> None:
        self.bytes_out += len(data)
        if self._held:
            data = self._held + data
            self._held = b""
        if data:
            self._connection.write(self, data)


def _contents(take: Callable[[bytes], None]) -> Callable[[framing.Framing, bytes], None]:
    def take_content(body: framing.Framing, raw: bytes) -> None:
        if isinstance(body, framing.Length):
            take(raw)
            return
        content = body.content
        if content:
            for part in content:
                take(part)
            content.clear()

    return take_content
