"""Where bodies end, however they are cut into pieces."""

from __future__ import annotations

import http.client
import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.gateway.framing import BadFraming, Chunked, Framing, Length, UntilClose


def follow(body: Framing, data: bytes, cuts: list[int]) -> tuple[int, bytes]:
    """Feed `data` in pieces: how many bytes were taken, and the content."""
    body.content = []
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    taken = 0
    for start, end in itertools.pairwise(edges):
        if body.done:
            break
        used = body.feed(data[start:end])
        taken += used
        assert used == end - start or body.done
    return taken, b"".join(body.content)


def chunk(content: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(content), extension, content)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.sampled_from([b"", b";a", b";a=b", b' ; a="b c"']),
    st.sampled_from([b"", b"A: b\r\n", b"A:\r\nB: c\r\n"]),
    st.binary(max_size=20),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_chunks_in_any_pieces_end_where_another_reader_says(
    contents: list[bytes], extension: bytes, trailers: bytes, after: bytes, cuts: list[int]
) -> None:
    body = b"".join(chunk(content, extension) for content in contents) + b"0\r\n" + trailers + b"\r\n"
    tracker = Chunked()
    assert follow(tracker, body + after, cuts) == (len(body), b"".join(contents))
    assert tracker.done

    class Connection(io.BytesIO):
        def makefile(self, _mode: str) -> io.BytesIO:
            return self

    oracle = http.client.HTTPResponse(
        Connection(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)  # pyright: ignore[reportArgumentType]
    )
    oracle.begin()
    assert oracle.read() == b"".join(contents)


@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=8))
def test_no_bytes_make_the_reader_of_chunks_fail_otherwise(data: bytes, cuts: list[int]) -> None:
    tracker = Chunked()
    try:
        taken, _ = follow(tracker, data, cuts)
    except BadFraming:
        return
    assert tracker.done or taken == len(data)


@pytest.mark.parametrize(
    "body",
    [
        b"0x5\r\nhello", b"1_0\r\n", b"+5\r\n", b"-1\r\n", b"5 \r\n", b" 5\r\n", b"5\n", b"\r\n", b"g\r\n",
        b"5\r\nhello0\r\n", b"5\r\nhello\n0\r\n", b"5\r\nhello\r0", b"5;\x7f\r\n", b"5;\x00\r\n", b"5;a\rb\r\n",
        b"1" * 16 + b"\r\n", b"0\r\nbad trailer\r\n", b"0\r\n: x\r\n", b"0\r\nA: \x01\r\n", b"0\r\n A: b\r\n",
        b"5" + b";" * 5000, b"0\r\n" + b"A: b\r\n" * 5000, "\u0665\r\nhello".encode(),
    ],
)  # fmt: skip
def test_what_two_readers_might_take_for_different_chunks_is_refused(body: bytes) -> None:
    for cuts in ([], list(range(40))):
        with pytest.raises(BadFraming):
            follow(Chunked(), body + b"\r\n\r\n", cuts)


@given(st.binary(max_size=60), st.integers(0, 60), st.lists(st.integers(0, 400), max_size=8))
def test_a_length_is_kept_to(data: bytes, length: int, cuts: list[int]) -> None:
    tracker = Length(length)
    assert follow(tracker, data, cuts) == (min(length, len(data)), data[:length])
    assert tracker.done == (len(data) >= length)


def test_a_body_until_close_takes_everything() -> None:
    tracker = UntilClose()
    assert follow(tracker, b"hello", [2]) == (5, b"hello")
    assert not tracker.done
