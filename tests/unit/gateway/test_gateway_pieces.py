"""The corpus of requests, however it is cut into pieces on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
import wire_corpus
from wire_corpus import TAIL, CorpusRequest
from wire_parts import FakeHost, FakeTransport

from freehold.gateway.connection import ClientConnection

SIGNED_HEAD = b"POST /runtimes/x/invocations HTTP/1.1\r\nHost: a\r\nAuthorization: AWS4-HMAC-SHA256 of somebody\r\n"


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
            transport = FakeTransport()
            connection = ClientConnection(FakeHost())
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
