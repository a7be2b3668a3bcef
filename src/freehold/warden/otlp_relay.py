"""What agents export, on its way from inside a session to the OTLP/HTTP receiver of the settings.

A session has no network; the one way out leads here, over connections that its supervisor has accepted
(`backends.supervision.inlets`). Not for the server's own spans (`observe.span_export`). Invariant: an agent reaches the
receiver's three export paths by POST and nothing else, whole requests are sent and none as the agent framed it, and no
header of the settings reaches an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import httptools
import structlog

PATHS: Final = frozenset({b"/v1/traces", b"/v1/metrics", b"/v1/logs"})
MAX_HEAD_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Of bodies of all sessions at once."""
MAX_ANSWER_BYTES: Final = 64 * 1024
IDLE_TIMEOUT_S: Final = 60.0
REQUEST_TIMEOUT_S: Final = 15.0
"""For all of a request to come, from its first byte on."""
RECEIVER_TIMEOUT_S: Final = 10.0

_PASSED_ON: Final = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"user-agent",
        b"x-aws-log-group",
        b"x-aws-log-stream",
        b"x-aws-metric-namespace",
    }
)
_PASSED_BACK: Final = frozenset({b"content-type", b"retry-after"})
_REASONS: Final = {
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
}

log = structlog.get_logger(__name__)


class _Refused(Exception):
    """The request can't be passed on; nothing after it is read."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class OtlpRelay:
    """Relays to `endpoint`, an http or https base URL, adding `headers`. Use from one event loop."""

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        url = urlsplit(endpoint)
        assert url.hostname is not None
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._prefix = url.path.rstrip("/").encode()
        self._authority = url.netloc.encode("idna")
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._held_bytes = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._one_at_a_time: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._told_away = False

    def accept(self, generation: int, sock: socket.socket, returned: Callable[[], None]) -> None:
        """Serve a connection of session `generation`, which is ours now; `returned` is called once it is closed."""
        task = asyncio.get_running_loop().create_task(self._serve(generation, sock))
        self._serving.add(task)

        def done(_task: asyncio.Task[None]) -> None:
            self._serving.discard(task)
            returned()

        task.add_done_callback(done)

    async def aclose(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    # -- the agent's side ------------------------------------------------------------------------------------

    async def _serve(self, generation: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
        except OSError:
            sock.close()
            return
        # One request of a session at a time, so that a busy one leaves room for the others.
        turn = self._one_at_a_time.setdefault(generation, asyncio.Lock())
        try:
            while await self._serve_one(turn, reader, writer):
                pass
        except (ConnectionError, TimeoutError):
            # The agent has gone, or says nothing: there is nobody to be told.
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve_one(self, turn: asyncio.Lock, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Relay one request; False when it was the last."""
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            first = await reader.read(MAX_HEAD_BYTES)
        if not first:
            return False
        request = _Request(self)
        try:
            async with turn:
                try:
                    await request.read(first, reader, writer)
                    status, headers, body = await self._forward(request)
                finally:
                    self._held_bytes -= request.held_bytes
        except _Refused as error:
            _answer(writer, error.status, [(b"content-type", b"text/plain")], str(error).encode(), keep_alive=False)
            await writer.drain()
            return False
        _answer(writer, status, headers, body, keep_alive=request.keep_alive)
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await writer.drain()
        return request.keep_alive

    def hold(self, count: int) -> None:
        """Take room for `count` bytes. Raises _Refused when there is none."""
        if self._held_bytes + count > MAX_HELD_BYTES:
            raise _Refused(503, "The relay is busy")
        self._held_bytes += count

    # -- the receiver's side ---------------------------------------------------------------------------------

    async def _forward(self, request: _Request) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        try:
            async with asyncio.timeout(RECEIVER_TIMEOUT_S):
                answer = await self._exchange(request)
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            if not self._told_away:
                # Once, not for every batch of every agent.
                self._told_away = True
                log.warning("otlp.receiver_away", error=str(error) or type(error).__name__)
            raise _Refused(503, "The receiver of observability.otlp_endpoint can't be reached") from None
        self._told_away = False
        return answer

    async def _exchange(self, request: _Request) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            own = {name for name, _ in self._headers}
            lines = [b"POST %b%b HTTP/1.1" % (self._prefix, request.path), b"host: " + self._authority]
            lines += [b"%b: %b" % header for header in request.headers if header[0] not in own]
            lines += [b"%b: %b" % header for header in self._headers]
            lines += [b"content-length: %d" % request.held_bytes, b"connection: close", b"", b""]
            writer.write(b"\r\n".join(lines))
            writer.writelines(request.body)
            await writer.drain()
            response = _Response()
            parser = httptools.HttpResponseParser(response)
            while not response.complete and (data := await reader.read(64 * 1024)):
                parser.feed_data(data)
                if response.size > MAX_ANSWER_BYTES:
                    raise ConnectionError("the receiver's answer is too long")
            if not response.has_head:
                raise ConnectionError("the receiver broke off")
            kept = [header for header in response.headers if header[0] in _PASSED_BACK]
            return parser.get_status_code(), kept, b"".join(response.body)
        finally:
            writer.close()


class _Request:
    """One request of an agent, read whole (an httptools protocol)."""

    def __init__(self, relay: OtlpRelay) -> None:
        self._relay = relay
        self._parser = httptools.HttpRequestParser(self)
        self._head_bytes = 0
        self._has_head = False
        self._expects_continue = False
        self._complete = False
        self._extra = False
        self._keep_alive = False
        self.path = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.held_bytes = 0
        self.keep_alive = False

    async def read(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Raises _Refused, ConnectionError."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                data = first
                while True:
                    self._feed(data)
                    if self._complete:
                        break
                    if self._has_head and self._expects_continue:
                        self._expects_continue = False
                        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    data = await reader.read(64 * 1024)
                    if not data:
                        raise ConnectionResetError("the agent broke off")
        except TimeoutError:
            raise _Refused(408, "The request did not come in time") from None
        self.keep_alive = self._keep_alive and not self._extra

    def _feed(self, data: bytes) -> None:
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _Refused):
                raise error.__context__ from None
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise _Refused(400, "This is no HTTP/1.1 request") from None
        if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
            raise _Refused(400, "The request's head is too long")

    def on_message_begin(self) -> None:
        # Who sends a second request before the answer to the first gets no answer to it.
        self._extra = self._complete

    def on_url(self, url: bytes) -> None:
        if not self._complete:
            self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self._complete:
            return
        if name in _PASSED_ON:
            self.headers.append((name, value))
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self._has_head = True
        if self._parser.get_http_version() != "1.1":
            raise _Refused(400, "Only HTTP/1.1 is spoken here")
        if self.path not in PATHS:
            raise _Refused(404, "Here are /v1/traces, /v1/metrics and /v1/logs only")
        if self._parser.get_method() != b"POST":
            raise _Refused(405, "Here is POST only")

    def on_body(self, data: bytes) -> None:
        if self._complete:
            return
        if self.held_bytes + len(data) > MAX_BODY_BYTES:
            raise _Refused(413, f"More than {MAX_BODY_BYTES} bytes")
        self._relay.hold(len(data))
        self.held_bytes += len(data)
        self.body.append(data)

    def on_message_complete(self) -> None:
        if not self._complete:
            # Only now: the parser forgets it with the next byte.
            self._keep_alive = self._parser.should_keep_alive()
        self._complete = True


class _Response:
    """The receiver's answer (an httptools protocol)."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.size = 0
        self.has_head = False
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.size += len(name) + len(value)
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, data: bytes) -> None:
        self.size += len(data)
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


def _answer(
    writer: asyncio.StreamWriter, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, keep_alive: bool
) -> None:
    lines = [b"HTTP/1.1 %d %b" % (status, _REASONS.get(status, b""))]
    lines += [b"%b: %b" % header for header in headers]
    lines.append(b"content-length: %d" % len(body))
    if not keep_alive:
        lines.append(b"connection: close")
    writer.write(b"\r\n".join([*lines, b"", b""]) + body)
