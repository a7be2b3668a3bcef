"""What is told of each request once it has ended: counted, logged, and handed on as a span.

For: `server`, which calls it once for each exchange. Not for the forms of any of the three (`freehold.observe`).
Invariant: nothing here awaits or fails a request, and nothing is told of a runtime that its caller has not been
recognised for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from freehold.gateway.exchange import Exchange
from freehold.gateway.members import INVOKE
from freehold.observe.access_log import AccessLog, Line
from freehold.observe.counts import Counts, add_latency
from freehold.observe.spans import SpanQueue, SpanRecord

if TYPE_CHECKING:
    from freehold.gateway.seats import Seat
    from freehold.observe.tracing import Trace

UNREADABLE: Final = "Unreadable"
"""In the place of an operation: what came was no request."""
CLIENT_GONE: Final = "ClientGone"
_MAX_PATH: Final = 512
"""Of a path that is no operation's: what is logged of it."""
_THROTTLES: Final = frozenset({402, 429})
"""Quota and rate: statuses of ServiceQuotaExceededException and ThrottlingException."""


def fault_of(status: int) -> str:
    """Whose fault a status tells of, in the service's words (spec section 8); empty for none."""
    if status < 400:
        return ""
    if status in _THROTTLES:
        return "throttle"
    return "system" if status >= 500 else "user"


class Passage(Protocol):
    """What is told of a passage (`passages`)."""

    @property
    def seat(self) -> Seat: ...
    @property
    def body(self) -> bytes: ...
    @property
    def started_at(self) -> float: ...
    @property
    def request_id(self) -> str: ...
    @property
    def trace(self) -> Trace: ...


class Observer:
    """Counts, and where it is asked for logs and traces, the exchanges of one worker."""

    def __init__(
        self,
        *,
        region: str,
        access_log: AccessLog | None = None,
        spans: SpanQueue | None = None,
        soon: Callable[[Callable[[], None]], object] | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.counts: Final = Counts()
        self._region = region
        self.access_log = access_log
        self._spans = spans
        self._soon = soon
        """Has something done a moment later."""
        self._wall_ns = wall_ns

    def ended(self, exchange: Exchange, now: float, *, whole: bool) -> None:
        """`whole` says whether the caller was sent all of the answer."""
        duration_s = now - exchange.started_at
        error = exchange.error
        code = exchange.error_code if error is None else error.code
        if not whole and not code:
            code = CLIENT_GONE
        status = exchange.status if error is None else error.status
        fault = "" if status < 400 else fault_of(status)
        series = self.counts.of(exchange.operation, exchange.account, exchange.runtime_id, exchange.endpoint)
        series.invocations += 1
        if fault == "throttle":
            series.throttles += 1
        elif fault == "user":
            series.user_errors += 1
        elif fault:
            series.system_errors += 1
        if not whole:
            series.broken_off += 1
        add_latency(series, duration_s)
        series.bytes_in += exchange.bytes_in
        series.bytes_out += exchange.bytes_out
        if exchange.is_stream:
            series.streamed_bytes_in += exchange.bytes_in
            series.streamed_bytes_out += exchange.bytes_out
        if self.access_log is not None:
            self._log(self.access_log, exchange, code, duration_s, whole)
        if self._spans is not None and exchange.trace is not None and exchange.trace.recorded:
            self._spans.put(self._span(exchange, code, fault, duration_s))

    def passed(self, passage: Passage, now: float, bytes_out: int) -> None:
        """A passage has ended: well, and at once. Nothing of it is recorded."""
        seat = passage.seat
        key = seat.key
        duration_s = now - passage.started_at
        bytes_in = len(passage.body)
        series = seat.series
        if series is None:
            series = seat.series = self.counts.of(INVOKE, key.account, key.runtime_id, key.endpoint)
        series.invocations += 1
        add_latency(series, duration_s)
        series.bytes_in += bytes_in
        series.bytes_out += bytes_out
        access_log = self.access_log
        if access_log is None:
            return
        alike = seat.log_lines
        if alike is None:
            alike = seat.log_lines = access_log.alike(
                Line(
                    method="POST",
                    operation=INVOKE,
                    status=200,
                    account=key.account,
                    runtime_id=key.runtime_id,
                    endpoint=key.endpoint,
                    session_id=key.session_id,
                    generation=seat.claim.generation,
                )
            )
        duration_ms = int(duration_s * 1e6) / 1000
        trace_id = passage.trace.trace_id
        if access_log.add_alike(alike, passage.request_id, bytes_in, bytes_out, duration_ms, trace_id):
            self._flush_soon(access_log)

    def refused(self, code: str, status: int) -> None:
        """What could not be read as a request."""
        series = self.counts.of(UNREADABLE, "", "", "")
        series.invocations += 1
        if fault_of(status) == "system":
            series.system_errors += 1
        else:
            series.user_errors += 1
        add_latency(series, 0.0)
        if self.access_log is not None:
            self._write(self.access_log, Line(operation=UNREADABLE, status=status, error=code))

    def flush(self) -> None:
        if self.access_log is not None:
            self.access_log.flush()

    def _log(self, access_log: AccessLog, exchange: Exchange, code: str, duration_s: float, whole: bool) -> None:
        operation, trace = exchange.operation, exchange.trace
        first_byte_at = exchange.first_byte_at
        self._write(
            access_log,
            Line(  # by place: names would cost as much again
                "",
                exchange.head.method,
                operation,
                "" if operation else exchange.head.raw_path[:_MAX_PATH].decode("ascii"),
                exchange.status,
                code,
                exchange.request_id,
                exchange.account,
                exchange.runtime_id,
                exchange.endpoint,
                exchange.session_id,
                exchange.generation,
                exchange.bytes_in,
                exchange.bytes_out,
                int(duration_s * 1e6) / 1000,
                int((first_byte_at - exchange.started_at) * 1e6) / 1000 if first_byte_at else None,
                "" if trace is None else trace.trace_id,
                not whole,
                exchange.close_code,
            ),
        )

    def _write(self, access_log: AccessLog, line: Line) -> None:
        if access_log.add(line):
            self._flush_soon(access_log)

    def add_written(self, access_log: AccessLog, line: str) -> None:
        """A line of `access_log` that says all it has to."""
        if access_log.add_written(line):
            self._flush_soon(access_log)

    def _flush_soon(self, access_log: AccessLog) -> None:
        if self._soon is None:
            access_log.flush()
        else:
            # One write for all that end until then.
            self._soon(access_log.flush)

    def _span(self, exchange: Exchange, code: str, fault: str, duration_s: float) -> SpanRecord:
        trace = exchange.trace
        assert trace is not None
        ended_ns = self._wall_ns()
        account, runtime_id, endpoint = exchange.account, exchange.runtime_id, exchange.endpoint
        attributes: dict[str, str | int | float | bool] = {
            "aws.operation.name": exchange.operation,
            "aws.request_id": exchange.request_id,
            "aws.account.id": account,
            "aws.region": self._region,
            "aws.resource.type": "AWS::BedrockAgentCore::Runtime",
            "latency_ms": round(duration_s * 1000, 3),
            "http.response.status_code": exchange.status,
        }
        if runtime_id:
            attributes["aws.agent.id"] = runtime_id
            attributes["aws.endpoint.name"] = endpoint
            attributes["aws.resource.arn"] = (
                f"arn:aws:bedrock-agentcore:{self._region}:{account}:runtime/{runtime_id}"
                f"/runtime-endpoint/{endpoint}:{endpoint}"
            )
        if exchange.session_id:
            attributes["session.id"] = exchange.session_id
        if fault:
            attributes["error_type"] = fault
        return SpanRecord(
            name=exchange.operation,
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            parent_span_id=trace.parent_span_id,
            trace_state=trace.state.decode("latin-1"),
            started_ns=ended_ns - int(duration_s * 1e9),
            ended_ns=ended_ns,
            error=code,
            attributes=attributes,
        )
