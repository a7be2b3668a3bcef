"""The access log: one line for each request, on stderr beside the server's own log.

Written by hand and not through structlog, whose processors would cost more than the rest of a small request. Not for
deciding what is logged (`gateway.observer`). Invariant: a line holds no header, no body, no query and no key.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

EVENT: Final = "request"
_FLUSH_BYTES: Final = 32 * 1024


class Line(msgspec.Struct, omit_defaults=True):
    """One line, in the order and with the names of `observe.logs`: one reader reads both. Defaults are left out."""

    process: str = ""
    method: str = ""
    operation: str = ""
    path: str = ""
    status: int = 0
    error: str = ""
    request_id: str = ""
    account: str = ""
    runtime_id: str = ""
    endpoint: str = ""
    session_id: str = ""
    generation: int = 0
    bytes_in: int | None = None
    bytes_out: int | None = None
    duration_ms: float | None = None
    first_byte_ms: float | None = None
    trace_id: str = ""
    broken_off: bool = False
    close_code: int = 0
    event: str = ""
    level: str = ""
    timestamp: str = ""


class AccessLog:
    """Lines of one process. `flush` is to be called a moment after `add` has said True, and at the end."""

    def __init__(
        self,
        *,
        process: str,
        json_lines: bool,
        write: Callable[[str], object] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._process = process
        self._json_lines = json_lines
        self._write = write or _to_stderr
        self._wall = wall
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._size = 0
        self._second = -1
        self._stamp = ""

    def add(self, line: Line) -> bool:
        """Take one line, and say in it what all lines say; True when it is the first since the last flush."""
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        timestamp = f"{self._stamp}{int((now - second) * 1e6):06d}Z"
        if self._json_lines:
            line.process, line.event, line.level, line.timestamp = self._process, EVENT, "info", timestamp
            told = self._encode(line)
        else:
            fields = " ".join([f"{name}={value}" for name, value in msgspec.to_builtins(line).items()])
            told = f"{timestamp} [info     ] {EVENT:<30} process={self._process} {fields}".encode()
        self._lines.append(told)
        self._size += len(told)
        if self._size >= _FLUSH_BYTES:
            self.flush()
            return False
        return len(self._lines) == 1

    def flush(self) -> None:
        if self._lines:
            self._lines.append(b"")
            text = b"\n".join(self._lines).decode()
            self._lines.clear()
            self._size = 0
            self._write(text)


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
