"""The AG-UI example, used with bearer tokens by the protocol's own clients: in Node.js, behind CopilotKit's runtime,
and in a page of another origin. And what else calls agents: AWS's SDK for JavaScript, and curl."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import browsers
import pytest
from node_packages import answer_of as node
from node_provider import NodeProvider
from packages import bundle_of
from running_server import RunningServer, agent, session_id
from signing import invocations_url

EXAMPLE = Path(__file__).parents[2] / "examples" / "agui_csv"
SESSION = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
LIMIT_S = 120

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    settings = {"FREEHOLD_JWT__PRIVATE_NETWORKS": "127.0.0.0/8", "FREEHOLD_JWT__ALLOW_HTTP": "true"}
    with RunningServer(workers=2, **settings) as server:
        yield server


@pytest.fixture(scope="module")
def provider() -> Iterator[NodeProvider]:
    with NodeProvider("mock") as running:
        yield running


def authorizer(provider: NodeProvider) -> dict[str, Any]:
    rules = {"discoveryUrl": provider.discovery_url, "allowedScopes": ["agents/invoke"]}
    return {"authorizerConfiguration": {"customJWTAuthorizer": rules}}


@pytest.fixture(scope="module")
def csv(running: RunningServer, provider: NodeProvider) -> dict[str, Any]:
    """What a client of the example is told. All of them meet in one session."""
    files = {path.name: path.read_bytes() for path in EXAMPLE.iterdir() if path.is_file()}
    arn = running.deployed(
        "csv", dict(bundle_of("bedrock-agentcore", "ag-ui-protocol")) | files, "AGUI", **authorizer(provider)
    )
    headers = {"Authorization": f"Bearer {provider.token()}", SESSION: session_id()}
    return {"url": invocations_url(running, arn), "headers": headers, "question": "average price by region"}


def check_run(run: dict[str, Any]) -> None:
    """That all of the example's answer has come, in order, and that the client has understood it."""
    assert run["failure"] is None
    assert (run["events"][0], run["events"][-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert {"STATE_SNAPSHOT", "STATE_DELTA", "TOOL_CALL_START", "TOOL_CALL_RESULT"} <= set(run["events"])
    assert run["events"].count("TEXT_MESSAGE_CONTENT") > 3
    assert "price" in run["text"]
    assert run["state"]["dataset"]["rows"] > 0


def test_the_protocols_client_in_node(csv: dict[str, Any]):
    check_run(node("agui_agent.mjs", csv))
    refused = node("agui_agent.mjs", csv | {"headers": {"Authorization": "Bearer e30.e30.e30"}})
    assert refused["events"] in ([], ["RUN_ERROR"])
    assert refused["failure"]


def test_nodes_own_websocket_with_a_token_as_pages_send_it(running: RunningServer, csv: dict[str, Any]):
    """By the ARN as it is, as AWS's sample for browsers does."""
    arn = unquote(csv["url"].split("/runtimes/")[1].removesuffix("/invocations"))
    token = csv["headers"]["Authorization"].removeprefix("Bearer ")
    name = "base64UrlBearerAuthorization"
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    question = {"id": "1", "role": "user", "content": csv["question"]}
    run = {"threadId": "t", "runId": "r", "state": {}, "messages": [question], "tools": [], "context": []}
    told = {
        "url": f"{running.url.replace('http', 'ws')}/runtimes/{arn}/ws?{SESSION}={csv['headers'][SESSION]}",
        "protocols": [f"{name}.{encoded}", name],
        "send": [json.dumps(run | {"forwardedProps": {}})],
    }
    answer = node("web_socket.mjs", told)
    assert (answer["protocol"], answer["code"], answer["wasClean"]) == (name, 1000, True)
    kinds = [json.loads(event.removeprefix("data: "))["type"] for event in answer["messages"]]
    assert (kinds[0], kinds[-1]) == ("RUN_STARTED", "RUN_FINISHED")
    refused = node("web_socket.mjs", told | {"protocols": [f"{name}.e30", name]})
    assert refused["messages"] == []
    assert "non-101" in refused["failure"]


def test_copilotkits_runtime_before_the_agent(csv: dict[str, Any]):
    check_run(node("agui_copilotkit.mjs", csv, COPILOTKIT_TELEMETRY_DISABLED="true", DO_NOT_TRACK="1"))


def test_a_page_in_a_browser_of_another_origin(csv: dict[str, Any]):
    told = node("agui_page.mjs", csv | {"browser": browsers.chromium()})
    check_run(told["run"])
    assert told["stranger"]["status"] == 401
    assert told["stranger"]["challenge"].startswith('Bearer resource_metadata="'), (
        "a page may read where to get a token"
    )


def test_aws_sdk_for_javascript(running: RunningServer):
    arn, session = running.deployed("javascript", agent("probe")), session_id()
    told = node("aws_sdk.mjs", {"url": running.url, "arn": arn, "session": session}, **running.exported)
    assert told["echo"]["session"] == session
    assert json.loads(told["echo"]["body"])["said"] == "hello"
    assert told["stream"] == {"parts": ["0", "1", "2"], "contentType": "text/event-stream"}
    assert told["stopped"] == session
    assert told["missing"] == {"name": "ResourceNotFoundException", "status": 404}


def test_curl_shows_events_as_they_come(running: RunningServer, provider: NodeProvider):
    url = invocations_url(running, running.deployed("curl", agent("probe"), **authorizer(provider)))
    headers = [
        f"Authorization: Bearer {provider.token()}",
        f"{SESSION}: {session_id()}",
        "Content-Type: application/json",
    ]
    options = "".join(f"header = {json.dumps(header)}\n" for header in headers)

    def curl(body: dict[str, Any]) -> subprocess.Popen[bytes]:
        data = f"url = {json.dumps(url)}\ndata = {json.dumps(json.dumps(body))}\n"
        command = ["curl", "--no-progress-meter", "--fail", "-N", "-K", "-"]
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert started.stdin is not None
        started.stdin.write((options + data).encode())
        started.stdin.close()
        return started

    with curl({"do": "stream", "events": 3, "gate": "/tmp/gate"}) as streaming:
        assert streaming.stdout is not None
        for number in range(3):
            # The agent waits for this one to be read before it says the next.
            assert streaming.stdout.readline() == f"data: {number}\n".encode()
            assert streaming.stdout.readline() == b"\n"
            with curl({"do": "write", "path": f"/tmp/gate{number + 1}", "text": ""}) as opening:
                assert opening.wait(LIMIT_S) == 0
        assert streaming.wait(LIMIT_S) == 0
