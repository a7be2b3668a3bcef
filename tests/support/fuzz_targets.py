"""What `./dev soak --fuzz` throws bytes at, each with a second reader (h11, `websockets`) that has to agree.

A target takes bytes and returns; what it raises is a finding: an error nobody expects, a different reading, or a
difference that the way makes on which the bytes came. What the gateway refuses is no finding: it may be stricter.
The corpora are in tests/data/fuzz, one input a line; the suite replays them.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import h11
import wire_corpus
from short_way import TRACED, USUAL, World, same
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol
from wire_parts import FakeHost, FakeTransport

from freehold.gateway import fast, framing, heads
from freehold.gateway.connection import ClientConnection
from freehold.gateway.exchange import Exchange
from freehold.gateway.upstream import Upstream
from freehold.gateway.websocket.frames import BadFrame, FrameFollower

CORPORA: Final = Path(__file__).resolve().parent.parent / "data" / "fuzz"
MAX_INPUT_BYTES: Final = 700
_END: Final = b"\r\n\r\n"
_H11_LIMIT: Final = 1 << 20


class Finding(AssertionError):
    """Two readings of the same bytes."""


class _NoVerdict(Exception):
    """h11 has a reason of its own to refuse."""


# -- heads and bodies ----------------------------------------------------------------------------------------------


def request_head(data: bytes) -> None:
    """A request's head."""
    head = data.partition(_END)[0] + _END
    try:
        ours = heads.parse_request(head)
    except heads.BadHead:
        return
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=_H11_LIMIT)
    reader.receive_data(_with_one_host(head))
    try:
        theirs = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise Finding(f"h11 refuses it: {error}") from error
    if not isinstance(theirs, h11.Request):
        raise Finding(f"h11 reads no request: {theirs!r}")
    _same("method", ours.method.encode(), bytes(theirs.method))
    _same("target", ours.raw_path + (b"?" + ours.raw_query if b"?" in theirs.target else b""), bytes(theirs.target))
    _same("version", b"1.0" if ours.is_http_1_0 else b"1.1", bytes(theirs.http_version))
    # Of the one transfer encoding there is, h11 tells the name in lower case.
    named = [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in _without_repeated_host(ours.headers)]
    _same("headers", named, [(bytes(n), bytes(v)) for n, v in theirs.headers])
    lengths = {int(v) for n, v in theirs.headers if n == b"content-length"}
    _same("length", {ours.content_length} - {None}, lengths)
    _same("chunked", ours.chunked, any(n == b"transfer-encoding" for n, _ in theirs.headers))


def chunks(data: bytes) -> None:
    """A chunked body, and what follows it."""
    whole, pieces = framing.Chunked(), framing.Chunked()
    used, content = _follow(whole, [data])
    _same("in pieces", (used, content), _follow(pieces, [data[at : at + 1] for at in range(len(data))]))
    if used < 0 or not whole.done:
        return
    reader = _client()
    reader.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    try:
        told = _read_answer(reader)
    except _NoVerdict:
        return
    _same("answer", (200, content, True), told)
    _same("rest", data[used:], reader.trailing_data[0])


def _follow(body: framing.Chunked, pieces: Iterable[bytes]) -> tuple[int, bytes]:
    body.content = []
    used = 0
    try:
        for piece in pieces:
            if body.done:
                break
            used += body.feed(piece)
    except framing.BadFraming:
        return -1, b""
    return used, b"".join(body.content) if body.done else b""


# -- connections ---------------------------------------------------------------------------------------------------


class _Recorder(FakeHost):
    """Answers everything, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, bytes, bytes]] = []

    async def handle(self, exchange: Exchange) -> None:
        parts: list[bytes] = []
        await exchange.read_body(parts.append)
        head = exchange.head
        self.asked.append((head.method, head.raw_path, b"".join(parts)))
        exchange.answer(200, [], b"")

    def ended(self, exchange: Exchange, *, whole: bool) -> None: ...


def client_connection(data: bytes) -> None:
    """All that a client sends on its connection."""
    _LOOP.run_until_complete(_client_connection(data))


async def _client_connection(data: bytes) -> None:
    asked, written = await _serve([data])
    size = 1 + len(data) // 60
    asked_in_pieces, written_in_pieces = await _serve([data[at : at + size] for at in range(0, len(data), size)])
    # Of an error's words some depend on where the bytes were cut; its status doesn't.
    _same("requests in pieces", asked, asked_in_pieces)
    _same("answers in pieces", [s for s, _ in _answers(written)], [s for s, _ in _answers(written_in_pieces)])
    for number, (ours, theirs) in enumerate(zip(asked, _requests_of_h11(data), strict=False)):
        if theirs is None:
            return
        _same(f"request {number}", ours, theirs)


async def _serve(pieces: Iterable[bytes]) -> tuple[list[tuple[str, bytes, bytes]], bytes]:
    host, transport = _Recorder(), FakeTransport()
    connection = ClientConnection(host)
    connection.connection_made(transport)
    for piece in pieces:
        connection.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return host.asked, transport.written


def _answers(written: bytes) -> list[tuple[int, bytes]]:
    return wire_corpus.answers(written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))


def _requests_of_h11(data: bytes) -> list[tuple[str, bytes, bytes] | None]:
    """What h11 reads; None where it stops for a reason of its own."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=_H11_LIMIT)
    while data.startswith(b"\r\n"):
        data = data[2:]
    reader.receive_data(data)
    found: list[tuple[str, bytes, bytes] | None] = []
    try:
        while True:
            request = reader.next_event()
            if not isinstance(request, h11.Request):
                break
            body = b""
            while isinstance(event := reader.next_event(), h11.Data):
                body += event.data
            if not isinstance(event, h11.EndOfMessage):
                break
            if request.method == b"CONNECT":
                return [*found, None]
            found.append((request.method.decode(), bytes(request.target).partition(b"?")[0], body))
            reader.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            reader.send(h11.EndOfMessage())
            if reader.our_state is not h11.DONE:
                return [*found, None]
            reader.start_next_cycle()
            if reader.trailing_data[0].startswith(b"\r\n"):
                return [*found, None]  # an empty line between requests, which h11 does not skip
    except h11.RemoteProtocolError as error:
        if "multiple Host" in str(error) or _is_space_before_extension(error):
            return [*found, None]
        return [*found, ("refused", str(error).encode(), b"")]
    return found


class _Sink:
    """Takes an answer of an agent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: heads.Headers = []
        self.content = b""
        self.ended = False
        self.failed = False
        self._framing: framing.Framing | None = None

    def response_head(self, head: heads.ResponseHead) -> None:
        self.status, self.headers, self._framing = head.status, head.headers, head.framing
        head.framing.content = []

    def response_body(self, raw: bytes) -> None:
        body = self._framing
        if body is not None and body.content is not None:
            self.content += b"".join(body.content)
            body.content.clear()

    def response_end(self) -> None:
        assert not self.ended
        assert not self.failed
        self.ended = True

    def response_failed(self, why: str) -> None:
        assert not self.ended
        assert not self.failed
        self.failed = True

    def upstream_writable(self) -> None: ...

    def told(self) -> tuple[int, heads.Headers, bytes]:
        return self.status, self.headers, self.content


def agent_connection(data: bytes) -> None:
    """All that an agent answers to one request, until it closes its connection."""
    ours, in_pieces = _hear([data]), _hear([data[at : at + 1] for at in range(len(data))])
    if not ours.ended and not ours.failed:
        raise Finding("neither an end nor a failure")
    _same("in pieces", ours.ended, in_pieces.ended)
    if not ours.ended:
        return
    _same("in pieces", ours.told(), in_pieces.told())
    reader = _client()
    reader.receive_data(data)
    reader.receive_data(b"")
    try:
        _same("answer", (ours.status, ours.content, True), _read_answer(reader))
    except _NoVerdict:
        return


def _hear(pieces: Iterable[bytes]) -> _Sink:
    sink, lost = _Sink(), list[Upstream]()
    upstream = Upstream(None, lost.append)  # pyright: ignore[reportArgumentType]
    transport = FakeTransport()
    upstream.connection_made(transport)
    upstream.begin(sink, "POST")
    for piece in pieces:
        if transport.ended:
            break
        upstream.data_received(piece)
    if not transport.ended:
        upstream.eof_received()
    upstream.connection_lost(None)
    return sink


# -- WebSocket frames ----------------------------------------------------------------------------------------------


def frames(data: bytes) -> None:
    """One direction of a WebSocket connection; the first byte says which, and the second reader is `websockets`."""
    if not data:
        return
    masked, data = bool(data[0] & 1), data[1:]
    passed, refused, follower = _let_through(masked, [data])
    in_pieces, refused_in_pieces, other = _let_through(masked, [data[at : at + 1] for at in range(len(data))])
    _same("in pieces", (passed, refused, follower.close_code), (in_pieces, refused_in_pieces, other.close_code))
    if not data.startswith(passed):
        raise Finding(f"something else was let through: {passed!r}")
    protocol = Protocol(SERVER if masked else CLIENT, state=OPEN, max_size=None)
    protocol.receive_data(passed)
    closed = protocol.close_rcvd
    if protocol.parser_exc is not None and not (closed and "incomplete fragmented message" in str(protocol.close_sent)):
        # It takes no Close frame between two fragments; RFC 6455 section 5.4 does.
        raise Finding(f"websockets refuses what was let through: {protocol.parser_exc!r}")
    _same("close code", follower.close_code, None if closed is None else closed.code)


def _let_through(masked: bool, pieces: Iterable[bytes]) -> tuple[bytes, int | None, FrameFollower]:
    follower = FrameFollower(masked=masked, max_payload_bytes=100_000)
    passed = b""
    for piece in pieces:
        try:
            passed += follower.feed(piece)
        except BadFrame as error:
            return passed + error.passed, error.code, follower
    return passed, None, follower


def _frame_seeds() -> list[bytes]:
    found: list[bytes] = []
    payloads = (b"", b"hello", b"x" * 126, b"\x03\xe8bye", b"\x03\xed", b"\xff")
    for first, payload, masked in itertools.product(range(256), payloads, (False, True)):
        if first & 0x0F in (0, 1, 2, 8, 9, 10) or (first < 16 and payload == b"hello"):
            length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2)
            head = bytes([first, length[0] | (0x80 if masked else 0)]) + length[1:]
            body = b"\0\0\0\0" + payload if masked else payload
            found.append(bytes([masked]) + head + body)
    whole = [data for data in found if data[1] in (0x81, 0x01, 0x00, 0x80, 0x89, 0x88)]
    return found + [one + other[1:] for one, other in itertools.product(whole, whole) if one[0] == other[0]]


# -- parts ---------------------------------------------------------------------------------------------------------


def _client() -> h11.Connection:
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=_H11_LIMIT)
    reader.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "0")]))
    reader.send(h11.EndOfMessage())
    return reader


def _read_answer(reader: h11.Connection) -> tuple[int, bytes, bool]:
    """Status, content, and whether the end came; raises _NoVerdict. What h11 refuses is a finding: we took it."""
    status, content = 0, b""
    try:
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, content, True
            elif not isinstance(event, h11.InformationalResponse):
                return status, content, False
    except h11.RemoteProtocolError as error:
        if _is_space_before_extension(error):
            raise _NoVerdict from error
        raise Finding(f"h11 refuses it: {error}") from error


def _is_space_before_extension(error: h11.RemoteProtocolError) -> bool:
    """White space may stand there (RFC 9112 section 7.1.1), but not for h11."""
    return re.search(r"illegal chunk header: bytearray\(b['\"][0-9A-Fa-f]+(?: |\\t)+;", str(error)) is not None


def _with_one_host(head: bytes) -> bytes:
    """h11 takes one Host header; the gateway also some that are alike."""
    lines = head.split(b"\r\n")
    hosts = [line for line in lines[1:] if line[:5].lower() == b"host:"]
    repeated = {id(line) for line in hosts[1:]}
    return b"\r\n".join(line for line in lines if id(line) not in repeated)


def _without_repeated_host(headers: heads.Headers) -> heads.Headers:
    found: heads.Headers = []
    for name, value in headers:
        if name != b"host" or all(other != b"host" for other, _ in found):
            found.append((name, value))
    return found


def _same(what: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise Finding(f"{what}: {ours!r}, and for h11 {theirs!r}")


_LOOP: Final = asyncio.new_event_loop()

# -- the short way ---------------------------------------------------------------------------------------------------


@functools.cache
def _both_forms() -> tuple[World, World]:
    return World(fast.load()), World(None)


def short_way(data: bytes) -> None:
    """A request of a session in use: the compiled form takes it as the one in Python does. Where there is only that,
    nothing is compared."""
    same(_both_forms(), data)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "request_head": request_head,
    "chunks": chunks,
    "client_connection": client_connection,
    "agent_connection": agent_connection,
    "frames": frames,
    "short_way": short_way,
}


# -- corpora -------------------------------------------------------------------------------------------------------


def load(target: str) -> list[bytes]:
    """The kept inputs of a target."""
    path = CORPORA / f"{target}.txt"
    if not path.exists():
        return []
    return [unescaped(line) for line in path.read_text().splitlines()]


def escaped(data: bytes) -> str:
    """One line of a corpus."""
    return data.decode("latin-1").encode("unicode_escape").decode("ascii")


def unescaped(line: str) -> bytes:
    return line.encode("ascii").decode("unicode_escape").encode("latin-1")


def store(target: str, inputs: Iterable[bytes]) -> int:
    """Keep these; how many they are."""
    lines = {escaped(data) for data in inputs}
    CORPORA.mkdir(exist_ok=True)
    in_order = sorted(lines, key=lambda line: (len(line), line))
    (CORPORA / f"{target}.txt").write_text("".join(f"{line}\n" for line in in_order))
    return len(lines)


def seeds(target: str) -> list[bytes]:
    """What to begin with when nothing is kept yet: the corpora of tests/data/wire."""
    requests = [case.data for case in wire_corpus.requests() if len(case.data) <= MAX_INPUT_BYTES]
    answers = [case.data for case in wire_corpus.agent_answers() if len(case.data) <= MAX_INPUT_BYTES]
    match target:
        case "chunks":
            bodies = [data.partition(_END)[2] for data in [*requests, *answers] if b"hunked" in data]
            return [body for body in bodies if body]
        case "agent_connection":
            return answers
        case "frames":
            return _frame_seeds()
        case "short_way":
            return [USUAL, TRACED, *requests]
        case _:
            return [data if data[:1].isupper() else b"POST / HTTP/1.1\r\nHost: a\r\n" + data for data in requests]
