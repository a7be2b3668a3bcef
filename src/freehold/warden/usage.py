"""Measuring what sessions use, without measuring too often.

A measurement looks at every process of the host, in a worker thread: whoever asks while one runs shares the next one.
Invariant: at most one measurement runs at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from freehold.backends.base import SessionBackend, SessionRef
from freehold.domain.usage import Usage

TIMEOUT_S: Final = 5.0

log = structlog.get_logger(__name__)


class Meter:
    """Measures sessions of one backend. Use from one event loop."""

    def __init__(self, backend: SessionBackend) -> None:
        self._backend = backend
        self._wanted: dict[int, SessionRef] = {}
        self._next: asyncio.Task[dict[int, Usage]] | None = None
        self._running = asyncio.Lock()

    async def measure(self, refs: Iterable[SessionRef]) -> dict[int, Usage]:
        """The usage of these sessions now, by generation. Who can't be measured, or not in time, is left out."""
        self._wanted |= {ref.generation: ref for ref in refs}
        if self._next is None:
            self._next = asyncio.create_task(self._measure())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.shield(self._next)
        except TimeoutError:
            log.warning("usage.not_measured", reason=f"it took longer than {TIMEOUT_S:g} s")
            return {}

    async def _measure(self) -> dict[int, Usage]:
        async with self._running:
            wanted, self._wanted, self._next = self._wanted, {}, None
            try:
                return await self._backend.usage(list(wanted.values()))
            except OSError as error:
                log.warning("usage.not_measured", reason=str(error))
                return {}
