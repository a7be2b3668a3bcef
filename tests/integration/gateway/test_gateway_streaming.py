"""Settings of streams: clients that leave, comments in silence, bounds of time and size."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest
from gateway_stage import DEADLINE_S, Stage, echo, eventually, read_all, read_request, read_response, signed

from freehold.domain.errors import FreeholdError, NotFound, RetryableConflict, Throttled

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = sock.recv(1)
        assert part, data
        data += part
    return data


# -- clients that leave --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answering", [False, True])
def test_an_agent_runs_on_without_its_client_when_a_setting_says_so(
    stages: Callable[..., Stage], answering: bool
) -> None:
    stage = stages(runs_on=True, claim_linger_s=1.5)
    has_it, gone, done = threading.Event(), asyncio.Event(), threading.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if has_it.is_set():  # the first connection may not be free yet
            await echo(reader, writer)
            return
        await read_request(reader)
        if answering:
            writer.write(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"data: 0\n\n"))
            await writer.drain()
        has_it.set()
        await gone.wait()
        if not answering:
            writer.write(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(100):
            writer.write(chunk(b"data: %d\n\n" % number * 1000))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        done.set()
        await echo(reader, writer)

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        assert has_it.wait(DEADLINE_S)
        if answering:
            read_until(sock, b"data: 0\n\n\r\n")
    assert stage.warden.released == []
    stage.call(gone.set)
    assert done.wait(DEADLINE_S)
    with stage.connect() as sock:
        sock.sendall(signed(body=b"next"))
        assert read_response(sock)[2] == b"next"
    assert len(stage.warden.claims) == 1, "the session was claimed all the time"
    eventually(lambda: stage.warden.released)


def test_an_agent_that_runs_on_has_as_long_as_with_a_client(stages: Callable[..., Stage]) -> None:
    stage = stages(runs_on=True, first_byte_timeout_s=0.4, claim_linger_s=0.0)
    has_it = threading.Event()

    async def agent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        has_it.set()
        assert await reader.read() == b""

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        assert has_it.wait(DEADLINE_S)
    eventually(lambda: not stage.handlers)
    eventually(lambda: stage.warden.released)


# -- comments ------------------------------------------------------------------------------------------------------


def test_a_silent_stream_gets_comments_between_its_events_and_never_inside_one(stages: Callable[..., Stage]) -> None:
    stage = stages(sse_keepalive_s=0.1)
    go_on = asyncio.Semaphore(0)

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n")
        for part in (
            chunk(b"data: 1\n\n"),
            chunk(b"data: 2\n"),
            chunk(b"\n"),
            b"5\r\nda",
            b"ta:\r\n",
            chunk(b" 3\r\n\r\n"),
        ):
            writer.write(part)
            await go_on.acquire()
        writer.write(b"0\r\n\r\n")

    stage.agent = agent
    comment = b"3\r\n:\n\n\r\n"
    with stage.connect() as sock:
        sock.sendall(signed())
        read_until(sock, chunk(b"data: 1\n\n"))
        assert sock.recv(8, socket.MSG_WAITALL) == comment
        assert sock.recv(8, socket.MSG_WAITALL) == comment
        stage.call(go_on.release)
        told = read_until(sock, chunk(b"data: 2\n"))
        sock.settimeout(0.35)
        with pytest.raises(TimeoutError):
            sock.recv(1)  # an event is open
        sock.settimeout(DEADLINE_S)
        stage.call(go_on.release)
        assert read_until(sock, chunk(b"\n")) == chunk(b"\n")
        assert sock.recv(8, socket.MSG_WAITALL) == comment
        stage.call(go_on.release)
        read_until(sock, b"5\r\nda")
        sock.settimeout(0.35)
        with pytest.raises(TimeoutError):
            sock.recv(1)  # a chunk is open
        sock.settimeout(DEADLINE_S)
        for _ in range(3):
            stage.call(go_on.release)
        assert b"data: 2\n" in told
        assert read_until(sock, b"0\r\n\r\n").endswith(chunk(b" 3\r\n\r\n") + b"0\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        EVENTS + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        EVENTS + b"Content-Length: 1000\r\n\r\n",
    ],
    ids=["not events", "coded", "of a known length"],
)
def test_no_other_answer_gets_comments(stages: Callable[..., Stage], head: bytes) -> None:
    stage = stages(sse_keepalive_s=0.05)

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(head)
        await reader.read()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        read_until(sock, b"\r\n\r\n")
        sock.settimeout(0.25)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_an_older_client_s_stream_gets_comments_without_framing(stages: Callable[..., Stage]) -> None:
    stage = stages(sse_keepalive_s=0.2)

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"data: 1\n\n"))
        await reader.read()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed(version="1.0"))
        assert read_until(sock, b"data: 1\n\n:\n\n:\n\n")


# -- bounds --------------------------------------------------------------------------------------------------------


def test_a_body_that_drips_is_given_up_however_steadily(stages: Callable[..., Stage]) -> None:
    stage = stages(body_grace_s=0.2, body_min_bytes_per_s=1000)
    request = signed(body=b"x" * 2000)
    with stage.connect() as sock:
        sock.sendall(request[:-2000])
        sock.setblocking(False)
        began = time.monotonic()
        sent = 0
        answer = b""
        while not answer and time.monotonic() < began + DEADLINE_S:
            sent += sock.send(b"x")
            time.sleep(0.02)
            try:
                answer = sock.recv(65536)
            except BlockingIOError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert sent < 1000


def test_a_body_that_comes_at_the_least_rate_is_taken(stages: Callable[..., Stage]) -> None:
    stage = stages(body_grace_s=0.6, body_min_bytes_per_s=1000)
    request = signed(body=b"x" * 4000)
    with stage.connect() as sock:
        sock.sendall(request[:-4000])
        for _ in range(20):
            sock.sendall(b"x" * 200)
            time.sleep(0.05)
        assert read_response(sock)[0] == 200


def test_an_answer_of_known_length_has_no_more_time_than_one_that_has_not_begun(stages: Callable[..., Stage]) -> None:
    stage = stages(first_byte_timeout_s=0.2, stream_timeout_s=60)

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhello")
        await reader.read()

    stage.agent = agent
    assert stage.exchange(signed()).endswith(b"\r\n\r\nhello")


def test_a_chunk_beyond_its_bound_breaks_the_answer_off(stages: Callable[..., Stage]) -> None:
    stage = stages(max_chunk_bytes=1000)

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"a" * 1000))
        await writer.drain()
        writer.write(chunk(b"b" * 1001) + b"0\r\n\r\n")

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        told = read_all(sock)
    assert b"b" * 1001 not in told
    assert not told.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("last", "ends_well"),
    [
        (chunk(b"c" * 20) + b"0\r\n\r\n", True),
        (b"19\r\n" + b"c" * 25 + b"\r\n" + b"0\r\n\r\n", True),
        (b"1a\r\n" + b"c" * 25 + b"\r\n", False),
        (b"19\r\n" + b"c" * 25 + b"!\n", False),
        (b"0x\r\n" + b"c" * 25 + b"\r\n", False),
        (b"\r\n\r\n" + b"c" * 25 + b"\r\n", False),
    ],
)
def test_what_comes_like_the_events_before_it_is_followed_all_the_same(
    stages: Callable[..., Stage], last: bytes, ends_well: bool
) -> None:
    stage = stages()
    seen = asyncio.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n")
        for letter in (b"a", b"b", b"a", b"b"):
            writer.write(chunk(letter * 25))
            await seen.wait()
            seen.clear()
        writer.write(last)
        await writer.drain()
        await echo(reader, writer)

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(signed())
        for letter in (b"a", b"b", b"a", b"b"):
            read_until(sock, letter * 25 + b"\r\n")
            stage.call(seen.set)
        if ends_well:
            read_until(sock, b"\r\n0\r\n\r\n")
            sock.sendall(signed(body=b"next"))
            assert read_response(sock)[2] == b"next"
        else:
            assert not read_all(sock).endswith(b"0\r\n\r\n")


def test_the_largest_payload_is_a_setting(stages: Callable[..., Stage]) -> None:
    stage = stages(max_payload_bytes=10)
    with stage.connect() as sock:
        sock.sendall(signed(body=b"x" * 11))
        status, _, body = read_response(sock)
    assert (status, json.loads(body)["message"]) == (400, "The request is larger than the maximum of 10 bytes")


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (RetryableConflict("Session operation in progress, please retry"), 409, "RetryableConflictException"),
        (Throttled("Rate exceeded"), 429, "ThrottlingException"),
    ],
)
def test_limits_that_the_warden_holds_are_told_in_the_services_codes(
    stages: Callable[..., Stage], fault: FreeholdError, status: int, code: str
) -> None:
    stage = stages(asks_to_enter=True)
    with stage.connect() as sock:
        for _ in range(3):
            sock.sendall(signed(body=b"hello"))
            assert read_response(sock)[2] == b"hello"
        eventually(lambda: stage.warden.entered == 0)
        stage.warden.enter_faults.append(fault)
        sock.sendall(signed())
        told, headers, _ = read_response(sock)
        assert (told, headers["x-amzn-errortype"]) == (status, code)
        stage.warden.entered -= 1  # refused
        stage.warden.enter_faults.append(NotFound("The session has ended"))
        sock.sendall(signed(body=b"again"))
        assert read_response(sock)[2] == b"again"
    assert len(stage.warden.claims) == 2, "a session that turned out to have ended is claimed anew"
