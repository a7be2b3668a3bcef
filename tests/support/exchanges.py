"""Generated exchanges between a client and an agent: what each says, byte for byte, and how it ends.

Pure: a seed gives the same exchanges everywhere. Not for moving them (integration/gateway/test_gateway_exchanges).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

EXCHANGE_HEADER: Final = "X-Exchange"
"""Says which of the exchanges a request belongs to."""
MAX_BODY_BYTES: Final = 400_000
_READ_AHEAD_BYTES: Final = 64 * 1024
"""What an agent's kernel and library take of a body that nobody reads, at the least."""
_EXTENSIONS: Final = (b"", b"", b"", b";a", b";name=value", b' ; q="a \\" b"')
_TRAILERS: Final = (b"", b"", b"X-Checksum: 1234\r\n", b"Digest: a\r\nX-Empty:\r\n")
_CONTENT_TYPES: Final = (b"application/json", b"text/event-stream", b"application/octet-stream")


class Framing(Enum):
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    """Until the connection ends."""


class After(Enum):
    """What the agent does with its connection after its answer."""

    KEEP = auto()
    CLOSE = auto()
    """As it has announced."""
    CLOSE_SILENTLY = auto()
    CLOSE_LATER = auto()
    """Without a word, about when the next request comes."""


class Leaves(Enum):
    """When the client goes away."""

    NEVER = auto()
    IN_REQUEST = auto()
    IN_ANSWER = auto()


@dataclass(slots=True)
class Request:
    is_bearer: bool
    is_http_1_0: bool
    keep_alive: bool
    expects: bool
    framing: Framing
    content: bytes
    raw: bytes
    """The body as the client sends it."""
    extra: list[tuple[str, str]]

    @property
    def raw_for_agent(self) -> bytes:
        """A body that streams keeps its framing; one that was held has a length."""
        return self.raw if self.is_bearer else self.content

    @property
    def framing_for_agent(self) -> bytes:
        if self.is_bearer and self.framing is Framing.CHUNKED:
            return b"transfer-encoding: chunked"
        return b"content-length: %d" % len(self.content)


@dataclass(slots=True)
class Answer:
    head: bytes
    framing: Framing
    content: bytes
    raw: bytes
    status: int
    content_type: bytes
    after: After
    is_early: bool
    """Given before the request's body has been read; the agent then closes."""
    breaks_off_at: int | None
    """Of the bytes of head and body; the agent resets its connection there."""


@dataclass(slots=True)
class Exchange:
    number: int
    session: str
    request: Request
    answer: Answer
    leaves: Leaves
    cuts: list[int]
    """Sizes of the pieces that both sides write; then comes the rest at once."""


@dataclass(slots=True)
class Conversation:
    """What goes over one client's connection."""

    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    is_pipelined: bool = False


def conversations(seed: int, count: int) -> Iterator[Conversation]:
    """`count` exchanges in all."""
    chance = random.Random(seed)
    made = 0
    while made < count:
        conversation = Conversation(is_pipelined=chance.random() < 0.4)
        is_bearer = chance.random() < 0.5
        number = chance.randrange(40)
        session = f"session-{number:02}-of-generated-exchanges-{'jwt' if is_bearer else 'sig'}"
        for _ in range(min(chance.randrange(1, 13), count - made)):
            exchange = _exchange(
                chance, made, session, is_bearer, is_alone=not conversation.is_pipelined, closes=number % 4 == 0
            )
            conversation.exchanges.append(exchange)
            made += 1
            if _is_last(exchange):
                break
        yield conversation


def _is_last(exchange: Exchange) -> bool:
    """Whether the client's connection is over after it."""
    request, answer = exchange.request, exchange.answer
    return (
        exchange.leaves is not Leaves.NEVER
        or answer.is_early
        or answer.breaks_off_at is not None
        or (request.is_http_1_0 and (not request.keep_alive or answer.framing is not Framing.LENGTH))
        or not request.keep_alive
    )


def _exchange(
    chance: random.Random, number: int, session: str, is_bearer: bool, *, is_alone: bool, closes: bool
) -> Exchange:
    """`closes`: whether the session's agent is one that closes connections unannounced."""
    request = _request(chance, is_bearer, is_alone=is_alone)
    answer = _answer(chance, request, closes)
    leaves = Leaves.NEVER
    if answer.breaks_off_at is None and not answer.is_early and chance.random() < 0.03:
        leaves = chance.choice((Leaves.IN_REQUEST, Leaves.IN_ANSWER))
        if leaves is Leaves.IN_REQUEST and not request.raw:
            leaves = Leaves.IN_ANSWER
    cuts = [_size(chance, 20_000) + 1 for _ in range(chance.randrange(8))]
    return Exchange(number, session, request, answer, leaves, cuts)


def _request(chance: random.Random, is_bearer: bool, *, is_alone: bool) -> Request:
    is_http_1_0 = chance.random() < 0.06
    framing = Framing.CHUNKED if not is_http_1_0 and chance.random() < 0.35 else Framing.LENGTH
    content = chance.randbytes(_size(chance, MAX_BODY_BYTES))
    raw = _chunks(chance, content) if framing is Framing.CHUNKED else content
    extra = [(f"X-{number}", "v" * _size(chance, 300)) for number in range(chance.randrange(4))]
    return Request(
        is_bearer=is_bearer,
        is_http_1_0=is_http_1_0,
        keep_alive=chance.random() < (0.5 if is_http_1_0 else 0.97),
        expects=is_alone and not is_http_1_0 and bool(raw) and chance.random() < 0.15,
        framing=framing,
        content=content,
        raw=raw,
        extra=extra,
    )


def _answer(chance: random.Random, request: Request, closes: bool) -> Answer:
    framing = chance.choice((Framing.LENGTH, Framing.LENGTH, Framing.CHUNKED, Framing.CHUNKED, Framing.CLOSE))
    content = chance.randbytes(_size(chance, MAX_BODY_BYTES))
    raw = _chunks(chance, content) if framing is Framing.CHUNKED else content
    status = chance.choice((400, 404, 422, 500, 503)) if chance.random() < 0.06 else chance.choice((200, 200, 200, 201))
    is_early = len(request.raw) > 1000 and chance.random() < 0.05
    if framing is Framing.CLOSE and len(request.raw) > _READ_AHEAD_BYTES:
        is_early = False  # closing with bytes unread is a reset, which is no end of an answer
    is_http_1_0 = framing is not Framing.CHUNKED and chance.random() < 0.1
    if framing is Framing.CLOSE or is_http_1_0 or is_early:
        after = After.CLOSE
    else:
        after = chance.choices(tuple(After), (80, 6, 10, 10) if closes else (94, 6, 0, 0))[0]
    content_type = chance.choice(_CONTENT_TYPES)
    lines = [b"HTTP/1.%d %d %b" % (not is_http_1_0, status, chance.choice((b"OK", b"", b"Some phrase")))]
    lines += [b"Content-Type: " + content_type, *(b"X-%d: v" % n for n in range(chance.randrange(4)))]
    if framing is Framing.CHUNKED:
        lines.append(chance.choice((b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked")))
    elif framing is Framing.LENGTH:
        lines.append(b"Content-Length: %d" % len(content))
    if after is After.CLOSE and chance.random() < 0.7 and not is_http_1_0:
        lines.append(b"Connection: close")
    elif after is After.CLOSE and framing is not Framing.CLOSE and not is_http_1_0 and not is_early:
        after = After.CLOSE_SILENTLY if closes else After.KEEP
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    if not is_http_1_0 and chance.random() < 0.08:
        head = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * chance.randrange(1, 3) + head
    breaks_off_at = None
    if status < 300 and not is_early and chance.random() < 0.04:
        breaks_off_at = chance.randrange(len(head) + len(raw) + (framing is Framing.CLOSE))
    return Answer(head, framing, content, raw, status, content_type, after, is_early, breaks_off_at)


def _size(chance: random.Random, most: int) -> int:
    """Mostly small, sometimes at an edge, seldom large."""
    kind = chance.random()
    if kind < 0.1:
        return 0
    if kind < 0.7:
        return chance.randrange(300)
    if kind < 0.97:
        return min(most, chance.randrange(1, 20_000))
    return min(most, chance.choice((65_535, 65_536, 65_537, 131_072, chance.randrange(most) + 1)))


def _chunks(chance: random.Random, content: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while at < len(content):
        size = min(len(content) - at, _size(chance, 70_000) + 1)
        text = b"%x" % size if chance.random() < 0.5 else b"%05X" % size
        parts += [text, chance.choice(_EXTENSIONS), b"\r\n", content[at : at + size], b"\r\n"]
        at += size
    parts += [chance.choice((b"0", b"000")), chance.choice(_EXTENSIONS), b"\r\n", chance.choice(_TRAILERS), b"\r\n"]
    return b"".join(parts)
