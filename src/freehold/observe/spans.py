"""Finished spans on their way from the gateway workers, which must stay small, to whoever exports them.

Plain data that crosses process borders. Not for exporting (`span_export`). Invariant: the queue is bounded, and what
it could not take is counted. Source of names and attributes: spec section 8.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

MAX_QUEUED: Final = 4096
MAX_BATCH: Final = 128
"""In one message, which must stay below `ipc.MAX_MESSAGE_BYTES`."""


class SpanRecord(msgspec.Struct, frozen=True, array_like=True):
    """One span that has ended. Ids are hex digits, instants nanoseconds of the time of day."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    """Empty for the first span of a trace."""
    trace_state: str
    started_ns: int
    ended_ns: int
    error: str
    """The wire's name of what went wrong, or empty."""
    attributes: dict[str, str | int | float | bool]


class SpanQueue:
    """Spans of one process that wait to be sent."""

    def __init__(self, max_queued: int = MAX_QUEUED) -> None:
        self._waiting: deque[SpanRecord] = deque()
        self._max_queued = max_queued
        self.dropped = 0
        """Since the start: there was no room for them."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, span: SpanRecord) -> None:
        if len(self._waiting) >= self._max_queued:
            self.dropped += 1
        else:
            self._waiting.append(span)

    def take(self) -> list[SpanRecord]:
        """The next batch, oldest first."""
        return [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
