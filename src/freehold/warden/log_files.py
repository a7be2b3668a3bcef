"""The files that agents' output is kept in: their names, their lines, and how they are read while they grow.

`<logs>/<runtime id>/<endpoint>/<generation>/` is one session's: `session.json` says what session it was, and numbered
segments hold its lines, a JSON object each. For: the warden, which writes them (`log_store`), and control, which reads
them. Invariant: a reader tells each line once and in order, and where lines have been removed before they were read it
says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from freehold.domain.sessions import SessionKey
from freehold.warden.protocol import SessionRecord

RECORD: Final = "session.json"
SEGMENT: Final = "{:08}.jsonl"
MAX_READ_BYTES: Final = 64 * 1024
"""Read of one session at once: longer than any line, which has 8 KiB of text before it is escaped."""


class Line(msgspec.Struct, frozen=True, rename="camel"):
    """One line as it is kept. `stream` is stdout, stderr, or freehold for remarks of the server."""

    at: datetime
    stream: str
    text: str
    runtime_id: str
    endpoint: str
    session_id: str
    generation: int


encode_line = msgspec.json.Encoder().encode
decode_line = msgspec.json.Decoder(Line).decode


def log_group_of(runtime_id: str, endpoint: str) -> str:
    """What AWS calls the log group of an endpoint (spec section 8)."""
    return f"/aws/bedrock-agentcore/runtimes/{runtime_id}-{endpoint}"


def log_group(key: SessionKey) -> str:
    """The log group of a session's endpoint."""
    return log_group_of(key.runtime_id, key.endpoint)


def line(key: SessionKey, generation: int, at: datetime, stream: str, text: str) -> bytes:
    """One line of a segment, with its end."""
    return encode_line(Line(at, stream, text, key.runtime_id, key.endpoint, key.session_id, generation)) + b"\n"


def directory_of(root: Path, key: SessionKey, generation: int) -> Path:
    """Session ids are never path names; the other three are safe by their patterns."""
    return root / key.runtime_id / key.endpoint / str(generation)


def sessions_in(root: Path, runtime_id: str | None = None, endpoint: str | None = None) -> Iterator[Path]:
    """The directories of sessions below `root`."""
    for path in root.glob(f"{runtime_id or '*'}/{endpoint or '*'}/*"):
        if path.name.isdigit() and path.is_dir():
            yield path


def read_record(directory: Path) -> SessionRecord | None:
    """What session it was; None when the directory has been removed meanwhile, or was left half made."""
    try:
        return msgspec.json.decode((directory / RECORD).read_bytes(), type=SessionRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def segments_of(directory: Path) -> list[int]:
    """The numbers of the segments that there are, in order."""
    try:
        return sorted(int(path.stem) for path in directory.iterdir() if path.suffix == ".jsonl" and path.stem.isdigit())
    except FileNotFoundError:
        return []


class SessionReader:
    """Reads one session's lines from its first on, at the reader's own pace."""

    def __init__(self, directory: Path, record: SessionRecord) -> None:
        self.directory = directory
        self.record = record
        self._segment: int | None = None
        self._offset = 0

    def last_lines(self, count: int) -> list[Line]:
        """The newest `count` lines that are there now, oldest first; `read` goes on after them. Blocking."""
        found: list[Line] = []
        for number in reversed(segments_of(self.directory)):
            try:
                data = self._path(number).read_bytes()
            except FileNotFoundError:
                break
            data = data[: data.rfind(b"\n") + 1]
            if self._segment is None:
                self._segment, self._offset = number, len(data)
            parts = data.splitlines()
            found[:0] = [decode_line(part) for part in parts[max(0, len(parts) - count + len(found)) :]]
            if len(found) >= count:
                break
        return found

    def read(self) -> tuple[list[Line], bool]:
        """The next lines, and whether there may be more already. Blocking, bounded by MAX_READ_BYTES."""
        if data := self._more():
            return _decode(data), True
        later = [number for number in segments_of(self.directory) if self._segment is None or number > self._segment]
        if not later:
            return [], False
        # The segment is written no more, but may have been until just before the look at what is later.
        if data := self._more():
            return _decode(data), True
        is_gap = later[0] != (1 if self._segment is None else self._segment + 1)
        self._segment, self._offset = later[0], 0
        return ([self._remark(later[0])] if is_gap else []), True

    def _more(self) -> bytes:
        """Whole lines of the present segment; nothing when there are none yet, or it has been removed."""
        if self._segment is None:
            return b""
        try:
            with self._path(self._segment).open("rb") as file:
                file.seek(self._offset)
                data = file.read(MAX_READ_BYTES)
        except FileNotFoundError:
            return b""
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        return data

    def _path(self, number: int) -> Path:
        return self.directory / SEGMENT.format(number)

    def _remark(self, number: int) -> Line:
        """At the place of what has been removed."""
        key = self.record.key
        text = "-- earlier lines of this session have been removed: its log was full --"
        return Line(
            self._first_instant(number),
            "freehold",
            text,
            key.runtime_id,
            key.endpoint,
            key.session_id,
            self.record.generation,
        )

    def _first_instant(self, number: int) -> datetime:
        try:
            with self._path(number).open("rb") as file:
                first = file.readline()
        except FileNotFoundError:
            return self.record.started_at
        return decode_line(first).at if first.endswith(b"\n") else self.record.started_at


def _decode(data: bytes) -> list[Line]:
    return [decode_line(part) for part in data.splitlines()]
