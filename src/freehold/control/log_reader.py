"""Reading agents' output out of the files that the warden writes: a range, the last lines, and what is added.

For: the operator API. Blocking: for worker threads, one at a time. Invariant: over a whole reading each line is told
once, a session's in order; lines of several sessions are in order of their instants as far as they were there.
"""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from freehold.warden import log_files
from freehold.warden.log_files import Line, SessionReader

BATCH_LINES: Final = 1000
READS_PER_POLL: Final = 32
"""Of one session, so that one that prints without end does not hold up the others."""
POLLS_PER_RECORD: Final = 10
"""An idle session's record is looked at this seldom, to see whether it has ended."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Whose lines. `account` owns the runtime; None selects all."""

    account: str
    runtime_id: str
    endpoint: str | None = None
    session_id: str | None = None
    generation: int | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    """Lines at this instant are left out."""

    def has(self, line: Line) -> bool:
        """Whether the line's instant is wanted."""
        return (self.start_at is None or line.at >= self.start_at) and (self.end_at is None or line.at < self.end_at)


class LogReading:
    """One reading of the logs below `root`."""

    def __init__(self, root: Path, selection: Selection) -> None:
        self._root = root
        self._selection = selection
        self._readers: dict[Path, SessionReader] = {}
        self._known: set[Path] = set()
        self._polls = 0

    def lines(self, *, tail: int | None = None) -> Iterator[list[Line]]:
        """What there is now, in batches; with `tail` only the newest lines."""
        self._find_sessions()
        return self._last(tail) if tail is not None else self._all()

    def added(self) -> list[Line]:
        """What has been added since `lines` or `added`; nothing when there is nothing yet."""
        self._polls += 1
        self._find_sessions()
        found: list[Line] = []
        for directory, reader in list(self._readers.items()):
            told = self._read(reader)
            found += told
            if not told and self._polls % POLLS_PER_RECORD == 0 and _has_ended(reader):
                # It may have written its last lines between the read and the look at its record.
                found += self._read(reader)
                del self._readers[directory]
        found.sort(key=_at)
        return found

    def _read(self, reader: SessionReader) -> list[Line]:
        found: list[Line] = []
        for _ in range(READS_PER_POLL):
            lines, more = reader.read()
            found += filter(self._selection.has, lines)
            if not more:
                break
        return found

    def _find_sessions(self) -> None:
        wanted = self._selection
        for directory in _directories(self._root / wanted.runtime_id, wanted.endpoint, wanted.generation):
            if directory in self._known:
                continue
            record = log_files.read_record(directory)
            if record is None:
                # Being made, or removed: the next look tells.
                continue
            self._known.add(directory)
            if record.key.account != wanted.account or wanted.session_id not in (None, record.key.session_id):
                continue
            if wanted.start_at is not None and record.ended_at is not None and record.ended_at < wanted.start_at:
                continue
            self._readers[directory] = SessionReader(directory, record)

    def _all(self) -> Iterator[list[Line]]:
        batch: list[Line] = []
        for line in _merged(sorted(self._readers.values(), key=_started_at)):
            if self._selection.has(line):
                batch.append(line)
                if len(batch) >= BATCH_LINES:
                    yield batch
                    batch = []
        yield batch

    def _last(self, count: int) -> Iterator[list[Line]]:
        """The newest `count` lines; every session is read on from there."""
        found: list[Line] = []
        for reader in self._readers.values():
            lines = [line for line in reader.last_lines(count) if self._selection.has(line)]
            found = heapq.nlargest(count, [*found, *lines], key=_at)
        yield sorted(found, key=_at)


def _merged(readers: list[SessionReader]) -> Iterator[Line]:
    """The lines of all in order of their instants. A session is opened only when its time has come."""
    waiting = deque(readers)
    heap: list[tuple[datetime, int, Line, Iterator[Line]]] = []

    def put_next(lines: Iterator[Line], number: int) -> None:
        line = next(lines, None)
        if line is not None:
            heapq.heappush(heap, (line.at, number, line, lines))

    while heap or waiting:
        while waiting and (not heap or waiting[0].record.started_at <= heap[0][0]):
            reader = waiting.popleft()
            put_next(_lines(reader), reader.record.generation)
        if heap:
            _, number, line, lines = heapq.heappop(heap)
            yield line
            put_next(lines, number)


def _lines(reader: SessionReader) -> Iterator[Line]:
    more = True
    while more:
        lines, more = reader.read()
        yield from lines


def _directories(runtime: Path, endpoint: str | None, generation: int | None) -> Iterator[Path]:
    """The directories of the sessions that may be meant: names only, since this is asked many times a second."""
    for parent in [runtime / endpoint] if endpoint is not None else map(Path, _entries(runtime)):
        if generation is not None:
            yield parent / str(generation)
        else:
            yield from (Path(path) for path in _entries(parent) if path.rpartition("/")[2].isdigit())


def _entries(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _has_ended(reader: SessionReader) -> bool:
    record = log_files.read_record(reader.directory)
    return record is None or record.ended_at is not None


def _at(line: Line) -> datetime:
    return line.at


def _started_at(reader: SessionReader) -> datetime:
    return reader.record.started_at
