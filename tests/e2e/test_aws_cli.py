"""The AWS CLI as users have it, pointed at a server by `freehold env`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from running_server import ONE_WORKER, ROLE, RunningServer, agent, session_id

pytestmark = [pytest.mark.slow, ONE_WORKER]
AWS = Path(sys.executable).with_name("aws")


@pytest.fixture
def aws(server: RunningServer, tmp_path: Path) -> Any:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **server.exported}

    def run(service: str, *arguments: str) -> Any:
        done = subprocess.run(
            [AWS, service, *arguments], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "{}")

    return run


def test_the_whole_life_of_a_runtime_by_the_aws_cli(server: RunningServer, aws: Any, tmp_path: Path):
    name = f"cli_{uuid.uuid4().hex[:8]}"
    made = aws(
        "bedrock-agentcore-control",
        "create-agent-runtime",
        "--agent-runtime-name",
        name,
        "--agent-runtime-artifact",
        json.dumps(server.artifact(agent("probe"))),
        "--role-arn",
        ROLE,
        "--protocol-configuration",
        "serverProtocol=AGUI",
        "--network-configuration",
        "networkMode=PUBLIC",
    )
    runtime = ("--agent-runtime-id", made["agentRuntimeId"])
    assert server.until_settled(made["agentRuntimeId"])["status"] == "READY"
    assert aws("bedrock-agentcore-control", "get-agent-runtime", *runtime)["agentRuntimeName"] == name
    listed = aws("bedrock-agentcore-control", "list-agent-runtimes")["agentRuntimes"]
    assert made["agentRuntimeArn"] in [line["agentRuntimeArn"] for line in listed]
    session = ("--agent-runtime-arn", made["agentRuntimeArn"], "--runtime-session-id", session_id())
    told = aws(
        "bedrock-agentcore",
        "invoke-agent-runtime",
        *session,
        "--payload",
        '{"do": "remember", "say": "x"}',
        "answer.json",
    )
    assert told["statusCode"] == 200
    assert json.loads((tmp_path / "answer.json").read_text())["remembered"] == ["x"]
    aws("bedrock-agentcore", "stop-runtime-session", *session)
    assert aws("bedrock-agentcore-control", "delete-agent-runtime", *runtime)["status"] == "DELETING"
