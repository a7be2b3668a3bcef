"""The corpus of requests, however it is cut into pieces on its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import pytest
import wire_corpus
from wire_corpus import TAIL, CorpusRequest

from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.connection import ClientConnection
from freehold.gateway.exchange import Exchange
from freehold.gateway.sweeper import Sweeper

SIGNED_HEAD = b"POST /runtimes/x/invocations HTTP/1.1\r\nHost: a\r\nAuthorization: AWS4-HMAC-SHA256 of somebody\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = False

    def write(self, data: Any) -> None:
        assert not self.ended, "written after the end"
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Host:
    """What a connection needs of its worker; answers what is signed with its body, and refuses the rest."""

    draining = False

    def __init__(self) -> None:
        self.handler = self
        self.limits = GatewayLimits()
        self.clock = time.monotonic
        self.sweeper = Sweeper()
        self.loop = asyncio.get_running_loop()

    async def handle(self, exchange: Exchange) -> None:
        if exchange.head.raw_path == b"/_freehold/live":
            exchange.answer(200, [], b"live")
        elif any(name == b"authorization" for name, _ in exchange.head.headers):
            parts: list[bytes] = []
            await exchange.read_body(parts.append)
            exchange.answer(200, [], b"".join(parts))
        else:
            exchange.answer(403, [], b"")

    def opened(self, connection: ClientConnection) -> bool:
        return True

    def closed(self, connection: ClientConnection) -> None: ...

    def stalled(self, connection: ClientConnection, is_stalled: bool) -> None: ...

    def ended(self, exchange: Exchange, *, whole: bool) -> None:
        assert whole

    def refused(self, code: str, status: int) -> None: ...


def cuts(data: bytes) -> Iterable[list[bytes]]:
    """Whole, in two pieces at some places, and byte by byte as far as that is affordable."""
    yield [data]
    for place in range(1, len(data), max(1, len(data) // 4)):
        yield [data[:place], data[place:]]
    size = 1 if len(data) < 3000 else 1021
    yield [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("case", wire_corpus.requests(), ids=lambda case: case.name)
def test_pieces_make_no_difference_to_what_is_refused(case: CorpusRequest) -> None:
    data = case.data if case.signed_for is None else SIGNED_HEAD + case.data

    async def replay() -> None:
        for pieces in cuts(data + TAIL):
            transport = Transport()
            connection = ClientConnection(Host())
            connection.connection_made(transport)
            for piece in pieces:
                connection.data_received(piece)
            for _ in range(5):
                await asyncio.sleep(0)
            assert transport.ended
            told = wire_corpus.answers(transport.written.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
            assert [status for status, _ in told] == ([case.status, 200] if case.kept else [case.status])
            if case.signed_for is not None and case.status == 200:
                assert told[0][1] == case.signed_for

    asyncio.run(replay())
