"""The HTTP example, deployed from its folder by the command line: what a session is, seen by a caller.

(The AG-UI example is run by `./dev run`: test_dev_run.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from freehold_cli import freehold
from running_server import ONE_WORKER, RunningServer, session_id

NOTES = Path(__file__).parents[2] / "examples" / "http_notes"
LIMIT_S = 120

pytestmark = [pytest.mark.slow, ONE_WORKER]


@pytest.fixture(scope="module")
def arn(server: RunningServer) -> str:
    done = freehold("deploy", NOTES, "--name", "http_notes", "--data-dir", server.data_dir, timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(server: RunningServer, arn: str, prompt: str, session: str) -> Any:
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session, payload=json.dumps({"prompt": prompt}).encode()
    )
    assert answer["runtimeSessionId"] == session
    return json.loads(answer["response"].read())


def test_notes_stay_in_their_session_and_end_with_it(server: RunningServer, arn: str):
    mine, yours = session_id(), session_id()
    assert ask(server, arn, "note buy milk", mine)["kept"] == 1
    assert ask(server, arn, "notes", yours)["notes"] == []
    told = ask(server, arn, "notes", mine)
    assert (told["notes"], told["lost"], told["session"]) == (["buy milk"], 0, mine)
    server.data.stop_runtime_session(agentRuntimeArn=arn, runtimeSessionId=mine)
    assert ask(server, arn, "notes", mine)["notes"] == []


def test_a_generator_of_the_sdk_arrives_as_server_sent_events(server: RunningServer, arn: str):
    session = session_id()
    ask(server, arn, "note a b c", session)
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session, payload=json.dumps({"prompt": "read"}).encode()
    )
    assert answer["contentType"].startswith("text/event-stream")
    assert answer["response"].read() == b'data: "a"\n\ndata: "b"\n\ndata: "c"\n\n'


def test_the_command_line_invokes_it(server: RunningServer, arn: str):
    assert arn
    done = freehold("invoke", "http_notes", "dance", "--data-dir", server.data_dir, timeout_s=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["error"] == "I can't do 'dance'"
