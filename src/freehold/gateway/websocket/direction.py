"""What the event loop calls with the bytes of an open WebSocket: followed, and written to the other side at once.

For: `tunnel`, twice, once for each direction. Nearly all that comes is one small message that came whole, and for those
there is a short way: one look at the first two bytes, and one system call past the transport's queue. With it a round
trip costs little more than that of a pipe that looks at nothing. Invariant: the short way lets nothing pass that
FrameFollower would not, and writes nothing while anything written before waits in the transport, or after that closed:
by then its descriptor may be another connection's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from freehold.gateway import fast
from freehold.gateway.websocket import frames
from freehold.gateway.websocket.frames import BadFrame, FrameFollower

if TYPE_CHECKING:
    from freehold.gateway.fastpipe import Messages

_TEXT: Final = frames.FIN | frames.TEXT
_BINARY: Final = frames.FIN | frames.BINARY


class Receiver(Protocol):
    """asyncio.Protocol.data_received"""

    def __call__(self, data: bytes) -> None: ...


class Direction:
    """One direction. `data_received` is for the protocol whose bytes pass."""

    def __init__(
        self,
        follower: FrameFollower,
        destination: asyncio.Transport,
        *,
        clock: Callable[[], float],
        refused: Callable[[BadFrame], None],
        ending: Callable[[], None],
    ) -> None:
        """`refused` is told of a frame that must not pass, `ending` after all that comes while the follower ends."""
        self._follower = follower
        self._destination = destination
        self._clock = clock
        self._refused = refused
        self._ending = ending
        self._descriptor: int = destination.get_extra_info("socket").fileno()
        self._source: asyncio.Transport | None = None
        """What is read elsewhere than there, if it is."""
        self._long_way_bytes = 0
        compiled = fast.compiled()
        if compiled is not None:
            messages = compiled.messages(follower, destination, clock, self._long_way)
            self.data_received: Receiver = messages.data_received
            self._short_way_bytes: Callable[[], int] = lambda: messages.passed
            self._close_short_way: Callable[[], None] = messages.close
            self._rider: Messages | None = messages
        else:
            self._rider = None
            self.data_received, self._short_way_bytes, self._close_short_way = self._short_way()

    @property
    def bytes(self) -> int:
        """How many have passed."""
        return self._long_way_bytes + self._short_way_bytes()

    def ride(self, source: asyncio.Transport) -> None:
        """What comes to `source` is to pass, and may be read elsewhere than there; see `finish`."""
        if self._rider is not None:
            self._source = source
            self._rider.ride(source)

    def set_reading(self, wanted: bool) -> bool:
        """Read what comes, or nothing for now; False: the source is to be told itself."""
        rider, source = self._rider, self._source
        if rider is None or source is None:
            return False
        if wanted:
            rider.ride(source)
        else:
            rider.alight()
        return True

    def finish(self) -> None:
        """What comes is for others now, who read it from the source."""
        source, self._source = self._source, None
        if self._rider is not None and source is not None:
            self._rider.alight()
            source.resume_reading()

    def stop(self) -> None:
        """Let nothing pass after the frame that is passing."""
        self._follower.stop()
        self._close_short_way()

    def _short_way(self) -> tuple[Receiver, Callable[[], int], Callable[[], None]]:
        """`data_received`, what counts the bytes that it lets pass the short way, and what closes that."""
        # Local variables all of them: attributes would be felt.
        follower, destination, clock, long_way = self._follower, self._destination, self._clock, self._long_way
        write, descriptor, closing = os.write, self._descriptor, destination.is_closing
        pace_s, ahead_s = follower.pace_s, follower.ahead_s
        header_bytes, mask_bit = (6, 0x80) if follower.is_masked else (2, 0)
        # The second byte of a whole small message tells its length, so that it tells how many bytes came.
        difference = mask_bit - header_bytes
        enough = header_bytes + frames.MAX_CONTROL_BYTES + 1
        below = passed = 0  # below: how many bytes are few enough for the short way, or 0 while it is closed

        def data_received(data: bytes) -> None:
            nonlocal below, passed
            size = len(data)
            if (
                header_bytes < size < below
                and data[1] - size == difference
                and ((first := data[0]) == _BINARY or first == _TEXT)
                and not closing()
            ):
                if pace_s:
                    now = clock()
                    next_at = follower.next_at
                    next_at = (next_at if next_at > now else now) + pace_s
                    if next_at > now + ahead_s:
                        below = enough if long_way(data) else 0
                        return
                    follower.next_at = next_at
                passed += size
                try:
                    written = write(descriptor, data)
                except OSError:
                    written = 0  # there is no room, or it is broken: the transport finds out, too
                if written != size:
                    below = 0
                    destination.write(data[written:])
                return
            below = enough if long_way(data) else 0

        def close() -> None:
            nonlocal below
            below = 0

        return data_received, lambda: passed, close

    def _long_way(self, data: bytes) -> bool:
        """Whatever comes; whether the short way is open for what comes next."""
        follower = self._follower
        try:
            passed = follower.feed(data, self._clock())
        except BadFrame as bad:
            self._write(bad.passed)
            self._refused(bad)
            return False
        self._write(passed)
        if follower.ending:
            self._ending()
            return False
        return follower.between_messages and not self._destination.get_write_buffer_size()

    def _write(self, passed: bytes) -> None:
        if not passed:
            return
        self._long_way_bytes += len(passed)
        destination = self._destination
        if not destination.is_closing() and not destination.get_write_buffer_size():
            # At once here, too: what waits in the transport would close the short way for what comes next.
            written = 0
            with contextlib.suppress(OSError):
                written = os.write(self._descriptor, passed)
            passed = passed[written:]
        if passed:
            destination.write(passed)
