"""How long InvokeAgentRuntime takes in a session that runs, beside the same request to the same agent run bare.

One connection, one request at a time, by turns in one run. The request is signed once: the client's own signing is
not what is measured.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import bare
from benchmarks.samples import compared
from tools import calls, ephemeral

WARM_UP = 50


def measure(samples: int) -> dict[str, Any]:
    with ephemeral.server() as server, bare.agent() as direct:
        caller = calls.caller(server)
        path = calls.invocation(calls.deploy(server, bare.ECHO, "echo"))
        body = b'{"prompt": "hello"}'
        headers = {"Content-Type": "application/json", calls.SESSION_HEADER: calls.new_session()}
        signed = caller.signed("POST", path, body, headers)
        connection = caller.connection()
        ours: list[float] = []
        bares: list[float] = []
        for _ in range(WARM_UP + samples):
            began = time.perf_counter()
            told = caller.call(connection, "POST", path, body, signed)
            ours.append(time.perf_counter() - began)
            if told != body:
                raise calls.CallFailed(f"the echo agent answered {told!r}")
            began = time.perf_counter()
            caller.call(direct, "POST", "/invocations", body, headers)
            bares.append(time.perf_counter() - began)
        connection.close()
    return compared(ours[WARM_UP:], bares[WARM_UP:])
