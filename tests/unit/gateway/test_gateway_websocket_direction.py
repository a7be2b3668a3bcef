"""The short way of small frames: what passes is what the follower alone would let pass, in order, once."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import compiled_forms
import pytest
from frame_bytes import raw
from hypothesis import given, settings
from hypothesis import strategies as st

from freehold.gateway import fast
from freehold.gateway.websocket.direction import Direction
from freehold.gateway.websocket.frames import BadFrame, FrameFollower


@dataclass
class Transport:
    """Writes to a socket as asyncio's do: what finds no room waits, and what comes then waits behind it."""

    sock: socket.socket
    waiting: bytearray = field(default_factory=bytearray)
    closed: bool = False
    writes: int = 0

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self.sock

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.waiting += data

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                del self.waiting[: self.sock.send(self.waiting)]


@dataclass
class Line:
    """A direction, what is at its other end, and a clock."""

    transport: Transport
    far: socket.socket
    direction: Direction
    refused: list[BadFrame]
    ended: list[None]
    now: list[float]

    def arrived(self) -> bytes:
        """Everything that has been written, once there is room."""
        parts: list[bytes] = []
        while True:
            self.transport.flush()
            with contextlib.suppress(BlockingIOError):
                while part := self.far.recv(1 << 20):
                    parts.append(part)
            if not self.transport.waiting:
                return b"".join(parts)


@contextlib.contextmanager
def line(follower: FrameFollower, room: int = 4096) -> Iterator[Line]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        transport: Any = Transport(near)
        refused: list[BadFrame] = []
        ended: list[None] = []
        now = [1000.0]
        direction = Direction(
            follower,
            transport,
            clock=lambda: now[0],
            refused=refused.append,
            ending=lambda: ended.append(None),
        )
        yield Line(transport, far, direction, refused, ended, now)


@pytest.fixture(params=compiled_forms.FORMS, autouse=True)
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of the short way: both."""
    fast.choose(compiled_forms.of(request.param))
    yield
    fast.choose(fast.load())


SMALL = st.builds(
    lambda opcode, payload: raw(opcode, payload), st.sampled_from([1, 2]), st.binary(min_size=1, max_size=125)
)
OTHERS = st.one_of(
    st.builds(lambda opcode, size: raw(opcode, b"z" * size), st.sampled_from([1, 2]), st.sampled_from([0, 126, 9000])),
    st.builds(lambda size: raw(9, b"y" * size), st.integers(0, 125)),
    st.builds(lambda size: raw(1, b"x" * size, fin=False) + raw(0, b"w"), st.integers(0, 200)),
    st.builds(lambda data: raw(2, b"v" * 40) + data, SMALL),
)
BAD = st.one_of(
    st.sampled_from([b"\x83\x81abcde", b"\xc1\x81abcde", b"\x81\x01a", b"\x81\xfe\x00\x01abcde"]),
    st.sampled_from([raw(0, b"t"), raw(9, bytes(126))]),
    st.binary(min_size=1, max_size=8),
)
TIMES = st.floats(0, 0.2)


def compared(tested: Line, alone: FrameFollower, events: list[bytes | str | float]) -> None:
    """Give both the same, and see that the same comes out."""
    passed = come = b""
    code: int | None = None
    for event in events:
        if isinstance(event, float):
            tested.now[0] += event
        elif isinstance(event, str):
            if event == "make room":
                with contextlib.suppress(BlockingIOError):
                    come += tested.far.recv(2000)
            elif event == "read":
                come += tested.arrived()
            else:
                tested.transport.flush()
        elif code is None:
            tested.direction.data_received(event)
            try:
                passed += alone.feed(event, tested.now[0])
            except BadFrame as bad:
                passed += bad.passed
                code = bad.code
    come += tested.arrived()
    assert come == passed
    assert tested.direction.bytes == len(passed)
    assert [bad.code for bad in tested.refused] == ([] if code is None else [code])
    assert bool(tested.ended) == (alone.close_code is not None)


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(SMALL, SMALL, SMALL, OTHERS, st.sampled_from(["flush", "make room", "read"])),
        min_size=20,
        max_size=60,
    )
)
def test_what_passes_is_in_order_however_full_the_other_side_is(events: list[bytes | str | float]) -> None:
    with line(FrameFollower(masked=True), room=1) as tested:
        compared(tested, FrameFollower(masked=True), events)


@given(
    st.lists(st.one_of(SMALL, OTHERS, TIMES, st.just(raw(1, b"s", fin=False))), max_size=12),
    st.one_of(BAD, SMALL),
    st.lists(st.one_of(SMALL, BAD, TIMES), max_size=6),
)
def test_what_passes_is_what_the_follower_lets_pass(
    before: list[bytes | str | float], bad: bytes, after: list[bytes | str | float]
) -> None:
    def made() -> FrameFollower:
        return FrameFollower(masked=True, max_payload_bytes=65_536, max_frames_per_s=12)

    with line(made(), room=1 << 20) as tested:
        compared(tested, made(), [*before, bad, *after])


@pytest.mark.parametrize("length", [126, 127, 128, 200, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("masked", [True, False])
def test_the_beginning_of_a_large_message_is_not_taken_for_a_small_one(length: int, masked: bool) -> None:
    whole = raw(1, b"x" * length, masked=masked)
    small = raw(2, b"small", masked=masked)
    for cut in (1, 2, 3, *range(126, 136)):
        with line(FrameFollower(masked=masked), room=1 << 20) as tested:
            compared(tested, FrameFollower(masked=masked), [small, whole[:cut], whole[cut:] + small, small])


@pytest.mark.parametrize("masked", [True, False])
def test_small_messages_pass_the_transports_queue_by(masked: bool) -> None:
    with line(FrameFollower(masked=masked)) as tested:
        sent = [raw(1 + number % 2, bytes(1 + number % 125), masked=masked) for number in range(300)]
        for data in sent:
            tested.direction.data_received(data)
            assert tested.far.recv(200) == data
        assert tested.transport.writes == 0


def test_the_short_way_counts_frames() -> None:
    follower = FrameFollower(masked=True, max_frames_per_s=10)
    with line(follower, room=1 << 20) as tested:
        for second in range(3):
            tested.now[0] += 1
            for _ in range(10):
                tested.direction.data_received(raw(1, b"counted"))
            assert (tested.transport.writes, tested.refused) == (0, []), second
        tested.direction.data_received(raw(1, b"counted"))
        assert [bad.code for bad in tested.refused] == [1008]


def test_what_found_no_room_is_not_overtaken() -> None:
    with line(FrameFollower(masked=True), room=1) as tested:
        sent = [raw(2, b"%0125d" % number) for number in range(500)]
        for data in sent:
            tested.direction.data_received(data)
        assert tested.transport.waiting, "the socket is full"
        assert tested.arrived() == b"".join(sent)
        tested.direction.data_received(sent[0])
        assert tested.far.recv(200) == sent[0], "the queue is empty again"


def test_nothing_is_written_to_a_descriptor_whose_transport_has_closed() -> None:
    with line(FrameFollower(masked=True)) as tested:
        before = raw(1, b"before")
        tested.direction.data_received(before)
        assert tested.far.recv(200) == before
        tested.transport.closed = True
        tested.direction.data_received(raw(1, b"after"))
        tested.direction.data_received(raw(1, b"after" * 100))
        with pytest.raises(BlockingIOError):
            tested.far.recv(1)


def test_what_is_broken_is_left_to_the_transport_to_find_out() -> None:
    with line(FrameFollower(masked=True)) as tested:
        tested.direction.data_received(raw(1, b"before"))
        tested.far.close()
        data = raw(1, b"after")
        tested.direction.data_received(data)
        assert bytes(tested.transport.waiting) == data


def test_what_is_written_in_part_is_completed() -> None:
    with line(FrameFollower(masked=True)) as tested:
        # More than fits, and what comes behind it.
        sent = [raw(1, b"first"), raw(2, b"x" * 60_000), raw(1, b"second"), raw(2, b"y" * 1000), raw(1, b"last")]
        tested.direction.data_received(sent[0])
        tested.direction.data_received(sent[1])
        assert 0 < len(tested.transport.waiting) < len(sent[1])
        tested.direction.data_received(sent[2])
        tested.transport.flush()
        tested.direction.data_received(sent[3])
        tested.direction.data_received(sent[4])
        assert tested.arrived() == b"".join(sent)


def test_a_direction_that_is_stopped_between_messages_lets_nothing_pass() -> None:
    with line(FrameFollower(masked=True)) as tested:
        whole = raw(1, b"whole")
        tested.direction.data_received(whole)
        tested.direction.stop()
        tested.direction.data_received(whole)
        assert tested.arrived() == whole


def test_a_stopped_direction_lets_nothing_begin() -> None:
    with line(FrameFollower(masked=True)) as tested:
        whole, large = raw(1, b"whole"), raw(2, b"x" * 1000)
        tested.direction.data_received(whole)
        tested.direction.data_received(large[:100])
        tested.direction.stop()
        tested.direction.data_received(large[100:] + whole)
        tested.direction.data_received(whole)
        assert tested.arrived() == whole + large
