"""The main job with plain boto3: create, poll, invoke, update, stop, delete."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from freehold_cli import freehold
from running_server import ONE_WORKER, ROLE, RunningServer, agent, make_zip, session_id, wait_until

STREAM = {"do": "stream", "events": 3}


def invoke(data: Any, arn: str, payload: dict[str, Any], session: str | None = None, **more: Any) -> Any:
    more |= {"runtimeSessionId": session} if session else {}
    answer = data.invoke_agent_runtime(agentRuntimeArn=arn, payload=json.dumps(payload).encode(), **more)
    return json.loads(answer["response"].read())


def unique(name: str) -> str:
    return f"{name}_{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def probe(server: RunningServer) -> str:
    return server.deployed(unique("probe"), agent("probe"))


@pytest.fixture(scope="module")
def data(server: RunningServer) -> Any:
    return server.data


def versioned(version: int) -> dict[str, str | bytes]:
    return agent("probe") | {"version.txt": str(version)}


def version_of(data: Any, arn: str, session: str) -> str:
    return invoke(data, arn, {"do": "read", "path": "version.txt"}, session)["text"]


def test_a_runtime_goes_from_creating_to_ready_and_answers_its_configuration(server: RunningServer):
    name = unique("config")
    made = server.create(name, agent("probe"), "AGUI", description="what it is", environmentVariables={"COLOUR": "red"})
    assert made["status"] == "CREATING"
    assert made["agentRuntimeVersion"] == "1"
    found = server.until_settled(made["agentRuntimeId"])
    assert found["status"] == "READY"
    assert found["agentRuntimeName"] == name
    assert found["agentRuntimeArn"] == made["agentRuntimeArn"]
    assert found["protocolConfiguration"] == {"serverProtocol": "AGUI"}
    assert found["lifecycleConfiguration"] == {"idleRuntimeSessionTimeout": 900, "maxLifetime": 28800}
    assert found["environmentVariables"] == {"COLOUR": "red"}
    assert found["description"] == "what it is"
    assert found["roleArn"] == ROLE
    listed = [line for line in pages(server) if line["agentRuntimeId"] == made["agentRuntimeId"]]
    assert [line["status"] for line in listed] == ["READY"]


def pages(server: RunningServer) -> Iterator[dict[str, Any]]:
    for page in server.control.get_paginator("list_agent_runtimes").paginate():
        yield from page["agentRuntimes"]


def test_the_first_event_arrives_before_the_agent_ends(server: RunningServer):
    arn = server.deployed(unique("stream"), agent("probe"), "AGUI")
    session, data = session_id(), server.data
    answer = data.invoke_agent_runtime(
        agentRuntimeArn=arn,
        runtimeSessionId=session,
        accept="text/event-stream",
        payload=json.dumps(STREAM | {"gate": "/tmp/gate"}).encode(),
    )
    assert answer["contentType"].startswith("text/event-stream")
    assert answer["runtimeSessionId"] == session
    lines = answer["response"].iter_lines(chunk_size=1)
    events: list[bytes] = []
    # The agent waits for each gate, and the gates are opened by another request of the same session.
    for line in lines:
        if line.startswith(b"data: "):
            events.append(line)
            invoke(data, arn, {"do": "write", "path": f"/tmp/gate{len(events)}", "text": ""}, session)
    assert events == [b"data: 0", b"data: 1", b"data: 2"]


def test_a_running_session_keeps_its_version_and_a_new_one_gets_the_next(server: RunningServer):
    made = server.create(unique("versions"), versioned(1))
    assert server.until_settled(made["agentRuntimeId"])["status"] == "READY"
    arn, data, old = made["agentRuntimeArn"], server.data, session_id()
    assert version_of(data, arn, old) == "1"
    updated = server.control.update_agent_runtime(
        agentRuntimeId=made["agentRuntimeId"], agentRuntimeArtifact=server.artifact(versioned(2)), roleArn=ROLE
    )
    assert (updated["status"], updated["agentRuntimeVersion"]) == ("UPDATING", "2")
    assert server.until_settled(made["agentRuntimeId"])["status"] == "READY"
    assert version_of(data, arn, old) == "1"
    assert version_of(data, arn, session_id()) == "2"
    first = server.control.get_agent_runtime(agentRuntimeId=made["agentRuntimeId"], agentRuntimeVersion="1")
    assert first["agentRuntimeVersion"] == "1"
    data.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=old)
    assert version_of(data, arn, old) == "2", "a stopped session comes back as new compute, of the new version"


def test_a_failed_update_leaves_the_old_version_serving_and_says_why(server: RunningServer):
    made = server.create(unique("failing"), versioned(1))
    server.until_settled(made["agentRuntimeId"])
    server.control.update_agent_runtime(
        agentRuntimeId=made["agentRuntimeId"],
        agentRuntimeArtifact=server.artifact({"other.py": ""}),
        roleArn=ROLE,
    )
    found = server.until_settled(made["agentRuntimeId"])
    assert found["status"] == "UPDATE_FAILED"
    assert "entrypoint could not be found" in found["failureReason"]
    assert version_of(server.data, made["agentRuntimeArn"], session_id()) == "1"


def test_one_session_keeps_one_process_and_another_has_its_own(data: Any, probe: str):
    first, second = session_id(), session_id()
    assert invoke(data, probe, {"do": "remember", "say": "a"}, first)["remembered"] == ["a"]
    assert invoke(data, probe, {"do": "remember", "say": "b"}, second)["remembered"] == ["b"]
    assert invoke(data, probe, {"do": "remember", "say": "c"}, first)["remembered"] == ["a", "c"]


def test_a_session_id_is_allocated_and_told_when_there_is_none(server: RunningServer, probe: str):
    data = server.client("bedrock-agentcore")  # its own, since it is tampered with

    def drop(params: dict[str, Any], **_: Any) -> None:
        params["headers"].pop("X-Amzn-Bedrock-AgentCore-Runtime-Session-Id", None)

    data.meta.events.register("before-call.bedrock-agentcore.InvokeAgentRuntime", drop)
    told: list[str] = []
    for _ in range(2):
        answer = data.invoke_agent_runtime(agentRuntimeArn=probe, payload=b'{"do":"echo","say":1}')
        headers = json.loads(answer["response"].read())["headers"]
        assert headers["x-amzn-bedrock-agentcore-runtime-session-id"] == answer["runtimeSessionId"]
        told.append(answer["runtimeSessionId"])
    assert len(set(told)) == 2
    assert all(33 <= len(one) <= 100 for one in told)


def test_the_agent_finds_its_environment_and_nothing_of_the_servers(server: RunningServer):
    arn = server.deployed(unique("env"), agent("probe"), environmentVariables={"COLOUR": "red", "PORT_OF_CALL": "x=y"})
    found = invoke(server.data, arn, {"do": "environment"})
    assert (found["COLOUR"], found["PORT_OF_CALL"]) == ("red", "x=y")
    assert found["AWS_REGION"] == "us-east-1"
    assert not [name for name in found if name.startswith("FREEHOLD")]
    assert "AWS_SECRET_ACCESS_KEY" not in found


def test_a_stopped_session_ends_and_a_second_stop_finds_none(data: Any, probe: str):
    session = session_id()
    invoke(data, probe, {"do": "remember", "say": "a"}, session)
    stopped = data.stop_runtime_session(agentRuntimeArn=probe, runtimeSessionId=session)
    assert (stopped["statusCode"], stopped["runtimeSessionId"]) == (200, session)
    with pytest.raises(ClientError) as refused:
        data.stop_runtime_session(agentRuntimeArn=probe, runtimeSessionId=session)
    assert refused.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert invoke(data, probe, {"do": "remember", "say": "b"}, session)["remembered"] == ["b"]


def test_a_stop_cuts_a_running_stream(data: Any, probe: str):
    session = session_id()
    answer = data.invoke_agent_runtime(
        agentRuntimeArn=probe, runtimeSessionId=session, payload=json.dumps(STREAM | {"gate": "/tmp/never"}).encode()
    )
    assert next(answer["response"].iter_lines(chunk_size=1)) == b"data: 0"
    data.stop_runtime_session(agentRuntimeArn=probe, runtimeSessionId=session)
    with pytest.raises(Exception, match=r"(?i)incomplete|broken|reset"):
        answer["response"].read()


def test_an_agents_own_error_is_told_without_its_detail(data: Any, probe: str):
    with pytest.raises(ClientError) as failed:
        data.invoke_agent_runtime(agentRuntimeArn=probe, payload=b'{"do":"status","status":503}')
    error = failed.value.response
    assert error["Error"]["Code"] == "RuntimeClientError"
    assert error["Error"]["Message"].startswith("Received error (503) from runtime.")
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424


def test_an_agent_that_dies_at_start_is_told_at_once_with_its_last_words(server: RunningServer):
    arn = server.deployed(unique("dying"), {"main.py": "import sys\nprint('no key in sight')\nsys.exit(7)\n"})
    with pytest.raises(ClientError) as failed:
        server.data.invoke_agent_runtime(agentRuntimeArn=arn, payload=b"{}")
    error = failed.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert "exit code 7" in error["Error"]["Message"]
    assert "no key in sight" in error["Error"]["Message"]


def test_an_agent_that_exits_while_it_serves_fails_that_request_and_starts_anew(data: Any, probe: str):
    session = session_id()
    with pytest.raises(ClientError) as failed:
        invoke(data, probe, {"do": "exit", "code": 3}, session)
    assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 424

    def remembered() -> list[str] | None:
        # Until the agent has gone for good, a request may still meet it, and is never sent twice.
        try:
            return invoke(data, probe, {"do": "remember", "say": "again"}, session)["remembered"]
        except ClientError:
            return None

    assert wait_until(remembered, "the next start") == ["again"]


@ONE_WORKER
def test_an_idle_session_ends_by_its_timeout(server: RunningServer):
    found = server.until_settled(
        server.create(
            unique("idle"),
            agent("probe"),
            lifecycleConfiguration={"idleRuntimeSessionTimeout": 60, "maxLifetime": 61},
        )["agentRuntimeId"]
    )
    assert found["lifecycleConfiguration"] == {"idleRuntimeSessionTimeout": 60, "maxLifetime": 61}


def test_a_deleted_runtime_is_gone_with_its_sessions(server: RunningServer):
    made = server.create(unique("short"), agent("probe"))
    runtime_id, arn = made["agentRuntimeId"], made["agentRuntimeArn"]
    server.until_settled(runtime_id)
    before = set(server.sandboxes())
    session, data = session_id(), server.data
    invoke(data, arn, {"do": "remember", "say": "a"}, session)
    (mine,) = set(server.sandboxes()) - before
    assert server.control.delete_agent_runtime(agentRuntimeId=runtime_id)["status"] == "DELETING"
    with pytest.raises(ClientError) as refused:
        invoke(data, arn, {"do": "remember", "say": "b"}, session)
    assert refused.value.response["Error"]["Code"] == "ResourceNotFoundException"

    def gone() -> bool:
        try:
            server.control.get_agent_runtime(agentRuntimeId=runtime_id)
        except ClientError as error:
            return error.response["Error"]["Code"] == "ResourceNotFoundException"
        return False

    wait_until(gone, "the runtime is gone")
    assert not mine.exists()


@ONE_WORKER
def test_the_command_line_deploys_and_invokes(server: RunningServer, tmp_path: Path):
    (tmp_path / "main.py").write_text(str(agent("probe")["main.py"]))
    name, where = unique("cli"), ["--data-dir", str(server.data_dir)]
    for version in ("1", "2"):
        done = freehold("deploy", tmp_path, "--name", name, *where, timeout_s=120)
        assert done.returncode == 0, done.stderr
        assert f"version {version} is READY" in done.stderr
    session = session_id()
    for expected in (["x"], ["x", "x"]):
        done = freehold("invoke", name, '{"do":"remember","say":"x"}', "--session", session, *where)
        assert json.loads(done.stdout)["remembered"] == expected
    missing = freehold("invoke", "nobody", "x", *where)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "there is no agent runtime called nobody" in missing.stderr


@ONE_WORKER
def test_a_zip_in_a_subfolder_of_a_bucket_is_found_by_its_key(server: RunningServer):
    server.put_object("other-bucket", "deep/down/agent.zip", make_zip(agent("probe")))
    artifact = server.artifact(agent("probe"))
    artifact["codeConfiguration"]["code"] = {"s3": {"bucket": "other-bucket", "prefix": "deep/down/agent.zip"}}
    made = server.control.create_agent_runtime(
        agentRuntimeName=unique("deep"), agentRuntimeArtifact=artifact, roleArn=ROLE
    )
    assert server.until_settled(made["agentRuntimeId"])["status"] == "READY"


@pytest.mark.slow
def test_the_largest_payload_reaches_the_agent(server: RunningServer):
    code = (
        "from http.server import *\n"
        "class H(BaseHTTPRequestHandler):\n"
        '    def do_GET(self): self.answer(b\'{"status":"Healthy"}\')\n'
        "    def do_POST(self):\n"
        "        left = int(self.headers['content-length']); size = left\n"
        "        while left: left -= len(self.rfile.read(min(left, 1 << 20)))\n"
        "        self.answer(str(size).encode())\n"
        "    def answer(self, data):\n"
        "        self.send_response(200); self.send_header('content-length', str(len(data))); self.end_headers()\n"
        "        self.wfile.write(data)\n"
        "HTTPServer(('', 8080), H).serve_forever()\n"
    )
    arn = server.deployed(unique("large"), {"main.py": code})
    answer = server.data.invoke_agent_runtime(agentRuntimeArn=arn, payload=b"x" * 100_000_000)
    assert answer["response"].read() == b"100000000"
