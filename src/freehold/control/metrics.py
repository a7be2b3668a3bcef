"""The server's numbers in Prometheus' form, gathered from the processes that keep them.

For: `GET /_freehold/metrics`, and the loopback port for a scraper that can't sign. Not for counting
(`observe.counts`, `warden.tally`). Invariant: each series is of one process, named by its label `process`, so that a
process that starts again begins its own series anew and takes no other's numbers down. docs/howto/observe.md has the
service's names for them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence, Set
from typing import Final, Protocol

import structlog
from anyio import to_thread
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from freehold.control.exchange import Exchange, Receive, Scope, Send, Waiting
from freehold.control.protocol import GatewayCounts
from freehold.domain.errors import Unavailable
from freehold.observe.counts import LATENCY_BOUNDS_S, Series
from freehold.warden.tally import EndpointTally

PATH: Final = b"/_freehold/metrics"
OPERATION: Final = "Metrics"
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_OF_REQUESTS: Final = ("process", "operation", "account", "runtime", "endpoint")
_OF_SESSIONS: Final = ("process", "account", "runtime", "endpoint")
_WARDEN: Final = "warden"

_REQUEST_COUNTERS: Final = (
    ("invocations", "Requests that ended (AWS: Invocations)"),
    ("throttles", "Requests refused for a quota or a rate (AWS: Throttles)"),
    ("user_errors", "Requests that failed by the caller's or the agent's fault (AWS: UserErrors)"),
    ("system_errors", "Requests that failed by the server's fault (AWS: SystemErrors)"),
    ("broken_off", "Requests that ended before their answer was whole"),
    ("bytes_in", "Bytes of requests' bodies"),
    ("bytes_out", "Bytes of answers' bodies"),
    ("streamed_bytes_in", "Bytes of streams to agents (AWS: InboundStreamingBytesProcessed)"),
    ("streamed_bytes_out", "Bytes of streams from agents (AWS: OutboundStreamingBytesProcessed)"),
)

log = structlog.get_logger(__name__)


class Gateways(Protocol):
    async def counts(self) -> dict[str, list[GatewayCounts]]:
        """The pages of every worker that answers, by the name of its process."""
        ...


class Sessions(Protocol):
    async def tally(self) -> list[EndpointTally]:
        """Raises Unavailable."""
        ...


class Receiver(Protocol):
    """`observe.metric_export.MetricExport`."""

    def send(self, families: Iterable[Metric], *, now_ns: int) -> bool:
        """Blocking. Whether it was taken."""
        ...


class Metrics:
    """Renders what `gateways` and `sessions` have counted."""

    def __init__(self, gateways: Gateways, sessions: Sessions) -> None:
        self._gateways = gateways
        self._sessions = sessions

    async def render(self, account: str | None = None) -> bytes:
        """The exposition of `gather`."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once(await self.gather(account)))
        return generate_latest(registry)

    async def gather(self, account: str | None = None) -> list[Metric]:
        """All families, with `account` without other accounts' series. A silent process is left out."""
        workers, tally = await asyncio.gather(self._gateways.counts(), self._tally())
        shown = None if account is None else {account, ""}
        return [*_of_workers(workers, shown), *_of_sessions(tally, shown)]

    async def export(self, receiver: Receiver, *, interval_s: float) -> None:
        """Send all to `receiver` every `interval_s` seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            families = await self.gather()
            if not await to_thread.run_sync(lambda families=families: receiver.send(families, now_ns=time.time_ns())):
                log.warning("metrics.not_taken", reason="the OTLP receiver did not take the metrics")

    async def _tally(self) -> list[EndpointTally] | None:
        try:
            return await self._sessions.tally()
        except Unavailable as error:
            log.warning("metrics.warden_away", reason=error.message)
            return None


class OpenMetricsPort:
    """The ASGI application of the loopback port: nothing but `GET /metrics`, for whoever reaches it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, Waiting())
        if (exchange.method, exchange.path) == ("GET", b"/metrics"):
            await exchange.answer(200, [(b"content-type", CONTENT_TYPE)], await self._metrics.render())
        else:
            await exchange.answer_json(404, {"message": "Here is GET /metrics only"})


class _Once(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_workers(workers: dict[str, list[GatewayCounts]], shown: Set[str] | None) -> list[Metric]:
    series = [
        (name, one)
        for name, pages in workers.items()
        for page in pages
        for one in page.series
        if shown is None or one.account in shown
    ]
    families: list[Metric] = []
    for field, what in _REQUEST_COUNTERS:
        family = CounterMetricFamily(f"freehold_{field}", what, labels=_OF_REQUESTS)
        for name, one in series:
            family.add_metric(_labels(name, one), getattr(one, field))
        families.append(family)
    latency = HistogramMetricFamily(
        "freehold_latency_seconds", "From a request's head to the end of its answer (AWS: Latency)", labels=_OF_REQUESTS
    )
    for name, one in series:
        latency.add_metric(_labels(name, one), _buckets(one), one.latency_sum_s)
    families.append(latency)
    for field, name, what in (
        ("connections", "connections", "Connections of callers"),
        ("requests_in_flight", "requests_in_flight", "Requests under way"),
        ("streams", "active_streaming_connections", "Streams under way (AWS: ActiveStreamingConnections)"),
    ):
        gauge = GaugeMetricFamily(f"freehold_{name}", what, labels=("process",))
        for process, pages in workers.items():
            gauge.add_metric([process], getattr(pages[0], field))
        families.append(gauge)
    dropped = CounterMetricFamily("freehold_spans_dropped", "Spans that found no room", labels=("process",))
    for process, pages in workers.items():
        dropped.add_metric([process], pages[0].spans_dropped)
    families.append(dropped)
    return families


def _of_sessions(tally: Sequence[EndpointTally] | None, shown: Set[str] | None) -> list[Metric]:
    up = GaugeMetricFamily("freehold_warden_up", "Whether the process that owns the sessions answers")
    up.add_metric([], 0 if tally is None else 1)
    tally = [one for one in tally or () if shown is None or one.account in shown]
    counters = (
        ("sessions", "Sessions begun (AWS: SessionCount)"),
        ("vcpu_hours", "CPU time of sessions in vCPU hours (AWS: CPUUsed-vCPUHours)"),
        ("gb_hours", "Memory of sessions in GB hours, by measurements at each scrape (AWS: MemoryUsed-GBHours)"),
    )
    families: list[Metric] = [up]
    for field, what in counters:
        family = CounterMetricFamily(f"freehold_{field}", what, labels=_OF_SESSIONS)
        for one in tally:
            family.add_metric(_session_labels(one), getattr(one, field))
        families.append(family)
    active = GaugeMetricFamily(
        "freehold_active_sessions", "Sessions now (AWS: ActiveSessionCount)", labels=_OF_SESSIONS
    )
    ends = CounterMetricFamily("freehold_session_ends", "Sessions ended, by reason", labels=(*_OF_SESSIONS, "reason"))
    for one in tally:
        active.add_metric(_session_labels(one), one.active)
        for reason, count in one.ends.items():
            ends.add_metric([*_session_labels(one), reason], count)
    return [*families, active, ends]


def _labels(process: str, one: Series) -> list[str]:
    return [process, one.operation, one.account, one.runtime_id, one.endpoint]


def _session_labels(one: EndpointTally) -> list[str]:
    return [_WARDEN, one.account, one.runtime_id, one.endpoint]


def _buckets(one: Series) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in LATENCY_BOUNDS_S), "+Inf"]
    return list(zip(bounds, map(float, itertools.accumulate(one.latency_buckets)), strict=True))
