"""Keeps agents' output on disk within bounds: appends, rotates, evicts, forgets.

Blocking, for one thread (`output` owns it). Not for: reading (`log_files`). Invariant: after every call the segments
take at most `max_total_bytes` in all and `max_session_bytes` a session, and every file ends with a whole line.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import structlog

from freehold.domain.sessions import EndReason, SessionKey
from freehold.warden import log_files
from freehold.warden.protocol import SessionRecord

MIB: Final = 1024 * 1024
SEGMENTS_PER_SESSION: Final = 8
MAX_SEGMENT_BYTES: Final = 4 * MIB
SLACK: Final = 32
"""What part of the total is made free at once when it is reached, so that not every line has to look for room."""
MAX_SESSIONS_KEPT: Final = 10_000
"""Ours: bounds the directories, however long the retention is."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LogBounds:
    """What may be kept. The settings of the section `logs`."""

    max_session_bytes: int = 64 * MIB
    max_total_bytes: int = 2048 * MIB
    retention: timedelta = timedelta(days=7)

    @property
    def segment_bytes(self) -> int:
        return min(self.max_session_bytes // SEGMENTS_PER_SESSION, MAX_SEGMENT_BYTES)


@dataclass(slots=True, eq=False)
class _Log:
    """One session's files."""

    directory: Path
    record: SessionRecord
    segments: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    """Number and size, oldest first."""
    fd: int = -1
    """The last segment, while the session runs."""
    last_number: int = 0
    lost_lines: int = 0
    """Since the last write that succeeded."""

    @property
    def size(self) -> int:
        return sum(size for _, size in self.segments)


class LogStore:
    """The logs below `root`, which belongs to one warden at a time. Looks at all that is there when it is made."""

    def __init__(self, root: Path, bounds: LogBounds, *, now: Callable[[], datetime]) -> None:
        self._root = root
        self._bounds = bounds
        self._now = now
        self._logs: dict[int, _Log] = {}
        self.total_bytes = 0
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._look()

    def records(self) -> list[SessionRecord]:
        """What is known of the sessions that have a log, oldest first."""
        return [self._logs[generation].record for generation in sorted(self._logs)]

    # -- one session -----------------------------------------------------------------------------------------

    def open(self, record: SessionRecord) -> None:
        """Begin a session's log. Raises OSError."""
        directory = log_files.directory_of(self._root, record.key, record.generation)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs[record.generation] = _Log(directory, record)
        _write_record(directory, record)
        while len(self._logs) > MAX_SESSIONS_KEPT and (oldest := self._oldest_ended()) is not None:
            self._remove(oldest)

    def append(self, generation: int, lines: list[bytes]) -> None:
        """Add whole lines. Those that the disk does not take are counted, and the count is told in their place."""
        kept = self._logs.get(generation)
        if kept is None or kept.record.ended_at is not None:
            return
        try:
            if kept.lost_lines:
                self._write(kept, [self._remark(kept)])
                kept.lost_lines = 0
            self._write(kept, lines)
        except OSError as error:
            if not kept.lost_lines:
                log.error("agent_log.lost", generation=generation, error=error.strerror)
            kept.lost_lines += len(lines)

    def amend(self, record: SessionRecord) -> None:
        """Keep this record of a session that runs. Raises OSError."""
        kept = self._logs.get(record.generation)
        if kept is not None:
            kept.record = record
            _write_record(kept.directory, record)

    def close(self, record: SessionRecord) -> None:
        """The session has ended: `record` says how. Raises OSError when that can't be written."""
        kept = self._logs.get(record.generation)
        if kept is None:
            return
        kept.record = record
        if kept.fd >= 0:
            os.close(kept.fd)
            kept.fd = -1
        _write_record(kept.directory, record)

    def _write(self, kept: _Log, lines: list[bytes]) -> None:
        begin = 0
        while begin < len(lines):
            room = self._room(kept, len(lines[begin]))
            end, size = begin, 0
            while end < len(lines) and (end == begin or size + len(lines[end]) <= room):
                size += len(lines[end])
                end += 1
            self._make_room(kept, size)
            self._add(kept, b"".join(lines[begin:end]))
            begin = end

    def _room(self, kept: _Log, wanted: int) -> int:
        """What the last segment still takes, after a new one has been begun if it takes nothing."""
        limit = self._bounds.segment_bytes
        if kept.fd < 0 or kept.segments[-1][1] + wanted > limit:
            self._begin_segment(kept)
        return limit - kept.segments[-1][1]

    def _begin_segment(self, kept: _Log) -> None:
        number = kept.last_number + 1
        path = kept.directory / log_files.SEGMENT.format(number)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if kept.fd >= 0:
            os.close(kept.fd)
        kept.fd, kept.last_number = fd, number
        kept.segments.append((number, 0))

    def _add(self, kept: _Log, data: bytes) -> None:
        number, size = kept.segments[-1]
        written = 0
        try:
            while written < len(data):
                written += os.write(kept.fd, data[written:])
        except OSError:
            os.ftruncate(kept.fd, size)
            raise
        kept.segments[-1] = number, size + len(data)
        self.total_bytes += len(data)

    def _remark(self, kept: _Log) -> bytes:
        text = f"-- {kept.lost_lines} lines were lost here: the disk did not take them --"
        return log_files.line(kept.record.key, kept.record.generation, self._now(), "freehold", text)

    # -- bounds ----------------------------------------------------------------------------------------------

    def _make_room(self, kept: _Log, size: int) -> None:
        """Remove what is oldest until `size` more bytes fit: of this session, and in all."""
        while len(kept.segments) > 1 and kept.size + size > self._bounds.max_session_bytes:
            self._remove_segment(kept)
        if self.total_bytes + size > self._bounds.max_total_bytes:
            self._evict(self._bounds.max_total_bytes - self._bounds.max_total_bytes // SLACK - size)

    def _evict(self, wanted_bytes: int) -> None:
        """Remove until at most `wanted_bytes` are left: of sessions that ended longest ago, then of who prints most."""
        ended = [one for one in self._logs.values() if one.record.ended_at is not None and one.segments]
        for victim in sorted(ended, key=_ended_at):
            while victim.segments and self.total_bytes > wanted_bytes:
                self._remove_segment(victim)
        while self.total_bytes > max(0, wanted_bytes):
            victim = max(self._logs.values(), key=lambda one: one.size)
            if victim.fd >= 0 and len(victim.segments) == 1:
                self._begin_segment(victim)
            self._remove_segment(victim)

    def _remove_segment(self, kept: _Log) -> None:
        number, size = kept.segments[0]
        (kept.directory / log_files.SEGMENT.format(number)).unlink(missing_ok=True)
        kept.segments.popleft()
        self.total_bytes -= size

    def sweep(self) -> None:
        """Remove what has been kept for long enough. Raises OSError."""
        oldest = self._now() - self._bounds.retention
        for kept in [one for one in self._logs.values() if one.record.ended_at is not None]:
            if _ended_at(kept) < oldest:
                self._remove(kept)
        # Logs of before there were segments.
        for path in self._root.glob("*/*/*.log"):
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < oldest:
                path.unlink()
                self._remove_empty(path.parent)

    def _oldest_ended(self) -> _Log | None:
        return min((one for one in self._logs.values() if one.record.ended_at is not None), key=_ended_at, default=None)

    def _remove(self, kept: _Log) -> None:
        shutil.rmtree(kept.directory)
        self.total_bytes -= kept.size
        del self._logs[kept.record.generation]
        self._remove_empty(kept.directory.parent)

    def _remove_empty(self, endpoint: Path) -> None:
        for directory in (endpoint, endpoint.parent):
            if any(directory.iterdir()):
                return
            directory.rmdir()

    # -- an earlier run's ------------------------------------------------------------------------------------

    def _look(self) -> None:
        for directory in list(log_files.sessions_in(self._root)):
            record = log_files.read_record(directory)
            if record is None:
                # Half made when the server was killed: nothing says whose it is.
                shutil.rmtree(directory)
                continue
            kept = _Log(directory, record)
            for number in log_files.segments_of(directory):
                kept.segments.append((number, self._cut(directory / log_files.SEGMENT.format(number))))
            self._logs[record.generation] = kept
            self.total_bytes += kept.size
            if record.ended_at is None:
                self.close(_died(kept))

    def _cut(self, path: Path) -> int:
        """The size of a segment, without a line that a kill has cut short."""
        size = path.stat().st_size
        with path.open("rb+") as file:
            file.seek(max(0, size - log_files.MAX_READ_BYTES))
            end = file.read()
            if end and not end.endswith(b"\n"):
                size -= len(end) - (end.rfind(b"\n") + 1)
                file.truncate(size)
        return size


def _ended_at(kept: _Log) -> datetime:
    assert kept.record.ended_at is not None
    return kept.record.ended_at


def _died(kept: _Log) -> SessionRecord:
    """The record of a session whose server was killed: it ended when it was last heard of."""
    path = kept.directory / (log_files.SEGMENT.format(kept.segments[-1][0]) if kept.segments else log_files.RECORD)
    ended_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return msgspec.structs.replace(
        kept.record, ended_at=max(ended_at, kept.record.started_at), reason=EndReason.SERVER_DIED
    )


def _write_record(directory: Path, record: SessionRecord) -> None:
    """Replace the record as a whole."""
    path = directory / log_files.RECORD
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(record))
    temporary.replace(path)


def new_record(key: SessionKey, generation: int, version: int, *, now: datetime) -> SessionRecord:
    """The record of a session that begins."""
    return SessionRecord(generation, key, version, log_files.log_group(key), started_at=now)
