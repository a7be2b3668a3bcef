"""Comments in streams of events that are silent, for the sake of clients and proxies that give up on silence.

For: answers of type text/event-stream, when a setting wants it. Invariant: a comment stands between two events and,
in a chunked body, between two chunks: what an event's reader reads is what the agent said.
"""

from __future__ import annotations

from typing import Final

from freehold.gateway import framing
from freehold.gateway.exchange import Exchange
from freehold.gateway.heads import ResponseHead
from freehold.gateway.sweeper import Sweeper

COMMENT: Final = b":\n\n"
_BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\r\r")
_LONGEST: Final = 4


def is_possible(head: ResponseHead) -> bool:
    """Whether comments may be put into this answer."""
    content_type = coding = b""
    for name, value in head.headers:
        if name == b"content-type":
            content_type = value.partition(b";")[0].strip().lower()
        elif name == b"content-encoding":
            coding = value.lower()
    is_coded = coding not in (b"", b"identity")
    return content_type == b"text/event-stream" and not is_coded and not isinstance(head.framing, framing.Length)


class Keepalive:
    """Follows one answer until `stop`."""

    __slots__ = ("_body", "_end", "_exchange", "_interval_s", "_sweeper", "deadline")

    def __init__(self, exchange: Exchange, body: framing.Framing, sweeper: Sweeper, interval_s: float) -> None:
        self._exchange = exchange
        self._body = body
        self._sweeper = sweeper
        self._interval_s = interval_s
        self._end = COMMENT
        """Of what has been said."""
        if body.content is None:
            body.content = []
        self.deadline = sweeper.clock() + interval_s
        sweeper.watch(self)

    def follow(self, raw: bytes) -> None:
        """Something came. Called before it is relayed."""
        self.deadline = self._sweeper.clock() + self._interval_s
        content = self._body.content
        if content:
            self._end = (self._end + b"".join(content[-_LONGEST:]))[-_LONGEST:]
            if not (self._exchange.ends_with_connection and isinstance(self._body, framing.Chunked)):
                content.clear()  # otherwise it is what the client gets

    @property
    def is_between_events(self) -> bool:
        body = self._body
        is_open = not isinstance(body, framing.Chunked) or self._exchange.ends_with_connection or body.between_chunks
        return is_open and self._end.endswith(_BLANK_LINES)

    def expired(self, now: float) -> None:
        """Nothing came for a while."""
        self.deadline = now + self._interval_s
        if self.is_between_events and self._exchange.client_takes:
            self._exchange.insert(COMMENT)

    def stop(self) -> None:
        self._sweeper.forget(self)
