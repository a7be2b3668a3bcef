"""Whether a request gets a span, and what its agent is told of the trace.

Not for finished spans (`spans`). Invariant: an agent is named a span as its parent that is, or was before us, really
recorded, wherever there is one: while no spans are exported here, a caller's context passes unchanged.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from freehold.observe import trace_context
from freehold.observe.trace_context import Context


class Trace:
    """One request's part in a trace. `context` is passed on; `recorded` says whether its span is to be exported."""

    __slots__ = ("context", "parent_span_id", "recorded")

    def __init__(self, context: Context, parent_span_id: str, recorded: bool) -> None:
        self.context = context
        self.parent_span_id = parent_span_id
        self.recorded = recorded


class Tracer:
    """`sample_ratio` is the share of traces begun here that are sampled; None: no spans are exported at all."""

    def __init__(self, sample_ratio: float | None, *, chance: Callable[[], float] = random.random) -> None:
        self._sample_ratio = sample_ratio
        self._chance = chance

    def begin(self, headers: Sequence[tuple[bytes, bytes]]) -> Trace:
        """For a request with `headers` (names in lower case)."""
        came_with = trace_context.received(headers)
        ratio = self._sample_ratio
        if came_with is not None:
            if ratio is None or not came_with.sampled:
                return Trace(came_with, "", False)
            return Trace(came_with.child(), came_with.span_id, True)
        return self.begin_new()

    def begin_new(self) -> Trace:
        """For a request that came with no context."""
        ratio = self._sample_ratio
        if ratio is None:
            # Sampled: agents with an exporter of their own follow what their parent says.
            return Trace(trace_context.new(True), "", False)
        sampled = self._chance() < ratio
        return Trace(trace_context.new(sampled), "", sampled)
