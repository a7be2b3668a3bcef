"""Where things are in a data directory.

Not for making or checking any of it (`custody`). Invariant: nothing outside of the data directory is named here, and
the master key lies in no directory that holds anything else, so that a backup can leave it out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of the data directory `data_dir`."""

    data_dir: Path

    @property
    def lock(self) -> Path:
        return self.data_dir / "lock"

    @property
    def database(self) -> Path:
        return self.data_dir / "state" / "freehold.db"

    @property
    def master_key(self) -> Path:
        return self.data_dir / "keys" / "master.key"

    @property
    def buckets(self) -> Path:
        return self.data_dir / "buckets"

    @property
    def artifacts(self) -> Path:
        return self.data_dir / "artifacts"

    @property
    def sessions(self) -> Path:
        return self.data_dir / "sessions"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def run(self) -> Path:
        return self.data_dir / "run"

    @property
    def journal(self) -> Path:
        return self.run / "sessions"

    @property
    def warden_socket(self) -> Path:
        return self.run / "warden.sock"

    @property
    def feed_socket(self) -> Path:
        return self.run / "feed.sock"

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def server_file(self) -> Path:
        return self.run / "server.json"

    @property
    def instance(self) -> str:
        """A short name for what this server makes outside of its data directory (cgroups)."""
        return hashlib.sha256(bytes(self.data_dir)).hexdigest()[:12]
