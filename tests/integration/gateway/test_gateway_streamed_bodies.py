"""Bodies of JWT callers: passed on as they come, through a real Worker to raw agents."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from typing import Any

import pytest
from gateway_stage import (
    ACCOUNT,
    DEADLINE_S,
    INVOCATIONS,
    SESSION,
    SESSION_HEADER,
    Stage,
    echo,
    eventually,
    read_all,
    read_response,
)

from freehold.auth.jwt_claims import Authorizer
from freehold.control.protocol import Contract
from freehold.domain.principals import Principal
from freehold.domain.runtimes import ServerProtocol
from freehold.gateway.bearers import Bearers

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.fixture(autouse=True)
def jwt(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(_self: Bearers, *_request: Any) -> Principal:
        return Principal(ACCOUNT, "", "jwt:one", by_token=True)

    monkeypatch.setattr(Bearers, "check", check)
    stage.control.contracts[1] = Contract(1, ServerProtocol.HTTP, 8080, [], authorizer=Authorizer("digest", "keys"))


def head(*lines: str) -> bytes:
    told = [f"POST {INVOCATIONS} HTTP/1.1", "Host: x", "Authorization: Bearer t", f"{SESSION_HEADER}: {SESSION}"]
    return "\r\n".join([*told, *lines]).encode() + b"\r\n\r\n"


def test_a_body_reaches_the_agent_before_its_end_has_come(stage: Stage):
    got = threading.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        first = await reader.readexactly(5)
        got.set()
        rest = await reader.readexactly(5)
        writer.write(OK + b"Content-Length: 10\r\n\r\n" + first + rest)

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(head("Content-Length: 10") + b"first")
        assert got.wait(DEADLINE_S)
        sock.sendall(b"after")
        assert read_response(sock)[2] == b"firstafter"


def test_a_chunked_body_reaches_the_agent_with_its_chunks_and_trailers(stage: Stage):
    body = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nDigest: 1\r\n\r\n"
    seen: list[bytes] = []

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        seen.append(await reader.readexactly(len(body)))
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(head("Transfer-Encoding: chunked"))
        for at in range(len(body)):
            sock.sendall(body[at : at + 1])
        assert read_response(sock)[2] == b"ok"
    assert b"\r\ntransfer-encoding: chunked\r\n" in seen[0]
    assert b"content-length" not in seen[0]
    assert seen[1] == body


def test_a_large_body_arrives_whole_and_the_connection_serves_on(stage: Stage):
    body = bytes(range(256)) * 40_000

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            told = hashlib.sha256(await reader.readexactly(len(body))).hexdigest().encode()
            writer.write(OK + b"Content-Length: 64\r\n\r\n" + told)

    stage.agent = agent
    with stage.connect() as sock:
        for _ in range(2):
            sock.sendall(head(f"Content-Length: {len(body)}") + body)
            assert read_response(sock)[2].decode() == hashlib.sha256(body).hexdigest()


def test_an_agent_that_does_not_read_stops_the_client_and_costs_no_memory(stage: Stage):
    reading = asyncio.Event()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reading.wait()
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(64 << 20)
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(head(f"Content-Length: {64 << 20}"))
        sent = 0
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                sent += sock.send(bytes(1 << 20))
        assert sent < 32 << 20
        stage.call(reading.set)
        sock.settimeout(DEADLINE_S)
        while sent < 64 << 20:
            sent += sock.send(bytes(min(1 << 20, (64 << 20) - sent)))
        assert read_response(sock)[2] == b"ok"


def test_an_answer_before_the_end_of_the_body_reaches_the_client(stage: Stage):
    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Content-Length: 5\r\n\r\nearly")
        await writer.drain()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(head("Content-Length: 1000000") + b"a little")
        status, _headers, body = read_response(sock)
        assert (status, body) == (200, b"early")


@pytest.mark.parametrize(
    "framing",
    [("Content-Length: 100000001", b""), ("Transfer-Encoding: chunked", b"5f5e101\r\n" + bytes(100_000_001))],
    ids=["length", "chunked"],
)
def test_a_body_beyond_the_service_s_maximum_is_refused(stage: Stage, framing: tuple[str, bytes]):
    async def agent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 20):
            pass

    stage.agent = agent
    with stage.connect() as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(head(framing[0]) + framing[1])
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"The request is larger than the maximum of 100000000 bytes" in answer


def test_a_client_that_leaves_in_the_middle_of_its_body_ends_the_agents_request(stage: Stage):
    begun, gone = threading.Event(), threading.Event()

    async def agent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        try:
            await reader.readexactly(100)
        except (asyncio.IncompleteReadError, ConnectionError):
            gone.set()

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(head("Content-Length: 100") + b"half")
        assert begun.wait(DEADLINE_S)
    assert gone.wait(DEADLINE_S)


def test_a_body_that_is_not_framed_as_it_says_is_refused_and_the_agent_gets_no_end(stage: Stage):
    ends: list[bytes] = []

    async def agent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        ends.append(await reader.read())

    stage.agent = agent
    with stage.connect() as sock:
        sock.sendall(head("Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
        eventually(lambda: stage.connections)
        sock.sendall(b"0x5\r\nhello\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"a chunk's size is not a hexadecimal number" in answer
    eventually(lambda: ends)
    assert b"hello" not in ends[0]


def test_a_body_that_came_with_its_head_goes_over_a_kept_connection(stage: Stage):
    stage.agent = echo
    with stage.connect() as sock:
        for number in range(5):
            body = b'{"number": %d}' % number
            sock.sendall(head(f"Content-Length: {len(body)}") + body)
            assert read_response(sock)[2] == body
    assert stage.connections == 1
