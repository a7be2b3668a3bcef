"""Both ends of WebSockets for tests: a client that is signed for and may send any bytes, and an agent that says what a
test tells it to. Frames are those of `websockets`."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from gateway_stage import QUOTED_ARN, Agent, Stage, read_response, signed
from websockets.frames import Close, Frame, Opcode
from websockets.utils import accept_key, apply_mask

WS = f"/runtimes/{QUOTED_ARN}/ws"


def upgrade_headers(**changed: str | None) -> dict[str, str]:
    """A handshake's headers. `changed` by names with _ for -; None takes one away."""
    told = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    for name, value in changed.items():
        given = name.replace("_", "-").title().replace("Websocket", "WebSocket")
        told.pop(given, None)
        if value is not None:
            told[given] = value
    return told


def opening(
    path: str = WS,
    *,
    method: str = "GET",
    handshake: dict[str, str] | None = None,
    more: dict[str, str] | None = None,
    **options: Any,
) -> bytes:
    """A signed request to open a WebSocket, as bytes."""
    told = upgrade_headers() if handshake is None else handshake
    return signed(path, b"", method=method, unsigned={**told, **(more or {})}, framed=False, **options)


def masked(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=True)


def text(payload: bytes) -> bytes:
    return masked(Opcode.TEXT, payload)


def goodbye(code: int = 1000, reason: str = "") -> bytes:
    return masked(Opcode.CLOSE, Close(code, reason).serialize())


class Client:
    """A client whose connection is open."""

    def __init__(self, stage: Stage, request: bytes | None = None, *, receive_buffer: int | None = None) -> None:
        self.sock = stage.connect(receive_buffer=receive_buffer)
        self.sock.sendall(opening() if request is None else request)
        self.status, self.headers, self.body = read_response(self.sock)

    def __enter__(self) -> Client:
        assert self.status == 101, (self.status, self.body)
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def frame(self) -> Frame:
        """The next frame."""
        first, second = self.exactly(2)
        length = second
        if second > 125:
            length = int.from_bytes(self.exactly(2 if second == 126 else 8))
        return Frame(Opcode(first & 0xF), self.exactly(length), bool(first & 0x80))

    def said(self, payload: bytes) -> bytes:
        """What comes back for a text message."""
        self.send(text(payload))
        return bytes(self.frame().data)

    def closed(self) -> tuple[int, str]:
        """The code and reason that it is closed with next; the connection has ended after that."""
        frame = self.frame()
        assert frame.opcode is Opcode.CLOSE, frame
        close = Close.parse(frame.data)
        assert self.sock.recv(1) == b"", "nothing comes after a Close frame but the end"
        return close.code, close.reason

    def exactly(self, count: int) -> bytes:
        """So many bytes. Raises ConnectionError when the connection ends before."""
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise ConnectionError(f"the connection ended after {data!r}")
            data += part
        return data


class AgentSide:
    """An agent's end of a connection that is open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self.head = head
        self._reader = reader
        self._writer = writer

    async def frame(self) -> Frame:
        """The next frame."""
        first, second = await self._reader.readexactly(2)
        assert second & 0x80, "a frame to a server is masked"
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8))
        key = await self._reader.readexactly(4)
        payload = apply_mask(await self._reader.readexactly(length), key)
        return Frame(Opcode(first & 0xF), payload, bool(first & 0x80))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def say(self, payload: bytes) -> None:
        await self.send(Frame(Opcode.TEXT, payload).serialize(mask=False))

    async def close(self, code: int, reason: str = "") -> None:
        await self.send(Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False))

    async def ended(self) -> bool:
        """Waits until nothing more comes; whether nothing did."""
        return await self._reader.read() == b""


def accepting(handle: Callable[[AgentSide], Awaitable[None]], more: bytes = b"") -> Agent:
    """An agent that opens every WebSocket; `more` are headers of its answers."""

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
        assert key is not None
        accept = accept_key(key[1].decode()).encode()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, more)
        )
        await handle(AgentSide(reader, writer, head))

    return agent


async def echo(side: AgentSide) -> None:
    """Says what it is told, and closes as it is closed."""
    while True:
        frame = await side.frame()
        if frame.opcode is Opcode.PING:
            await side.send(Frame(Opcode.PONG, frame.data).serialize(mask=False))
            continue
        await side.send(Frame(frame.opcode, frame.data, frame.fin).serialize(mask=False))
        if frame.opcode is Opcode.CLOSE:
            return


async def tell_head(side: AgentSide) -> None:
    """Says how its handshake began."""
    await side.say(side.head)
    await echo(side)
