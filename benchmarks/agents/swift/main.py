"""An agent that costs as little as Python allows, so that what stands before it is seen. Standard library only."""

from __future__ import annotations

import asyncio
import os

HEALTHY = b'{"status": "Healthy"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Echo(asyncio.Protocol):
    """Answers every POST with its own body. One request at a time on each connection, bodies by Content-Length."""

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        if head.startswith(b"GET"):
            self.answer(HEALTHY)
            return
        _, _, rest = head.lower().partition(b"\r\ncontent-length:")
        if len(body) >= int(rest.partition(b"\r\n")[0]):
            self.answer(body)

    def answer(self, body: bytes) -> None:
        self.buffer = b""
        self.transport.write(HEAD % len(body) + body)


async def main() -> None:
    loop = asyncio.get_running_loop()
    # 8080 is the contract's; the benchmarks run it bare beside, on another.
    server = await loop.create_server(Echo, "0.0.0.0", int(os.environ.get("BARE_PORT", "8080")))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
