"""Named endpoints through both planes: which version a qualifier reaches, and what deleting an endpoint ends."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError
from running_server import ROLE, RunningServer, agent, session_id, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def runtime(server: RunningServer) -> str:
    """The ARN of a runtime whose versions 1 and 2 answer their number."""
    arn = server.deployed(f"versions_{uuid.uuid4().hex[:8]}", agent("probe"), environmentVariables={"NUMBER": "1"})
    publish(server, arn, "2")
    return arn


def publish(server: RunningServer, arn: str, number: str) -> None:
    runtime_id = arn.rpartition("/")[2]
    server.control.update_agent_runtime(
        agentRuntimeId=runtime_id,
        agentRuntimeArtifact=server.artifact(agent("probe")),
        roleArn=ROLE,
        environmentVariables={"NUMBER": number},
    )
    assert server.until_settled(runtime_id)["status"] == "READY"


def number(server: RunningServer, arn: str, session: str, **qualifier: str) -> str:
    """What the version that answers was told."""
    told = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session, payload=json.dumps({"do": "environment"}), **qualifier
    )
    return json.loads(told["response"].read())["NUMBER"]


def test_a_qualifier_reaches_the_version_of_its_endpoint(server: RunningServer, runtime: str):
    which: dict[str, Any] = {"agentRuntimeId": runtime.rpartition("/")[2]}
    server.control.create_agent_runtime_endpoint(**which, name="prod", agentRuntimeVersion="1")
    session = session_id()
    assert number(server, runtime, session, qualifier="prod") == "1"
    assert number(server, runtime, session) == "2", "another endpoint is another session"
    assert number(server, runtime, session, qualifier="DEFAULT") == "2"

    server.control.update_agent_runtime_endpoint(**which, endpointName="prod", agentRuntimeVersion="2")
    assert number(server, runtime, session, qualifier="prod") == "1", "a running session keeps its version"
    for _ in range(8):
        assert number(server, runtime, session_id(), qualifier="prod") == "2", "a new one has the endpoint's"


def test_deleting_an_endpoint_ends_its_sessions_and_no_others(server: RunningServer, runtime: str):
    runtime_id = runtime.rpartition("/")[2]
    server.control.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod")
    session = session_id()
    before = set(server.sandboxes())
    number(server, runtime, session)
    default = set(server.sandboxes()) - before
    number(server, runtime, session, qualifier="prod")
    named = set(server.sandboxes()) - before - default
    assert len(named) == 1

    server.control.delete_agent_runtime_endpoint(agentRuntimeId=runtime_id, endpointName="prod")
    for _ in range(4):
        with pytest.raises(ClientError) as refusal:
            number(server, runtime, session, qualifier="prod")
        assert refusal.value.response["Error"]["Code"] == "ResourceNotFoundException"
    wait_until(lambda: not named & set(server.sandboxes()), "the endpoint's session has ended")
    assert default <= set(server.sandboxes())

    def removed() -> bool:
        listed = server.control.list_agent_runtime_endpoints(agentRuntimeId=runtime_id)["runtimeEndpoints"]
        return [line["name"] for line in listed] == ["DEFAULT"]

    wait_until(removed, "the endpoint is gone")
    server.control.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod", agentRuntimeVersion="1")
    assert number(server, runtime, session, qualifier="prod") == "1"


def test_a_deletion_that_a_kill_of_control_interrupts_is_finished(server: RunningServer, runtime: str):
    runtime_id = runtime.rpartition("/")[2]
    server.control.create_agent_runtime_endpoint(agentRuntimeId=runtime_id, name="prod")
    number(server, runtime, session_id(), qualifier="prod")
    server.control.delete_agent_runtime_endpoint(agentRuntimeId=runtime_id, endpointName="prod")
    server.kill("control")
    client = server.client("bedrock-agentcore-control", retries={"total_max_attempts": 8, "mode": "standard"})

    def removed() -> bool:
        try:
            client.get_agent_runtime_endpoint(agentRuntimeId=runtime_id, endpointName="prod")
        except client.exceptions.ResourceNotFoundException:
            return True
        return False

    wait_until(removed, "the endpoint is gone", limit_s=40)
