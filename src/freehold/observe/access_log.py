"""The access log: one line for each request, on stderr beside the server's own log.

Written by hand and not through structlog, whose processors would cost more than the rest of a small request. Not for
deciding what is logged (`gateway.observer`). Invariant: a line holds no header, no body, no query and no key.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from copy import copy
from typing import Final

import msgspec

EVENT: Final = "request"
FLUSH_LINES: Final = 64
_ANY: Final = "00000000-0000-0000-0000-000000000000"
"""In the place of a request id."""


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


class Alike:
    """What lines have in common that differ in nothing but what `AccessLog.add_alike` is given."""

    __slots__ = ("after_id", "before_id", "line")

    def __init__(self, line: Line, process: str) -> None:
        """`line` has all but that."""
        self.line = line
        line.process, line.request_id = process, _ANY
        encoded = msgspec.json.encode(line).decode()
        self.before_id, _, rest = encoded.partition(_ANY)
        self.after_id = rest[:-1]


_Told = tuple[Alike, str, int, int, float, str, float]
"""What `add_alike` is given, and when."""


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
        self.json_lines = json_lines
        self._write = write or _to_stderr
        self.wall = wall
        self._encode = msgspec.json.Encoder().encode
        self.lines: list[str | _Told] = []
        self._second = -1
        self._stamp = ""

    def add(self, line: Line) -> bool:
        """Take one line, and say in it what all lines say; True when it is the first since the last flush."""
        now = self.wall()
        if not self.json_lines:
            return self.add_written(self._as_text(line, now))
        line.process, line.event, line.level, line.timestamp = self._process, EVENT, "info", self._timestamp(now)
        return self.add_written(self._encode(line).decode())

    def alike(self, line: Line) -> Alike:
        """Make lines like `line` with `add_alike`."""
        return Alike(line, self._process)

    def add_alike(
        self, alike: Alike, request_id: str, bytes_in: int, bytes_out: int, duration_ms: float, trace_id: str
    ) -> bool:
        """As `add`, of a request that was answered at once."""
        return self.add_written((alike, request_id, bytes_in, bytes_out, duration_ms, trace_id, self.wall()))

    def _written(self, told: _Told) -> str:
        alike, request_id, bytes_in, bytes_out, duration_ms, trace_id, now = told
        if not self.json_lines:
            line = copy(alike.line)
            line.process, line.request_id, line.trace_id = "", request_id, trace_id
            line.bytes_in, line.bytes_out = bytes_in, bytes_out
            line.duration_ms = line.first_byte_ms = duration_ms
            return self._as_text(line, now)
        # As msgspec writes them: nothing that differs needs an escape.
        return (
            f'{alike.before_id}{request_id}{alike.after_id},"bytes_in":{bytes_in},"bytes_out":{bytes_out},'
            f'"duration_ms":{duration_ms},"first_byte_ms":{duration_ms},"trace_id":"{trace_id}",'
            f'"event":"{EVENT}","level":"info","timestamp":"{self._timestamp(now)}"}}'
        )

    def _as_text(self, line: Line, now: float) -> str:
        fields = " ".join([f"{name}={value}" for name, value in msgspec.to_builtins(line).items()])
        return f"{self._timestamp(now)} [info     ] {EVENT:<30} process={self._process} {fields}"

    def _timestamp(self, now: float) -> str:
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = stamp(second)
        return f"{self._stamp}{int((now - second) * 1e6):06d}Z"

    def add_written(self, told: str | _Told) -> bool:
        """As `add`, of a line that says all it has to."""
        self.lines.append(told)
        waiting = len(self.lines)
        if waiting >= FLUSH_LINES:
            self.flush()
            return False
        return waiting == 1

    def flush(self) -> None:
        if self.lines:
            # One after the other here costs less than each between other work.
            lines = [told if isinstance(told, str) else self._written(told) for told in self.lines]
            self.lines.clear()
            lines.append("")
            self._write("\n".join(lines))


def stamp(second: int) -> str:
    """The second as lines tell it, up to the fraction."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
