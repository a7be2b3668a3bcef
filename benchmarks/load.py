"""Several callers at once, each of which sends its next request when it has its answer: how many answers in a second.

For: rates of whole servers. What is sent is bytes made beforehand, and no more of an answer is read than its status and
its length, so that the client takes little of the machine. Not for the duration of one request. Invariant: every answer
is a success and whole, and a server that closes its connections after each answer is not held up by that.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_SUCCESS = (b"HTTP/1.1 200 ", b"HTTP/1.1 202 ", b"HTTP/1.0 200 ", b"HTTP/1.0 202 ")


class LoadFailed(Exception):
    """An answer was not the expected one."""


def request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def run(address: str, requests: Sequence[bytes], *, callers: int) -> float:
    """Send every one of `requests` once to host:port, by so many callers; the seconds that took. Raises LoadFailed."""
    host, _, port = address.rpartition(":")
    return uvloop.run(_run(host, int(port), requests, callers))


async def _run(host: str, port: int, requests: Sequence[bytes], callers: int) -> float:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    load = _Load(host, port, requests, done)
    made = [_Caller(load) for _ in range(callers)]
    for caller in made:
        await caller.connect()
    began = time.perf_counter()
    for caller in made:
        caller.send_next()
    try:
        await done
    finally:
        for caller in made:
            caller.transport.abort()
    return time.perf_counter() - began


class _Load:
    def __init__(self, host: str, port: int, requests: Sequence[bytes], done: asyncio.Future[None]) -> None:
        self.host, self.port, self.done = host, port, done
        self.to_send = iter(requests)
        self.to_answer = len(requests)
        self.connecting: set[asyncio.Task[None]] = set()

    def answered(self) -> None:
        self.to_answer -= 1
        if self.to_answer == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(LoadFailed(why))


class _Caller(asyncio.Protocol):
    """One caller, with a connection at a time."""

    transport: asyncio.Transport

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._waits = False
        self._buffer = bytearray()

    async def connect(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, self._load.host, self._load.port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def send_next(self) -> None:
        data = next(self._load.to_send, None)
        if data is not None:
            self._waits = True
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end + 2)
        if not self._buffer.startswith(_SUCCESS) or length is None:
            self._load.fail(repr(bytes(self._buffer[:500])))
            return
        if len(self._buffer) < end + 4 + int(length[1]):
            return
        closes = self._buffer.startswith(b"HTTP/1.0") or _CLOSES.search(self._buffer, 0, end + 2) is not None
        self._buffer.clear()
        self._waits = False
        self._load.answered()
        if closes:
            self.transport.close()
            self._again()
        else:
            self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waits and not self._load.done.done():
            self._load.fail(f"a connection was closed before its answer: {exc}")

    def _again(self) -> None:
        async def connect_and_send() -> None:
            await self.connect()
            self.send_next()

        task = asyncio.create_task(connect_and_send())
        self._load.connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._load.connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._load.fail(f"a caller could not connect again: {error}")
