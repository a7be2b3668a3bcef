"""Agents' logs for operators: a range, the newest lines, and what comes, as JSON lines.

Not for the server's own log. Invariant: an answer ends by itself unless it follows; one that follows ends with its
client or the server, and sends something at least every HEARTBEAT_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from anyio import to_thread

from freehold.control.log_reader import LogReading, Selection
from freehold.control.operator_queries import Query, refusal
from freehold.warden.log_files import Line, encode_line

POLL_S: Final = 0.15
HEARTBEAT_S: Final = 15.0
"""An empty line: what lies between would take a silent connection for a dead one."""
MAX_TAIL: Final = 10_000
MEMBERS: Final = (
    *("runtimeId", "endpoint", "sessionId", "generation"),
    *("tail", "startTime", "endTime", "follow"),
)


def selection(query: Query, account: str) -> Selection:
    """Whose lines are asked for. Raises ValidationFailed."""
    runtime_id = query.runtime_id()
    if runtime_id is None:
        raise refusal("runtimeId", "is required")
    for later in ("startTime", "endTime"):
        if "tail" in query and later in query:
            raise refusal(later, "can't be given together with tail")
    if "endTime" in query and query.flag("follow"):
        raise refusal("endTime", "can't be given together with follow")
    return Selection(
        account,
        runtime_id,
        endpoint=query.endpoint(),
        session_id=query.session_id(),
        generation=query.number("generation"),
        start_at=query.instant("startTime"),
        end_at=query.instant("endTime"),
    )


def lines(root: Path, query: Query, wanted: Selection, over: asyncio.Event) -> AsyncGenerator[bytes]:
    """The answer's parts, until there are no more or `over` is set. Raises ValidationFailed before the first."""
    tail = query.number("tail", at_most=MAX_TAIL)
    return _lines(LogReading(root, wanted), tail, over, follow=query.flag("follow"))


async def _lines(reading: LogReading, tail: int | None, over: asyncio.Event, *, follow: bool) -> AsyncGenerator[bytes]:
    batches = await to_thread.run_sync(lambda: reading.lines(tail=tail))
    while not over.is_set() and (batch := await to_thread.run_sync(next, batches, None)) is not None:
        if batch:
            yield _encoded(batch)
    if not follow:
        return
    loop = asyncio.get_running_loop()
    sent_at = loop.time()
    while not over.is_set():
        batch = await to_thread.run_sync(reading.added)
        if batch:
            yield _encoded(batch)
            sent_at = loop.time()
        elif loop.time() - sent_at >= HEARTBEAT_S:
            yield b"\n"
            sent_at = loop.time()
        try:
            async with asyncio.timeout(POLL_S):
                await over.wait()
        except TimeoutError:
            # Nobody wants it to end: look again.
            continue


def _encoded(batch: list[Line]) -> bytes:
    return b"".join(encode_line(line) + b"\n" for line in batch)
