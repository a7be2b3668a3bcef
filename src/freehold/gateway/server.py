"""What the connections of one worker share: their number, their end, and the log of what they asked.

Not for the wire itself (`connection`). Invariant: every open connection is known here until it is closed.
"""

from __future__ import annotations

import asyncio

import structlog

from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.connection import ClientConnection, Passages, Receiver
from freehold.gateway.exchange import Exchange, Handler
from freehold.gateway.familiar import Reader
from freehold.gateway.observer import Observer
from freehold.gateway.sweeper import Sweeper

log = structlog.get_logger(__name__)


class Server:
    """What the connections of one worker share."""

    def __init__(
        self, handler: Handler, reader: Reader, sweeper: Sweeper, limits: GatewayLimits, observer: Observer
    ) -> None:
        self.handler = handler
        self.reader = reader
        self.passages: Passages | None = None
        self.receiver: Receiver | None = None
        self._observer = observer
        self.sweeper = sweeper
        self.limits = limits
        self.clock = sweeper.clock
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.stopping = False
        self._connections: set[ClientConnection] = set()
        self._stalled: set[ClientConnection] = set()
        self._idle = asyncio.Event()
        sweeper.every_tick(self._break_off_slow_readers)

    def connection(self) -> ClientConnection:
        """A protocol for the next connection."""
        return ClientConnection(self)

    def opened(self, connection: ClientConnection) -> bool:
        """Whether there is room for one more."""
        self._connections.add(connection)
        self.sweeper.watch(connection)
        return len(self._connections) <= self.limits.max_connections

    def closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        self._stalled.discard(connection)
        self.sweeper.forget(connection)
        if not self._connections:
            self._idle.set()

    def stalled(self, connection: ClientConnection, is_stalled: bool) -> None:
        """Whether the client of `connection` takes nothing."""
        if is_stalled:
            self._stalled.add(connection)
        else:
            self._stalled.discard(connection)

    def ended(self, exchange: Exchange, *, whole: bool) -> None:
        """`exchange` is over; `whole` says whether all of its answer was sent."""
        self._observer.ended(exchange, self.clock(), whole=whole)

    def refused(self, code: str, status: int) -> None:
        """Something came that is no request."""
        self._observer.refused(code, status)

    @property
    def connections(self) -> int:
        return len(self._connections)

    def under_way(self) -> tuple[int, int]:
        """How many exchanges are not answered yet, and how many of them are streams."""
        exchanges = [connection.exchange for connection in self._connections]
        streams = sum(exchange is not None and exchange.is_stream for exchange in exchanges)
        return sum(not connection.is_idle for connection in self._connections), streams

    async def retire(self) -> None:
        """Let every connection have one more answer at most; returns when none is left.

        An idle one is not closed before its time: its client may just be sending the next request.
        """
        self.draining = True
        self._idle.clear()
        if self._connections:
            await self._idle.wait()

    async def drain(self, timeout_s: float) -> None:
        """Let requests under way end within `timeout_s`, then break off what is left."""
        self.draining = self.stopping = True
        self._idle.clear()
        for connection in list(self._connections):
            connection.close_if_idle()
        if not self._connections:
            return
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            log.warning("gateway.broken_off", connections=len(self._connections))
        for connection in list(self._connections):
            connection.abort()

    def _break_off_slow_readers(self, now: float) -> None:
        for connection in list(self._stalled):
            connection.check_slow_reader(now)
