"""An example agent as a real process on a free loopback port, and a plain HTTP client for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from ports import lease

EXAMPLES = Path(__file__).parents[3] / "examples"
START_TIMEOUT_S = 30.0


class Agent:
    def __init__(self, port: int) -> None:
        self.port = port

    def post(self, body: Any, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        """POST /invocations; the answer's body is still to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(
            "POST", "/invocations", json.dumps(body), {"Content-Type": "application/json"} | (headers or {})
        )
        return connection.getresponse()

    def events(self, body: Any) -> Iterator[dict[str, Any]]:
        """The server-sent events of an answer, as they come."""
        with contextlib.closing(self.post(body)) as answer:
            assert answer.status == 200, answer.read()
            for line in answer:
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))

    def healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except ConnectionError:
            return False
        finally:
            connection.close()


@contextlib.contextmanager
def agent(name: str, **environment: str) -> Generator[Agent]:
    """Run `examples/<name>/main.py` as it is, but for its port."""
    port = lease()
    code = f"import main; main.app.run(port={port})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=EXAMPLES / name, env=os.environ | {"AGENT_PACE_S": "0"} | environment
    )
    try:
        running, deadline = Agent(port), time.monotonic() + START_TIMEOUT_S
        while not running.healthy():
            assert process.poll() is None, f"the agent ended with status {process.returncode}"
            assert time.monotonic() < deadline, "the agent was not healthy in time"
            time.sleep(0.02)
        yield running
    finally:
        process.terminate()
        process.wait(10)
