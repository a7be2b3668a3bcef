"""A load generator that costs little: one request, ready as bytes, sent again and again over a few connections.

Not for anything but throughput: it reads no more of an answer than its status and its length.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class LoadFailed(Exception):
    """An answer was not the expected one."""


def request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A POST as bytes."""
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def run(host: str, port: int, data: bytes, *, connections: int, requests: int) -> float:
    """Send `data` `requests` times, over `connections` at once; the seconds that took. Raises LoadFailed."""
    return uvloop.run(_run(host, port, data, connections, requests))


async def _run(host: str, port: int, data: bytes, connections: int, requests: int) -> float:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    load = _Load(data, requests, connections, done)
    began = time.perf_counter()
    made = [await loop.create_connection(lambda: _Client(load), host, port) for _ in range(connections)]
    try:
        await done
    finally:
        for transport, _ in made:
            transport.close()
    return time.perf_counter() - began


class _Load:
    def __init__(self, data: bytes, requests: int, connections: int, done: asyncio.Future[None]) -> None:
        self.data = data
        self.to_send = requests
        self.to_answer = requests
        self.done = done

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadFailed(why))


class _Client(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end + 2)
        if not self._buffer.startswith(b"HTTP/1.1 200 ") or length is None:
            self._load.fail(repr(self._buffer[:500]))
            return
        if len(self._buffer) < end + 4 + int(length[1]):
            return
        self._buffer = b""
        self._load.to_answer -= 1
        if self._load.to_answer == 0:
            self._load.done.set_result(None)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._load.to_answer:
            self._load.fail(f"a connection was closed: {exc}")

    def _next(self) -> None:
        if self._load.to_send:
            self._load.to_send -= 1
            self._transport.write(self._load.data)
