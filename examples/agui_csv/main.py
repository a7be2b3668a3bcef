"""An AG-UI agent that answers questions about a CSV, with tools and without a model.

The CSV is `state.csv` (text) of the run's input, or a context entry whose description names CSV, or else the
`orders.csv` beside this file. Invariant: a run ends with exactly one RUN_FINISHED or RUN_ERROR.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tables
from ag_ui.core import (
    BaseEvent,
    RunAgentInput,
    RunErrorEvent,
    RunFinishedEvent,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from bedrock_agentcore.runtime import AGUIApp
from questions import NotUnderstood, Plan, understand

ORDERS = Path(__file__).with_name("orders.csv")
PACE_S = float(os.environ.get("AGENT_PACE_S", "0.02"))
"""Pause between the words of an answer, so that it reads like a model's."""

app = AGUIApp()


@app.entrypoint
async def run(asked: RunAgentInput) -> AsyncIterator[BaseEvent]:
    """The events of one run."""
    yield RunStartedEvent(thread_id=asked.thread_id, run_id=asked.run_id)
    state: dict[str, Any] = dict(asked.state) if isinstance(asked.state, dict) else {}
    given = state.pop("csv", None)
    state = {"dataset": None, "answers": []} | state
    yield StateSnapshotEvent(snapshot=state)
    try:
        *earlier, question = questions(asked)
        name, text = source(given, asked)
        call = ToolCall("load_csv", {"name": name})
        for event in call.opening():
            yield event
        table = await asyncio.to_thread(tables.load_csv, name, text)
        overview = tables.overview(table)
        yield call.result(overview)
        yield StateDeltaEvent(delta=added("/dataset", overview))

        plan = understand(question, earlier, table)
        arguments = {key: value for key, value in asdict(plan).items() if key != "tool" and value is not None}
        call = ToolCall(plan.tool, arguments)
        for event in call.opening():
            yield event
        found = await asyncio.to_thread(getattr(tables, plan.tool), table, **arguments)
        yield call.result(found)
        answer = {"question": question, "result": found}
        if isinstance(state["answers"], list):
            yield StateDeltaEvent(delta=added("/answers/-", answer))
        else:
            yield StateDeltaEvent(delta=added("/answers", [answer]))
    except (tables.TableError, NotUnderstood) as problem:
        yield RunErrorEvent(message=str(problem), code=type(problem).__name__)
        return
    message_id = str(uuid.uuid4())
    yield TextMessageStartEvent(message_id=message_id, role="assistant")
    for word in re.findall(r"\S+\s*", sentence(plan, found)):
        yield TextMessageContentEvent(message_id=message_id, delta=word)
        await asyncio.sleep(PACE_S)
    yield TextMessageEndEvent(message_id=message_id)
    yield RunFinishedEvent(thread_id=asked.thread_id, run_id=asked.run_id, result=found)


def added(path: str, value: Any) -> Any:
    """A JSON patch (RFC 6902) that adds one value."""
    return [{"op": "add", "path": path, "value": value}]


def questions(asked: RunAgentInput) -> list[str]:
    """What the user said, oldest first. Raises NotUnderstood when there is nothing."""
    said: list[str] = []
    for message in asked.messages:
        if message.role == "user":
            content = message.content
            parts = [content] if isinstance(content, str) else [part.text for part in content if part.type == "text"]
            said.append(" ".join(parts).strip())
    if not said or not said[-1]:
        raise NotUnderstood("there is no question in the last user message")
    return said


def source(given: Any, asked: RunAgentInput) -> tuple[str, str]:
    """Name and text of the CSV that the run is about. Raises TableError."""
    if given is not None:
        if not isinstance(given, str):
            raise tables.TableError("state.csv must be the text of a CSV")
        return "state.csv", given
    for entry in asked.context or []:
        if "csv" in entry.description.casefold():
            return entry.description, entry.value
    return ORDERS.name, ORDERS.read_text()


class ToolCall:
    """The events around one call of a tool."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.name = name
        self.call_id = str(uuid.uuid4())
        self.arguments = json.dumps(arguments)

    def opening(self) -> list[BaseEvent]:
        """The call and its arguments, which arrive in fragments as a model's would."""
        fragments = [self.arguments[at : at + 16] for at in range(0, len(self.arguments), 16)]
        return [
            ToolCallStartEvent(tool_call_id=self.call_id, tool_call_name=self.name),
            *(ToolCallArgsEvent(tool_call_id=self.call_id, delta=fragment) for fragment in fragments),
            ToolCallEndEvent(tool_call_id=self.call_id),
        ]

    def result(self, value: Any) -> BaseEvent:
        return ToolCallResultEvent(message_id=str(uuid.uuid4()), tool_call_id=self.call_id, content=json.dumps(value))


def sentence(plan: Plan, found: dict[str, Any]) -> str:
    """The result in words."""
    if plan.tool == "overview":
        kinds = ", ".join(f"{column} ({kind})" for column, kind in found["columns"].items())
        return f"{found['name']} has {found['rows']} rows and the columns {kinds}."
    if plan.tool == "describe":
        facts = ", ".join(f"{name} {spoken(value)}" for name, value in found.items() if name != "column")
        return f"Column {plan.column}: {facts}."
    ((name, value),) = found.items()
    subject = "The number of rows" if plan.tool == "count_rows" else f"The {name} {plan.column}"
    if plan.where is not None:
        subject += f" where {plan.where[0]} is {plan.where[1]}"
    if plan.by is None:
        return f"{subject} is {spoken(value)}."
    return f"{subject} by {plan.by}: {spoken(value)}."


def spoken(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {spoken(number)}" for name, number in value.items())
    return "unknown" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


if __name__ == "__main__":
    app.run()
