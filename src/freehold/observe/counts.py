"""What a gateway worker counts of its requests: plain numbers, a few additions for each.

For: the hot path, and the message that carries the numbers to control. Not for their form on the wire (`exposition`).
Invariant: a number never goes down while its process lives, and only callers that have been recognised make series,
of which there are at most MAX_SERIES. Source of the names: spec section 8.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import msgspec

LATENCY_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
MAX_SERIES: Final = 5000
OTHER: Final = "other"
"""Stands for every runtime beyond MAX_SERIES."""
PAGE_SIZE: Final = 200
"""Series in one message, which must stay below `ipc.MAX_MESSAGE_BYTES`."""


class Series(msgspec.Struct, array_like=True):
    """The requests of one operation at one endpoint. Bytes are those of bodies, with chunk framing."""

    operation: str
    account: str
    runtime_id: str
    endpoint: str
    invocations: int = 0
    throttles: int = 0
    user_errors: int = 0
    system_errors: int = 0
    broken_off: int = 0
    """Ended before the answer was whole, by the caller, the agent or a deadline."""
    latency_sum_s: float = 0.0
    latency_buckets: list[int] = []
    """How many took at most the bound of the same place; the last is for all the others. Not cumulative."""
    bytes_in: int = 0
    bytes_out: int = 0
    streamed_bytes_in: int = 0
    streamed_bytes_out: int = 0


class Counts:
    """The series of one process, in the order in which they came up."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._by_name: dict[tuple[str, str, str, str], Series] = {}
        self._series: list[Series] = []

    def of(self, operation: str, account: str, runtime_id: str, endpoint: str) -> Series:
        """The series to add to."""
        name = (operation, account, runtime_id, endpoint)
        found = self._by_name.get(name)
        if found is None:
            if runtime_id and len(self._series) >= self._max_series:
                return self.of(operation, OTHER, "", "")
            found = Series(*name, latency_buckets=[0] * (len(LATENCY_BOUNDS_S) + 1))
            self._by_name[name] = found
            self._series.append(found)
        return found

    def page(self, start: int) -> list[Series]:
        """Up to PAGE_SIZE series from the `start`-th on; fewer mean that there are no more."""
        return self._series[start : start + PAGE_SIZE]


def add_latency(series: Series, duration_s: float) -> None:
    series.latency_sum_s += duration_s
    series.latency_buckets[bisect_left(LATENCY_BOUNDS_S, duration_s)] += 1
