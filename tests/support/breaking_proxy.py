"""A way to a server that breaks: clients lose their connection once their request is sent, or its answer is there."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class BreakingProxy:
    """Passes requests on to `url`, a connection each. The first `breaks` clients are cut off: once the whole request
    is passed on, or with `after_answer` once the whole answer has come, of which they get nothing. The server is not
    told either way."""

    def __init__(self, url: str, *, breaks: int, after_answer: bool) -> None:
        self._to = urlsplit(url)
        self._breaks = breaks
        self._after_answer = after_answer
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="breaking-proxy", daemon=True)
        self.requests = 0
        self.url = ""

    def __enter__(self) -> BreakingProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()

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
