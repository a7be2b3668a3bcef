"""Request bodies held until their signature has been checked: in memory, then in an unnamed file.

Not for bodies that may stream, and not for one that has come whole with its head. Invariant: every byte held is counted
until `close`, and a file has no name, so nothing is left of a worker that is killed.

Anybody may send the head of a request, and the id of an access key is no secret. What is held of a body whose caller
is not known yet is therefore counted by where it comes from, not by the key it names, and apart from what callers
hold: a stranger takes nothing of theirs. Where strangers need more than there is, the body gives way that will take the
longest to have come, at its pace, of those from the source that holds the most: so one that comes quickly gets in among
many that are large or slow. (That a body keeps coming, `connection` sees to.)

To hash a stranger's body takes time, too, and everybody's: where many come at once they take turns.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import os
import tempfile
from collections.abc import Callable
from typing import IO, Final

from freehold.domain.errors import PayloadTooLarge, Throttled, Unavailable
from freehold.gateway.bounds import GatewayLimits

READ_BYTES: Final = 256 * 1024
UNCROWDED: Final = 8
"""As many bodies of strangers may come at once as fast as they can. Where there are more,"""
TURN_BYTES: Final = 64 * 1024
"""each waits for a turn when so much of it has come,"""
TURN_S: Final = 0.05
TURNS: Final = 16
"""and in each TURN_S so many go on: some 20 to 80 MB/s in all, as much coming at once as the system hands over."""


class _Crowd:
    """Bodies that come from one source."""

    __slots__ = ("held_bytes", "spools")

    def __init__(self) -> None:
        self.spools: set[Spool] = set()
        self.held_bytes = 0


class Spools:
    """What all bodies of one worker hold together."""

    def __init__(self, limits: GatewayLimits, clock: Callable[[], float], *, directory: str | None = None) -> None:
        """Files are made in `directory`, or where the system has its temporary ones."""
        self.limits = limits
        self.clock = clock
        self.directory = directory
        self.memory_bytes = 0
        self._keys: dict[str, int] = {}
        self._known_bytes = 0
        self._crowds: dict[str, _Crowd] = {}
        self._unknown_bytes = 0
        self._strangers = 0
        self._queue: list[Spool] = []
        self._is_timed = False

    @property
    def held_bytes(self) -> int:
        return self._known_bytes + self._unknown_bytes

    @property
    def is_crowded(self) -> bool:
        """Whether there are so many strangers that they take turns."""
        return self._strangers > UNCROWDED

    def of_caller(self, owner: str, *, max_bytes: int, expected: int | None = None) -> Spool:
        """For the body of a caller who is known, counted for `owner`. `expected` is its Content-Length."""
        return Spool(self, owner, None, max_bytes=max_bytes, expected=expected)

    def of_stranger(self, source: str, owner: str, *, max_bytes: int, expected: int | None = None) -> Spool:
        """For a body whose caller is not known yet, counted for where it comes from until `Spool.admit`."""
        self._strangers += 1
        return Spool(self, owner, source, max_bytes=max_bytes, expected=expected)

    def queue(self, spool: Spool, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Let a stranger's body that has just grown wait for its turn, if there are many.

        `pause` has no more of it come until `resume`.
        """
        if spool.source is None or not self.is_crowded or spool.size < spool.turn_ends_at:
            return
        pause()
        if spool.resume is None:
            spool.resume = resume
            self._queue.append(spool)
        if not self._is_timed:
            self._is_timed = True
            asyncio.get_running_loop().call_later(TURN_S, self._next_turn)

    def _next_turn(self) -> None:
        now = self.clock()
        waiting = [spool for spool in self._queue if spool.resume is not None]
        # Half of the turns are for those that will be done soonest, half for those that have waited the longest.
        going = set(heapq.nsmallest(TURNS // 2, waiting, key=lambda one: one.waits_for(now, 0)))
        for spool in waiting:
            if len(going) == TURNS:
                break
            going.add(spool)
        self._queue = [spool for spool in waiting if spool not in going]
        self._is_timed = bool(self._queue)
        if self._is_timed:
            asyncio.get_running_loop().call_later(TURN_S, self._next_turn)
        for spool in going:
            resume, spool.resume = spool.resume, None
            spool.turn_ends_at = spool.size + TURN_BYTES
            if resume is not None:
                resume()

    def leave(self, spool: Spool) -> None:
        """`spool` is no stranger's any more."""
        spool.resume = None
        if spool.source is not None:
            self._strangers -= 1

    def take(self, spool: Spool, count: int) -> None:
        """Count `count` bytes more. Raises Throttled."""
        source = spool.source
        if source is None:
            held = self._keys.get(spool.owner, 0) + count
            limits = self.limits
            if held > limits.spool_bytes_per_key or self._known_bytes + count > limits.spool_bytes_total:
                raise too_many()
            self._keys[spool.owner] = held
            self._known_bytes += count
        else:
            crowd = self._crowds.get(source) or self._crowds.setdefault(source, _Crowd())
            crowd.spools.add(spool)
            self._make_room(spool, crowd, count)
            crowd.held_bytes += count
            self._unknown_bytes += count
        spool.held += count

    def give_back(self, spool: Spool) -> None:
        """Count nothing more for `spool`."""
        source, held = spool.source, spool.held
        spool.held = 0
        if source is None:
            self._known_bytes -= held
            left = self._keys.get(spool.owner, 0) - held
            if left > 0:
                self._keys[spool.owner] = left
            else:
                self._keys.pop(spool.owner, None)
            return
        crowd = self._crowds.get(source)
        if crowd is not None:
            crowd.spools.discard(spool)
            crowd.held_bytes -= held
            self._unknown_bytes -= held
            if not crowd.spools:
                del self._crowds[source]

    def _make_room(self, spool: Spool, here: _Crowd, count: int) -> None:
        """Have strangers' bodies give way until `count` bytes more fit. Raises Throttled when it is `spool`'s turn."""
        limits = self.limits
        while True:
            if here.held_bytes + count > limits.spool_unknown_bytes_per_source:
                crowd = here
            elif self._unknown_bytes + count > limits.spool_unknown_bytes_total:
                crowd = max(self._crowds.values(), key=lambda crowd: crowd.held_bytes)
            else:
                return
            now = self.clock()
            victim = max(crowd.spools, key=lambda one: one.waits_for(now, count if one is spool else 0))
            if victim is spool:
                raise too_many()
            victim.give_way()


class Spool:
    """One body being received. `sha256` grows with it; once `keep` is false nothing else does."""

    __slots__ = (
        "_expected",
        "_file",
        "_gave_way",
        "_max_bytes",
        "_memory",
        "_sha256",
        "_spools",
        "began_at",
        "held",
        "keep",
        "owner",
        "resume",
        "size",
        "source",
        "turn_ends_at",
    )

    def __init__(
        self, spools: Spools, owner: str, source: str | None, *, max_bytes: int, expected: int | None = None
    ) -> None:
        self._spools = spools
        self._max_bytes = max_bytes
        self._expected = expected
        self._memory: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._sha256 = hashlib.sha256()
        self._gave_way = False
        self.owner = owner
        self.source = source
        """Where the body comes from; None once its caller is known."""
        self.keep = True
        """Whether more is wanted of the body than its hash. To be said before it comes."""
        self.size = 0
        self.held = 0
        """What is counted of it."""
        self.began_at = spools.clock()
        self.resume: Callable[[], None] | None = None
        """What lets it go on, while it waits for its turn."""
        self.turn_ends_at = TURN_BYTES

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises PayloadTooLarge, Throttled, or Unavailable when the disk takes no more.
        """
        size = self.size + len(data)
        if size > self._max_bytes:
            raise too_large(self._max_bytes)
        self._sha256.update(data)
        if self.keep:
            if self._gave_way:
                raise too_many()
            self._spools.take(self, len(data))
            self._store(data)
        self.size = size

    def _store(self, data: bytes) -> None:
        spools = self._spools
        if self._file is None:
            limits = spools.limits
            most = limits.memory_spool_bytes
            if self.source is not None and spools.is_crowded:
                # Memory that many take and leave at random is not given back to the system.
                most = min(most, TURN_BYTES)
            if self.held <= most and spools.memory_bytes + len(data) <= limits.memory_spool_bytes_total:
                self._memory.append(data)
                spools.memory_bytes += len(data)
                return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, dir=spools.directory)  # noqa: SIM115
                for part in self._memory:
                    _write_all(self._file, part)
                self._clear_memory()
            _write_all(self._file, data)
        except OSError as error:
            raise Unavailable(f"The request can't be stored just now: {error.strerror}") from error

    def waits_for(self, now: float, more: int) -> float:
        """About how long it takes until all of it will have come, given `more` bytes that just came: seconds."""
        come = self.held + more
        left = (self._max_bytes if self._expected is None else self._expected) - come
        # A second more than it has taken: of one that has only begun little is known.
        return left * (now - self.began_at + 1.0) / (come or 1)

    def admit(self) -> None:
        """The caller is known: from now on the body is counted for its owner. Raises Throttled."""
        if self._gave_way:
            raise too_many()
        if self.source is not None:
            held = self.held
            self._spools.give_back(self)
            self._spools.leave(self)
            self.source = None
            self._spools.take(self, held)

    def give_way(self) -> None:
        """Forget what has come; whatever comes yet is refused."""
        self._gave_way = True
        self._forget()

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
        self._forget()
        self._spools.leave(self)
        self.source = None
        self.size = 0

    def _forget(self) -> None:
        self._spools.give_back(self)
        self._clear_memory()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _clear_memory(self) -> None:
        self._spools.memory_bytes -= sum(len(part) for part in self._memory)
        self._memory.clear()


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request is larger than the maximum of {max_bytes} bytes")


def too_many() -> Throttled:
    return Throttled("Too many large requests are under way, please retry later")


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
