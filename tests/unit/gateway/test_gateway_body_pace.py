"""How long a body may take, of which the connection's own waiting is no part."""

from __future__ import annotations

import asyncio

import pytest
from wire_parts import FakeHost, FakeTransport

from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.connection import ClientConnection
from freehold.gateway.exchange import Exchange

HEAD = b"POST /runtimes/x/invocations HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\nContent-Length: 1000\r\n\r\n"


class Slow(FakeHost):
    """Time passes when told. Each piece of a body is followed by a pause if `pauses` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.clock = lambda: self.now
        self.limits = GatewayLimits(body_min_bytes_per_s=10, body_grace_s=10.0, body_progress_timeout_s=60.0)
        self.pauses = False
        self.exchange: Exchange | None = None

    async def handle(self, exchange: Exchange) -> None:
        self.exchange = exchange

        def take(_data: bytes) -> None:
            if self.pauses:
                exchange.pause_body()
                exchange.set_deadline(float("inf"))

        await exchange.read_body(take)
        exchange.answer(200, [], b"")


async def begun() -> tuple[Slow, ClientConnection, FakeTransport]:
    host, transport = Slow(), FakeTransport()
    connection = ClientConnection(host)
    connection.connection_made(transport)
    connection.data_received(HEAD)
    await asyncio.sleep(0)
    return host, connection, transport


def test_a_body_has_its_grace_and_then_its_pace():
    async def main() -> None:
        host, connection, transport = await begun()
        assert connection.deadline == host.now + 10
        host.now += 9
        connection.data_received(b"x" * 20)
        assert connection.deadline == host.now + 1 + 2
        host.now += 3
        connection.expired(host.now)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transport.written.startswith(b"HTTP/1.1 408 ")

    asyncio.run(main())


@pytest.mark.parametrize("times", [1, 50])
def test_what_a_body_is_kept_waiting_is_added_to_its_time_and_nothing_else(times: int):
    async def main() -> None:
        host, connection, transport = await begun()
        host.pauses = True
        by = connection.deadline
        for _ in range(times):
            connection.data_received(b"x")
            by += 0.1
            assert connection.deadline == float("inf"), "it is not the client who keeps us waiting"
            host.now += 5
            by += 5
            assert host.exchange is not None
            host.exchange.resume_body()
            assert connection.deadline == pytest.approx(by)
            host.exchange.resume_body()
            assert connection.deadline == pytest.approx(by), "what goes on already is not resumed"
        host.now = by
        connection.expired(host.now)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transport.written.startswith(b"HTTP/1.1 408 ")

    asyncio.run(main())


def test_a_body_that_came_with_its_head_may_be_kept_waiting_at_once():
    async def main() -> None:
        host, transport = Slow(), FakeTransport()
        host.pauses = True
        connection = ClientConnection(host)
        connection.connection_made(transport)
        connection.data_received(HEAD + b"x" * 500)
        await asyncio.sleep(0)
        assert connection.deadline == float("inf")
        by = host.now + 10 + 500 / 10
        host.now += 100
        assert host.exchange is not None
        host.exchange.resume_body()
        assert connection.deadline == by + 100
        host.pauses = False
        connection.data_received(b"x" * 500)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transport.written.startswith(b"HTTP/1.1 200 ")

    asyncio.run(main())
