"""What a connection of the gateway needs around it, without sockets and without time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.connection import ClientConnection
from freehold.gateway.exchange import Exchange
from freehold.gateway.familiar import Reader
from freehold.gateway.sweeper import Sweeper


class FakeTransport(asyncio.Transport):
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


class FakeHost:
    """What a connection needs of its worker; answers what is signed with its body, and refuses the rest."""

    draining = stopping = False

    def __init__(self) -> None:
        self.handler = self
        self.reader = Reader()
        self.passages = self.receiver = None
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
