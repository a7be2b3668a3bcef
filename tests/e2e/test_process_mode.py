"""The `process` backend by setting: no isolation, the same behaviour towards callers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from running_server import RunningServer, agent, session_id


@pytest.fixture(scope="module")
def unisolated() -> Iterator[RunningServer]:
    with RunningServer(FREEHOLD_SANDBOX__MODE="process") as running:
        yield running


def test_two_sessions_serve_the_same_port_side_by_side(unisolated: RunningServer):
    arn, data = unisolated.deployed("probe", agent("probe")), unisolated.data
    sessions = (session_id(), session_id())
    for said in ("a", "b"):
        for session in sessions:
            answer = data.invoke_agent_runtime(
                agentRuntimeArn=arn,
                runtimeSessionId=session,
                payload=json.dumps({"do": "remember", "say": said + session}).encode(),
            )
            remembered = json.loads(answer["response"].read())["remembered"]
    assert remembered == ["a" + sessions[1], "b" + sessions[1]]
    for session in sessions:
        data.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=session)
    assert unisolated.sandboxes() == []


def test_what_is_not_isolated_is_said_at_the_start(unisolated: RunningServer):
    assert "NO SANDBOX" in unisolated.announced
