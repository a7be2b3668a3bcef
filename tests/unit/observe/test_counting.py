"""What is counted, and how it is shown: series, their bounds, the exposition, the access log."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from freehold.control.metrics import Metrics
from freehold.control.protocol import GatewayCounts
from freehold.domain.errors import Unavailable
from freehold.domain.sessions import EndReason, SessionKey
from freehold.domain.usage import Usage
from freehold.observe.access_log import AccessLog, Line
from freehold.observe.counts import LATENCY_BOUNDS_S, PAGE_SIZE, Counts, Series, add_latency
from freehold.observe.spans import MAX_BATCH, SpanQueue, SpanRecord
from freehold.warden.tally import EndpointTally, Tally

KEY = SessionKey("111122223333", "agent-0123456789", "DEFAULT", "owner", "s" * 40)


def some_series(runtime: str = "agent-0123456789", account: str = "111122223333", **counted: int) -> Series:
    return Series("InvokeAgentRuntime", account, runtime, "DEFAULT", latency_buckets=[0] * 16, **counted)


class Workers:
    def __init__(self, **workers: list[GatewayCounts]) -> None:
        self.workers = {name.replace("_", "-"): pages for name, pages in workers.items()}

    async def counts(self) -> dict[str, list[GatewayCounts]]:
        return self.workers


class Sessions:
    def __init__(self, *endpoints: EndpointTally) -> None:
        self.endpoints = list(endpoints)
        self.away = False

    async def tally(self) -> list[EndpointTally]:
        if self.away:
            raise Unavailable("the other process has gone")
        return self.endpoints


def samples(metrics: Metrics, account: str | None = None) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = asyncio.run(metrics.render(account)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_latency_counts_in_the_bucket_that_ends_at_or_above_it() -> None:
    series = some_series()
    for duration in (0.0, 0.005, 0.0051, 900.0, 901.0):
        add_latency(series, duration)
    assert [series.latency_buckets[i] for i in (0, 1, -2, -1)] == [2, 1, 1, 1]


def test_series_beyond_the_bound_are_counted_together() -> None:
    counts = Counts(max_series=2)
    for number in range(4):
        counts.of("InvokeAgentRuntime", "a", f"runtime-{number}", "DEFAULT").invocations += 1
    assert [(one.account, one.runtime_id, one.invocations) for one in counts.page(0)] == [
        ("a", "runtime-0", 1),
        ("a", "runtime-1", 1),
        ("other", "", 2),
    ]


def test_pages_together_are_all_series() -> None:
    counts = Counts()
    for number in range(PAGE_SIZE + 1):
        counts.of("x", "a", str(number), "")
    assert [len(counts.page(0)), len(counts.page(PAGE_SIZE)), len(counts.page(2 * PAGE_SIZE))] == [PAGE_SIZE, 1, 0]


def test_each_process_has_series_of_its_own() -> None:
    one, two = some_series(invocations=3), some_series(invocations=4)
    add_latency(one, 0.02)
    metrics = Metrics(
        Workers(gateway_0=[GatewayCounts([one], 5, 1, 0, 0)], gateway_1=[GatewayCounts([two], 0, 0, 0, 7)]), Sessions()
    )
    found = samples(metrics)
    labels = {"operation": "InvokeAgentRuntime", "account": "111122223333", "runtime": "agent-0123456789"}
    for process, count in (("gateway-0", 3), ("gateway-1", 4)):
        named = frozenset((labels | {"endpoint": "DEFAULT", "process": process}).items())
        assert found["freehold_invocations_total", named] == count
    assert found["freehold_connections", frozenset({("process", "gateway-0")})] == 5
    assert found["freehold_spans_dropped_total", frozenset({("process", "gateway-1")})] == 7
    buckets = {
        dict(named)["le"]: value
        for (name, named), value in found.items()
        if name == "freehold_latency_seconds_bucket" and ("process", "gateway-0") in named
    }
    assert len(buckets) == len(LATENCY_BOUNDS_S) + 1
    assert (buckets["0.01"], buckets["0.025"], buckets["+Inf"]) == (0, 1, 1)


def test_an_account_sees_its_own_series_and_those_of_nobody() -> None:
    series = [some_series(), some_series(account="444455556666"), some_series("", "")]
    metrics = Metrics(
        Workers(gateway_0=[GatewayCounts(series, 0, 0, 0, 0)]), Sessions(EndpointTally("444455556666", "r", "e", 1))
    )
    found = samples(metrics, "111122223333")
    assert {dict(named).get("account") for _, named in found} == {"111122223333", "", None}


def test_while_the_warden_is_away_the_rest_is_shown() -> None:
    sessions = Sessions()
    sessions.away = True
    found = samples(Metrics(Workers(gateway_0=[GatewayCounts([some_series()], 0, 0, 0, 0)]), sessions))
    assert found["freehold_warden_up", frozenset()] == 0
    assert any(name == "freehold_invocations_total" for name, _ in found)


def test_a_sessions_use_is_added_up_from_measurement_to_measurement() -> None:
    now = 1000.0
    tally = Tally(lambda: now)
    tally.began(7, KEY)
    now += 1800
    tally.measured({7: Usage(cpu_s=900, memory_bytes=2_000_000_000), 8: Usage(cpu_s=1)})
    now += 1800
    tally.ended(7, EndReason.IDLE_TIMEOUT, Usage(cpu_s=1800, memory_bytes=0))
    (found,) = tally.page(0)
    assert (found.sessions, found.active, found.ends) == (1, 0, {"idle timeout": 1})
    assert found.vcpu_hours == 0.5
    assert found.gb_hours == 2.0


def test_a_measurement_that_says_less_than_the_last_takes_nothing_away() -> None:
    tally = Tally(lambda: 0.0)
    tally.began(7, KEY)
    tally.measured({7: Usage(cpu_s=3600)})
    tally.measured({7: Usage(cpu_s=1)})
    tally.ended(7, None, None)
    (found,) = tally.page(0)
    assert found.vcpu_hours == 1.0


def test_a_full_queue_of_spans_counts_what_it_drops() -> None:
    queue = SpanQueue(max_queued=MAX_BATCH + 1)
    for number in range(MAX_BATCH + 3):
        queue.put(SpanRecord("n", "t", str(number), "", "", 0, 1, "", {}))
    assert queue.dropped == 2
    assert [span.span_id for span in queue.take()][:2] == ["0", "1"]
    assert (len(queue.take()), len(queue)) == (1, 0)


def test_lines_of_one_turn_are_written_together() -> None:
    written: list[str] = []
    log = AccessLog(process="gateway-0", json_lines=True, write=written.append, wall=lambda: 1_700_000_000.25)
    assert log.add(Line(operation="X", status=200))
    assert not log.add(Line(operation="Y", status=404))
    log.flush()
    log.flush()
    (text,) = written
    first, second = (json.loads(line) for line in text.splitlines())
    assert first == {
        "process": "gateway-0",
        "operation": "X",
        "status": 200,
        "event": "request",
        "level": "info",
        "timestamp": "2023-11-14T22:13:20.250000Z",
    }
    assert second["operation"] == "Y"


def test_as_text_a_line_has_the_same_fields() -> None:
    written: list[str] = []
    log = AccessLog(process="gateway-0", json_lines=False, write=written.append, wall=lambda: 1_700_000_000.0)
    log.add(Line(operation="X", status=200))
    log.flush()
    assert written == [
        f"2023-11-14T22:13:20.000000Z [info     ] {'request':<30} process=gateway-0 operation=X status=200\n"
    ]


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_line_like_others_is_the_line_that_it_would_be_alone(json_lines: bool) -> None:
    common: dict[str, Any] = {
        "method": "POST",
        "operation": "X",
        "status": 200,
        "account": "1",
        "session_id": 'a "quoted" %s',
        "generation": 7,
    }
    told: dict[str, Any] = {"bytes_in": 3, "bytes_out": 0, "duration_ms": 0.125, "trace_id": "f" * 32}
    alone: list[str] = []
    like: list[str] = []
    logs = [
        AccessLog(process="gateway-0", json_lines=json_lines, write=written.append, wall=lambda: 1_700_000_000.25)
        for written in (alone, like)
    ]
    assert logs[0].add(Line(**common, **told, request_id="r-1", first_byte_ms=0.125))
    alike = logs[1].alike(Line(**common))
    assert logs[1].add_alike(alike, "r-1", *told.values())
    assert not logs[1].add_alike(alike, "r-2", *told.values())
    for log in logs:
        log.flush()
    assert like[0].splitlines()[0] == alone[0].rstrip("\n")
    assert "r-2" in like[0].splitlines()[1]
