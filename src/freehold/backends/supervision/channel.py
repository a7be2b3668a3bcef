"""The warden's end of a socket to the launcher or to a supervisor: JSON messages, with descriptors, on an event loop.

Not for: what the messages say (`launcher`, `supervisor`). Invariant: every received descriptor is handed to exactly
one caller or closed here.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

MAX_MESSAGE_BYTES = 64 * 1024
MAX_DESCRIPTORS = 4


class Channel:
    """One SEQPACKET socket. `on_event` gets messages that answer no call; `on_close` is called once.

    `on_descriptor` gets those that carry a descriptor, and owns it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_event: Callable[[dict[str, Any]], None],
        on_close: Callable[[], None],
        on_descriptor: Callable[[dict[str, Any], int], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_event = on_event
        self._on_close = on_close
        self._on_descriptor = on_descriptor
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.closed = False
        self._loop.add_reader(sock, self._readable)

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send in order; the caller keeps its descriptors. Nothing when the other side has gone."""
        if self.closed:
            return
        # Copies, since a message may have to wait until the socket takes it.
        self._outgoing.append((json.dumps(message).encode(), tuple(os.dup(fd) for fd in fds)))
        if len(self._outgoing) == 1:
            self._writable()

    async def call(self, message: dict[str, Any], *, timeout_s: float) -> tuple[dict[str, Any], list[int]]:
        """Send with an id and wait for the message that bears it; the caller owns the descriptors.

        Raises ConnectionResetError when the other side goes, TimeoutError.
        """
        if self.closed:
            raise ConnectionResetError("the other process has gone")
        number = next(self._ids)
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = self._loop.create_future()
        self._waiting[number] = future
        self.send({**message, "id": number})
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except BaseException:
            # Given up; a reply that came in the same turn of the loop is dropped with its descriptors.
            if future.done() and not future.cancelled() and future.exception() is None:
                _close_all(future.result()[1])
            raise
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Close; calls that wait get ConnectionResetError."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        while self._outgoing:
            _close_all(self._outgoing.popleft()[1])
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the other process has gone"))
        self._on_close()

    def _writable(self) -> None:
        while self._outgoing:
            data, fds = self._outgoing[0]
            try:
                socket.send_fds(self._sock, [data], fds)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._writable)
                return
            except OSError:
                self.close()
                return
            self._outgoing.popleft()
            _close_all(fds)
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", list[int]()
        if not data:
            self.close()
            return
        message: dict[str, Any] = json.loads(data)
        if "id" not in message:
            if len(fds) == 1 and self._on_descriptor is not None:
                self._on_descriptor(message, fds[0])
                return
            _close_all(fds)
            self._on_event(message)
            return
        future = self._waiting.get(message["id"])
        if future is None or future.done():
            _close_all(fds)
        else:
            future.set_result((message, fds))


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
