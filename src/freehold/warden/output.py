"""What agents print, kept in files of their own: `<logs>/<runtime id>/<endpoint>/<generation>.log`.

Not for: the server's own log. Each line is `<UTC instant> <stream> <text>`. Invariant: disk use is bounded, by
MAX_LOG_BYTES a session and KEPT_LOGS sessions.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import structlog

from freehold.domain.sessions import SessionKey

MAX_LOG_BYTES = 8 * 1024 * 1024
KEPT_LOGS = 500

log = structlog.get_logger(__name__)

_CUT = b"-- the log of this session is full: what follows is not kept --\n"


class AgentLogs:
    """The logs of all sessions under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[int, tuple[BinaryIO, int]] = {}
        self._keep_newest()

    def open(self, generation: int, key: SessionKey) -> None:
        """Begin a session's log."""
        directory = self._root / key.runtime_id / key.endpoint
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files[generation] = ((directory / f"{generation}.log").open("ab", buffering=0), 0)

    def write(self, generation: int, stream: str, line: str) -> None:
        """Add a line; nothing when the session's log is not open or is full."""
        if generation not in self._files:
            return
        file, size = self._files[generation]
        if size >= MAX_LOG_BYTES:
            return
        instant = datetime.now(UTC).isoformat(timespec="milliseconds")
        data = f"{instant} {stream} {line.rstrip()}\n".encode("utf-8", "replace")
        size += len(data)
        try:
            file.write(data if size < MAX_LOG_BYTES else data + _CUT)
        except OSError as error:
            # A full disk costs the session its log, not its life.
            log.error("agent_log.lost", generation=generation, error=str(error))
            size = MAX_LOG_BYTES
        self._files[generation] = (file, size)

    def close(self, generation: int) -> None:
        if generation in self._files:
            self._files.pop(generation)[0].close()

    def _keep_newest(self) -> None:
        logs = sorted(self._root.glob("*/*/*.log"), key=lambda path: int(path.stem), reverse=True)
        for path in logs[KEPT_LOGS:]:
            path.unlink()
