"""Control's HTTP server for gateway workers: ASGI over a Unix socket, one request at a time on each connection.

For: peers that are Freehold's own, which have read their clients' HTTP strictly, bounded it, and send nothing before
the answer to what they sent. Not for any other client (`server`). Invariant: an answer goes out whole, in one write
where it is known as a whole; a connection on which anything else happens is closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
import structlog

STOP_TIMEOUT_S: Final = 5.0
"""For requests under way when the server stops."""
MAX_WAITING_BYTES: Final = 256 * 1024
"""Of a body that nobody takes: beyond it nothing more is read."""

_Message = MutableMapping[str, Any]
App = Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]

log = structlog.get_logger(__name__)
_STATUS_LINES: Final = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


class GatewayPort:
    """Serves the ASGI application `app` on `listener` while `run` runs."""

    def __init__(self, app: App, listener: socket.socket, *, stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        self._app = app
        self._listener = listener
        self._stop_timeout_s = stop_timeout_s
        self._connections: set[_Connection] = set()
        self._stopping = False

    async def run(self) -> None:
        """Serve until cancelled; then let requests under way end, for a bounded time."""
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Connection(self._app, self._connections), sock=self._listener)
        try:
            await loop.create_future()
        finally:
            server.close()
            for connection in list(self._connections):
                connection.close_when_idle()
            tasks = {connection.task for connection in self._connections if connection.task is not None}
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=self._stop_timeout_s)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)
            for connection in list(self._connections):
                connection.abort()


class _Connection(asyncio.Protocol):
    """One connection of a gateway worker."""

    def __init__(self, app: App, all_of_them: set[_Connection]) -> None:
        self._app = app
        self._all = all_of_them
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpRequestParser(self)
        self._writable: asyncio.Event | None = None
        """Set when more may be written; there is one only while that has to be waited for."""
        self._request: _Request | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._closing = False
        self.task: asyncio.Task[None] | None = None

    # -- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._closing = True
        if self._request is not None:
            self._request.lost()
        if self._writable is not None:
            self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            log.error("control.not_http", error=str(error))
            self.abort()

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set()

    # -- httptools ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.task is not None:
            raise httptools.HttpParserError("a request before the answer to the one before it")
        path, _, query = self._target.partition(b"?")
        method = self._parser.get_method().decode("ascii")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": self._headers,
        }
        request = self._request = _Request(self, self._transport, bodiless=method == "HEAD")
        if not self._parser.should_keep_alive():
            self._closing = True
        self.task = asyncio.create_task(self._answer(scope, request))

    def on_body(self, body: bytes) -> None:
        if self._request is not None:
            self._request.take(body)

    def on_message_complete(self) -> None:
        if self._request is not None:
            self._request.end()

    # -- for requests ---------------------------------------------------------------------------------------------

    async def _answer(self, scope: _Message, request: _Request) -> None:
        try:
            await self._app(scope, request.receive, request.send)
        except Exception:
            log.exception("control.application_failed")
        finally:
            self.task = None
            if not request.is_answered:
                self.abort()  # a part of an answer must not pass for all of it
            elif self._closing:
                self._transport.close()
            else:
                request.discard()

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        if self._writable is not None:
            await self._writable.wait()

    # -- ends -----------------------------------------------------------------------------------------------------

    def close_when_idle(self) -> None:
        self._closing = True
        if self.task is None:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    @property
    def is_closing(self) -> bool:
        """Whether the answer is this connection's last."""
        return self._closing


class _Request:
    """One request's body and answer, as ASGI has them."""

    def __init__(self, connection: _Connection, transport: asyncio.Transport, *, bodiless: bool) -> None:
        self._connection = connection
        self._transport = transport
        self._bodiless = bodiless
        self._parts: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_whole = False
        self._is_told = False
        """Whether `receive` has given all of the body."""
        self._is_lost = False
        self._is_discarding = False
        self._waiter: asyncio.Future[None] | None = None
        self._head: bytes | None = None
        self._is_chunked = False
        self.is_answered = False

    # -- what comes -----------------------------------------------------------------------------------------------

    def take(self, part: bytes) -> None:
        if self._is_discarding:
            return
        self._parts.append(part)
        self._waiting_bytes += len(part)
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._transport.pause_reading()
        self._wake()

    def end(self) -> None:
        self._is_whole = True
        self._wake()

    def lost(self) -> None:
        self._is_lost = True
        self._wake()

    def discard(self) -> None:
        """Answered: what still comes of the body is read and dropped, for the sake of the next request."""
        self._is_discarding = True
        self._parts.clear()
        self._transport.resume_reading()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def receive(self) -> _Message:
        """ASGI's `receive`: parts of the body, then nothing until the client has gone."""
        while True:
            if self._is_lost:
                return {"type": "http.disconnect"}
            if self._parts or (self._is_whole and not self._is_told):
                part = self._parts.popleft() if self._parts else b""
                self._waiting_bytes -= len(part)
                if self._waiting_bytes <= MAX_WAITING_BYTES:
                    self._transport.resume_reading()
                self._is_told = self._is_whole and not self._parts
                return {"type": "http.request", "body": part, "more_body": not self._is_told}
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    # -- what goes ------------------------------------------------------------------------------------------------

    async def send(self, message: _Message) -> None:
        """ASGI's `send`. What nobody takes any more is dropped."""
        if message["type"] == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
            return
        more = message.get("more_body", False)
        self._write(message.get("body", b""), more=more)
        self.is_answered = not more
        await self._connection.drained()

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        lines += [b"%b: %b\r\n" % header for header in headers]
        self._is_chunked = not any(name == b"content-length" for name, _ in headers)
        if self._is_chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if self._connection.is_closing:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)

    def _write(self, body: bytes, *, more: bool) -> None:
        """The head goes out with the first of the body."""
        if self._bodiless:
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        head, self._head = self._head, None
        data = body if head is None else head + body
        if data:
            self._connection.write(data)
