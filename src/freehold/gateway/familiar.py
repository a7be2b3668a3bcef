"""Heads like those that came before: read as `heads` reads them, for a part of the cost.

Clients say the same things again and again: the same first line, names of headers in the same order, the same host.
What of a head has been found right before is recognised by its bytes; what is new in it is read. What is not recognised
is left to llhttp, and in the end to `heads`. Invariant: a head is read here as `heads` would read it,
or not at all; what is remembered is bounded, and holds no value of a request's but of Host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import httptools

from freehold.gateway import framing, heads
from freehold.gateway.heads import Headers, RequestHead, ResponseHead

MAX_FIRST_LINES: Final = 1024
MAX_FIRST_LINE_BYTES: Final = 1024
MAX_SHAPES: Final = 256
MAX_SHAPE_HEADERS: Final = 64
MAX_SHAPE_BYTES: Final = 2048
MAX_HOSTS: Final = 256
MAX_HOST_BYTES: Final = 255
MAX_RESPONSES: Final = 128
MAX_RESPONSE_BYTES: Final = 512

_VALUE: Final = rb"[\t -~\x80-\xff]*"
_FRAMES_OTHERWISE: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
_KEEP_ALIVE: Final = frozenset({b"keep-alive", b"Keep-Alive"})

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """What was used lately: up to twice `size` entries, of which those that were not used for long go."""

    __slots__ = ("_older", "_size", "newer")

    def __init__(self, size: int) -> None:
        self._size = size
        self.newer: dict[K, V] = {}
        self._older: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        found = self.newer.get(key)
        if found is None and self._older:
            found = self._older.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        if len(self.newer) >= self._size:
            self._older, self.newer = self.newer, {}
        self.newer[key] = value


class FirstLine:
    """A request line of HTTP/1.1."""

    __slots__ = ("method", "raw_path", "raw_query", "shape")

    def __init__(self, head: RequestHead, shape: Shape) -> None:
        self.method = head.method
        self.raw_path = head.raw_path
        self.raw_query = head.raw_query
        self.shape = shape
        """That of the last head with this line: probably that of the next."""


class Shape:
    """The names of a head's headers, each there once, and where those are that say how the head is to be read."""

    __slots__ = ("as_sent", "compiled", "connection", "host", "length", "line_ends", "names", "pattern")

    def __init__(self, as_sent: tuple[bytes, ...]) -> None:
        self.as_sent = as_sent
        self.names = names = tuple(name.lower() for name in as_sent)
        lines = b"".join([re.escape(name) + b":[ \t]*(" + _VALUE + b")\r\n" for name in as_sent])
        self.pattern = re.compile(lines + b"\r\n")
        """Header lines of this shape. What follows a name has no control characters: the end of a line is certain."""
        self.line_ends = len(names) + 2
        self.host = names.index(b"host")
        self.length = names.index(b"content-length") if b"content-length" in names else -1
        self.connection = names.index(b"connection") if b"connection" in names else -1
        self.compiled: object = None
        """What `fastpath` has made of it."""


class FamiliarHead(RequestHead):
    """A head that was recognised. `values` are as received, in the order of the shape's names."""

    __slots__ = ("first", "shape", "values")

    def __init__(self, first: FirstLine, shape: Shape, values: Sequence[bytes], content_length: int | None) -> None:
        self.method = first.method
        self.raw_path = first.raw_path
        self.raw_query = first.raw_query
        self.is_http_1_0 = False
        self.content_length = content_length
        self.chunked = False
        self.keep_alive = True
        self.expects_continue = False
        self.first = first
        self.shape = shape
        self.values = values
        self._headers = None

    def _read_headers(self) -> Headers:
        values = [value.rstrip(heads.OWS) for value in self.values]
        return list(zip(self.shape.names, values, strict=True))


class KnownResponse:
    """How the head of a response is read. `length` is that of its body; None when it comes in chunks."""

    __slots__ = ("headers", "keep_alive", "kept", "length", "length_line", "status")

    def __init__(self, head: ResponseHead, length: int | None) -> None:
        self.status = head.status
        self.headers = head.headers
        self.keep_alive = head.keep_alive
        self.kept = head.kept
        self.length = length
        self.length_line = b"" if length is None else b"content-length: %d\r\n" % length


class _Fields:
    """What llhttp tells, to be set before each use. It asks for each name once, and it costs if one is not there."""

    on_header: Callable[[bytes, bytes], object] | None = None
    on_url = on_status = on_body = None
    on_message_begin = on_headers_complete = on_message_complete = on_chunk_header = on_chunk_complete = None


class Reader:
    """Reads heads, and remembers how."""

    def __init__(self) -> None:
        self.first_lines: dict[bytes, FirstLine] = {}
        self._shapes: dict[tuple[bytes, ...], Shape] = {}
        self.hosts: set[bytes] = set()
        self._responses: Recent[bytes, KnownResponse] = Recent(MAX_RESPONSES)
        self._fields = _Fields()
        self.known_response = self._responses.get
        """How the head of a response to a POST is read, if it has been read before."""

    def read_response(self, data: bytes, *, request_method: str) -> ResponseHead:
        """Read a response's head, as heads.parse_response does. Raises BadResponse."""
        found = self._responses.get(data) if request_method == "POST" else None
        if found is not None:
            body = framing.Chunked() if found.length is None else framing.Length(found.length)
            return ResponseHead(found.status, found.headers, body, keep_alive=found.keep_alive, kept=found.kept)
        head = heads.parse_response(data, request_method=request_method)
        body = head.framing
        if request_method == "POST" and head.status == 200 and len(data) <= MAX_RESPONSE_BYTES:
            if isinstance(body, framing.Length):
                self._responses.put(data, KnownResponse(head, body.left))
            elif isinstance(body, framing.Chunked):
                self._responses.put(data, KnownResponse(head, None))
        return head

    def read(self, data: bytes) -> RequestHead:
        """Read a head, with its blank line. Raises BadHead."""
        head = self.recognise(data)
        if head is not None:
            return head
        read = heads.parse_request(data)
        self._remember(data, data[: data.find(b"\n") + 1], read)
        return read

    def recognise(self, data: bytes) -> FamiliarHead | None:
        """As `read`, but only a head that is like those before."""
        line_end = data.find(b"\n") + 1
        first = self.first_lines.get(data[:line_end])
        if first is None:
            return None
        shape = first.shape
        match = shape.pattern.fullmatch(data, line_end)
        if match is not None:
            return self._familiar(first, shape, match.groups())
        fields = self._as_llhttp_reads(data)
        if fields is None:
            return None
        found = self._shapes.get(tuple(fields))
        if found is None or found.line_ends != data.count(b"\n"):
            return None
        first.shape = found
        return self._familiar(first, found, tuple(fields.values()))

    def _as_llhttp_reads(self, data: bytes) -> dict[bytes, bytes] | None:
        """Names as sent, and values. Of a name that is there twice the first value stays; the number of lines tells."""
        fields: dict[bytes, bytes] = {}
        self._fields.on_header = fields.setdefault
        try:
            httptools.HttpRequestParser(self._fields).feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        return fields

    def _familiar(self, first: FirstLine, shape: Shape, values: Sequence[bytes]) -> FamiliarHead | None:
        if values[shape.host] not in self.hosts:
            return None
        if shape.connection >= 0 and values[shape.connection] not in _KEEP_ALIVE:
            return None
        if shape.length < 0:
            return FamiliarHead(first, shape, values, None)
        length = values[shape.length]
        if not length.isdigit() or len(length) > heads.MAX_LENGTH_DIGITS:
            return None
        return FamiliarHead(first, shape, values, int(length))

    def _remember(self, data: bytes, line: bytes, head: RequestHead) -> None:
        """`head` has been read strictly: recognise the like of it from now on."""
        if head.is_http_1_0 or len(head.headers) > MAX_SHAPE_HEADERS:
            return
        names = tuple(name for name, _ in head.headers)
        if len(set(names)) != len(names) or not _FRAMES_OTHERWISE.isdisjoint(names):
            return
        fields = self._as_llhttp_reads(data)
        if fields is None:
            return
        as_sent = tuple(fields)
        host = fields[as_sent[names.index(b"host")]]
        if len(line) > MAX_FIRST_LINE_BYTES or len(host) > MAX_HOST_BYTES or sum(map(len, names)) > MAX_SHAPE_BYTES:
            return
        for memory, most in (
            (self.first_lines, MAX_FIRST_LINES),
            (self._shapes, MAX_SHAPES),
            (self.hosts, MAX_HOSTS),
        ):
            if len(memory) >= most:
                memory.clear()
        # What is remembered stays the same object: seats are found by it.
        shape = self._shapes.get(as_sent)
        if shape is None:
            shape = self._shapes[as_sent] = Shape(as_sent)
        self.first_lines.setdefault(line, FirstLine(head, shape)).shape = shape
        self.hosts.add(host)
