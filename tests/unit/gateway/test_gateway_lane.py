"""Connections that are read together, in the place of their transports: nothing is lost, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import compiled_forms
import pytest
import uvloop

from freehold.gateway.fastpipe import Messages
from freehold.gateway.websocket.frames import FrameFollower

MESSAGE = b"\x82\x05hello"


class Peer(asyncio.Protocol):
    """One end that is read by the event loop; `ended` is set once it has ended."""

    def __init__(self) -> None:
        self.got = b""
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


class Ridden:
    """A connection whose messages are passed on to another; what is no whole message is kept in `long`."""

    def __init__(self) -> None:
        self.long: list[bytes] = []
        self.fault: Exception | None = None

    async def begin(self) -> None:
        self.far, near = socket.socketpair()
        loop = asyncio.get_running_loop()
        self.source, self.out = Peer(), Peer()
        await loop.create_unix_connection(lambda: self.source, sock=near)
        into, self.end = socket.socketpair()
        await loop.create_unix_connection(lambda: self.out, sock=into)
        self.messages = Messages(FrameFollower(masked=False), self.out.transport, loop.time, self.long_way)
        self.messages.ride(self.source.transport)

    def long_way(self, data: bytes) -> bool:
        if self.fault is not None:
            raise self.fault
        self.long.append(data)
        return True

    def passed(self) -> bytes:
        self.end.setblocking(False)
        try:
            return self.end.recv(1 << 20)
        except BlockingIOError:
            return b""

    async def close(self) -> None:
        self.messages.alight()
        for sock in (self.far, self.end):
            sock.close()
        for peer in (self.source, self.out):
            peer.transport.abort()
            await peer.ended.wait()


@pytest.fixture
def ride() -> Callable[[Callable[[Ridden], Coroutine[Any, Any, None]]], None]:
    compiled_forms.of("compiled")

    def run(test: Callable[[Ridden], Awaitable[None]]) -> None:
        async def main() -> None:
            descriptors: list[int] = []
            for _ in range(2):  # an event loop opens some for itself with its first connection
                ridden = Ridden()
                await ridden.begin()
                try:
                    await test(ridden)
                finally:
                    await ridden.close()
                await turns()
                descriptors.append(len(os.listdir("/proc/self/fd")))
            assert descriptors[0] == descriptors[1]

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    return run


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


Ride = Callable[[Callable[[Ridden], Coroutine[Any, Any, None]]], None]


def test_messages_pass_and_all_else_goes_the_long_way(ride: Ride) -> None:
    async def test(ridden: Ridden) -> None:
        for sent in (MESSAGE, MESSAGE, MESSAGE[:3], MESSAGE):
            ridden.far.send(sent)
            await turns()
        # The first opens the way.
        assert (ridden.long, ridden.passed()) == ([MESSAGE, MESSAGE[:3]], MESSAGE * 2)
        assert ridden.source.got == b""

    ride(test)


def test_what_comes_with_the_end_of_a_connection_comes_before_it(ride: Ride) -> None:
    async def test(ridden: Ridden) -> None:
        ridden.far.send(MESSAGE)
        ridden.far.shutdown(socket.SHUT_WR)
        await ridden.source.ended.wait()
        assert (ridden.long, ridden.messages.rides) == ([MESSAGE], False)

    ride(test)


def test_a_connection_that_is_broken_off_ends(ride: Ride) -> None:
    async def test(ridden: Ridden) -> None:
        ridden.far.close()
        await ridden.source.ended.wait()
        assert not ridden.messages.rides

    ride(test)


def test_more_than_one_turn_reads_is_read_in_the_next(ride: Ride) -> None:
    async def test(ridden: Ridden) -> None:
        ridden.far.setblocking(False)
        sent = 0
        try:
            while True:
                sent += ridden.far.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        for _ in range(100):
            await turns()
        assert (sent > 1 << 17, sum(map(len, ridden.long))) == (True, sent)

    ride(test)


def test_nothing_is_read_while_it_does_not_ride_and_all_of_it_when_it_does_again(ride: Ride) -> None:
    async def test(ridden: Ridden) -> None:
        ridden.messages.alight()
        ridden.far.send(MESSAGE)
        await turns()
        assert (ridden.long, ridden.source.got) == ([], b"")
        ridden.messages.ride(ridden.source.transport)
        await turns()
        assert ridden.long == [MESSAGE]

    ride(test)


def test_nothing_is_read_once_the_transport_closes(ride: Ride) -> None:
    async def test(ridden: Ridden) -> None:
        ridden.source.transport.write(bytes(1 << 24))  # which it has to send first
        ridden.source.transport.close()
        ridden.far.send(MESSAGE)
        await turns()
        assert (ridden.long, ridden.messages.rides, ridden.source.ended.is_set()) == ([], False, False)

    ride(test)


def test_a_transport_reads_on_when_no_file_can_be_opened_for_it(ride: Ride) -> None:
    async def test(ridden: Ridden) -> None:
        ridden.messages.alight()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            ridden.source.transport.resume_reading()
            ridden.messages.ride(ridden.source.transport)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
        ridden.far.send(MESSAGE)
        await turns()
        assert (ridden.messages.rides, ridden.source.got) == (False, MESSAGE)

    ride(test)


def test_what_goes_wrong_for_one_connection_is_told_and_ends_that_one(ride: Ride) -> None:
    async def test(ridden: Ridden) -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        ridden.fault = RuntimeError("it does")
        ridden.far.send(MESSAGE)
        await ridden.source.ended.wait()
        assert [context["exception"] for context in told] == [ridden.fault]
        assert not ridden.messages.rides

    ride(test)
