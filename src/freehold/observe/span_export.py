"""Spans out of this server: to an OTLP/HTTP receiver, by the OpenTelemetry SDK.

For: control, which may be heavy. Not for gateway workers, which import no OpenTelemetry. Invariant: a receiver that is
away costs memory within a bound, and no request any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from freehold.observe.spans import SpanRecord

_SCOPE = InstrumentationScope("freehold")
_SHUTDOWN_MS = 3000
_TIMEOUT_S = 10.0


class SpanExport:
    """Sends spans to `endpoint` (the receiver's base URL) in batches, from a thread of its own."""

    def __init__(self, endpoint: str, *, headers: Mapping[str, str], region: str, account: str) -> None:
        self._resource = Resource(
            {
                "service.name": "freehold",
                "cloud.region": region,
                "cloud.account.id": account,
                "aws.xray.origin": "AWS::BedrockAgentCore::Runtime",
            }
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", headers=dict(headers), timeout=_TIMEOUT_S)
        self._processor = BatchSpanProcessor(exporter, schedule_delay_millis=1000)

    def send(self, spans: Sequence[SpanRecord]) -> None:
        """Queue them; the SDK drops what its queue can't take, and logs that."""
        for span in spans:
            self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Send what is queued, for a bounded time. Blocking."""
        self._processor.force_flush(_SHUTDOWN_MS)
        self._processor.shutdown()

    def _readable(self, span: SpanRecord) -> ReadableSpan:
        flags = TraceFlags(TraceFlags.SAMPLED)
        state = TraceState.from_header([span.trace_state]) if span.trace_state else TraceState()
        trace_id = int(span.trace_id, 16)
        parent = (
            SpanContext(trace_id, int(span.parent_span_id, 16), is_remote=True, trace_flags=flags)
            if span.parent_span_id
            else None
        )
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=flags, trace_state=state),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.started_ns,
            end_time=span.ended_ns,
            instrumentation_scope=_SCOPE,
        )
