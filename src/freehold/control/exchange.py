"""One HTTP exchange with control: its head, its bounded body, its one answer.

For: the AWS operations (`control.app`) and the operator API. Not for what is asked or answered. Invariant: no body
is read further than its bound, no wait for one is endless, and every answer carries its request id.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from freehold.control.errors import WireError
from freehold.domain.errors import PayloadTooLarge, Throttled, TooSlow

RECEIVE_TIMEOUT_S: Final = 30.0
"""How long the next part of a body may take to arrive."""
GRACE_S: Final = 10.0
MIN_BYTES_PER_S: Final = 1024
"""What a body has to come at, on an average from its beginning, once its grace is over."""
MAX_WAITING_BYTES: Final = 64 << 20
"""Of bodies that have not come whole: their callers are not known yet."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(Exception):
    """The client has closed its connection: nobody is there to be answered."""


class Waiting:
    """The bodies that have not come whole. When they are too large together, the largest gives way."""

    def __init__(self, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bodies: dict[_Body, int] = {}
        self._bytes = 0

    def take(self, body: _Body, part: bytes) -> None:
        """Keep `part`. Raises Throttled when `body` had to give way."""
        if body.gave_way:
            raise Throttled("Too many large requests are under way, please retry later")
        body.parts.append(part)
        self._bodies[body] = self._bodies.get(body, 0) + len(part)
        self._bytes += len(part)
        while self._bytes > self._max_bytes:
            largest = max(self._bodies, key=self._bodies.__getitem__)
            largest.gave_way = True
            largest.parts.clear()
            self.forget(largest)

    def forget(self, body: _Body) -> None:
        self._bytes -= self._bodies.pop(body, 0)


class _Body:
    __slots__ = ("gave_way", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.gave_way = False


class Exchange:
    """One request and its answer, over ASGI."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, waiting: Waiting) -> None:
        self._waiting = waiting
        self.request_id = str(uuid.uuid4())
        self.method: str = scope["method"]
        self.path: bytes = scope.get("raw_path") or scope["path"].encode()
        """As it was sent: percent-encoded, without the query."""
        self.query: bytes = scope["query_string"]
        self.headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self.operation = ""
        """Which operation this is, once that is known; and whose, once the caller has been recognised. Both are told
        to the gateway, which logs and counts, and takes them out of the answer."""
        self.account = ""
        self._receive = receive
        self._send = send

    def header(self, name: bytes) -> str | None:
        """The first value of the header `name` (lower case)."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises PayloadTooLarge beyond `limit` bytes, TooSlow, Throttled, ClientGone."""
        if self.header(b"content-length") in (None, "0") and self.header(b"transfer-encoding") is None:
            return b""
        body = _Body()
        try:
            async for part in self.parts(limit):
                self._waiting.take(body, part)
            if body.gave_way:
                self._waiting.take(body, b"")
        finally:
            self._waiting.forget(body)
        return body.parts[0] if len(body.parts) == 1 else b"".join(body.parts)

    async def parts(self, limit: int) -> AsyncGenerator[bytes]:
        """The body as it arrives; raises as `body` does."""
        said = self.header(b"content-length")
        if said is not None and said.isdecimal() and int(said) > limit:
            raise PayloadTooLarge(f"The request is larger than the maximum of {limit} bytes")
        size, more, began_at = 0, True, asyncio.get_running_loop().time()
        while more:
            try:
                async with asyncio.timeout(RECEIVE_TIMEOUT_S):
                    message = await self._receive()
            except TimeoutError:
                raise TooSlow(
                    f"The request's body did not arrive: nothing came for {RECEIVE_TIMEOUT_S:.0f} s"
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            if size > limit:
                raise PayloadTooLarge(f"The request is larger than the maximum of {limit} bytes")
            late_s = asyncio.get_running_loop().time() - began_at - GRACE_S
            if more and late_s > 0 and size < late_s * MIN_BYTES_PER_S:
                raise TooSlow(
                    f"The request's body comes too slowly: {size} bytes in {late_s + GRACE_S:.0f} s, at least "
                    f"{MIN_BYTES_PER_S} bytes/s are wanted"
                )
            yield part

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send the one answer; `headers` come beside the request id and the length."""
        sent = [
            *headers,
            (b"x-amzn-requestid", self.request_id.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        if self.operation:
            sent.append((b"x-freehold-operation", self.operation.encode()))
        if self.account:
            sent.append((b"x-freehold-account", self.account.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": sent})
        await self._send({"type": "http.response.body", "body": body})

    async def stream(
        self, headers: list[tuple[bytes, bytes]], parts: AsyncGenerator[bytes], over: asyncio.Event
    ) -> None:
        """Send a 200 whose body is `parts`, of unknown length. Sets `over` when the client has gone.

        The request's body must have been read.
        """
        sent = [*headers, (b"x-amzn-requestid", self.request_id.encode())]
        gone = asyncio.create_task(self._until_gone(over))
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": sent})
            async with contextlib.aclosing(parts):
                async for part in parts:
                    await self._send({"type": "http.response.body", "body": part, "more_body": True})
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _until_gone(self, over: asyncio.Event) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        over.set()

    async def answer_json(self, status: int, document: Any) -> None:
        await self.answer(status, [(b"content-type", b"application/json")], msgspec.json.encode(document))

    async def answer_error(self, error: WireError) -> None:
        """An error in the envelope of the REST-JSON protocol (spec section 0)."""
        document = {"message": error.message, **error.members}
        headers = [(b"content-type", b"application/json"), (b"x-amzn-errortype", error.code.encode()), *error.headers]
        await self.answer(error.status, headers, msgspec.json.encode(document))
