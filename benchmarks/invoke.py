"""What InvokeAgentRuntime costs the gateway: CPU time and throughput beside the same agent direct and behind nginx.

Signed requests to one running session, with the access log and metrics on, as they are by default; nginx has no
authentication, session lookup or header rules, and an access log. All in one run, by turns. Each request is signed
once: verifying is measured, the client's signing is not.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import bare, load, nginx
from tools import calls, ephemeral

SWIFT = Path(__file__).parent / "agents" / "swift"
CONNECTIONS = 16
ROUNDS = 5
WARM_UP = 1000
BODY = b'{"prompt": "hello"}'
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def measure(samples: int) -> dict[str, Any]:
    """`samples` requests in each of ROUNDS rounds for each way to the agent."""
    with ephemeral.server() as server, bare.agent(SWIFT) as direct:
        caller = calls.caller(server)
        path = calls.invocation(calls.deploy(server, SWIFT, "swift"))
        headers = {"Content-Type": "application/json", calls.SESSION_HEADER: calls.new_session()}
        signed = load.request("POST", path, caller.signed("POST", path, BODY, headers), BODY)
        unsigned = load.request("POST", "/invocations", headers | {"Host": "agent"}, BODY)
        host = urlsplit(caller.url)
        (gateway,) = _children_named(server.process.pid, "gateway-0")
        ways = {"freehold": (host.port or 80, signed, gateway), "direct": (direct.port, unsigned, None)}
        executable = nginx.found()
        if executable is None:
            return _turns(ways, samples) | {"nginx": "not measured: it is not installed (apt install nginx-light)"}
        with nginx.proxy(executable, direct.port) as (port, worker):
            return _turns(ways | {"nginx": (port, unsigned, worker)}, samples)


def _turns(ways: dict[str, tuple[int, bytes, int | None]], samples: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for port, data, _ in ways.values():
        load.run(f"127.0.0.1:{port}", [data] * WARM_UP, callers=CONNECTIONS)
    for _ in range(ROUNDS):
        for name, (port, data, pid) in ways.items():
            before = 0.0 if pid is None else _cpu_s(pid)
            took = load.run(f"127.0.0.1:{port}", [data] * samples, callers=CONNECTIONS)
            rates[name].append(samples / took)
            if pid is not None:
                costs[name].append((_cpu_s(pid) - before) / samples * 1e6)
    return {"connections": CONNECTIONS, "rounds": ROUNDS, "requests_per_round": samples} | {
        name: {"requests_per_s": round(statistics.median(rates[name]))}
        | ({"cpu_us_per_request": round(statistics.median(costs[name]), 1)} if costs[name] else {})
        for name in ways
    }


def _cpu_s(pid: int) -> float:
    """User and system time of a process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _children_named(parent: int, name: str) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
