"""What a server makes on the host outside of its own processes: found by looking, not by asking the server."""

from __future__ import annotations

import hashlib
from pathlib import Path

from running_server import RunningServer


class Leftovers:
    def __init__(self, server: RunningServer) -> None:
        self._data_dir = server.data_dir.resolve()
        self._instance = hashlib.sha256(bytes(self._data_dir)).hexdigest()[:12]

    def agents(self) -> set[int]:
        """Every process that runs an agent of this server, in whatever namespace: their pids on the host."""
        marks = (b"main.py", str(self._data_dir).encode())
        found: set[int] = set()
        for directory in Path("/proc").iterdir():
            if not directory.name.isdecimal():
                continue
            try:
                words = (directory / "cmdline").read_bytes()
                mounts = (directory / "mountinfo").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError, OSError):
                continue
            if marks[0] in words and marks[1] in mounts and b"bwrap" not in words:
                found.add(int(directory.name))
        return found

    def cgroups(self) -> list[Path]:
        """Control groups named for this server."""
        return [path for path in Path("/sys/fs/cgroup").rglob(f"*{self._instance}*") if path.is_dir()]

    def mounts(self) -> list[str]:
        """Mounts below the data directory in the host's own namespace."""
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self._data_dir) in line]
