"""Whether a request gets a span, and what its agent is told of the trace.

Not for finished spans (`spans`). Invariant: an agent is named a span as its parent that is, or was before us, really
recorded, wherever there is one: while no spans are exported here, a caller's context passes unchanged.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from freehold.observe import ids, trace_context
from freehold.observe.trace_context import Context


class Trace(Context):
    """One request's part in a trace, as it is passed on; `recorded` says whether its span is to be exported."""

    __slots__ = ("parent_span_id", "recorded")

    def __init__(
        self, trace_id: str, span_id: str, sampled: bool, recorded: bool, parent_span_id: str = "", state: bytes = b""
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled
        self.state = state
        self.recorded = recorded
        self.parent_span_id = parent_span_id
        self._lines = b""


class Tracer:
    """`sample_ratio` is the share of traces begun here that are sampled; None: no spans are exported at all."""

    def __init__(self, sample_ratio: float | None, *, chance: Callable[[], float] = random.random) -> None:
        self.sample_ratio = sample_ratio
        self.chance = chance

    def begin(self, headers: Sequence[tuple[bytes, bytes]]) -> Trace:
        """For a request with `headers` (names in lower case)."""
        came_with = trace_context.received(headers)
        if came_with is None:
            return self.begin_new()
        trace_id, span_id, sampled, state = came_with.trace_id, came_with.span_id, came_with.sampled, came_with.state
        if self.sample_ratio is None or not sampled:
            return Trace(trace_id, span_id, sampled, False, state=state)
        return Trace(trace_id, ids.span_id(), sampled, True, span_id, state)

    def begin_new(self) -> Trace:
        """For a request that came with no context: a parent that is nobody's span, and an id that begins with the time,
        as X-Ray wants it."""
        ratio = self.sample_ratio
        trace_id, span_id = ids.place(int(time.time()))
        if ratio is None:
            # Sampled: agents with an exporter of their own follow what their parent says.
            return Trace(trace_id, span_id, True, False)
        sampled = self.chance() < ratio
        return Trace(trace_id, span_id, sampled, sampled)
