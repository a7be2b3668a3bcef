"""How long InvokeAgentRuntime takes in a session that runs: client, gateway, agent in its sandbox, and back.

One connection, one request at a time. The request is signed once: the client's own signing is not what is measured.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.samples import summary
from tools import calls, ephemeral

ECHO = Path(__file__).parent / "agents" / "echo"
WARM_UP = 50


def measure(samples: int) -> dict[str, Any]:
    with ephemeral.server() as server:
        caller = calls.caller(server)
        path = calls.invocation(calls.deploy(server, ECHO, "echo"))
        body = b'{"prompt": "hello"}'
        headers = {"Content-Type": "application/json", calls.SESSION_HEADER: calls.new_session()}
        signed = caller.signed("POST", path, body, headers)
        connection = caller.connection()
        durations_s: list[float] = []
        for _ in range(WARM_UP + samples):
            began = time.perf_counter()
            told = caller.call(connection, "POST", path, body, signed)
            durations_s.append(time.perf_counter() - began)
            if told != body:
                raise calls.CallFailed(f"the echo agent answered {told!r}")
        connection.close()
    return summary(durations_s[WARM_UP:])
