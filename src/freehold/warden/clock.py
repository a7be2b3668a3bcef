"""The two clocks of a session's life, so that tests can hold the hands."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds; for timers."""
        ...

    def wall(self) -> float:
        """Unix seconds; to read instants that an agent names, and to tell instants to people."""
        ...

    async def sleep_until(self, instant: float) -> None:
        """Return once monotonic() has reached `instant`."""
        ...


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep_until(self, instant: float) -> None:
        # A timer may fire a hair early by the other clock's resolution: look again rather than trust it.
        while (remaining := instant - time.monotonic()) > 0:  # noqa: ASYNC110 - no event tells a clock
            await asyncio.sleep(remaining)
