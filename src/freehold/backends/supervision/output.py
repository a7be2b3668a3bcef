"""What an agent prints, read from its pipes line by line.

For: every backend that starts processes. Not for: keeping it (`warden.output`). Invariant: memory and time spent on
one agent's output are bounded, however much it prints: beyond the bound its pipe fills, and it waits.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable

MAX_LINE_BYTES = 8 * 1024
TAIL_LINES = 64
TAIL_BYTES = 8 * 1024
READ_BYTES = 64 * 1024
MAX_PIPE_BYTES = 1024 * 1024
"""What a pipe holds at the most, as Linux has it for ordinary users."""
BYTES_PER_TURN = 1024 * 1024
"""What is read of one session within TURN_S."""
TURN_S = 1.0
FULL_PAUSE_S = 0.1

OnLine = Callable[[int, str, str], bool | None]
"""(generation, "stdout" or "stderr", line without its end). False: it is taken, but read no more for a moment."""


class Output:
    """The output of one session. Owns the descriptors it is given."""

    def __init__(self, generation: int, on_line: OnLine) -> None:
        self._generation = generation
        self._on_line = on_line
        self._loop = asyncio.get_running_loop()
        self._partial: dict[int, tuple[str, bytearray]] = {}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._read_this_turn = 0
        self._is_full = False
        """Whoever keeps the lines can't take more just now."""
        self._turn: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()

    def read_from(self, fd: int, stream: str) -> None:
        """Begin to read the pipe `fd`."""
        os.set_blocking(fd, False)
        self._partial[fd] = stream, bytearray()
        self._loop.add_reader(fd, self._readable, fd)

    def tail(self) -> str:
        """The last lines, at most TAIL_BYTES."""
        text = "\n".join(self._tail).encode("utf-8", "replace")[-TAIL_BYTES:]
        return text.decode("utf-8", "ignore")

    async def drained(self, timeout_s: float) -> None:
        """Wait until the agent's ends of the pipes are closed and all is read, but not longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._drained.wait()
        except TimeoutError:
            # Somebody who outlives the agent holds the pipe, or there is more than we read so fast.
            self._read_rest()

    def close(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
        self._read_rest()
        for fd in list(self._partial):
            self._end(fd)

    def _readable(self, fd: int) -> None:
        if not self._read_once(fd):
            return
        if self._turn is None:
            self._turn = self._loop.call_later(FULL_PAUSE_S if self._is_full else TURN_S, self._next_turn)
        if self._is_full or self._read_this_turn >= BYTES_PER_TURN:
            for other in self._partial:
                self._loop.remove_reader(other)

    def _read_rest(self) -> None:
        """What is in the pipes just now: what an agent wrote before it ended is not to be lost."""
        for fd in list(self._partial):
            for _ in range(MAX_PIPE_BYTES // READ_BYTES):
                if not self._read_once(fd):
                    break

    def _read_once(self, fd: int) -> bool:
        """Read a part of a pipe; False when nothing is there or it has ended."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._end(fd)
            return False
        stream, partial = self._partial[fd]
        partial += data
        *lines, rest = partial.split(b"\n")
        for line in lines:
            self._told(stream, line)
        while len(rest) > MAX_LINE_BYTES:
            self._told(stream, rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        self._partial[fd] = stream, rest
        self._read_this_turn += len(data)
        return True

    def _next_turn(self) -> None:
        self._turn = None
        self._read_this_turn = 0
        self._is_full = False
        for fd in self._partial:
            self._loop.add_reader(fd, self._readable, fd)

    def _end(self, fd: int) -> None:
        stream, partial = self._partial.pop(fd)
        self._loop.remove_reader(fd)
        os.close(fd)
        if partial:
            self._told(stream, partial)
        if not self._partial:
            self._drained.set()

    def _told(self, stream: str, line: bytes | bytearray) -> None:
        for start in range(0, max(1, len(line)), MAX_LINE_BYTES):
            text = bytes(line[start : start + MAX_LINE_BYTES]).decode("utf-8", "replace").rstrip("\r")
            self._tail.append(text)
            if self._on_line(self._generation, stream, text) is False:
                self._is_full = True
