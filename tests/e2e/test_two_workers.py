"""What two gateway workers decide together: limits of sessions and runtimes, and requests that SDKs send again."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from breaking_proxy import BreakingProxy
from running_server import RunningServer, session_id, wait_until
from tools import calls

AT_ONCE = 2
PER_S = 20
SETTINGS = f"""
[sessions]
max_concurrent_requests = {AT_ONCE}
max_requests_per_s = {PER_S}
[gateway]
resend_window_s = 60
client_disconnect = "continue"
"""
AGENT = """
import json, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()
seen = {"requests": 0, "now": 0, "most": 0}

class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, told):
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"status": "Healthy"})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            seen["requests"] += not asked.get("look")
            seen["now"] += 1
            seen["most"] = max(seen["most"], seen["now"])
            told = dict(seen)
        time.sleep(asked.get("wait_s", 0))
        with lock:
            seen["now"] -= 1
        self.answer(told)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("0.0.0.0", 8080), Agent).serve_forever()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(workers=2, settings=SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def caller(server: RunningServer) -> calls.Caller:
    return server.caller


def deployed(server: RunningServer, name: str) -> str:
    return server.deployed(name, {"main.py": AGENT})


def sent(caller: calls.Caller, arn: str, session: str, **asked: Any) -> tuple[int, str | None, dict[str, Any]]:
    """Status, error and document of a request over a connection of its own, which any worker may take."""
    path, body = calls.invocation(arn), json.dumps(asked).encode()
    connection: http.client.HTTPConnection = caller.connection()
    try:
        connection.request("POST", path, body, caller.signed("POST", path, body, {calls.SESSION_HEADER: session}))
        answer = connection.getresponse()
        return answer.status, answer.getheader("x-amzn-errortype"), json.loads(answer.read())
    finally:
        connection.close()


def workers_of(server: RunningServer, session: str) -> set[str]:
    """Who has passed on requests of a session, as the access log says."""
    lines = [line for line in server.log_text().splitlines() if session in line and "status=200" in line]
    return {found[0] for line in lines if (found := re.search(r"gateway-\d", line))}


def looked(data: Any, arn: str, session: str) -> dict[str, Any]:
    """What the agent of a session has seen."""
    answer = data.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=session, payload=b'{"look": true}')
    return json.loads(answer["response"].read())


def test_requests_of_one_session_are_limited_over_both_workers(server: RunningServer, caller: calls.Caller):
    arn, session = deployed(server, "at_once"), session_id()
    told: Counter[tuple[int, str | None]] = Counter()
    assert sent(caller, arn, session)[0] == 200
    with concurrent.futures.ThreadPoolExecutor(6) as pool:

        def both_have_served_and_one_has_refused() -> bool:
            # Of so many at once, but not so many in a second that the rate has a say.
            asked = [pool.submit(sent, caller, arn, session, wait_s=0.2) for _ in range(4)]
            told.update(done.result()[:2] for done in asked)
            return len(workers_of(server, session)) == 2 and told[409, "RetryableConflictException"] > 0

        wait_until(both_have_served_and_one_has_refused, "requests of both workers, and one too many")
    assert set(told) <= {(200, None), (409, "RetryableConflictException"), (429, "ThrottlingException")}
    assert looked(server.client("bedrock-agentcore", retries={"max_attempts": 5}), arn, session)["most"] <= AT_ONCE


def test_requests_to_one_runtime_are_limited_over_both_workers(server: RunningServer, caller: calls.Caller):
    arn = deployed(server, "rate")
    sessions = [session_id() for _ in range(2)]
    for session in sessions:
        assert sent(caller, arn, session)[0] == 200
    told: Counter[tuple[int, str | None]] = Counter()
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:

        def many(session: str) -> None:
            while told[429, "ThrottlingException"] < 20 or len(workers_of(server, session)) < 2:
                told[sent(caller, arn, session)[:2]] += 1
                assert time.monotonic() < began + 60

        for done in [pool.submit(many, session) for session in sessions]:
            done.result()
    assert set(told) == {(200, None), (429, "ThrottlingException")}
    assert told[200, None] <= PER_S * (time.monotonic() - began + 1) + 1
    with concurrent.futures.ThreadPoolExecutor(2) as pool, pytest.raises(ClientError) as refused:

        def more(session: str) -> None:
            while time.monotonic() < began + 60:
                looked(server.data, arn, session)

        for done in [pool.submit(more, session) for session in sessions]:
            done.result()
    assert refused.value.response["Error"]["Code"] == "ThrottlingException"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert isinstance(refused.value, server.data.exceptions.ThrottlingException)


@pytest.mark.parametrize("after_answer", [True, False], ids=["its-answer-was-lost", "it-is-under-way"])
def test_what_boto3_sends_again_reaches_the_agent_once_and_gets_its_answer(server: RunningServer, after_answer: bool):
    arn = deployed(server, f"resent_{after_answer}".lower())
    for _ in range(4):  # whichever worker gets it
        session = session_id()
        with BreakingProxy(server.url, breaks=2 if after_answer else 1, after_answer=after_answer) as proxy:
            url, server.url = server.url, proxy.url
            try:
                data = server.client("bedrock-agentcore", retries={"mode": "standard", "total_max_attempts": 12})
            finally:
                server.url = url
            body = json.dumps({"wait_s": 0 if after_answer else 0.5}).encode()
            answer = data.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=session, payload=body)
            assert json.loads(answer["response"].read())["requests"] == 1
            assert answer["runtimeSessionId"] == session
            assert proxy.requests >= 2
            assert looked(server.data, arn, session)["requests"] == 1, "it has come once"
            data.invoke_agent_runtime(agentRuntimeArn=arn, runtimeSessionId=session, payload=body)
            assert looked(server.data, arn, session)["requests"] == 2, (
                "another call of the same body is another request"
            )
