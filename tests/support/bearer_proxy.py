"""For clients that can't be told of a token or a path: each connection carries one request, to which both are added."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import urlsplit

from loopback_server import LoopbackServer


class BearerProxy(LoopbackServer):
    """Passes what comes on a port of its own on to `url`, with a `token`. Use as a context manager.

    `saw` is told the head of each answer, in lower case.
    """

    def __init__(self, url: str, token: Callable[[], str], saw: Callable[[str], None] = lambda _head: None) -> None:
        super().__init__()
        self._to = urlsplit(url)
        self._token = token
        self._saw = saw

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
            kept = [line for line in lines if not line.lower().startswith(("connection:", "keep-alive:"))]
            token = await asyncio.to_thread(self._token)
            added = [f"Authorization: Bearer {token}", "Connection: close"]
            target = f"{first.split(' ')[0]} {self._to.path} HTTP/1.1"
            far_reader, far_writer = await asyncio.open_connection(self._to.hostname, self._to.port)
            far_writer.write("\r\n".join([target, *kept, *added]).encode("latin-1") + b"\r\n\r\n")
            sending = asyncio.create_task(_pipe(reader, far_writer))
            head = await far_reader.readuntil(b"\r\n\r\n")
            self._saw(head.decode("latin-1").lower())
            writer.write(head)
            await _pipe(far_reader, writer)
            sending.cancel()
            far_writer.close()
        writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
