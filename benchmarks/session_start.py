"""How long the first answer of a new session takes, beside that of the same agent started as a bare process.

Both by turns in one run. Ours includes claim, sandbox, readiness by /ping, and the invocation; bare is process start,
connect and one request.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import bare
from benchmarks.samples import compared
from tools import calls, ephemeral


def measure(samples: int) -> dict[str, Any]:
    with ephemeral.server() as server:
        caller = calls.caller(server)
        arn = calls.deploy(server, bare.ECHO, "echo")
        path, stop, body = calls.invocation(arn), calls.stop(arn), b"{}"
        connection = caller.connection()
        ours: list[float] = []
        bares: list[float] = []
        for _ in range(1 + samples):
            began = time.perf_counter()
            with bare.agent() as direct:
                direct.request("POST", "/invocations", body)
                direct.getresponse().read()
                bares.append(time.perf_counter() - began)
            session = {"Content-Type": "application/json", calls.SESSION_HEADER: calls.new_session()}
            signed = caller.signed("POST", path, body, session)
            began = time.perf_counter()
            caller.call(connection, "POST", path, body, signed)
            ours.append(time.perf_counter() - began)
            caller.call(connection, "POST", stop, b"", caller.signed("POST", stop, b"", session))
        connection.close()
    # The first one also fills caches of the machine.
    return compared(ours[1:], bares[1:])
