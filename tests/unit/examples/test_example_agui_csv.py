"""examples/agui_csv as a running agent, judged by ag-ui-protocol's own event models and by the csv module."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterator
from typing import Any

import pytest
from ag_ui.core import Event
from agent_process import EXAMPLES, Agent, agent
from pydantic import TypeAdapter

ANY_EVENT: TypeAdapter[Any] = TypeAdapter(Event)


@pytest.fixture(scope="module")
def running() -> Iterator[Agent]:
    with agent("agui_csv") as started:
        yield started


def asked(*questions: str, **more: Any) -> dict[str, Any]:
    messages = [{"id": f"m{number}", "role": "user", "content": text} for number, text in enumerate(questions)]
    return {"threadId": "t1", "runId": "r1", "messages": messages, "tools": [], "context": [], "state": {}} | more


def run(agent: Agent, *questions: str, **more: Any) -> list[dict[str, Any]]:
    events = list(agent.events(asked(*questions, **more)))
    for event in events:
        ANY_EVENT.validate_python(event)
    return events


def result(events: list[dict[str, Any]]) -> Any:
    assert events[-1]["type"] == "RUN_FINISHED", events[-1]
    return events[-1]["result"]


def orders() -> list[dict[str, str]]:
    with (EXAMPLES / "agui_csv" / "orders.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def apply(state: Any, delta: list[dict[str, Any]]) -> Any:
    """RFC 6902, the two forms of add that the agent uses."""
    for operation in delta:
        assert operation["op"] == "add"
        _, name, *rest = operation["path"].split("/")
        if rest == ["-"]:
            state[name].append(operation["value"])
        else:
            assert not rest
            state[name] = operation["value"]
    return state


def test_a_run_tells_its_tools_state_and_answer_in_order(running: Agent):
    events = run(running, "average price by region")
    kinds = [event["type"] for event in events]
    assert [kind for at, kind in enumerate(kinds) if at == 0 or kind != kinds[at - 1]] == [
        "RUN_STARTED", "STATE_SNAPSHOT",
        "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT", "STATE_DELTA",
        "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT", "STATE_DELTA",
        "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED",
    ]  # fmt: skip
    assert (events[0]["threadId"], events[0]["runId"]) == ("t1", "r1")


def test_averages_by_group_are_those_of_the_file(running: Agent):
    prices: dict[str, list[float]] = {}
    for row in orders():
        prices.setdefault(row["region"], []).append(float(row["price"]))
    expected = {region: pytest.approx(statistics.fmean(of), abs=0.006) for region, of in prices.items()}
    assert result(run(running, "average price by region")) == {"average": expected}


def test_a_condition_limits_the_rows(running: Agent):
    expected = sum(int(row["units"]) for row in orders() if row["channel"] == "web")
    assert result(run(running, "What are the total units where channel is web?")) == {"total": expected}


def test_arguments_arrive_in_fragments_that_make_one_json_text(running: Agent):
    events = run(running, "median price by product")
    second = [event["toolCallId"] for event in events if event["type"] == "TOOL_CALL_START"][1]
    fragments = [e["delta"] for e in events if e["type"] == "TOOL_CALL_ARGS" and e["toolCallId"] == second]
    assert len(fragments) > 1
    assert json.loads("".join(fragments)) == {"how": "median", "column": "price", "by": "product"}


def test_a_follow_up_keeps_what_the_question_before_it_asked(running: Agent):
    direct = result(run(running, "total units by product"))
    assert result(run(running, "total units by region", "and by product?")) == direct


def test_state_is_kept_and_its_changes_are_json_patches(running: Agent):
    first = run(running, "rows", state={"theme": "dark"})
    state = next(event["snapshot"] for event in first if event["type"] == "STATE_SNAPSHOT")
    for event in first:
        if event["type"] == "STATE_DELTA":
            state = apply(state, event["delta"])
    assert state["theme"] == "dark"
    assert state["dataset"]["rows"] == len(orders())
    assert state["answers"] == [{"question": "rows", "result": {"rows": len(orders())}}]
    again = run(running, "columns", state=state)
    snapshot = next(event["snapshot"] for event in again if event["type"] == "STATE_SNAPSHOT")
    assert snapshot["answers"] == state["answers"]


def test_the_csv_may_come_in_the_state_or_in_the_context(running: Agent):
    text = "city,people\nUlm,130\nBonn,330\n"
    assert result(run(running, "total people", state={"csv": text})) == {"total": 460}
    context = [{"description": "a CSV of cities", "value": text}]
    assert result(run(running, "maximum people", context=context)) == {"maximum": 330}


@pytest.mark.parametrize(
    ("question", "state"),
    [
        ("sing a song", {}),
        ("average wages by region", {}),
        ("average region", {}),
        ("total units where channel is fax", {}),
        ("rows", {"csv": "a,b\n1\n"}),
        ("rows", {"csv": ""}),
        ("rows", {"csv": 7}),
        ("rows", {"csv": 'a,b\n"1,2\n'}),
    ],
)
def test_what_it_can_not_answer_ends_in_one_run_error_that_says_why(running: Agent, question: str, state: Any):
    events = run(running, question, state=state)
    assert [event["type"] for event in events if event["type"] in ("RUN_ERROR", "RUN_FINISHED")] == ["RUN_ERROR"]
    assert events[-1]["type"] == "RUN_ERROR"
    assert events[-1]["code"] in ("NotUnderstood", "TableError")
    assert len(events[-1]["message"]) > 10


def test_a_run_without_a_question_is_an_error(running: Agent):
    assert run(running)[-1]["type"] == "RUN_ERROR"


def test_the_first_event_comes_before_the_run_has_ended():
    # The pace would make the whole run take minutes: reading its beginning proves that it is streamed.
    with agent("agui_csv", AGENT_PACE_S="10") as slow:
        events = slow.events(asked("average price by region"))
        assert next(events)["type"] == "RUN_STARTED"
        assert next(event for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")["delta"] == "The "
        assert slow.healthy()
        events.close()
