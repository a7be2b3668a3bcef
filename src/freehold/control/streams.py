"""Answers that go on until their reader goes: how many there may be, and their end when the server stops.

Not for what is sent. Invariant: every stream ends when its client has gone or the server stops, whichever is first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Final

from freehold.domain.errors import Throttled

MAX_STREAMS: Final = 32
"""Each looks at files some times a second."""


class Streams:
    """The open streams of this process. Make it inside the event loop."""

    def __init__(self, *, limit: int = MAX_STREAMS) -> None:
        self._limit = limit
        self._open: set[asyncio.Event] = set()
        self._closed = False

    @contextlib.contextmanager
    def one(self) -> Generator[asyncio.Event]:
        """A place for one stream; the event is set when it has to end. Raises Throttled when all are taken."""
        if len(self._open) >= self._limit:
            raise Throttled(f"{self._limit} logs are being followed already")
        over = asyncio.Event()
        if self._closed:
            over.set()
        self._open.add(over)
        try:
            yield over
        finally:
            self._open.discard(over)

    def close(self) -> None:
        """End all; a new one ends at once."""
        self._closed = True
        for over in self._open:
            over.set()
