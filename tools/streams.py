"""Many streams of events at once through a server, each event checked; for the soak, and for tests of reloads.

The agent is tools/agents/ticker. Every stream has an id of its own, and each of its events says it and a number: what
comes from another stream, twice, or not at all is seen, and so is an end that is none. Not for measuring.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import socket
import struct
import time
import uuid
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tools import calls

STALL_S = 30.0
"""Without an event that is due every now and then."""


class StreamFailed(Exception):
    """A stream was not what it had to be. The message says how."""


class _Cut(Exception):
    """A stream ended before its end."""


@dataclass
class Load:
    """Streams and requests of many clients. Times are in seconds of time.monotonic."""

    caller: calls.Caller
    arn: str
    sessions: list[str]
    may_be_cut: bool = False
    """Whether agents die on purpose."""
    leave: float = 0.0
    """The share of clients that leave in the middle."""
    events: int = 40
    every_s: float = 0.5
    begin_within_s: float = 5.0
    until: float = 0.0
    tally: collections.Counter[str] = field(default_factory=collections.Counter[str])
    open_now: int = 0
    longest_gap_s: float = 0.0
    _chance: random.Random = field(default_factory=lambda: random.Random(11))

    async def streams(self, count: int) -> None:
        """`count` streams at once, again and again until the time is up. Raises StreamFailed (in a group)."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._streaming(number))

    async def requests(self, count: int) -> None:
        """`count` clients that ask and wait, on connections that they keep."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._asking(number))

    async def dying(self, every_s: float) -> None:
        """One agent after another is told to die."""
        while time.monotonic() < self.until:
            await asyncio.sleep(every_s)
            session = self._chance.choice(self.sessions)
            reader, writer = await self._connect()
            try:
                writer.write(self._request(json.dumps({"die": True}).encode(), session))
                await reader.read(1)  # an answer, or an end
                self.tally["deaths"] += 1
            finally:
                writer.close()

    # -- one client -------------------------------------------------------------------------------------------------

    async def _streaming(self, number: int) -> None:
        await asyncio.sleep(self._chance.random() * self.begin_within_s)
        while time.monotonic() < self.until:
            session = self.sessions[number % len(self.sessions)]
            try:
                await self._stream(session)
            except _Cut as cut:
                if not self.may_be_cut:
                    raise StreamFailed(str(cut)) from cut
                self.tally["cut"] += 1
                await asyncio.sleep(self._chance.random())

    async def _stream(self, session: str) -> None:
        name = uuid.uuid4().hex
        leaves_at = self._chance.randrange(self.events) if self._chance.random() < self.leave else None
        body = json.dumps({"id": name, "events": self.events, "every_s": self.every_s}).encode()
        reader, writer = await self._connect()
        self.open_now += 1
        try:
            writer.write(self._request(body, session))
            await self._expect_head(reader)
            for number in range(self.events):
                if number == leaves_at:
                    self.tally["left"] += 1
                    self._leave(writer)
                    return
                await self._expect_event(reader, b"data: %b %d\n\n" % (name.encode(), number))
            if await self._line(reader) != b"0\r\n" or await self._line(reader) != b"\r\n":
                raise StreamFailed("a stream ends otherwise than its agent ended it")
            self.tally["whole"] += 1
        finally:
            self.open_now -= 1
            writer.close()

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        if self._chance.random() < 0.5:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _expect_head(self, reader: asyncio.StreamReader) -> None:
        status = await self._line(reader)
        head = status
        while (line := await self._line(reader)) != b"\r\n":
            head += line
        if status.startswith(b"HTTP/1.1 200 "):
            return
        if not self.may_be_cut or status[9:12] not in (b"424", b"409"):
            raise StreamFailed(f"{head.decode()}{(await reader.read()).decode()}")
        raise _Cut("its agent died before it had begun")

    async def _expect_event(self, reader: asyncio.StreamReader, event: bytes) -> None:
        began = time.monotonic()
        size = await self._line(reader)
        if size != b"%x\r\n" % len(event):
            raise StreamFailed(f"in place of the event {event!r} came {size!r}")
        told = await self._line(reader), await self._line(reader), await self._line(reader)
        if b"".join(told) != event + b"\r\n":
            raise StreamFailed(f"in place of the event {event!r} came {told!r}")
        self.tally["events"] += 1
        self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - began)

    async def _asking(self, number: int) -> None:
        while time.monotonic() < self.until:
            reader, writer = await self._connect()
            try:
                while time.monotonic() < self.until:
                    body = json.dumps({"say": uuid.uuid4().hex}).encode()
                    writer.write(self._request(body, self.sessions[number % len(self.sessions)]))
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += await self._line(reader)
                    if not head.startswith(b"HTTP/1.1 200 ") or await reader.readexactly(len(body)) != body:
                        raise StreamFailed(f"a request was not answered with its body: {head!r}")
                    self.tally["requests"] += 1
                    if b"\r\nconnection: close\r\n" in head:
                        break
            except _Cut as cut:
                raise StreamFailed("a connection was closed that was to be kept") from cut
            finally:
                writer.close()

    # -- parts ------------------------------------------------------------------------------------------------------

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        at = urlsplit(self.caller.url)
        return await asyncio.open_connection(at.hostname, at.port)

    def _request(self, body: bytes, session: str) -> bytes:
        path = calls.invocation(self.arn)
        headers = {"Content-Type": "application/json", calls.SESSION_HEADER: session}
        signed = self.caller.signed("POST", path, body, headers) | {"Content-Length": str(len(body))}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in signed.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    @staticmethod
    async def _line(reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(STALL_S):
                line = await reader.readline()
        except TimeoutError:
            raise StreamFailed(f"nothing came for {STALL_S:g} s") from None
        except ConnectionError as error:
            raise _Cut("it was reset") from error
        if not line.endswith(b"\n"):
            raise _Cut("it ended before its end")
        return line
