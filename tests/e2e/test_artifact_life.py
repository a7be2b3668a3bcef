"""Agents of every managed runtime of this host, from local buckets and from S3, and what becomes of their bundles."""

from __future__ import annotations

import hashlib
import json
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from artifact_parts import interpreters
from botocore.exceptions import ClientError
from node_22 import NODE, RELEASE
from running_server import ROLE, RUNTIME, RunningServer, make_zip, session_id, wait_until
from s3_server import READER, REGION, S3Server

from freehold.domain.runtimes import MANAGED_RUNTIMES

pytestmark = pytest.mark.slow

AVAILABLE = interpreters().available()

PYTHON_AGENT = """
import http.server, json, os, sys

class Agent(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"status": "Healthy"})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.answer({"version": list(sys.version_info[:2]), "say": SAY, "environment": sorted(os.environ)})

    def answer(self, said):
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Agent).serve_forever()
"""
NODE_AGENT = """
const http = require("http"), {greeting} = require("greeting");
http.createServer((request, response) => {
  const pieces = [];
  request.on("data", piece => pieces.push(piece));
  request.on("end", () => {
    const told = request.method === "GET"
      ? {status: "Healthy"}
      : {version: process.versions.node, said: greeting(JSON.parse(Buffer.concat(pieces)).name)};
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(told));
  });
}).listen(8080, "0.0.0.0");
"""


def python_agent(say: str = "hello") -> dict[str, str | bytes]:
    return {"main.py": f"SAY = {say!r}\n{PYTHON_AGENT}"}


def node_agent(engines: str = ">=18") -> dict[str, str | bytes]:
    return {
        "app.js": NODE_AGENT,
        "node_modules/greeting/package.json": json.dumps(
            {"name": "greeting", "version": "1.0.0", "main": "index.js", "engines": {"node": engines}}
        ),
        "node_modules/greeting/index.js": "exports.greeting = name => `hello ${name}`;\n",
    }


def create(server: RunningServer, name: str, s3: dict[str, str], runtime: str, entry_point: str) -> dict[str, Any]:
    """CreateAgentRuntime, and what GetAgentRuntime says when it has settled."""
    made = server.control.create_agent_runtime(
        agentRuntimeName=name,
        agentRuntimeArtifact={
            "codeConfiguration": {"code": {"s3": s3}, "runtime": runtime, "entryPoint": [entry_point]}
        },
        roleArn=ROLE,
        networkConfiguration={"networkMode": "PUBLIC"},
    )
    return server.until_settled(made["agentRuntimeId"])


def create_local(
    server: RunningServer, name: str, files: dict[str, str | bytes], runtime: str, entry_point: str = "main.py"
) -> dict[str, Any]:
    server.put_object("agents", f"{name}.zip", make_zip(files))
    return create(server, name, {"bucket": "agents", "prefix": f"{name}.zip"}, runtime, entry_point)


def invoke(server: RunningServer, arn: str, payload: dict[str, Any]) -> dict[str, Any]:
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session_id(), payload=json.dumps(payload).encode()
    )
    return json.loads(answer["response"].read())


def bundles(server: RunningServer) -> list[str]:
    return sorted(path.name for path in (server.data_dir / "artifacts").iterdir())


# -- runtimes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_node() -> Iterator[RunningServer]:
    with RunningServer(FREEHOLD_ARTIFACTS__INTERPRETERS__NODE_22=str(NODE)) as server:
        yield server


@pytest.fixture(scope="module")
def without_sandbox() -> Iterator[RunningServer]:
    with RunningServer(FREEHOLD_ARTIFACTS__INTERPRETERS__NODE_22=str(NODE), FREEHOLD_SANDBOX__MODE="process") as server:
        yield server


@pytest.mark.parametrize("which", ["with_node", "without_sandbox"])
def test_a_node_agent_runs_on_the_node_that_a_setting_names(which: str, request: pytest.FixtureRequest) -> None:
    server: RunningServer = request.getfixturevalue(which)
    found = create_local(server, "in_node", node_agent(), "NODE_22", "app.js")
    assert found["status"] == "READY", found.get("failureReason")
    answer = invoke(server, found["agentRuntimeArn"], {"name": "Ada"})
    assert answer == {"version": RELEASE, "said": "hello Ada"}


@pytest.mark.parametrize("runtime", [name for name in AVAILABLE if name.startswith("PYTHON")])
def test_an_agent_runs_on_every_python_of_this_host(with_node: RunningServer, runtime: str) -> None:
    found = create_local(with_node, f"on_{runtime}", python_agent(), runtime)
    assert found["status"] == "READY", found.get("failureReason")
    answer = invoke(with_node, found["agentRuntimeArn"], {})
    assert "PYTHON_" + "_".join(map(str, answer["version"])) == runtime


@pytest.mark.parametrize("runtime", [name for name in MANAGED_RUNTIMES if name not in (*AVAILABLE, "NODE_22")])
def test_a_python_that_is_not_installed_fails_the_version_by_name(with_node: RunningServer, runtime: str) -> None:
    found = create_local(with_node, f"on_{runtime}", python_agent(), runtime)
    assert found["status"] == "CREATE_FAILED"
    assert (
        f"The runtime {runtime} is not installed on this server; it has {', '.join(AVAILABLE)}"
        in (found["failureReason"])
    )
    assert "Install it on the server, for example with `uv python install" in found["failureReason"]


@pytest.mark.skipif("NODE_22" in AVAILABLE, reason="this host has a Node.js 22")
def test_a_node_of_another_release_is_not_taken_for_it() -> None:
    with RunningServer() as server:
        found = create_local(server, "no_node", node_agent(), "NODE_22", "app.js")
    assert found["status"] == "CREATE_FAILED"
    assert "The runtime NODE_22 is not installed on this server" in found["failureReason"]
    assert "artifacts.interpreters.NODE_22" in found["failureReason"]


def test_an_interpreter_that_a_setting_names_wrongly_fails_only_its_versions() -> None:
    with RunningServer(FREEHOLD_ARTIFACTS__INTERPRETERS__NODE_22=sys.executable) as server:
        found = create_local(server, "wrong_node", node_agent(), "NODE_22", "app.js")
        assert found["status"] == "CREATE_FAILED"
        assert "interpreter that this server is set to use for NODE_22 can't be used" in found["failureReason"]
        assert create_local(server, "right", python_agent(), RUNTIME)["status"] == "READY"


def test_a_dependency_for_another_node_fails_the_version(with_node: RunningServer) -> None:
    found = create_local(with_node, "old_node", node_agent("<20"), "NODE_22", "app.js")
    assert found["status"] == "CREATE_FAILED"
    assert found["failureReason"].startswith(
        "Your artifact contains dependencies with engines.node declarations incompatible with the target Node.js "
        "version."
    )


# -- S3 ------------------------------------------------------------------------------------------------------------


def test_an_agent_comes_from_s3_as_the_server_and_in_the_version_asked_for() -> None:
    with S3Server() as s3:
        s3.make_bucket("readable")
        s3.make_bucket("private")
        first = s3.client().put_object(Bucket="readable", Key="a.zip", Body=make_zip(python_agent("one")))["VersionId"]
        s3.client().put_object(Bucket="readable", Key="a.zip", Body=make_zip(python_agent("two")))
        s3.client().put_object(Bucket="private", Key="a.zip", Body=make_zip(python_agent("secret")))
        environment = {
            "AWS_ENDPOINT_URL_S3": s3.url,
            "AWS_ACCESS_KEY_ID": READER[0],
            "AWS_SECRET_ACCESS_KEY": READER[1],
            "AWS_REGION": REGION,
            "FREEHOLD_ARTIFACTS__S3_BUCKETS": "read*, private",
        }
        with RunningServer(**environment) as server:
            at = {"bucket": "readable", "prefix": "a.zip"}
            latest = create(server, "latest", at, RUNTIME, "main.py")
            answer = invoke(server, latest["agentRuntimeArn"], {})
            assert answer["say"] == "two"
            assert not {name for name in answer["environment"] if name in environment} - {"AWS_REGION"}
            older = create(server, "older", {**at, "versionId": first}, RUNTIME, "main.py")
            assert invoke(server, older["agentRuntimeArn"], {})["say"] == "one"
            for bucket, said in (
                ("private", "access denied"),
                ("unlisted", "artifacts.s3_buckets"),
            ):
                with pytest.raises(ClientError, match=said) as caught:
                    create(server, "refused", {**at, "bucket": bucket}, RUNTIME, "main.py")
                assert caught.value.response["Error"]["Code"] == "ValidationException"
            assert READER[1] not in server.log_text()


# -- bundles -------------------------------------------------------------------------------------------------------


def test_a_bundle_goes_with_the_last_version_and_session_that_use_it() -> None:
    with RunningServer() as server:
        arn = server.deployed("agent", python_agent("one"))
        runtime_id = arn.rpartition("/")[2]
        (first,) = bundles(server)
        running = session_id()
        server.data.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=running, payload=b"{}")
        server.control.update_agent_runtime(
            agentRuntimeId=runtime_id,
            agentRuntimeArtifact=server.artifact(python_agent("two")),
            roleArn=ROLE,
            networkConfiguration={"networkMode": "PUBLIC"},
        )
        assert server.until_settled(runtime_id)["status"] == "READY"
        (second,) = set(bundles(server)) - {first}
        server.control.delete_agent_runtime(agentRuntimeId=runtime_id, agentRuntimeVersion="1")
        # Control alone starts anew: the session goes on, and holds its bundle.
        server.kill("control")
        wait_until(lambda: answers(server), "control answers again")
        assert bundles(server) == sorted([first, second])
        answer = server.data.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=running, payload=b"{}")
        assert json.loads(answer["response"].read())["say"] == "one"
        server.data.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=running)
        server.kill("control")
        wait_until(lambda: bundles(server) == [second], "the first bundle is collected")
        assert invoke(server, arn, {})["say"] == "two"
        server.control.delete_agent_runtime(agentRuntimeId=runtime_id)
        wait_until(lambda: not listed(server), "the runtime is gone")
        server.stop()
        server.start()
        wait_until(lambda: bundles(server) == [], "the second bundle is collected")


def answers(server: RunningServer) -> bool:
    try:
        server.control.list_agent_runtimes()
    except ClientError:
        return False
    return True


def listed(server: RunningServer) -> list[Any]:
    return server.control.list_agent_runtimes()["agentRuntimes"]


def test_the_cache_is_bounded_and_says_so() -> None:
    def large(number: int) -> dict[str, str | bytes]:
        return {**python_agent(str(number)), "data": bytes(3 * 1024 * 1024)}

    with RunningServer(FREEHOLD_ARTIFACTS__MAX_CACHE_MIB="5") as server:
        server.deployed("first", large(1))
        found = server.until_settled(server.create("second", large(2))["agentRuntimeId"])
        assert found["status"] == "CREATE_FAILED"
        assert "artifacts.max_cache_mib" in found["failureReason"]
        (first,) = (one for one in listed(server) if one["agentRuntimeName"] == "first")
        server.control.delete_agent_runtime(agentRuntimeId=first["agentRuntimeId"])
        wait_until(lambda: len(listed(server)) == 1, "the first runtime is gone")
        server.deployed("third", large(3))


# -- uploads -------------------------------------------------------------------------------------------------------


def test_an_upload_is_served_in_the_version_it_was_given(with_node: RunningServer) -> None:
    found = with_node.exported
    credentials = botocore.credentials.Credentials(found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"])
    ids: list[str] = []
    for say in ("one", "two"):
        body = make_zip(python_agent(say))
        headers = {"X-Amz-Content-SHA256": hashlib.sha256(body).hexdigest()}
        request = botocore.awsrequest.AWSRequest(
            "PUT", f"{with_node.url}/_freehold/v1/buckets/uploads/agent.zip", headers, body
        )
        botocore.auth.SigV4Auth(credentials, "bedrock-agentcore", found["AWS_REGION"]).add_auth(request)
        put = urllib.request.Request(request.url, body, dict(request.headers.items()), method="PUT")
        with urllib.request.urlopen(put, timeout=30) as answer:
            ids.append(json.load(answer)["versionId"])
    at = {"bucket": "uploads", "prefix": "agent.zip"}
    older = create(with_node, "uploaded_older", {**at, "versionId": ids[0]}, RUNTIME, "main.py")
    latest = create(with_node, "uploaded_latest", at, RUNTIME, "main.py")
    assert [invoke(with_node, one["agentRuntimeArn"], {})["say"] for one in (older, latest)] == ["one", "two"]
    with pytest.raises(ClientError, match="has no version"):
        create(with_node, "uploaded_never", {**at, "versionId": "0" * 32}, RUNTIME, "main.py")
