"""Heads that are recognised: read as if each were the first."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.gateway import heads
from freehold.gateway.familiar import FamiliarHead, Reader, Recent
from freehold.gateway.framing import Chunked, Length
from freehold.gateway.heads import BadHead, RequestHead

USUAL = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nAccept: x\r\nContent-Length: 3\r\nX-Id: 1\r\n\r\n"
LINES = st.sampled_from(
    [
        b"Host: h",
        b"host: h",
        b"Host: other",
        b"Host: a b",
        b"Accept: x",
        b"Accept: y \t",
        b"accept:",
        b"X-Id: 2",
        b"X-Id: \xe9",
        b"Content-Length: 3",
        b"Content-Length: 30",
        b"Content-Length: 3 ",
        b"Content-Length: +3",
        b"Content-Length: 3, 3",
        b"Content-Length: 9999999999999999999",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: Keep-Alive",
        b"Connection: keep-alive, upgrade",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b" folded: x",
        b"no colon",
        b"Accept : x",
        b"Accept: x\ny: z",
        b"Accept: x\0",
    ]
)
FIRSTS = st.sampled_from(
    [b"POST /a?b=c HTTP/1.1", b"POST /a HTTP/1.1", b"GET /a HTTP/1.1", b"POST /a HTTP/1.0", b"POST  /a HTTP/1.1", b"x"]
)
HEADS = st.builds(
    lambda first, lines: b"\r\n".join([first, *lines, b"", b""]), FIRSTS, st.lists(LINES, max_size=5)
) | st.just(USUAL)


def read(data: bytes, reader: Reader | None) -> object:
    """What a head says, or why it is none."""
    try:
        head: RequestHead = heads.parse_request(data) if reader is None else reader.read(data)
    except BadHead as bad:
        return bad.status, bad.message
    framed = head.body_framing()
    return (
        (head.method, head.raw_path, head.raw_query, head.is_http_1_0, head.keep_alive, head.expects_continue),
        (type(framed), head.content_length, head.chunked),
        head.headers,
    )


@given(st.lists(HEADS, min_size=1, max_size=8))
def test_whatever_came_before_a_head_is_read_as_if_it_were_the_first(datas: list[bytes]) -> None:
    reader = Reader()
    for data in [*datas, *datas]:
        assert read(data, reader) == read(data, None)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    reader = Reader()
    reader.read(USUAL)
    for start in (b"", b"POST /a?b=c HTTP/1.1\r\nHost: h\r\n"):
        with contextlib.suppress(BadHead):
            reader.read(start + data + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("old", "new", "recognised"),
    [
        (b"X-Id: 1", b"X-Id: 2", True),
        (b"Content-Length: 3", b"Content-Length: 44", True),
        (b"X-Id: 1", b"X-Id: 1 ", True),
        (b"Host: h", b"Host: other", False),
        (b"X-Id: 1", b"Accept: y", False),
        (b"X-Id: 1", b"X-Other: 1", False),
        (b"/a?b=c", b"/a?b=d", False),
        (b"1.1", b"1.0", False),
    ],
)
def test_what_is_like_one_before_is_recognised_and_other_things_are_read(old: bytes, new: bytes, recognised: bool):
    reader = Reader()
    assert not isinstance(reader.read(USUAL), FamiliarHead)
    head = reader.read(USUAL.replace(old, new))
    assert isinstance(head, FamiliarHead) is recognised


@pytest.mark.parametrize(
    ("data", "framing"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\n", Length),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Chunked),
    ],
)
def test_a_responses_head_that_came_before_has_a_body_of_its_own(data: bytes, framing: type) -> None:
    reader = Reader()
    first, second = (reader.read_response(data, request_method="POST") for _ in range(2))
    assert second.headers == heads.parse_response(data, request_method="POST").headers
    assert isinstance(second.framing, framing)
    assert second.framing is not first.framing
    first.framing.feed(b"5\r\nhello\r\n0\r\n\r\n" if framing is Chunked else b"hello")
    assert first.framing.done
    assert not second.framing.done
    assert reader.read_response(data, request_method="HEAD").framing.done


def test_what_is_used_stays_and_what_is_not_goes() -> None:
    recent: Recent[int, int] = Recent(10)
    for number in range(100):
        recent.put(number, number)
        assert recent.get(0) == 0
    assert recent.get(50) is None
    assert sum(recent.get(number) is not None for number in range(100)) <= 20
