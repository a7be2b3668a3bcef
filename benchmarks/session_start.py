"""How long the first InvokeAgentRuntime of a new session takes: start of the sandbox and the agent, answer included."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.samples import summary
from tools import calls, ephemeral

ECHO = Path(__file__).parent / "agents" / "echo"


def measure(samples: int) -> dict[str, Any]:
    with ephemeral.server() as server:
        caller = calls.caller(server)
        arn = calls.deploy(server, ECHO, "echo")
        path, body = calls.invocation(arn), b"{}"
        connection = caller.connection()
        durations_s: list[float] = []
        for _ in range(1 + samples):
            session = {"Content-Type": "application/json", calls.SESSION_HEADER: calls.new_session()}
            signed = caller.signed("POST", path, body, session)
            began = time.perf_counter()
            caller.call(connection, "POST", path, body, signed)
            durations_s.append(time.perf_counter() - began)
            caller.call(connection, "POST", calls.stop(arn), b"", caller.signed("POST", calls.stop(arn), b"", session))
        connection.close()
    # The first one also fills caches of the machine.
    return summary(durations_s[1:])
