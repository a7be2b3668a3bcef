"""Forgets in the store what nobody can need any more.

Not for bundles (`artifacts.cache`) or logs (the warden's). Invariant: what a session that still runs may ask for is
kept: a deleted version, until the last session that can run it has reached its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import structlog
from anyio import to_thread

from freehold.domain import limits
from freehold.store.base import Store

INTERVAL_S: Final = 3600.0
DELETED_VERSION_KEPT: Final = timedelta(seconds=limits.MAX_LIFECYCLE_S) + timedelta(hours=1)
"""The longest life of a session, and an hour for its start and its end."""

log = structlog.get_logger(__name__)


class Retention:
    """`run` until cancelled."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._now = now
        self._sleep = sleep

    async def run(self) -> None:
        """Forget now and then."""
        while True:
            try:
                forgotten = await to_thread.run_sync(self.forget)
            except Exception:
                # Nothing depends on it, and the next time may do.
                log.exception("retention.failed")
            else:
                log.debug("retention.forgot", rows=forgotten)
            await self._sleep(INTERVAL_S)

    def forget(self) -> int:
        """Forget once; how many rows. Blocking."""
        now = self._now()
        return self._store.forget(deleted_before=now - DELETED_VERSION_KEPT, now=now)
