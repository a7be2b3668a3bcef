"""Idle connections whose time is up just as their next request comes: a loop that is late must not close them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop
from wire_parts import FakeHost

from freehold.gateway.connection import ClientConnection

REQUEST = b"GET /_freehold/live HTTP/1.1\r\nHost: a\r\n\r\n"


def its_time_is_up(host: FakeHost, connection: ClientConnection) -> None:
    connection.expired(host.clock() + 1000)


def the_server_stops(host: FakeHost, connection: ClientConnection) -> None:
    host.draining = host.stopping = True
    connection.close_if_idle()


async def closed_with(end: Callable[[FakeHost, ClientConnection], None], sent: bytes) -> bytes:
    """What a client is told that has sent `sent`, which has come but is not read, when `end` happens."""
    host = FakeHost()
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    listener.close()
    connection = ClientConnection(host)
    transport, _ = await loop.connect_accepted_socket(lambda: connection, accepted)
    client.settimeout(10)
    with client:
        for _ in range(3):
            await asyncio.sleep(0)
        client.sendall(sent)  # over loopback it has come when this returns
        end(host, connection)
        asked = asyncio.to_thread(client.recv, 65536)
        answer = await asyncio.wait_for(asked, 10)
        transport.abort()
        await asyncio.sleep(0)
    return answer


@pytest.mark.parametrize("end", [its_time_is_up, the_server_stops])
@pytest.mark.parametrize("runner", [asyncio.Runner, lambda: asyncio.Runner(loop_factory=uvloop.new_event_loop)])
def test_a_request_that_has_come_is_answered(
    end: Callable[[FakeHost, ClientConnection], None], runner: Callable[[], asyncio.Runner]
):
    with runner() as loop:
        answer = loop.run(closed_with(end, REQUEST))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"live")
    assert (b"\r\nconnection: close\r\n" in answer) == (end is the_server_stops)


@pytest.mark.parametrize("end", [its_time_is_up, the_server_stops])
def test_without_one_the_connection_is_closed(end: Callable[[FakeHost, ClientConnection], None]):
    assert asyncio.run(closed_with(end, b"")) == b""
