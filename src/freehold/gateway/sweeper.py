"""One coarse timer for a whole worker: connections have deadlines, and are told when they have passed.

Not for anything that must be on time: a deadline is noticed up to TICK_S late. Invariant: no request makes a timer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Final, Protocol

import structlog

log = structlog.get_logger(__name__)

TICK_S: Final = 0.25
NEVER: Final = float("inf")


class Expiring(Protocol):
    """What has a deadline, in seconds of the sweeper's clock."""

    deadline: float

    def expired(self, now: float) -> None:
        """The deadline has passed. Called again on each tick while it lies in the past."""
        ...


class Sweeper:
    """Ticks between `start` and `stop`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._watched: set[Expiring] = set()
        self._hooks: list[Callable[[float], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.http_date = formatdate(usegmt=True).encode()
        """The time of day as the Date header wants it."""

    def watch(self, item: Expiring) -> None:
        self._watched.add(item)

    def forget(self, item: Expiring) -> None:
        self._watched.discard(item)

    def every_tick(self, hook: Callable[[float], None]) -> None:
        self._hooks.append(hook)

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.start()
        self.http_date = formatdate(usegmt=True).encode()
        now = self.clock()
        for item in [item for item in self._watched if item.deadline <= now]:
            _safely(item.expired, now)
        for hook in self._hooks:
            _safely(hook, now)


def _safely(told: Callable[[float], None], now: float) -> None:
    """What goes wrong for one connection must not keep the others' deadlines from them."""
    try:
        told(now)
    except Exception:
        log.exception("gateway.deadline_failed")
