"""A way to a server that breaks: clients lose their connection once their request is sent, or its answer is there."""

from __future__ import annotations

import asyncio
import contextlib
import re
from urllib.parse import urlsplit

from loopback_server import LoopbackServer

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class BreakingProxy(LoopbackServer):
    """Passes requests on to `url`, a connection each. The first `breaks` clients are cut off: once the whole request
    is passed on, or with `after_answer` once the whole answer has come, of which they get nothing. The server is not
    told either way."""

    def __init__(self, url: str, *, breaks: int, after_answer: bool) -> None:
        super().__init__()
        self._to = urlsplit(url)
        self._breaks = breaks
        self._after_answer = after_answer
        self.requests = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer: asyncio.StreamWriter | None = None
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await _message(reader)
            self.requests += 1
            cut = self.requests <= self._breaks
            far_reader, far_writer = await asyncio.open_connection(self._to.hostname, self._to.port)
            far_writer.write(request)
            await far_writer.drain()
            if cut and not self._after_answer:
                writer.close()
            answer = await _message(far_reader)
            if not cut:
                writer.write(answer)
                await writer.drain()
        writer.close()
        if far_writer is not None:
            far_writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return head + await reader.readexactly(int(length[1]) if length else 0)
