"""Generated exchanges through a real worker: what either side says reaches the other byte for byte, or visibly not.

The long form runs under `./dev soak --exchanges`: 10,000, with another seed each time unless one is given.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
import re
import socket
import struct
from collections.abc import Callable
from typing import Any

import h11
import pytest
from exchanges import EXCHANGE_HEADER, After, Conversation, Exchange, Framing, Leaves, conversations
from gateway_stage import ACCOUNT, DEADLINE_S, INVOCATIONS, RUNTIME_ID, SESSION_HEADER, Stage, eventually, signed

from freehold.domain.principals import Principal
from freehold.domain.runtimes import ServerProtocol
from freehold.gateway.bearers import Bearers

COUNT = int(os.environ.get("SOAK_EXCHANGES", "1200"))
SEED = int(os.environ.get("SOAK_SEED", "20261126"))
AT_ONCE = 24
JWT = f"{INVOCATIONS}?qualifier=jwt"
NO_ANSWER = b"The runtime broke off before it had answered"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


class Differs(AssertionError):
    """Something came otherwise than it was said."""


async def write_in_pieces(writer: asyncio.StreamWriter, data: bytes, sizes: list[int]) -> None:
    for start, end in itertools.pairwise(itertools.accumulate([*sizes, len(data)], initial=0)):
        if start >= len(data):
            return
        writer.write(data[start:end])
        await writer.drain()
        await asyncio.sleep(0)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset, never an orderly end."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Agents:
    """All agents: each connection plays the exchanges that its requests name."""

    def __init__(self, exchanges: dict[int, Exchange]) -> None:
        self._exchanges = exchanges
        self.seen: collections.Counter[int] = collections.Counter()
        self.faults: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wait_s: float | None = None
        while True:
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), wait_s)
            except TimeoutError:
                return
            named = re.search(rb"\r\nx-exchange: (\d+)\r\n", head)
            if named is None:
                self.faults.append(f"a request that is none: {head!r}")
                return
            exchange = self._exchanges[int(named[1])]
            self.seen[exchange.number] += 1
            if not await self._play(exchange, head, reader, writer):
                return
            wait_s = 0.002 if exchange.answer.after is After.CLOSE_LATER else None

    async def _play(
        self, exchange: Exchange, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request, answer = exchange.request, exchange.answer
        if b"\r\n" + request.framing_for_agent + b"\r\n" not in head:
            self.faults.append(f"{exchange.number}: framed otherwise: {head!r}")
        if not answer.is_early and not await self._read_body(exchange, reader):
            return False
        data = answer.head + answer.raw
        if answer.breaks_off_at is not None:
            await write_in_pieces(writer, data[: answer.breaks_off_at], exchange.cuts)
            reset(writer)
            return False
        await write_in_pieces(writer, data, exchange.cuts)
        return answer.after in (After.KEEP, After.CLOSE_LATER)

    async def _read_body(self, exchange: Exchange, reader: asyncio.StreamReader) -> bool:
        wanted = exchange.request.raw_for_agent
        try:
            told = await reader.readexactly(len(wanted))
        except asyncio.IncompleteReadError as error:
            if exchange.leaves is Leaves.NEVER:
                self.faults.append(f"{exchange.number}: a body of {len(wanted)} bytes ended after {len(error.partial)}")
            elif not wanted.startswith(error.partial):
                self.faults.append(f"{exchange.number}: another body")
            return False
        if told != wanted:
            self.faults.append(f"{exchange.number}: another body")
        return True


class Client:
    """One client's connection."""

    def __init__(
        self, stage: Stage, agents: Agents, conversation: Conversation, tally: collections.Counter[str]
    ) -> None:
        self._stage = stage
        self._agents = agents
        self._conversation = conversation
        self._tally = tally

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._stage.port, limit=1 << 22)
        exchanges = self._conversation.exchanges
        try:
            if self._conversation.is_pipelined:
                sending = asyncio.create_task(self._send_all(writer))
                try:
                    for exchange in exchanges:
                        await self._read(exchange, reader, writer)
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
            else:
                for exchange in exchanges:
                    await self._alone(exchange, reader, writer)
        except _Over:
            return
        finally:
            writer.close()

    async def _send_all(self, writer: asyncio.StreamWriter) -> None:
        data = b"".join(request_head(exchange) + self._sent_body(exchange) for exchange in self._conversation.exchanges)
        await self._send(writer, data, self._conversation.exchanges[0])

    async def _alone(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = request_head(exchange), self._sent_body(exchange)
        if exchange.request.expects:
            await self._send(writer, head, exchange)
            # An early answer may come in its place; then nothing of the body is sent.
            told = await reader.readexactly(len(INTERIM)) if not exchange.answer.is_early else b""
            if told not in (b"", INTERIM):
                raise Differs(f"{exchange.number}: no 100 Continue but {told!r}")
            head = b""
        sending = asyncio.create_task(self._send(writer, head + body, exchange))
        try:
            await self._read(exchange, reader, writer)
            await sending
        finally:
            sending.cancel()

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, data: bytes, exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionError):  # the answer says why, or what was read of it
            await write_in_pieces(writer, data, exchange.cuts)

    @staticmethod
    def _sent_body(exchange: Exchange) -> bytes:
        raw = exchange.request.raw
        return raw[: len(raw) // 2] if exchange.leaves is Leaves.IN_REQUEST else raw

    async def _read(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = exchange.answer
        if exchange.leaves is Leaves.IN_REQUEST:
            await asyncio.sleep(0.001)
            self._leave(exchange, writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            while exchange.answer.is_early and head == INTERIM:
                head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            is_last = b"\r\nconnection: close\r\n" in head
            if exchange.leaves is Leaves.IN_ANSWER:
                self._leave(exchange, writer)
            if status == 424:
                await self._read_failure(exchange, head, reader)
                if is_last:
                    raise _Over
                return
            if answer.breaks_off_at is not None and answer.breaks_off_at < len(answer.head):
                raise Differs(f"{exchange.number}: an answer that the agent did not give: {head!r}")
            self._check_head(exchange, head, status)
            await self._read_content(exchange, reader)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            if answer.breaks_off_at is None:
                raise Differs(f"{exchange.number}: cut off: {error!r}") from error
            self._count("cut off")
            raise _Over from None
        if answer.breaks_off_at is not None:
            raise Differs(f"{exchange.number}: a part was taken for the whole")
        self._count("whole")

    def _leave(self, exchange: Exchange, writer: asyncio.StreamWriter) -> None:
        if exchange.number % 2:
            reset(writer)
        self._count("left")
        raise _Over

    async def _read_failure(self, exchange: Exchange, head: bytes, reader: asyncio.StreamReader) -> None:
        answer = exchange.answer
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
        assert length is not None
        body = await reader.readexactly(int(length[1]))
        if answer.status >= 300 and b"Received error (%d) from runtime" % answer.status in body:
            self._count("agent's error")
        elif NO_ANSWER in body and answer.breaks_off_at is not None:
            self._count("broke off before")
        elif NO_ANSWER in body and not self._agents.seen[exchange.number]:
            self._count("closed under")  # the request was in the agent's kernel when it closed: nobody knows
        else:
            raise Differs(f"{exchange.number}: {body!r}")

    def _count(self, what: str) -> None:
        self._tally[what] += 1

    @staticmethod
    def _check_head(exchange: Exchange, head: bytes, status: int) -> None:
        answer, request = exchange.answer, exchange.request
        lines = head.lower().split(b"\r\n")
        expected = [b"content-type: " + answer.content_type, SESSION_HEADER.lower().encode() + b": "]
        if answer.framing is Framing.LENGTH:
            expected.append(b"content-length: %d" % len(answer.content))
        elif not request.is_http_1_0:
            expected.append(b"transfer-encoding: chunked")
        for line in expected:
            if sum(told.startswith(line) for told in lines) != 1:
                raise Differs(f"{exchange.number}: not once {line!r} in {head!r}")
        if status != answer.status:
            raise Differs(f"{exchange.number}: status {status}, not {answer.status}")

    async def _read_content(self, exchange: Exchange, reader: asyncio.StreamReader) -> None:
        answer, request = exchange.answer, exchange.request
        if request.is_http_1_0 and answer.framing is not Framing.LENGTH:
            told = await reader.read()
            while part := await reader.read():
                told += part
            wanted = answer.content
        elif answer.framing is Framing.CLOSE:
            told, wanted = await read_chunked(reader), answer.content
        else:
            told, wanted = await reader.readexactly(len(answer.raw)), answer.raw
        if told != wanted:
            raise Differs(f"{exchange.number}: another body, of {len(told)} bytes and not {len(wanted)}")


class _Over(Exception):
    """The connection has ended as it was to."""


def request_head(exchange: Exchange) -> bytes:
    request = exchange.request
    headers = {EXCHANGE_HEADER: str(exchange.number), **dict(request.extra)}
    if request.framing is Framing.CHUNKED:
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Content-Length"] = str(len(request.content))
    if request.expects:
        headers["Expect"] = "100-continue"
    if request.is_http_1_0 is request.keep_alive:
        headers["Connection"] = "keep-alive" if request.keep_alive else "close"
    version = "1.0" if request.is_http_1_0 else "1.1"
    if not request.is_bearer:
        return signed(body=request.content, session=exchange.session, version=version, framed=False, unsigned=headers)
    lines = [
        f"POST {JWT} HTTP/{version}",
        "Host: x",
        "Authorization: Bearer t",
        f"{SESSION_HEADER}: {exchange.session}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def read_chunked(reader: asyncio.StreamReader) -> bytes:
    """The content of a chunked body, as h11 reads it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    content = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            content += event.data
        elif event is h11.NEED_DATA:
            # Line by line, and never beyond the end.
            line = await reader.readuntil(b"\r\n")
            connection.receive_data(line)
            if line.strip() and not line.startswith(b"0\r"):
                connection.receive_data(await reader.readexactly(int(line, 16) + 2))
    return content


async def converse(stage: Stage, agents: Agents, wanted: list[Conversation]) -> collections.Counter[str]:
    tally: collections.Counter[str] = collections.Counter()
    waiting = iter(wanted)

    async def client() -> None:
        for conversation in waiting:
            async with asyncio.timeout(DEADLINE_S * 4):
                await Client(stage, agents, conversation, tally).run()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(client())
    return tally


def test_generated_exchanges_are_relayed_byte_for_byte(
    stages: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def check(_self: Bearers, *_request: Any) -> Principal:
        return Principal(ACCOUNT, "", "jwt:one", by_token=True)

    monkeypatch.setattr(Bearers, "check", check)
    stage = stages(claim_linger_s=1.0)
    for version in (1, 2):
        stage.contract(version, ServerProtocol.HTTP, EXCHANGE_HEADER.lower(), takes_jwt=version == 2)
    stage.control.routes[ACCOUNT, RUNTIME_ID, "jwt"] = 2
    wanted = list(conversations(SEED, COUNT))
    agents = Agents({e.number: e for conversation in wanted for e in conversation.exchanges})
    stage.agent = agents.serve

    tally = asyncio.run(converse(stage, agents, wanted))

    assert agents.faults == []
    assert max(agents.seen.values()) == 1, "no request reached agents twice"
    assert tally.total() == COUNT
    assert tally["closed under"] <= COUNT * 0.01
    eventually(lambda: not stage.handlers)
    eventually(lambda: len(stage.warden.released) == len(stage.warden.claims))
    if "SOAK_EXCHANGES" in os.environ:
        with capsys.disabled():
            print(f"\nseed {SEED}: {COUNT} exchanges: {dict(tally)}")
