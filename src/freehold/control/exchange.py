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
from freehold.domain.errors import FieldProblem, PayloadTooLarge, ValidationFailed

RECEIVE_TIMEOUT_S: Final = 30.0
"""How long the next part of a body may take to arrive."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(Exception):
    """The client has closed its connection: nobody is there to be answered."""


class Exchange:
    """One request and its answer, over ASGI."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        """The whole body. Raises PayloadTooLarge beyond `limit` bytes, ClientGone, ValidationFailed (too slow)."""
        parts = [part async for part in self.parts(limit)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def parts(self, limit: int) -> AsyncGenerator[bytes]:
        """The body as it arrives; raises as `body` does."""
        said = self.header(b"content-length")
        if said is not None and said.isdecimal() and int(said) > limit:
            raise PayloadTooLarge(f"The request is larger than the maximum of {limit} bytes")
        size, more = 0, True
        while more:
            try:
                async with asyncio.timeout(RECEIVE_TIMEOUT_S):
                    message = await self._receive()
            except TimeoutError:
                raise ValidationFailed(
                    f"The request's body did not arrive: nothing came for {RECEIVE_TIMEOUT_S:.0f} s",
                    reason="CannotParse",
                    fields=(FieldProblem("body", "incomplete"),),
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            if size > limit:
                raise PayloadTooLarge(f"The request is larger than the maximum of {limit} bytes")
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
