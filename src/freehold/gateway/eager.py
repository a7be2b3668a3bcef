"""Running a coroutine on the spot as long as it does not wait; a Task only for one that does.

For: requests whose every answer is cached, which then cost neither a Task nor a turn of the loop. A coroutine that is
started here awaits `in_task()` before the first thing that really waits. Invariant: nothing suspends outside a Task
except in `in_task`.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any


@types.coroutine
def in_task() -> Generator[None]:
    """Continue inside a Task: what follows may wait, and may use timeouts."""
    yield


def start(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run it until it ends (None), or until `in_task`: then it goes on as the Task that is returned."""
    try:
        coroutine.send(None)
    except StopIteration:
        return None
    return loop.create_task(coroutine)
