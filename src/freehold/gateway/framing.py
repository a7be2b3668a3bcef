"""Where an HTTP/1.1 body ends: three ways to know, followed strictly over raw bytes.

For: request bodies, whose content is wanted, and response bodies, whose bytes are passed on as they are. Invariant:
`feed` never takes a byte beyond the body's end, and what one reader might take for a chunk and another might not is
refused (RFC 9112 section 7.1; never Python's `int(x, 16)`, which also takes `0x5`, `1_0` and `+5`).
"""

from __future__ import annotations

import re
from typing import Final, Protocol

MAX_LINE_BYTES: Final = 4096
"""Of a chunk's size line with its extensions, and of one trailer field."""
MAX_TRAILER_BYTES: Final = 16 * 1024

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION: Final = rb"[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?"
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*")
PLAIN_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
"""Of a chunk without extensions."""
_TRAILER: Final = re.compile(rb"(" + _TOKEN + rb"):[\t -~\x80-\xff]*")
_NO_TRAILERS: Final = re.compile(
    rb"transfer-encoding|content-(?:length|type|encoding|range)|host|connection|keep-alive|te|upgrade"
    rb"|authorization|proxy-.*|www-authenticate|cookie|set-cookie|cache-control|location|x-amzn-.*"
    rb"|access-control-.*",
    re.IGNORECASE,
)
"""What frames, routes, authenticates or rules an answer may not come after it (RFC 9110 section 6.5.1): a reader that
merges trailers into the head would believe what nobody has checked."""


class BadFraming(Exception):
    """The bytes are no body of this kind."""


class Framing(Protocol):
    """Follows one body."""

    done: bool
    """Whether the end has been seen."""
    content: list[bytes] | None
    """Set to a list to have the content collected there; whoever does empties it."""

    def feed(self, data: bytes) -> int:
        """Follow `data`; how many of its bytes belong to the body. Raises BadFraming."""
        ...


class Length:
    """A body of known length."""

    __slots__ = ("content", "done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.content: list[bytes] | None = None

    def feed(self, data: bytes) -> int:
        taken = min(self.left, len(data))
        self.left -= taken
        self.done = self.left == 0
        if self.content is not None and taken:
            self.content.append(data if taken == len(data) else data[:taken])
        return taken


class UntilClose:
    """A response body that ends with its connection. Whoever sees that end sets `done`."""

    __slots__ = ("content", "done")

    def __init__(self) -> None:
        self.done = False
        self.content: list[bytes] | None = None

    def feed(self, data: bytes) -> int:
        if self.content is not None:
            self.content.append(data)
        return len(data)


_SIZE, _DATA, _AFTER_DATA, _TRAILERS = range(4)


class Chunked:
    """A chunked body."""

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "content", "done", "max_chunk_bytes")

    def __init__(self) -> None:
        self.max_chunk_bytes = 1 << 60
        self._state = _SIZE
        self._left = 0
        self._line = b""
        self._trailer_bytes = 0
        self.done = False
        self.content: list[bytes] | None = None

    @property
    def between_chunks(self) -> bool:
        """Whether another chunk may be put in after what has been followed."""
        return self._state == _SIZE and not self._line

    def feed(self, data: bytes) -> int:
        position, end = 0, len(data)
        while position < end and not self.done:
            if self._state == _DATA:
                taken = min(self._left, end - position)
                if self.content is not None:
                    self.content.append(data[position : position + taken])
                position += taken
                self._left -= taken
                if not self._left:
                    self._state = _AFTER_DATA
                continue
            newline = data.find(b"\n", position, position + MAX_LINE_BYTES + 1)
            if newline < 0:
                self._line += data[position : position + MAX_LINE_BYTES + 1]
                if len(self._line) > MAX_LINE_BYTES:
                    raise BadFraming("a line of the chunked body is too long")
                return end
            line = self._line + data[position:newline] if self._line else data[position:newline]
            self._line = b""
            position = newline + 1
            if line[-1:] != b"\r" or len(line) > MAX_LINE_BYTES:
                raise BadFraming("a line of the chunked body does not end as it must")
            self._take_line(line[:-1])
        return position

    def _take_line(self, line: bytes) -> None:
        if self._state == _SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise BadFraming("a chunk's size is not a hexadecimal number")
            self._left = int(match[1], 16)
            if self._left > self.max_chunk_bytes:
                raise BadFraming(f"a chunk has more than {self.max_chunk_bytes} bytes")
            self._state = _DATA if self._left else _TRAILERS
        elif self._state == _AFTER_DATA:
            if line:
                raise BadFraming("a chunk is longer than its size")
            self._state = _SIZE
        elif not line:
            self.done = True
        else:
            self._trailer_bytes += len(line)
            trailer = _TRAILER.fullmatch(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES or trailer is None or _NO_TRAILERS.fullmatch(trailer[1]):
                raise BadFraming("a trailer field is not one")
