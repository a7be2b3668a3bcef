"""Frames of WebSocket connections: followed as another implementation reads them, however they are cut into pieces."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from frame_bytes import KEY, raw
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from freehold.gateway.websocket import frames
from freehold.gateway.websocket.frames import BadFrame, FrameFollower


@dataclass
class Outcome:
    passed: bytes
    code: int | None
    """Of the refusal."""
    close_code: int | None
    at_boundary: bool


def follow(follower: FrameFollower, data: bytes, cuts: list[int] | range) -> Outcome:
    """Feed `data` in pieces. After a refusal nothing more is fed."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    passed = b""
    code: int | None = None
    for start, end in itertools.pairwise(edges):
        if start == end:
            continue
        try:
            passed += follower.feed(data[start:end])
        except BadFrame as error:
            passed += error.passed
            code = error.code
            break
    return Outcome(passed, code, follower.close_code, follower.at_boundary)


def oracle(data: bytes, *, masked: bool) -> tuple[list[Frame], int | None, int | None]:
    """What `websockets` reads: whole frames, the code it fails with, and the code of a Close frame."""
    protocol = Protocol(SERVER if masked else CLIENT, state=OPEN, max_size=None)
    protocol.receive_data(data)
    read = [event for event in protocol.events_received() if isinstance(event, Frame)]
    failure = None if protocol.parser_exc is None else protocol.close_sent
    closed = protocol.close_rcvd
    if closed is not None and failure is not None and "incomplete fragmented message" in failure.reason:
        # It takes no Close frame between two fragments. RFC 6455 allows every control frame there (section 5.4), and
        # one who breaks off in the middle has nothing else to say it with.
        failure = None
        read.append(Frame(Opcode.CLOSE, b"" if closed.code == 1005 else closed.serialize()))
    return read, None if failure is None else failure.code, None if closed is None else closed.code


def size_of(frame: Frame, *, masked: bool) -> int:
    length = len(frame.data)
    return 2 + (0 if length < 126 else 2 if length < 65536 else 8) + (4 if masked else 0) + length


CODES = st.one_of(st.integers(0, 5000), st.sampled_from([1000, 1001, 1004, 1005, 1006, 1011, 1014, 1015, 1016]))
CLOSES = st.one_of(
    st.binary(max_size=8),
    st.builds(lambda code, reason: Close(code, reason), st.sampled_from([1000, 3000]), st.text(max_size=9)).map(
        Close.serialize
    ),
    st.builds(lambda code, reason: code.to_bytes(2) + reason, CODES, st.binary(max_size=4)),
)
LENGTHS = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 30, 124, 125, 126, 127, 200, 65535, 65536])
GOOD = st.one_of(
    st.builds(lambda op, length: (op, b"z" * length, True), st.sampled_from([1, 2]), LENGTHS),
    st.builds(lambda op, data: (op, data, True), st.sampled_from([9, 10]), st.binary(max_size=125)),
    st.builds(lambda op, data: (op, data, False), st.sampled_from([0, 1, 2]), st.binary(max_size=9)),
    st.builds(lambda data: (0, data, True), st.binary(max_size=9)),
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bool, list[bytes]]:
    """Frames of one direction: whole messages, fragments with control frames between, and now and then a bad one."""
    masked = draw(st.booleans())
    made: list[bytes] = []
    fragmented = False
    for opcode, payload, fin in draw(st.lists(GOOD, max_size=12)):
        if opcode in (0, 1, 2) and draw(st.integers(0, 19)):
            # Nearly always what may come here.
            opcode = 0 if fragmented else opcode or 1
        made.append(raw(opcode, payload, fin=fin, masked=masked))
        if opcode < 8:
            fragmented = not fin
    odd = draw(
        st.one_of(
            st.none(),
            CLOSES.map(lambda payload: raw(8, payload, masked=masked)),
            st.builds(
                lambda opcode, payload, fin, reserved, mask: raw(
                    opcode, payload, fin=fin, reserved=reserved, masked=mask
                ),
                st.integers(0, 15),
                st.binary(max_size=140),
                st.booleans(),
                st.sampled_from([0, 0, 0, 0x10, 0x20, 0x40, 0x70]),
                st.sampled_from([masked, masked, masked, not masked]),
            ),
        )
    )
    if odd is not None:
        made.insert(draw(st.integers(0, len(made))), odd)
    return masked, made


@given(streams(), st.lists(st.integers(0, 200_000), max_size=8))
def test_frames_are_let_through_and_refused_as_another_implementation_reads_them(
    stream: tuple[bool, list[bytes]], cuts: list[int]
) -> None:
    masked, made = stream
    data = b"".join(made)
    outcome = follow(FrameFollower(masked=masked), data, cuts)
    read, failure, closed = oracle(data, masked=masked)
    assert outcome.passed == data[: sum(size_of(frame, masked=masked) for frame in read)]
    assert outcome.code == failure
    assert outcome.close_code == closed
    assert outcome.at_boundary


@given(
    streams(), st.binary(max_size=20), st.lists(st.integers(0, 200_000), max_size=8), st.integers(0, 200), st.booleans()
)
def test_how_the_bytes_are_cut_changes_nothing(
    stream: tuple[bool, list[bytes]], after: bytes, cuts: list[int], bound: int, tight: bool
) -> None:
    masked, made = stream
    data = b"".join(made) + after

    def made_anew() -> FrameFollower:
        return FrameFollower(masked=masked, max_payload_bytes=bound, max_frames_per_s=4 if tight else None)

    assert follow(made_anew(), data, cuts) == follow(made_anew(), data, [])
    if len(data) < 400:
        assert follow(made_anew(), data, range(len(data))) == follow(made_anew(), data, [])


@given(st.booleans(), st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8))
@example(masked=False, data=b"\x81\x7e\x00\x05hello", cuts=[])
def test_no_bytes_are_let_through_that_another_implementation_refuses(
    masked: bool, data: bytes, cuts: list[int]
) -> None:
    outcome = follow(FrameFollower(masked=masked), data, cuts)
    assert data.startswith(outcome.passed)
    _, failure, closed = oracle(outcome.passed, masked=masked)
    assert failure is None
    assert closed == outcome.close_code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (raw(1, b"x" * 125, width=2), 1002),
        (raw(1, b"x" * 125, width=8), 1002),
        (raw(1, b"x" * 126, width=8), 1002),
        (raw(1, b"x" * 65535, width=8), 1002),
        (raw(1, announced=1 << 63, width=8), 1002),
        (raw(1, announced=(1 << 63) - 1, width=8), 1009),
        (raw(1, announced=65537), 1009),
        (raw(0, announced=65537, width=8), 1002),
        (raw(9, b"x" * 126), 1002),
        (raw(8, b"\x03"), 1002),
        (raw(8, b"\x03\xe8\xff"), 1007),
        (raw(8, b"\x03\xed"), 1002),
        (raw(8, b"\x03\xee"), 1002),
        (raw(8, b"\x03\xe8", fin=False), 1002),
        (raw(1, b"x", masked=False), 1002),
        (raw(3, b"x"), 1002),
        (raw(0, b"x"), 1002),
        (raw(1, b"x", reserved=0x40), 1002),
    ],
)
def test_of_a_frame_that_must_not_pass_no_byte_passes(data: bytes, code: int) -> None:
    before = raw(2, b"fine")
    for cuts in ([], range(len(before) + 20)):
        follower = FrameFollower(masked=True, max_payload_bytes=65536)
        outcome = follow(follower, before + data + raw(2, b"after"), cuts)
        assert (outcome.passed, outcome.code) == (before, code)


def test_a_frame_of_exactly_the_bound_passes_while_it_comes() -> None:
    follower = FrameFollower(masked=True, max_payload_bytes=65536)
    data = raw(2, b"x" * 65536)
    assert follower.feed(data[:20]) == data[:20], "the header is whole, so it is not waited for the rest"
    assert not follower.at_boundary
    assert follower.feed(data[20:]) == data[20:]
    assert follower.at_boundary


def test_nothing_passes_after_a_close_frame() -> None:
    for cuts in ([], range(100)):
        follower = FrameFollower(masked=False)
        data = raw(1, b"last", masked=False) + raw(8, b"\x03\xe8bye", masked=False)
        outcome = follow(follower, data + raw(1, b"more", masked=False) + b"\xff\xff\xff", cuts)
        assert outcome == Outcome(data, None, 1000, at_boundary=True)


def test_a_whole_small_message_is_passed_on_as_the_same_object() -> None:
    for masked in (True, False):
        follower = FrameFollower(masked=masked, max_payload_bytes=65536, max_frames_per_s=250)
        for length in (3, 125, 126, 65535):
            data = raw(1, b"x" * length, masked=masked)
            assert follower.feed(data, now=1e6) is data


def message(number: int) -> bytes:
    return raw(2, b"%09d" % number)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("start", [0.0, 1e6 + 0.1, 3e9])
def test_a_burst_of_as_many_frames_as_a_second_allows_passes_and_not_one_more(at_once: bool, start: float) -> None:
    follower = FrameFollower(masked=True, max_frames_per_s=250)
    burst = [message(number) for number in range(250)]
    if at_once:
        data = b"".join(burst)
        assert follower.feed(data, start) is data
    else:
        assert b"".join(follower.feed(data, start) for data in burst) == b"".join(burst)
    with pytest.raises(BadFrame) as refused:
        follower.feed(message(250), start)
    assert (refused.value.code, refused.value.passed) == (1008, b"")


def test_frames_at_the_rate_pass_for_ever_and_a_little_more_does_not() -> None:
    follower = FrameFollower(masked=True, max_frames_per_s=250)
    for number in range(10_000):
        follower.feed(message(number), 1000 + number / 250)
    faster = FrameFollower(masked=True, max_frames_per_s=250)
    with pytest.raises(BadFrame):
        for number in range(10_000):
            faster.feed(message(number), 1000 + number / 260)


def test_pings_and_fragments_count_as_frames_too() -> None:
    follower = FrameFollower(masked=True, max_frames_per_s=4)
    data = raw(1, b"a", fin=False) + raw(9) + raw(0, b"b") + raw(10)
    assert follower.feed(data, 5.0) == data
    with pytest.raises(BadFrame, match="more than 4 frames a second"):
        follower.feed(raw(9), 5.1)


@given(st.sampled_from([1000, 1001, 1008, 1009, 1011, 3000]), st.text(max_size=200), st.booleans())
def test_close_frames_are_read_by_another_implementation(code: int, reason: str, masked: bool) -> None:
    data = frames.close_frame(code, reason, mask=KEY if masked else None)
    read, failure, closed = oracle(data, masked=masked)
    assert (failure, closed) == (None, code)
    assert read[0].opcode is Opcode.CLOSE
    told = Close.parse(read[0].data).reason
    assert reason.startswith(told)
    assert told == reason or len(told.encode()) > 119
