"""What agents print, on its way from the warden's loop to disk.

The loop hands lines over and never waits for the disk; one thread writes them (`log_store`) and removes what is old.
Not for: the server's own log. Invariant: a line that was handed over is written, or its loss is told in its place; when
the disk can't keep up, agents wait at their pipes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from freehold.domain.sessions import SessionKey
from freehold.domain.times import utc_now
from freehold.warden import log_files
from freehold.warden.log_store import LogBounds, LogStore
from freehold.warden.protocol import SessionRecord

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Handed over and not written yet. Beyond it agents' pipes are read no further for a moment."""
SWEEP_INTERVAL_S: Final = 3600.0
BATCH: Final = 4096

log = structlog.get_logger(__name__)


class _Line(NamedTuple):
    generation: int
    data: bytes


_Work = _Line | Callable[[], None] | None
"""A line; something to do once all before it is done; None for the end."""


class AgentLogs:
    """The logs of all sessions under `root`. Its methods are for one event loop and never block, but for `aclose`."""

    def __init__(self, root: Path, bounds: LogBounds | None = None, *, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._store = LogStore(root, bounds or LogBounds(), now=now)
        self.earlier = self._store.records()
        """The sessions of earlier runs whose logs are kept, oldest first."""
        self._keys: dict[int, SessionKey] = {}
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        # One thread writes each: no lock is needed to compare them.
        self._handed_bytes = 0
        self._done_bytes = 0
        self._thread = threading.Thread(target=self._run, name="agent-logs", daemon=True)
        self._thread.start()

    def open(self, record: SessionRecord) -> None:
        """Begin a session's log."""
        self._keys[record.generation] = record.key
        self._work.put(lambda: self._store.open(record))

    def write(self, generation: int, stream: str, text: str) -> bool:
        """Add a line; nothing when the session's log is not open. Whether more may come just now."""
        key = self._keys.get(generation)
        if key is not None:
            data = log_files.line(key, generation, self._now(), stream, text)
            self._handed_bytes += len(data)
            self._work.put(_Line(generation, data))
        return self._handed_bytes - self._done_bytes < MAX_WAITING_BYTES

    def amend(self, record: SessionRecord) -> None:
        """More is known of a session that runs."""
        if record.generation in self._keys:
            self._work.put(lambda: self._store.amend(record))

    def close(self, record: SessionRecord) -> None:
        """The session has ended; `record` says how."""
        if self._keys.pop(record.generation, None) is not None:
            self._work.put(lambda: self._store.close(record))

    def aclose(self, timeout_s: float = 10.0) -> None:
        """Write what was handed over and end the thread; blocking."""
        self._work.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("agent_log.lost", reason=f"the disk did not take the rest within {timeout_s:g} s")

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        sweep_at = time.monotonic()
        while True:
            if time.monotonic() >= sweep_at:
                self._safely(self._store.sweep)
                sweep_at = time.monotonic() + SWEEP_INTERVAL_S
            if not self._do(self._batch(max(0.0, sweep_at - time.monotonic()))):
                return

    def _batch(self, timeout_s: float) -> list[_Work]:
        """What waits to be done; nothing when nothing came in time."""
        batch: list[_Work] = []
        try:
            batch.append(self._work.get(timeout=timeout_s))
            while len(batch) < BATCH:
                batch.append(self._work.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _do(self, batch: list[_Work]) -> bool:
        """Do these in order, a session's lines together; False at the end."""
        lines: dict[int, list[bytes]] = {}
        for work in batch:
            if isinstance(work, _Line):
                lines.setdefault(work.generation, []).append(work.data)
                continue
            self._append(lines)
            lines = {}
            if work is None:
                return False
            self._safely(work)
        self._append(lines)
        return True

    def _append(self, lines: dict[int, list[bytes]]) -> None:
        for generation, batch in lines.items():
            self._safely(lambda generation=generation, batch=batch: self._store.append(generation, batch))
            self._done_bytes += sum(map(len, batch))

    def _safely(self, work: Callable[[], None]) -> None:
        """The thread outlives any one failure: a session loses its log by it, not its life."""
        try:
            work()
        except OSError as error:
            log.error("agent_log.failed", error=str(error))
        except Exception:
            log.exception("agent_log.failed")
