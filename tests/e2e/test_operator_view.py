"""What an operator sees of a real server: why a start failed, logs as they come, usage, ends; and what nobody sees."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.exceptions
import freehold_cli
import pytest
from running_server import FREEHOLD, RunningServer, session_id, wait_until
from tools.process_tree import command_line

from freehold.gateway import fast

SESSIONS = 50
LINES = 400

PRINTING = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(b'{"status": "Healthy"}')

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for number in range(asked.get("lines", 0)):
            print(f"{asked['name']} {number} {'.' * 100}", flush=True)
        if "fail" in asked:
            raise RuntimeError(os.environ["API_KEY"])
        self.answer(b"{}")

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
SECRET = "hunter2-and-then-some"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(FREEHOLD_LOG__LEVEL="debug", FREEHOLD_SESSIONS__START_TIMEOUT_S="4") as running:
        yield running


@pytest.fixture(scope="module")
def printing(server: RunningServer) -> str:
    return server.deployed("printing", {"main.py": PRINTING}, environmentVariables={"API_KEY": SECRET})


def freehold(server: RunningServer, *words: str) -> str:
    done = freehold_cli.freehold(*words, "--data-dir", server.data_dir)
    assert done.returncode == 0, done.stderr
    return done.stdout


def invoke(server: RunningServer, arn: str, session: str, **asked: Any) -> None:
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session, payload=json.dumps(asked).encode()
    )
    answer["response"].read()


def failure(server: RunningServer, arn: str) -> tuple[str, float]:
    """How the start of a session fails, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        invoke(server, arn, session_id())
    return caught.value.response["Error"]["Message"], time.monotonic() - began


def test_a_crash_at_import_is_told_within_a_second_with_a_hint_and_its_traceback_is_in_the_log(server: RunningServer):
    arn = server.deployed("crashing", {"main.py": "import fastapi_of_nobody\n"})
    # Other tests run at the same time: that it can be so quick is shown by the quickest of a few.
    failures = [failure(server, arn) for _ in range(5)]
    assert min(took_s for _, took_s in failures) < 1
    assert len({told for told, _ in failures}) == 1
    told = failures[0][0]
    assert "exit code 1" in told
    assert "Hint: the module fastapi_of_nobody is not in the bundle" in told
    assert "requirements.txt is not installed" in told
    logged = freehold(server, "logs", "crashing")
    assert "Traceback (most recent call last)" in logged
    assert "No module named 'fastapi_of_nobody'" in logged
    listed = json.loads(freehold(server, "sessions", "list", "--ended", "--runtime", "crashing", "--json"))["sessions"]
    assert len(listed) == len(failures)
    for ended in listed:
        assert ended["reason"] == "start failed"
        assert "Hint" in ended["detail"]


@pytest.mark.slow
def test_an_agent_on_another_port_is_told_which_one_it_listens_on(server: RunningServer):
    arn = server.deployed("elsewhere", {"main.py": PRINTING.replace("8080", "5000")})
    told, _ = failure(server, arn)
    assert "the agent listens on port 5000, and HTTP agents must listen on port 8080" in told


def test_sessions_are_seen_with_their_usage_stopped_and_remembered(server: RunningServer, printing: str):
    session = session_id()
    for _ in range(3):
        invoke(server, printing, session)

    def counted() -> dict[str, Any] | None:
        found = json.loads(freehold(server, "sessions", "list", "--runtime", "printing", "--json"))["sessions"]
        return next((one for one in found if one["sessionId"] == session and one["requests"] == 3), None)

    seen = wait_until(counted, "the claim is released, and its requests are counted")
    assert seen["usage"]["memoryBytes"] > 1_000_000
    assert seen["usage"]["memoryPeakBytes"] >= 1_000_000
    assert seen["usage"]["cpuSeconds"] > 0
    assert seen["usage"]["processes"] >= 1
    freehold(server, "sessions", "stop", session)
    shown = json.loads(freehold(server, "sessions", "show", session, "--json"))
    assert (shown["state"], shown["reason"], shown["requests"]) == ("ENDED", "stopped by an operator", 3)
    assert shown["usage"]["cpuSeconds"] > 0


@pytest.mark.slow
def test_logs_of_fifty_busy_sessions_are_followed_live_and_none_is_lost(server: RunningServer, printing: str):
    follower = subprocess.Popen(
        [FREEHOLD, "logs", "printing", "--follow", "--tail", "0", "--json", "--data-dir", server.data_dir],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    seen: dict[str, list[int]] = {}
    done = threading.Event()

    def read() -> None:
        assert follower.stdout is not None
        for line in follower.stdout:
            name, number, _ = json.loads(line)["text"].split()
            seen.setdefault(name, []).append(int(number))
            if len(seen) == SESSIONS + 1 and sum(map(len, seen.values())) >= 1 + SESSIONS * LINES:
                done.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        first = session_id()
        # What follows begins somewhere: from the first line seen on, every one counts.
        wait_until(lambda: invoke(server, printing, first, name="begin", lines=1) or seen, "the log is followed")
        seen.clear()
        seen["begin"] = [0]
        with ThreadPoolExecutor(16) as callers:
            work = [
                callers.submit(invoke, server, printing, session_id(), name=f"s{number}", lines=LINES)
                for number in range(SESSIONS)
            ]
            for one in work:
                one.result()
        assert done.wait(20), {name: len(numbers) for name, numbers in seen.items() if len(numbers) != LINES}
    finally:
        follower.terminate()
        follower.wait(10)
        reader.join(10)
        follower.stdout.close()
    assert all(seen[f"s{number}"] == list(range(LINES)) for number in range(SESSIONS))


def test_secrets_are_neither_in_the_servers_log_nor_in_errors_nor_in_any_process_list(
    server: RunningServer, printing: str
):
    session = session_id()
    invoke(server, printing, session, name="x", lines=1)
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        invoke(server, printing, session, fail=True)
    made = json.loads(freehold(server, "keys", "create", "--json"))
    freehold(server, "keys", "disable", made["accessKeyId"])
    secrets = [SECRET, made["secretAccessKey"], server.exported["AWS_SECRET_ACCESS_KEY"], "Signature="]
    assert server.process is not None
    own = {
        os.getpid(),
        server.process.pid,
        *(pid for name in ("warden", "control", "gateway-0") for pid in server.pids(name)),
    }
    places = {
        "the server's log": server.log_text(),
        "the error": str(caught.value),
        # Of all that the server has begun: other programs of this host may say what they like.
        "the process list": b"\n".join(command_line(pid) for pid in server.tree()).decode(errors="replace"),
        "the server's environment": b"\n".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in own).decode(),
    }
    assert places["the server's log"]
    assert "main.py" in places["the process list"]  # the agents are among them
    for place, text in places.items():
        for secret in secrets:
            assert secret not in text, place
    # And where it belongs, it is: what the agent itself has printed.
    assert SECRET in freehold(server, "logs", "printing", "--session", session)


def test_the_last_key_stays_usable(server: RunningServer):
    key = server.exported["AWS_ACCESS_KEY_ID"]
    done = freehold_cli.freehold("keys", "disable", key, "--data-dir", server.data_dir)
    assert done.returncode == 1
    assert "last access key" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_finds_what_the_server_needs(server: RunningServer):
    told = json.loads(freehold(server, "doctor", "--json"))
    assert told["canStart"]
    states = {(finding["what"], finding["state"]) for finding in told["findings"]}
    assert {("sandbox", "ok"), ("seccomp", "ok"), ("data directory", "ok"), ("port", "ok")} <= states
    assert ("gateway", "warning" if fast.load() is None else "ok") in states


def test_each_worker_tells_when_it_starts_whether_it_is_compiled(server: RunningServer):
    told = re.findall(r"gateway\.serving .*\bcompiled=(\w+)", server.log_text())
    assert set(told) == {str(fast.load() is not None)}


def test_a_log_that_is_followed_does_not_hold_up_the_stop_of_the_server():
    with RunningServer() as server:
        arn = server.deployed("printing", {"main.py": PRINTING})
        invoke(server, arn, session_id(), name="x", lines=1)
        follower = subprocess.Popen(
            [FREEHOLD, "logs", "printing", "--follow", "--data-dir", server.data_dir],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert follower.stdout is not None
        assert " stdout x 0 " in follower.stdout.readline()
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5
        _, told = follower.communicate(timeout=10)
        assert follower.returncode == 1
        assert "the answer broke off" in told
