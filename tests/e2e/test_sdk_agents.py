"""Agents written with the packages that AWS's users have, unmodified, and the examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ag_ui.core import Event, EventType
from packages import bundle_of
from pydantic import TypeAdapter
from running_server import ONE_WORKER, RunningServer, session_id

pytestmark = [pytest.mark.slow, ONE_WORKER]
EXAMPLE = Path(__file__).parents[2] / "examples" / "agui_csv"
SDK = ("bedrock-agentcore", "ag-ui-protocol")

HTTP_APP = """
from bedrock_agentcore.runtime import BedrockAgentCoreApp, RequestContext

app = BedrockAgentCoreApp()

@app.entrypoint
async def handler(payload, context: RequestContext):
    if payload.get("stream"):
        return stream(payload["stream"])
    return {"hello": payload["prompt"], "session": context.session_id}

async def stream(count):
    for number in range(count):
        yield {"number": number}

if __name__ == "__main__":
    app.run()
"""

AGUI_APP = """
from ag_ui.core import (EventType, RunFinishedEvent, RunStartedEvent, TextMessageContentEvent, TextMessageEndEvent,
                        TextMessageStartEvent)
from bedrock_agentcore.runtime import AGUIApp

app = AGUIApp()

@app.entrypoint
async def run(input_data):
    ids = {"thread_id": input_data.thread_id, "run_id": input_data.run_id}
    yield RunStartedEvent(type=EventType.RUN_STARTED, **ids)
    yield TextMessageStartEvent(type=EventType.TEXT_MESSAGE_START, message_id="m", role="assistant")
    for word in input_data.messages[-1].content.split():
        yield TextMessageContentEvent(type=EventType.TEXT_MESSAGE_CONTENT, message_id="m", delta=word)
    yield TextMessageEndEvent(type=EventType.TEXT_MESSAGE_END, message_id="m")
    yield RunFinishedEvent(type=EventType.RUN_FINISHED, **ids)

if __name__ == "__main__":
    app.run()
"""

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def run_input(question: str) -> dict[str, Any]:
    return {
        "threadId": "thread",
        "runId": "run",
        "state": {},
        "messages": [{"id": "1", "role": "user", "content": question}],
        "tools": [],
        "context": [],
        "forwardedProps": {},
    }


@pytest.fixture(scope="module")
def artifact(server: RunningServer) -> dict[str, Any]:
    """One zip of the packages, the two agents, and the example as its folder has it."""
    example = {path.name: path.read_bytes() for path in EXAMPLE.iterdir() if path.is_file()}
    return server.artifact({**bundle_of(*SDK), **example, "http_app.py": HTTP_APP, "agui_app.py": AGUI_APP})


def run(server: RunningServer, arn: str, question: str) -> list[Event]:
    """The events of one AG-UI run, each checked by the protocol's own models."""
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn,
        runtimeSessionId=session_id(),
        payload=json.dumps(run_input(question)).encode(),
        contentType="application/json",
        accept="text/event-stream",
    )
    assert answer["contentType"].startswith("text/event-stream")
    lines = [line for line in answer["response"].iter_lines() if line.startswith(b"data:")]
    return [_EVENT.validate_json(line.removeprefix(b"data:")) for line in lines]


def test_a_bedrock_agentcore_app_runs_unmodified(server: RunningServer, artifact: dict[str, Any]):
    arn, session = server.deployed_from(artifact, "http_app.py", "HTTP"), session_id()
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session, payload=b'{"prompt": "you"}'
    )
    assert json.loads(answer["response"].read()) == {"hello": "you", "session": session}
    streamed = server.data.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=session, payload=b'{"stream": 3}')
    assert [json.loads(line[6:]) for line in streamed["response"].iter_lines() if line] == [
        {"number": 0},
        {"number": 1},
        {"number": 2},
    ]


def test_an_ag_ui_app_runs_unmodified(server: RunningServer, artifact: dict[str, Any]):
    events = run(server, server.deployed_from(artifact, "agui_app.py", "AGUI"), "three small words")
    assert [event.type for event in events] == [
        EventType.RUN_STARTED,
        EventType.TEXT_MESSAGE_START,
        *[EventType.TEXT_MESSAGE_CONTENT] * 3,
        EventType.TEXT_MESSAGE_END,
        EventType.RUN_FINISHED,
    ]


def test_the_ag_ui_example_answers_with_tools_state_and_text(server: RunningServer, artifact: dict[str, Any]):
    events = run(server, server.deployed_from(artifact, "main.py", "AGUI"), "average price by region")
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == (EventType.RUN_STARTED, EventType.RUN_FINISHED)
    assert {
        EventType.STATE_SNAPSHOT,
        EventType.STATE_DELTA,
        EventType.TOOL_CALL_START,
        EventType.TOOL_CALL_ARGS,
        EventType.TOOL_CALL_END,
        EventType.TOOL_CALL_RESULT,
        EventType.TEXT_MESSAGE_CONTENT,
    } <= set(kinds)
