"""The access log: one line for each request, on stderr beside the server's own log.

Written by hand and not through structlog, whose processors would cost more than the rest of a small request. Not for
deciding what is logged (`gateway.observer`). Invariant: a line holds no header, no body, no query and no key.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

EVENT: Final = "request"
_FLUSH_BYTES: Final = 32 * 1024


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
        self._lines: list[str] = []
        self._size = 0
        self._second = -1
        self._stamp = ""

    def add(self, fields: dict[str, Any]) -> bool:
        """Take one line; True when it is the first since the last flush. Empty fields are left out."""
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        timestamp = f"{self._stamp}.{int((now - second) * 1e6):06d}Z"
        if self._json_lines:
            # In the order and with the names of `observe.logs`, so that one reader reads both.
            line = self._encode(
                {"process": self._process, **fields, "event": EVENT, "level": "info", "timestamp": timestamp}
            ).decode()
        else:
            told = " ".join([f"{name}={value}" for name, value in fields.items()])
            line = f"{timestamp} [info     ] {EVENT:<30} process={self._process} {told}"
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _FLUSH_BYTES:
            self.flush()
            return False
        return len(self._lines) == 1

    def flush(self) -> None:
        if self._lines:
            text = "\n".join(self._lines) + "\n"
            self._lines.clear()
            self._size = 0
            self._write(text)


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
