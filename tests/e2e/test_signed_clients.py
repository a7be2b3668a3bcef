"""Signatures of the clients that people have: boto3, the AWS CLI, the JavaScript SDK, and presigned URLs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import node_packages
import pytest
from botocore.config import Config
from freehold_cli import freehold
from node_22 import NODE
from running_server import RunningServer, session_id

pytestmark = pytest.mark.slow
AWS = Path(sys.executable).with_name("aws")
ECHO = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b'{"status": "Healthy"}')

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
PAYLOAD = '{"prompt": "grüße"}'


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer() as running:
        yield running


@pytest.fixture(scope="module")
def arn(server: RunningServer) -> str:
    return server.deployed("echo", {"main.py": ECHO})


def keys(server: RunningServer, *arguments: str) -> dict[str, Any]:
    done = freehold("keys", *arguments, "--json", "--data-dir", server.data_dir)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["long-lived", "temporary"])
def environment(request: pytest.FixtureRequest, server: RunningServer) -> dict[str, str]:
    """What a client finds in its environment."""
    if request.param == "long-lived":
        return server.exported
    made = keys(server, "create", "--expires-in", "900")
    return server.exported | {
        "AWS_ACCESS_KEY_ID": made["accessKeyId"],
        "AWS_SECRET_ACCESS_KEY": made["secretAccessKey"],
        "AWS_SESSION_TOKEN": made["sessionToken"],
    }


def client(environment: dict[str, str], service: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=environment["AWS_ENDPOINT_URL_BEDROCK_AGENTCORE"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=environment.get("AWS_SESSION_TOKEN"),
        config=Config(retries={"total_max_attempts": 1}, read_timeout=60),
    )


def test_boto3_on_both_planes(environment: dict[str, str], arn: str):
    shown = client(environment, "bedrock-agentcore-control").get_agent_runtime(agentRuntimeId=arn.rpartition("/")[2])
    assert shown["agentRuntimeArn"] == arn
    answer = client(environment, "bedrock-agentcore").invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session_id(), payload=PAYLOAD.encode()
    )
    assert answer["response"].read().decode() == PAYLOAD


def test_the_aws_cli_on_both_planes(environment: dict[str, str], arn: str, tmp_path: Path):
    (tmp_path / "payload").write_text(PAYLOAD)

    def aws(service: str, *arguments: str) -> None:
        done = subprocess.run(
            [AWS, service, *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr

    aws("bedrock-agentcore-control", "get-agent-runtime", "--agent-runtime-id", arn.rpartition("/")[2])
    session = ("--runtime-session-id", session_id())
    payload = ("--payload", "fileb://payload")
    aws("bedrock-agentcore", "invoke-agent-runtime", "--agent-runtime-arn", arn, *session, *payload, "answer")
    assert (tmp_path / "answer").read_text() == PAYLOAD


def test_the_javascript_sdk(environment: dict[str, str], arn: str):
    node_packages.modules()

    def invoke(**more: str) -> str:
        done = subprocess.run(
            [NODE, "invoke.mjs", arn, session_id(), PAYLOAD],
            cwd=node_packages.ROOT,
            env={**node_packages.environment(), **environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert invoke() == PAYLOAD
    assert invoke(AWS_SECRET_ACCESS_KEY="wrong") == "InvalidSignatureException"


def test_a_url_that_boto3_presigned_works_without_credentials_for_its_request_alone(
    environment: dict[str, str], arn: str
):
    url = client(environment, "bedrock-agentcore-control").generate_presigned_url(
        "get_agent_runtime", Params={"agentRuntimeId": arn.rpartition("/")[2]}, ExpiresIn=60
    )
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert json.loads(answer.read())["agentRuntimeArn"] == arn
    for other in (
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        url.replace("/runtimes/", "/runtimes/x"),
        url[:-1],
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(other, timeout=30)
        assert caught.value.code == 403
        caught.value.close()


def test_a_key_is_rotated_by_the_command_line_while_its_owner_goes_on(server: RunningServer, arn: str):
    first = keys(server, "create")
    old = server.exported | {
        "AWS_ACCESS_KEY_ID": first["accessKeyId"],
        "AWS_SECRET_ACCESS_KEY": first["secretAccessKey"],
    }
    runtime = arn.rpartition("/")[2]
    second = keys(server, "rotate", first["accessKeyId"], "--grace", "3600")
    new = old | {
        "AWS_ACCESS_KEY_ID": second["accessKeyId"],
        "AWS_SECRET_ACCESS_KEY": second["secretAccessKey"],
    }
    for environment in (old, new):
        client(environment, "bedrock-agentcore-control").get_agent_runtime(agentRuntimeId=runtime)
        client(environment, "bedrock-agentcore").invoke_agent_runtime(agentRuntimeArn=arn, payload=b"{}")
    keys(server, "rotate", second["accessKeyId"], "--grace", "0")
    for service, call in (
        ("bedrock-agentcore-control", lambda made: made.get_agent_runtime(agentRuntimeId=runtime)),
        ("bedrock-agentcore", lambda made: made.invoke_agent_runtime(agentRuntimeArn=arn, payload=b"{}")),
    ):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(client(new, service))
        assert caught.value.response["Error"]["Code"] == "UnrecognizedClientException"
    client(old, "bedrock-agentcore-control").get_agent_runtime(agentRuntimeId=runtime)
