"""Contexts of traces: what is read of W3C and X-Ray headers, what is passed on, and what gets a span."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from freehold.observe.trace_context import Context, received
from freehold.observe.tracing import Tracer

TRACE, SPAN = "5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8"
W3C = f"00-{TRACE}-{SPAN}-01".encode()
XRAY = f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1".encode()


def read(**headers: bytes) -> Context | None:
    return received([(name.replace("_", "-").encode(), value) for name, value in headers.items()])


def said(context: Context | None) -> tuple[str, str, bool] | None:
    return None if context is None else (context.trace_id, context.span_id, context.sampled)


@pytest.mark.parametrize("headers", [{"traceparent": W3C}, {"x_amzn_trace_id": XRAY}])
def test_either_form_is_read_and_both_are_written(headers: dict[str, bytes]) -> None:
    context = read(**headers)
    assert said(context) == (TRACE, SPAN, True)
    assert context is not None
    assert dict(context.headers()) == {b"traceparent": W3C, b"x-amzn-trace-id": XRAY}


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_another_implementation_reads_what_is_written(trace_id: int, span_id: int, sampled: bool) -> None:
    context = Context(f"{trace_id:032x}", f"{span_id:016x}", sampled=sampled, state=b"a=1,b=2")
    carrier = {name.decode(): value.decode() for name, value in context.headers()}
    found = get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    assert (found.trace_id, found.span_id, found.trace_flags.sampled) == (trace_id, span_id, sampled)
    assert found.trace_state.to_header() == "a=1,b=2"


@given(
    st.binary(max_size=80)
    | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{30,33}-[0-9a-f]{16}-[0-9a-f]{2}(-x)?", fullmatch=True)
)
def test_what_another_implementation_refuses_is_refused(value: bytes) -> None:
    carrier = {"traceparent": value.decode("latin-1")}
    theirs = get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    ours = read(traceparent=value)
    if ours is not None:
        assert (int(ours.trace_id, 16), int(ours.span_id, 16)) == (theirs.trace_id, theirs.span_id)


def test_ours_reads_what_another_implementation_writes() -> None:
    carrier: dict[str, str] = {}
    span = NonRecordingSpan(SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(1)))
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    assert said(read(traceparent=carrier["traceparent"].encode())) == (TRACE, SPAN, True)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"tracestate": b"a=1"},
        {"traceparent": b"00-1-2-03"},
        {"traceparent": W3C.upper()},
        {"traceparent": W3C.replace(b"00-", b"ff-", 1)},
        {"traceparent": W3C + b"-more"},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01".encode()},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01".encode()},
        {"x_amzn_trace_id": b"Self=1-00000000-000000000000000000000000"},
        {"x_amzn_trace_id": b"Root=1-5759e988-short"},
        {"x_amzn_trace_id": b"Root=1-00000000-000000000000000000000000"},
    ],
)
def test_what_can_not_be_read_is_as_if_it_had_not_come(headers: dict[str, bytes]) -> None:
    assert read(**headers) is None


def test_a_newer_version_of_traceparent_is_read_by_its_known_part() -> None:
    assert said(read(traceparent=W3C.replace(b"00-", b"cc-", 1) + b"-what-the-future-is-like")) == (TRACE, SPAN, True)


def test_two_traceparents_are_none() -> None:
    assert received([(b"traceparent", W3C), (b"traceparent", W3C)]) is None


def test_where_the_forms_differ_traceparent_names_the_trace() -> None:
    other = b"Root=1-00000000-000000000000000000000001;Parent=0000000000000001;Sampled=1"
    assert said(read(traceparent=W3C, x_amzn_trace_id=other)) == (TRACE, SPAN, True)


@pytest.mark.parametrize("xray", [XRAY.replace(b"Sampled=1", b"Sampled=0"), b"Sampled=0"])
def test_sampled_0_in_either_form_is_unsampled(xray: bytes) -> None:
    assert said(read(traceparent=W3C, x_amzn_trace_id=xray)) == (TRACE, SPAN, False)
    assert said(read(traceparent=W3C[:-1] + b"0", x_amzn_trace_id=XRAY)) == (TRACE, SPAN, False)


def test_an_x_ray_root_without_a_parent_is_a_beginning() -> None:
    context = read(x_amzn_trace_id=XRAY.partition(b";")[0])
    assert context is not None
    assert context.trace_id == TRACE
    assert int(context.span_id, 16) != 0
    assert context.sampled


def test_tracestate_passes_with_a_traceparent_and_within_its_bound() -> None:
    together = received([(b"traceparent", W3C), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")])
    assert together is not None
    assert (b"tracestate", b"a=1,b=2") in together.headers()
    long = read(traceparent=W3C, tracestate=b"a=" + b"x" * 5000)
    assert long is not None
    assert not long.state


# -- which requests get spans ------------------------------------------------------------------------------------


def test_without_an_exporter_a_callers_context_passes_unchanged() -> None:
    trace = Tracer(None).begin([(b"traceparent", W3C)])
    assert not trace.recorded
    assert (b"traceparent", W3C) in trace.headers()


def test_without_an_exporter_a_trace_is_begun_for_whoever_has_none() -> None:
    trace = Tracer(None).begin([])
    assert not trace.recorded
    assert trace.sampled
    assert said(received(trace.headers())) == said(trace)


def test_with_an_exporter_the_agent_is_a_child_of_our_span() -> None:
    trace = Tracer(1.0).begin([(b"traceparent", W3C)])
    assert trace.recorded
    assert (trace.trace_id, trace.parent_span_id) == (TRACE, SPAN)
    assert trace.span_id != SPAN


def test_an_unsampled_context_gets_no_span_and_passes_unchanged() -> None:
    trace = Tracer(1.0).begin([(b"traceparent", W3C[:-1] + b"0")])
    assert not trace.recorded
    assert (b"traceparent", W3C[:-1] + b"0") in trace.headers()


@pytest.mark.parametrize(("chance", "sampled"), [(0.24, True), (0.25, False)])
def test_the_ratio_decides_for_traces_that_begin_here(chance: float, sampled: bool) -> None:
    trace = Tracer(0.25, chance=lambda: chance).begin([])
    assert (trace.recorded, trace.sampled, trace.parent_span_id) == (sampled, sampled, "")


def test_ids_of_new_traces_begin_with_the_time_as_x_ray_wants() -> None:
    assert abs(int(Tracer(None).begin_new().trace_id[:8], 16) - time.time()) < 5
