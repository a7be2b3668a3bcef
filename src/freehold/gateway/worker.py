"""One gateway worker: the parts of the data plane, put together and run on one listening socket.

Invariant: when `run` returns, the worker has accepted nothing that it did not answer or break off, and holds no
claim.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from freehold.auth.jwt_claims import DEFAULT_SKEW_S
from freehold.control.protocol import GatewayCounts
from freehold.gateway import dataplane, fast
from freehold.gateway.bounds import GatewayLimits
from freehold.gateway.claims import Claims
from freehold.gateway.dataplane import DataPlane
from freehold.gateway.directory import Directory
from freehold.gateway.exchange import Exchange
from freehold.gateway.familiar import Reader, Recent
from freehold.gateway.forward import ControlForwarder
from freehold.gateway.observer import Observer
from freehold.gateway.server import Server
from freehold.gateway.sources import Sources
from freehold.gateway.spool import Spools
from freehold.gateway.sweeper import TICK_S, Sweeper
from freehold.observe.access_log import AccessLog
from freehold.observe.spans import SpanQueue
from freehold.observe.tracing import Tracer

LIVE_PATH: Final = b"/_freehold/live"
HEALTH_PATH: Final = b"/_freehold/health"
ACCESS_LOG_DELAY_S: Final = 0.05
"""Lines are written together: a write for each would be felt in every request."""
_BACKLOG: Final = 1024
_REACH_TIMEOUT_S: Final = 10.0
_MAX_ASKED: Final = 1024
_MAX_ASKED_BYTES: Final = 512

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Watch:
    """How a worker's requests are watched, beside being counted."""

    access_log: AccessLog | None = None
    trace_sample_ratio: float | None = None
    """The share of traces begun here that are exported; None: spans are not."""


async def first_of(*events: asyncio.Event) -> None:
    """Wait for any of them."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def _reach(stop: asyncio.Event, *connecting: Coroutine[Any, Any, None]) -> None:
    """Wait for the other processes, so that the first request to a server that is ready finds them; at most a while,
    since they may have to be restarted, and requests then wait by themselves."""
    reached, stopped = asyncio.gather(*connecting), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({reached, stopped}, return_when=asyncio.FIRST_COMPLETED, timeout=_REACH_TIMEOUT_S)
    finally:
        reached.cancel()
        stopped.cancel()
        await asyncio.gather(reached, stopped, return_exceptions=True)


async def _retire(server: Server, claims: Claims, stop: asyncio.Event, timeout_s: float) -> None:
    """Until all connections have ended, and requests whose clients have gone; or the worker is told to stop, or the
    time is up."""

    async def until_unused() -> None:
        await server.retire()
        while claims.is_busy:  # noqa: ASYNC110 (as coarse as all the worker's timers)
            await asyncio.sleep(TICK_S)

    stopped, ended = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(until_unused())
    try:
        await asyncio.wait((stopped, ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        ended.cancel()


def _send_spans(directory: Directory, spans: SpanQueue, _now: float) -> None:
    """Hand over what has ended, as long as control is there; meanwhile the queue holds what it can."""
    while len(spans) and directory.connected:
        directory.send_spans(spans.take())


class _Front:
    """Who answers what (exchange.Handler)."""

    def __init__(
        self, data_plane: DataPlane, forwarder: ControlForwarder, directory: Directory, claims: Claims
    ) -> None:
        self._data_plane = data_plane
        self._forwarder = forwarder
        self._directory = directory
        self._claims = claims
        self._asked: Recent[bytes, tuple[str, bytes]] = Recent(_MAX_ASKED)
        """What a path asks for."""

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        path = exchange.head.raw_path
        asked = self._asked.get(path)
        if asked is None:
            asked = dataplane.operation_of(path)
            if asked is not None and len(path) <= _MAX_ASKED_BYTES:
                self._asked.put(path, asked)
        if asked is not None:
            return self._data_plane.handle(exchange, *asked)
        if path == LIVE_PATH:
            exchange.operation = "Live"
            _answer_json(exchange, 200, {"status": "ok"})
        elif path == HEALTH_PATH:
            exchange.operation = "Health"
            parts = {"warden": self._claims.connected, "control": self._directory.connected}
            healthy = all(parts.values())
            _answer_json(exchange, 200 if healthy else 503, {"status": "ok" if healthy else "unavailable", **parts})
        else:
            return self._forwarder.handle(exchange)
        return None


def _answer_json(exchange: Exchange, status: int, document: dict[str, str | bool]) -> None:
    exchange.answer(status, [(b"content-type", b"application/json")], msgspec.json.encode(document))


class Worker:
    """Serves `listener` (bound, listening, shared with other workers) until told to stop.

    `warden_path`, `feed_path` and `control_path` are the Unix sockets of the warden, of control's feed, and of
    control's HTTP server. `public_url` is where callers reach all workers: scheme and authority. `now` is the time of
    day, in seconds since 1970, by which signatures and tokens are judged; `clock` counts seconds for everything else.
    `trusted_proxies` are networks (`sources`); bodies are held in `spool_directory` (`spool`).
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        warden_path: str,
        feed_path: str,
        control_path: str,
        region: str,
        worker: int,
        public_url: str = "",
        jwt_skew_s: float = DEFAULT_SKEW_S,
        watch: Watch | None = None,
        now: Callable[[], float] = time.time,
        limits: GatewayLimits | None = None,
        trusted_proxies: Sequence[str] = (),
        spool_directory: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._warden_path = warden_path
        self._feed_path = feed_path
        self._control_path = control_path
        self._region = region
        self._worker = worker
        self._public_url = public_url
        self._jwt_skew_s = jwt_skew_s
        self._watch = watch or Watch()
        self._now = now
        self._limits = limits or GatewayLimits()
        self._sources = Sources(trusted_proxies)
        self._spool_directory = spool_directory
        self._clock = clock

    async def run(
        self, stop: asyncio.Event, on_ready: Callable[[], None], *, retire: asyncio.Event | None = None
    ) -> None:
        """Serve until `stop` is set, then let requests under way end. `on_ready` is called once it accepts and has
        reached the other processes.

        When `retire` is set, others accept in its place: it ends when all of its connections have ended.
        """
        limits = self._limits
        sweeper = Sweeper(self._clock)
        watch = self._watch
        spans = SpanQueue() if watch.trace_sample_ratio is not None else None
        observer = Observer(
            region=self._region,
            access_log=watch.access_log,
            spans=spans,
            soon=partial(asyncio.get_running_loop().call_later, ACCESS_LOG_DELAY_S),
        )

        def counted(start: int) -> GatewayCounts:
            in_flight, streams = server.under_way()
            dropped = 0 if spans is None else spans.dropped
            return GatewayCounts(observer.counts.page(start), server.connections, in_flight, streams, dropped)

        directory = Directory(self._feed_path, worker=self._worker, counts=counted, clock=self._clock)
        reader = Reader()
        claims = Claims(self._warden_path, sweeper, limits, reader)
        try:
            if spans is not None:
                sweeper.every_tick(partial(_send_spans, directory, spans))
            data_plane = DataPlane(
                tracer=Tracer(watch.trace_sample_ratio),
                directory=directory,
                claims=claims,
                sweeper=sweeper,
                limits=limits,
                spools=Spools(limits, self._clock, directory=self._spool_directory),
                sources=self._sources,
                region=self._region,
                public_url=self._public_url,
                jwt_skew_s=self._jwt_skew_s,
                now=self._now,
            )
            forwarder = ControlForwarder(self._control_path, sweeper, limits)
            server = Server(_Front(data_plane, forwarder, directory, claims), reader, sweeper, limits, observer)
            passages = data_plane.passages(server, observer)
            compiled = fast.compiled()
            if compiled is None:
                server.passages = passages
            else:
                server.receiver = compiled.passages(passages).receiver
            sweeper.start()
            loop = asyncio.get_running_loop()
            self._listener.setblocking(False)
            accepting = await loop.create_server(server.connection, sock=self._listener, backlog=_BACKLOG)
            try:
                await _reach(stop, directory.until_connected(), claims.until_connected())
                log.info("gateway.serving", compiled=compiled is not None)
                on_ready()
                await first_of(stop, *(() if retire is None else (retire,)))
                if not stop.is_set():
                    accepting.close()
                    await _retire(server, claims, stop, limits.retire_timeout_s)
            finally:
                accepting.close()
                forwarder.end_streams()
                await server.drain(limits.drain_timeout_s)
                forwarder.close()
                if spans is not None:
                    _send_spans(directory, spans, 0.0)
        finally:
            observer.flush()
            sweeper.stop()
            await claims.aclose()
            await directory.aclose()
