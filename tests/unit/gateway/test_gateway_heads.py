"""Heads of requests and responses: read, or refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.gateway import heads
from freehold.gateway.framing import Chunked, Length, UntilClose
from freehold.gateway.heads import BadHead, BadResponse

FIELD = st.text("abcdefXYZ-_!#$%&'*+.^`|~09", min_size=1, max_size=12).filter(
    lambda name: name.lower() not in ("content-length", "transfer-encoding", "connection", "expect", "host", "upgrade")
)
VALUE = st.text([chr(c) for c in range(0x20, 0x100) if c != 0x7F], max_size=20)


@given(st.lists(st.tuples(FIELD, VALUE), max_size=10), st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]))
def test_every_proper_header_is_read_as_it_is(pairs: list[tuple[str, str]], method: str) -> None:
    lines = "".join(f"{name}: {value} \t\r\n" for name, value in pairs)
    data = f"{method} /a%2Fb?x=%20 HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode("latin-1")
    head = heads.parse_request(data)
    assert (head.method, head.raw_path, head.raw_query) == (method, b"/a%2Fb", b"x=%20")
    expected = [(name.lower().encode(), value.strip(" \t").encode("latin-1")) for name, value in pairs]
    assert head.headers == [(b"host", b"a"), *expected]


@given(st.binary(max_size=300))
def test_no_bytes_make_the_readers_fail_otherwise(data: bytes) -> None:
    for start in (b"", b"POST / HTTP/1.1\r\nHost: a\r\n"):
        with contextlib.suppress(BadHead):
            heads.parse_request(start + data + b"\r\n\r\n")
    for start in (b"", b"HTTP/1.1 200 OK\r\n"):
        with contextlib.suppress(BadResponse):
            heads.parse_response(start + data + b"\r\n\r\n", request_method="POST")


def test_identical_hosts_are_taken_and_different_ones_are_not() -> None:
    assert heads.parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n").method == "GET"
    with pytest.raises(BadHead):
        heads.parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "method", "framing", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", "POST", Length, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n", "POST", Chunked, True),
        (b"HTTP/1.1 200 OK\r\n", "POST", UntilClose, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n", "POST", Length, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n", "POST", Length, False),
        (b"HTTP/1.1 204 No\r\n", "POST", Length, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", "HEAD", Length, True),
        (b"HTTP/1.1 200\r\nContent-Length: 5\r\n", "POST", Length, True),
    ],
)
def test_a_responses_head_says_where_its_body_ends(head: bytes, method: str, framing: type, keep_alive: bool) -> None:
    parsed = heads.parse_response(head + b"\r\n", request_method=method)
    assert isinstance(parsed.framing, framing)
    assert parsed.keep_alive is keep_alive
    assert parsed.framing.done is (method == "HEAD" or parsed.status == 204)
