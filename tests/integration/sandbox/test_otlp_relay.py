"""The relay between a session and the receiver, at its edges: a receiver that is away, slow agents, full memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from otlp_receiver import OtlpReceiver

from freehold.warden import otlp_relay
from freehold.warden.otlp_relay import OtlpRelay

EXPORT = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
LIMIT_S = 10.0


@asynccontextmanager
async def agents(
    relay: OtlpRelay,
) -> AsyncGenerator[Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]]:
    """Makes connections of the session of a generation."""
    made: list[asyncio.StreamWriter] = []

    async def connect(generation: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        relay.accept(generation, theirs, lambda: None)
        reader, writer = await asyncio.open_connection(sock=ours)
        made.append(writer)
        return reader, writer

    async with asyncio.timeout(LIMIT_S):
        try:
            yield connect
        finally:
            for writer in made:
                writer.close()
            await relay.aclose()


async def status(reader: asyncio.StreamReader) -> int:
    return int((await reader.readuntil(b"\r\n\r\n")).split()[1])


def free_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_while_the_receiver_is_away_an_export_is_to_be_tried_again() -> None:
    async def main() -> None:
        async with agents(OtlpRelay(free_url(), {})) as connect:
            reader, writer = await connect(1)
            writer.write(EXPORT % 0)
            assert await status(reader) == 503

    asyncio.run(main())


def test_a_kept_connection_carries_one_export_after_another() -> None:
    async def main(url: str) -> None:
        async with agents(OtlpRelay(url, {})) as connect:
            reader, writer = await connect(1)
            for _ in range(3):
                writer.write(EXPORT % 0)
                assert await status(reader) == 200

    with OtlpReceiver() as receiver:
        asyncio.run(main(receiver.url))
        assert len(receiver.requests) == 3


def test_an_agent_that_does_not_go_on_is_told_so_and_does_not_keep_another_session_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(url: str) -> None:
        monkeypatch.setattr(otlp_relay, "REQUEST_TIMEOUT_S", 0.3)
        async with agents(OtlpRelay(url, {})) as connect:
            slow, slow_writer = await connect(1)
            slow_writer.write(EXPORT % 10)
            reader, writer = await connect(2)
            writer.write(EXPORT % 0)
            assert await status(reader) == 200
            assert await status(slow) == 408

    with OtlpReceiver() as receiver:
        asyncio.run(main(receiver.url))


def test_bodies_of_all_sessions_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(url: str) -> None:
        monkeypatch.setattr(otlp_relay, "MAX_HELD_BYTES", 1000)
        async with agents(OtlpRelay(url, {})) as connect:
            _, first = await connect(1)
            first.write(EXPORT % 900 + b"x" * 899)
            await first.drain()
            while True:  # until the first one's bytes are held
                reader, second = await connect(2)
                second.write(EXPORT % 200 + bytes(200))
                if await status(reader) == 503:
                    break
            first.close()
            while True:  # until they are not
                reader, second = await connect(2)
                second.write(EXPORT % 0)
                if await status(reader) == 200:
                    break

    with OtlpReceiver() as receiver:
        asyncio.run(main(receiver.url))


def test_a_path_in_the_receivers_url_comes_before_the_export_path() -> None:
    seen: list[bytes] = []

    async def main() -> None:
        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nSet-Cookie: no\r\nRetry-After: 3\r\n\r\nok")
            writer.close()

        server = await asyncio.start_server(receive, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        relay = OtlpRelay(f"http://127.0.0.1:{port}/tenant/a", {"Authorization": "Bearer k"})
        async with server, agents(relay) as connect:
            reader, writer = await connect(1)
            writer.write(
                b"POST /v1/metrics HTTP/1.1\r\nAuthorization: mine\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 202 ")
            assert answer.endswith(b"\r\n\r\nok")
            assert b"retry-after: 3" in answer
            assert b"cookie" not in answer

    asyncio.run(main())
    assert seen[0].startswith(b"POST /tenant/a/v1/metrics HTTP/1.1\r\n")
    assert b"authorization: Bearer k\r\n" in seen[0]
    assert b"mine" not in seen[0]
