"""An agent of events: {"id", "events", "every_s"} is answered by numbered events, {"die": true} by its death.

Standard library only, one thread for any number of streams.
"""

from __future__ import annotations

import asyncio
import json
import os
import re


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            if head.startswith(b"GET "):
                answer(writer, b'{"status": "Healthy"}')
            elif (told := json.loads(body)).get("die"):
                os._exit(3)
            elif "events" in told:
                await stream(writer, told)
            else:
                answer(writer, body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


async def stream(writer: asyncio.StreamWriter, told: dict) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(told["events"]):
        event = b"data: %b %d\n\n" % (told["id"].encode(), number)
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(told["every_s"])
    writer.write(b"0\r\n\r\n")


async def main() -> None:
    server = await asyncio.start_server(serve, "0.0.0.0", 8080, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
