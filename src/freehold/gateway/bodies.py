"""The body of a request on its way to an agent: held whole (`Spool`), at hand, or still coming.

Not for how it is sent (`relay`). Invariant: a body that is not held is given on once, in order, framed as it came.
"""

from __future__ import annotations

from dataclasses import dataclass

from freehold.gateway.exchange import Exchange
from freehold.gateway.spool import Spool, too_large


@dataclass(slots=True)
class AtHand:
    """All of it has come with its head."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class Streamed:
    """It is passed on as it comes. `size` is None for a chunked one."""

    size: int | None
    max_bytes: int

    def close(self) -> None:
        """Nothing is held."""


Body = Spool | AtHand | Streamed


async def document_of(exchange: Exchange, body: Body) -> bytes:
    """All of a small body. Raises PayloadTooLarge, ClientGone, ValidationFailed."""
    if isinstance(body, AtHand):
        return body.data
    if isinstance(body, Spool):
        return body.in_memory() or b""
    parts: list[bytes] = []
    left = body.max_bytes

    def take(data: bytes) -> None:
        nonlocal left
        left -= len(data)
        if left < 0:
            raise too_large(body.max_bytes)
        parts.append(data)

    await exchange.read_body(take)
    return b"".join(parts)
