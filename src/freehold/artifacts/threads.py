"""Blocking work in worker threads that is never left behind.

Invariant: when `in_thread` is back, its work has ended, so that what it makes does not outlive its removal.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from anyio import to_thread

_T = TypeVar("_T")


async def in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """Run `work` in a worker thread. On cancellation the event that it got is set, which asks it to end early."""
    stop = threading.Event()
    running = asyncio.ensure_future(to_thread.run_sync(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        while not running.done():
            # A further cancellation changes nothing: the first one is raised below.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # it is moot: nobody waits for this work any more
        raise
