"""What the warden counts of sessions, by endpoint: how many, how they ended, what they used.

Not for measuring (`usage`), nor for single sessions (`history`). Invariant: a total never goes down while the warden
lives. Source of the names: spec section 8.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from freehold.domain.sessions import EndReason, SessionKey
from freehold.domain.usage import Usage

MAX_ENDPOINTS = 2000
PAGE_SIZE = 200
OTHER = "other"
GB = 1e9


class EndpointTally(msgspec.Struct, array_like=True):
    """The sessions of one endpoint since the warden's start."""

    account: str
    runtime_id: str
    endpoint: str
    sessions: int = 0
    active: int = 0
    ends: dict[str, int] = {}
    """By reason."""
    vcpu_hours: float = 0.0
    gb_hours: float = 0.0
    """Of memory, taking it to have been the same from one measurement to the next."""


class _Measured:
    __slots__ = ("at", "cpu_s", "memory_bytes", "tally")

    def __init__(self, tally: EndpointTally, at: float) -> None:
        self.tally = tally
        self.at = at
        self.cpu_s = 0.0
        self.memory_bytes = 0


class Tally:
    """All endpoints, in the order in which they came up. `now` counts seconds."""

    def __init__(self, now: Callable[[], float], max_endpoints: int = MAX_ENDPOINTS) -> None:
        self._now = now
        self._max_endpoints = max_endpoints
        self._by_endpoint: dict[tuple[str, str, str], EndpointTally] = {}
        self._order: list[EndpointTally] = []
        self._running: dict[int, _Measured] = {}

    def began(self, generation: int, key: SessionKey) -> None:
        tally = self._of((key.account, key.runtime_id, key.endpoint))
        tally.sessions += 1
        tally.active += 1
        self._running[generation] = _Measured(tally, self._now())

    def measured(self, usage: dict[int, Usage]) -> None:
        """What running sessions have used until now."""
        now = self._now()
        for generation, used in usage.items():
            before = self._running.get(generation)
            if before is not None:
                _add(before, used, now)

    def ended(self, generation: int, reason: EndReason | None, usage: Usage | None) -> None:
        before = self._running.pop(generation)
        _add(before, usage or Usage(), self._now())
        before.tally.active -= 1
        name = (reason or EndReason.SHUTDOWN).value
        before.tally.ends[name] = before.tally.ends.get(name, 0) + 1

    def page(self, start: int) -> list[EndpointTally]:
        """Up to PAGE_SIZE endpoints from the `start`-th on; fewer mean that there are no more."""
        return self._order[start : start + PAGE_SIZE]

    def _of(self, name: tuple[str, str, str]) -> EndpointTally:
        found = self._by_endpoint.get(name)
        if found is None:
            if len(self._order) >= self._max_endpoints and name[1]:
                return self._of((OTHER, "", ""))
            found = self._by_endpoint[name] = EndpointTally(*name, ends={})
            self._order.append(found)
        return found


def _add(before: _Measured, used: Usage, now: float) -> None:
    hours = (now - before.at) / 3600
    before.at = now
    if used.cpu_s is not None and used.cpu_s > before.cpu_s:
        before.tally.vcpu_hours += (used.cpu_s - before.cpu_s) / 3600
        before.cpu_s = used.cpu_s
    if used.memory_bytes:
        # At the end nothing is left of it: then what was measured last counts.
        before.memory_bytes = used.memory_bytes
    before.tally.gb_hours += before.memory_bytes / GB * hours
