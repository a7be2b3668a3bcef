"""Requests that an SDK sends again, because it has not seen the answer: what they are known by, and what was answered.

For `gateway.resend_window_s`. Not for deciding: the warden does, for all workers (`warden.once`). Invariant: an answer
is kept only when it is whole.
"""

from __future__ import annotations

import hashlib
from typing import Final

from freehold.gateway.bodies import AtHand
from freehold.gateway.framing import Framing, Length
from freehold.gateway.heads import Headers
from freehold.gateway.spool import Spool
from freehold.warden.protocol import MAX_KEPT_ANSWER_BYTES, Answered, Leave

_INVOCATION_ID: Final = b"amz-sdk-invocation-id"
"""The same in all attempts of one call, of every AWS SDK."""


def invocation_id(headers: Headers) -> bytes | None:
    """The one that a request bears; None also where it bears several."""
    found = [value for name, value in headers if name == _INVOCATION_ID]
    return found[0] if len(found) == 1 and found[0] else None


class Resend:
    """One request that may be sent again, and what of its answer is kept meanwhile."""

    __slots__ = ("_left", "_lines", "_parts", "_status", "once", "reached")

    def __init__(self, invocation: bytes, body: AtHand | Spool) -> None:
        """All of `body` has come."""
        digest = body.sha256() if isinstance(body, Spool) else hashlib.sha256(body.data).hexdigest()
        self.once: Final = hashlib.sha256(b"%b %b" % (digest.encode(), invocation)).digest()
        self.reached = False
        """Whether anything of it may have reached the agent."""
        self._status = 0
        self._lines = b""
        self._parts: list[bytes] = []
        self._left = -1
        """How much of the answer is still to come; negative when it is not kept."""

    def begin_answer(self, status: int, lines: bytes, body: Framing) -> None:
        if isinstance(body, Length) and body.left <= MAX_KEPT_ANSWER_BYTES:
            self._status, self._lines, self._left = status, lines, body.left

    def take(self, raw: bytes) -> None:
        if self._left > 0:
            self._parts.append(raw)
            self._left -= len(raw)

    def leave(self, generation: int) -> Leave:
        """What the warden is told at its end."""
        answer = None if self._left else Answered(self._status, self._lines, b"".join(self._parts))
        return Leave(generation, self.once, reached=self.reached, answer=answer)
