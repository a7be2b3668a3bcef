"""What the warden must remember across its own death: which sessions may have left something on the host.

Not for: durable state (`store`). One small file per session, written before each next step of a start, removed when
the session has ended. Invariant: a generation is never handed out twice in the life of a data directory.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import msgspec

from freehold.backends.base import SessionRef

_BOOT_BITS = 32
"""A generation is `boot number << 32 | counter`; it fits a signed 64-bit integer for 2^31 boots."""


class Journal:
    """The journal in `directory`, which belongs to one warden at a time. Counts a new boot when it is made."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._boot = self._count_boot()
        self._counter = itertools.count(1)

    def next_generation(self) -> int:
        return self._boot << _BOOT_BITS | next(self._counter)

    def record(self, ref: SessionRef) -> None:
        """Remember `ref`; replaces what was recorded of its generation."""
        _write(self._path(ref.generation), msgspec.json.encode(ref), durable=False)

    def forget(self, generation: int) -> None:
        self._path(generation).unlink(missing_ok=True)

    def leftover(self) -> list[SessionRef]:
        """The sessions of earlier boots that were never forgotten."""
        refs: list[SessionRef] = []
        for path in sorted(self._directory.glob("*.session")):
            try:
                refs.append(msgspec.json.decode(path.read_bytes(), type=SessionRef))
            except msgspec.DecodeError:
                # Cut short by a power failure: the name still says which generation it was.
                refs.append(SessionRef(int(path.stem)))
        return refs

    def _path(self, generation: int) -> Path:
        return self._directory / f"{generation}.session"

    def _count_boot(self) -> int:
        path = self._directory / "boots"
        boot = int(path.read_text()) + 1 if path.exists() else 1
        _write(path, str(boot).encode(), durable=True)
        return boot


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    """Replace a file as a whole. Against a kill of the process a rename is enough; `durable` survives power loss."""
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
