"""Control's HTTP server for gateway workers, spoken to over its Unix socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from freehold import ipc
from freehold.control.gateway_port import MAX_WAITING_BYTES, GatewayPort

DEADLINE_S = 10.0
GET = b"GET /x?y HTTP/1.1\r\nhost: a\r\n\r\n"


class Peer:
    """A gateway worker's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[bytes, bytes]:
        """Head and body of an answer with a length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head, await self.reader.readexactly(length)


def serve(
    tmp_path: Path, app: Any, test: Callable[[Callable[[], Awaitable[Peer]], asyncio.Task[None]], Awaitable[None]]
):
    """Run `test` beside the port, which is stopped afterwards."""

    async def main() -> None:
        listener = ipc.bind_unix(tmp_path / "control.sock", socket.SOCK_STREAM)
        listener.setblocking(False)
        task = asyncio.create_task(GatewayPort(app, listener, stop_timeout_s=0.2).run())
        peers: list[Peer] = []

        async def connect() -> Peer:
            peers.append(Peer(*await asyncio.open_unix_connection(tmp_path / "control.sock")))
            return peers[-1]

        try:
            async with asyncio.timeout(DEADLINE_S):
                await test(connect, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for peer in peers:
                peer.writer.close()

    asyncio.run(main())


async def answer(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def told(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    return body


async def echo(scope: Any, receive: Any, send: Any) -> None:
    line = f"{scope['method']} {scope['raw_path']} {scope['query_string']} ".encode()
    await answer(send, line + await told(receive))


def test_requests_follow_each_other_on_a_connection(tmp_path: Path):
    async def test(connect: Any, _task: Any) -> None:
        peer = await connect()
        peer.writer.write(GET)
        assert (await peer.answer())[1] == b"GET b'/x' b'y' "
        peer.writer.write(b"PUT /z HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe")
        await asyncio.sleep(0)
        peer.writer.write(b"llo")
        assert (await peer.answer())[1] == b"PUT b'/z' b'' hello"
        peer.writer.write(
            b"POST /z HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        )
        head, body = await peer.answer()
        assert body == b"POST b'/z' b'' hi"
        assert b"\r\nconnection: close\r\n" in head
        assert await peer.reader.read() == b""

    serve(tmp_path, echo, test)


def test_a_head_request_is_answered_without_the_body(tmp_path: Path):
    async def test(connect: Any, _task: Any) -> None:
        peer = await connect()
        peer.writer.write(b"HEAD /x HTTP/1.1\r\n\r\n")
        assert b"content-length: 15" in await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(GET)
        assert (await peer.answer())[1] == b"GET b'/x' b'y' "

    serve(tmp_path, echo, test)


def test_an_answer_of_unknown_length_is_sent_as_it_is_made(tmp_path: Path):
    go_on = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def test(connect: Any, _task: Any) -> None:
        peer = await connect()
        peer.writer.write(GET)
        assert b"transfer-encoding: chunked" in await peer.reader.readuntil(b"\r\n\r\n")
        assert await peer.reader.readexactly(8) == b"3\r\none\r\n"
        go_on.set()
        assert await peer.reader.readexactly(5) == b"0\r\n\r\n"

    serve(tmp_path, app, test)


def test_a_body_that_nobody_takes_is_not_read(tmp_path: Path):
    go_on = asyncio.Event()
    size = 40 * MAX_WAITING_BYTES

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await answer(send, b"%d" % len(await told(receive)))

    async def test(connect: Any, _task: Any) -> None:
        peer = await connect()
        peer.writer.write(b"PUT /x HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.writer.drain(), 0.2)
        go_on.set()
        assert (await peer.answer())[1] == b"%d" % size

    serve(tmp_path, app, test)


def test_what_is_left_of_a_body_after_the_answer_is_dropped(tmp_path: Path):
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, scope["raw_path"], 413)

    async def test(connect: Any, _task: Any) -> None:
        peer = await connect()
        peer.writer.write(b"PUT /x HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n")
        assert (await peer.answer())[1] == b"/x"
        peer.writer.write(b"x" * 1_000_000 + GET)
        assert (await peer.answer())[1] == b"/x"

    serve(tmp_path, app, test)


@pytest.mark.parametrize("before", [True, False])
def test_an_application_that_fails_breaks_the_connection_off(tmp_path: Path, before: bool):
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if not before:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise ZeroDivisionError

    async def test(connect: Any, _task: Any) -> None:
        peer = await connect()
        peer.writer.write(GET)
        assert not (await peer.reader.read()).endswith(b"0\r\n\r\n")

    serve(tmp_path, app, test)


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", GET + GET, b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n"])
def test_what_no_gateway_sends_ends_the_connection(tmp_path: Path, sent: bytes):
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await answer(send, b"")

    async def test(connect: Any, _task: Any) -> None:
        peer = await connect()
        peer.writer.write(sent)
        assert await peer.reader.read() == b""

    serve(tmp_path, app, test)


def test_a_gateway_that_goes_away_is_told(tmp_path: Path):
    gone = asyncio.Event()

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async def test(connect: Any, _task: Any) -> None:
        peer = await connect()
        peer.writer.write(GET)
        peer.writer.close()
        await gone.wait()

    serve(tmp_path, app, test)


@asynccontextmanager
async def cancelled(task: asyncio.Task[None]) -> AsyncGenerator[None]:
    task.cancel()
    yield
    await asyncio.gather(task, return_exceptions=True)


def test_a_stop_lets_requests_under_way_end_and_closes_what_is_idle(tmp_path: Path):
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["raw_path"] == b"/slow":
            asked.set()
            await go_on.wait()
        await answer(send, b"done")

    async def test(connect: Any, task: asyncio.Task[None]) -> None:
        idle, busy = await connect(), await connect()
        idle.writer.write(GET)
        assert (await idle.answer())[1] == b"done"
        busy.writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
        await asked.wait()
        async with cancelled(task):
            assert await idle.reader.read() == b""
            go_on.set()
            assert (await busy.answer())[1] == b"done"
            assert await busy.reader.read() == b""

    serve(tmp_path, app, test)


def test_a_stop_does_not_wait_for_ever(tmp_path: Path):
    asked = asyncio.Event()

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def test(connect: Any, task: asyncio.Task[None]) -> None:
        peer = await connect()
        peer.writer.write(GET)
        await asked.wait()
        async with cancelled(task):
            assert await peer.reader.read() == b""

    serve(tmp_path, app, test)
