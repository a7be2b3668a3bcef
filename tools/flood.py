"""Clients whose large bodies nobody wants: wrong signatures at full speed, and bodies of a byte now and then.

For the soak and its short form in the test suite. Not for what is measured meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field

CHUNK = b"\0" * 65536


@dataclass(slots=True)
class Told:
    """What the clients were told: how many answers of each status; `broken` counts connections that just ended."""

    answers: Counter[int] = field(default_factory=Counter[int])
    broken: int = 0
    sent_bytes: int = 0


class Flood:
    """Clients that go on until they are stopped."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._clients: list[asyncio.Task[None]] = []

    def add(self, count: int, head: bytes, *, size: int, piece: bytes = CHUNK, pause_s: float = 0) -> Told:
        """`count` more clients, each sending `head`, with its blank line, and `size` bytes of body in pieces.

        Returns what they will have been told.
        """
        told = Told()
        for _ in range(count):
            self._clients.append(asyncio.create_task(self._client(told, head, size, piece, pause_s)))
        return told

    async def aclose(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _client(self, told: Told, head: bytes, size: int, piece: bytes, pause_s: float) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            sending = asyncio.create_task(self._send(told, writer, head, size, piece, pause_s))
            try:
                status = await reader.readline()
                told.answers[int(status.split(b" ")[1])] += 1
            except (OSError, IndexError, ValueError):
                told.broken += 1
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                writer.transport.abort()

    async def _send(
        self, told: Told, writer: asyncio.StreamWriter, head: bytes, size: int, piece: bytes, pause_s: float
    ) -> None:
        with contextlib.suppress(OSError):
            writer.write(head)
            left = size
            while left:
                part = piece[:left]
                writer.write(part)
                await writer.drain()
                left -= len(part)
                told.sent_bytes += len(part)
                await asyncio.sleep(pause_s)
