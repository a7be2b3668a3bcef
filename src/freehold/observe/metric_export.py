"""Metrics out of this server: to an OTLP/HTTP receiver, under the service's own names.

For: control. Not for gathering or counting (`control.metrics`). Invariant: what is sent is cumulative since a process
began, and each process is a series of its own, as in the Prometheus exposition that it is made from.

Source of the names: spec section 8 (namespace AWS/Bedrock-AgentCore).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

NAMES: Final = {
    "freehold_invocations": "Invocations",
    "freehold_throttles": "Throttles",
    "freehold_user_errors": "UserErrors",
    "freehold_system_errors": "SystemErrors",
    "freehold_latency_seconds": "Latency",
    "freehold_sessions": "SessionCount",
    "freehold_active_sessions": "ActiveSessionCount",
    "freehold_active_streaming_connections": "ActiveStreamingConnections",
    "freehold_streamed_bytes_in": "InboundStreamingBytesProcessed",
    "freehold_streamed_bytes_out": "OutboundStreamingBytesProcessed",
    "freehold_vcpu_hours": "CPUUsed-vCPUHours",
    "freehold_gb_hours": "MemoryUsed-GBHours",
}
"""Prometheus family to the service's metric; other families keep their names."""
_UNITS: Final = {"Latency": "s", "CPUUsed-vCPUHours": "h", "MemoryUsed-GBHours": "GB.h"}
_SCOPE: Final = InstrumentationScope("freehold")
_TIMEOUT_S: Final = 10.0

_Data: TypeAlias = "otel.Sum | otel.Gauge | otel.Histogram"


class MetricExport:
    """Sends the server's metrics to `endpoint`, the receiver's base URL."""

    def __init__(
        self, endpoint: str, *, headers: Mapping[str, str], region: str, account: str, started_ns: int
    ) -> None:
        self._resource = Resource({"service.name": "freehold", "cloud.region": region, "cloud.account.id": account})
        self._started_ns = started_ns
        self._exporter = OTLPMetricExporter(
            endpoint=f"{endpoint}/v1/metrics", headers=dict(headers), timeout=_TIMEOUT_S
        )

    def send(self, families: Iterable[Metric], *, now_ns: int) -> bool:
        """Send them once; whether the receiver took them. Blocking, for some seconds at the most."""
        metrics = [
            otel.Metric(name, family.documentation, _UNITS.get(name, ""), data)
            for family in families
            if (data := self._data(family, now_ns)) is not None
            for name in (NAMES.get(family.name, family.name),)
        ]
        scope = otel.ScopeMetrics(_SCOPE, metrics, "")
        data = otel.MetricsData([otel.ResourceMetrics(self._resource, [scope], "")])
        result = self._exporter.export(data, _TIMEOUT_S * 1000)  # pyright: ignore[reportUnknownMemberType]
        return result is otel.MetricExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()  # pyright: ignore[reportUnknownMemberType]

    def _data(self, family: Metric, now_ns: int) -> _Data | None:
        cumulative = otel.AggregationTemporality.CUMULATIVE
        if family.type == "histogram":
            points = self._histogram(family.samples, now_ns)
            return otel.Histogram(points, cumulative) if points else None
        numbers = [
            otel.NumberDataPoint(sample.labels, self._started_ns, now_ns, float(sample.value))
            for sample in family.samples
        ]
        if not numbers:
            return None
        if family.type == "counter":
            return otel.Sum(numbers, cumulative, is_monotonic=True)
        return otel.Gauge(numbers)

    def _histogram(self, samples: Sequence[Sample], now_ns: int) -> list[otel.HistogramDataPoint]:
        """Prometheus counts each bucket with all below it; OTLP each by itself."""
        series: dict[tuple[tuple[str, str], ...], dict[str, list[tuple[float, float]]]] = {}
        for sample in samples:
            labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
            kind = sample.name.rpartition("_")[2]
            bound = float(sample.labels.get("le", "nan"))
            series.setdefault(labels, {}).setdefault(kind, []).append((bound, sample.value))
        points: list[otel.HistogramDataPoint] = []
        for labels, kinds in series.items():
            below = [0.0, *(count for _, count in kinds["bucket"])]
            points.append(
                otel.HistogramDataPoint(
                    attributes=dict(labels),
                    start_time_unix_nano=self._started_ns,
                    time_unix_nano=now_ns,
                    count=int(below[-1]),
                    sum=kinds["sum"][0][1],
                    bucket_counts=[int(upper - lower) for lower, upper in itertools.pairwise(below)],
                    explicit_bounds=[bound for bound, _ in kinds["bucket"][:-1]],
                    min=None,  # pyright: ignore[reportArgumentType] - unknown, and optional on the wire
                    max=None,  # pyright: ignore[reportArgumentType]
                )
            )
        return points
