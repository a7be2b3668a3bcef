"""Request bodies held until their signature has been checked: in memory, then in an unnamed file.

Not for bodies that may stream. Invariant: every byte held is counted in the Budget until `close`, and a file has no
name, so nothing is left of a worker that is killed.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import IO, Final

from freehold.domain.errors import PayloadTooLarge, Throttled, Unavailable

READ_BYTES: Final = 256 * 1024


class Budget:
    """How many bytes of bodies are held, by access key and in all."""

    def __init__(self, *, per_key_bytes: int, total_bytes: int) -> None:
        self._per_key_bytes = per_key_bytes
        self._total_bytes = total_bytes
        self._held: dict[str, int] = {}
        self.held_bytes = 0

    def take(self, key: str, count: int) -> None:
        """Count `count` bytes more. Raises Throttled."""
        held = self._held.get(key, 0) + count
        if held > self._per_key_bytes or self.held_bytes + count > self._total_bytes:
            raise Throttled("Too many large requests are under way, please retry later")
        self._held[key] = held
        self.held_bytes += count

    def give_back(self, key: str, count: int) -> None:
        left = self._held.get(key, 0) - count
        self.held_bytes -= count
        if left > 0:
            self._held[key] = left
        else:
            self._held.pop(key, None)


class Spool:
    """One body being received. `sha256` grows with it; with `keep=False` nothing else does."""

    __slots__ = ("_budget", "_file", "_key", "_max_bytes", "_memory", "_memory_bytes", "_sha256", "keep", "size")

    def __init__(self, budget: Budget, key: str, *, max_bytes: int, memory_bytes: int, keep: bool = True) -> None:
        self._budget = budget
        self._key = key
        self._max_bytes = max_bytes
        self._memory_bytes = memory_bytes
        self._memory: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._sha256 = hashlib.sha256()
        self.keep = keep
        self.size = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises PayloadTooLarge, Throttled, or Unavailable when the disk takes no more."""
        if self.size + len(data) > self._max_bytes:
            raise too_large(self._max_bytes)
        self._sha256.update(data)
        if self.keep:
            self._budget.take(self._key, len(data))
        self.size += len(data)
        if not self.keep:
            return
        if self._file is None and self.size <= self._memory_bytes:
            self._memory.append(data)
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (lives as long as the request)
                for part in self._memory:
                    _write_all(self._file, part)
                self._memory.clear()
            _write_all(self._file, data)
        except OSError as error:
            raise Unavailable(f"The request can't be stored just now: {error.strerror}") from error

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def in_memory(self) -> bytes | None:
        """The whole body, unless it is on disk."""
        if self._file is not None:
            return None
        if len(self._memory) == 1:
            return self._memory[0]
        return b"".join(self._memory)

    def ends(self, head_bytes: int, tail_bytes: int) -> tuple[bytes, bytes]:
        """Its first and its last bytes, at most so many. Raises OSError."""
        if self._file is None:
            whole = self.in_memory() or b""
            return whole[:head_bytes], whole[-tail_bytes:]
        fd = self._file.fileno()
        return os.pread(fd, head_bytes, 0), os.pread(fd, tail_bytes, max(0, self.size - tail_bytes))

    def rewind(self) -> None:
        if self._file is not None:
            self._file.seek(0)

    def read(self) -> bytes:
        """The next part of a body on disk; empty at its end. Raises OSError."""
        return b"" if self._file is None else self._file.read(READ_BYTES)

    def close(self) -> None:
        """Forget the body. May be called again."""
        if self.keep and self.size:
            self._budget.give_back(self._key, self.size)
        self.size = 0
        self._memory.clear()
        if self._file is not None:
            self._file.close()
            self._file = None


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request is larger than the maximum of {max_bytes} bytes")


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
