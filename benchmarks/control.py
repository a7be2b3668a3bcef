"""Operations of the control plane beside moto's server: by one caller, by several at once; then at scale.

The same bodies go to both, by turns in one run, signed beforehand: the client's own work is not what is measured. How
long an operation takes is measured by one caller with one request at a time; how many there are in a second by one
and by CALLERS at once. moto is given the better of its two rates.
Freehold's changes are durable before they are answered (SQLite in WAL mode with synchronous=FULL); moto's server keeps
them in memory. moto ignores maxResults: with the usual number of samples there are as many runtimes as lines of a page,
so that both answer the same. At scale, Freehold alone is measured with few and with many runtimes and versions in its
store.

moto's server is `moto_server` beside this Python (dependency group `bench`), or what BENCH_MOTO_SERVER names.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import bare, load
from benchmarks.samples import summary
from tools import calls, ephemeral

MOTO_HOST = "bedrock-agentcore-control.us-east-1.amazonaws.com"
START_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 300.0
WARM_UP = 5
PAGE = 100
CALLERS = 16
AT_ONCE = {"page": 100, "get": 200, "update": 200, "create": 200}
"""How many of them make a round. Those that make runtimes come last: moto's page would grow with them."""
ROUNDS = 3
MANY_RUNTIMES, VERSIONS_EACH = 10_000, 10


@dataclass
class Target:
    """A server of the control plane, and how long its answers took, by operation."""

    caller: calls.Caller
    host: str | None
    configuration: dict[str, Any]
    durations_s: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    made: list[str] = field(default_factory=list[str])
    """Ids of runtimes that are there."""

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(self.caller.url).netloc, timeout=60)

    def signed(self, method: str, path: str, document: Any) -> tuple[dict[str, str], bytes]:
        """Headers and body of a request."""
        body = b"" if document is None else json.dumps(document).encode()
        headers = self.caller.signed(method, path, body, {"Content-Type": "application/json"})
        if self.host is not None:
            headers["Host"] = self.host
        return headers, body

    def send(self, operation: str, method: str, path: str, document: Any = None) -> dict[str, Any]:
        """The answer. Raises CallFailed."""
        headers, body = self.signed(method, path, document)
        began = time.perf_counter()
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        told = answer.read()
        self.durations_s.setdefault(operation, []).append(time.perf_counter() - began)
        if answer.status not in (200, 202):
            raise calls.CallFailed(f"{operation}: {answer.status} {told.decode(errors='replace')[:500]}")
        return json.loads(told)

    def create(self, name: str) -> str:
        made = self.send("create", "PUT", "/runtimes/", {"agentRuntimeName": name, **self.configuration})
        return made["agentRuntimeId"]

    def settle(self, runtime_id: str) -> None:
        """Wait, unmeasured, until the runtime is READY."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while self.send("waiting", "GET", f"/runtimes/{runtime_id}/")["status"] != "READY":
            if time.monotonic() > deadline:
                raise calls.CallFailed(f"{runtime_id} does not become READY")
            time.sleep(0.01)

    def reported(self) -> dict[str, Any]:
        """Per operation: milliseconds, and operations in a second of one caller."""
        return {
            operation: summary(taken) | {"per_second": round(len(taken) / sum(taken), 1)}
            for operation, durations in self.durations_s.items()
            if operation != "waiting" and (taken := durations[WARM_UP:])
        }


def measure(samples: int) -> dict[str, Any]:
    with ephemeral.server() as server, moto() as other:
        ours = Target(calls.caller(server), None, _configuration(server))
        moto_target = Target(other, MOTO_HOST, ours.configuration)
        _side_by_side((ours, moto_target), samples)
        freehold, theirs = ours.reported(), moto_target.reported()
        at_once = _at_once(ours, moto_target)
        scale = _at_scale(server, ours, samples)
    one = {name: round(freehold[name]["per_second"] / theirs[name]["per_second"], 2) for name in freehold}
    best = {name: max(theirs[name]["per_second"], at_once["moto"][name]) for name in AT_ONCE}
    several = {name: round(at_once["freehold"][name] / best[name], 2) for name in AT_ONCE}
    return {
        "durability": "freehold: WAL, synchronous=FULL; moto: memory",
        "freehold": freehold,
        "moto": theirs,
        "per_second_at_once": {"callers": CALLERS, **at_once},
        "rate_over_motos": {"one_caller": one, "callers_at_once": several},
        "scale": scale,
    }


def _side_by_side(targets: tuple[Target, ...], samples: int) -> None:
    for number in range(WARM_UP + samples):
        for target in targets:
            target.made.append(target.create(f"bench_{number}"))
    _settle(targets[0])
    for number in range(WARM_UP + samples):
        for target in targets:
            runtime_id = target.made[number]
            target.send("get", "GET", f"/runtimes/{runtime_id}/")
            target.send("update", "PUT", f"/runtimes/{runtime_id}/", target.configuration)
            target.send("page", "POST", f"/runtimes/?maxResults={PAGE}")
    _settle(targets[0])


def _settle(ours: Target) -> None:
    """Nothing ever happens in moto's: there it would not end."""
    for runtime_id in ours.made:
        ours.settle(runtime_id)


def _at_once(ours: Target, theirs: Target) -> dict[str, dict[str, float]]:
    """Operations in a second of CALLERS callers, by turns. Of the rounds the median: both share the machine."""
    rates: dict[str, dict[str, float]] = {"freehold": {}, "moto": {}}
    for operation, number in AT_ONCE.items():
        taken: dict[str, list[float]] = {"freehold": [], "moto": []}
        for turn in range(ROUNDS):
            for name, target in (("freehold", ours), ("moto", theirs)):
                requests = [_request(target, operation, turn * number + at) for at in range(number)]
                address = urlsplit(target.caller.url)
                taken[name].append(load.run(address.netloc, requests, callers=CALLERS))
        for name, seconds in taken.items():
            rates[name][operation] = round(number / sorted(seconds)[ROUNDS // 2], 1)
    _settle(ours)
    return rates


def _request(target: Target, operation: str, number: int) -> bytes:
    """One of many; an update never meets another of the same runtime under way, which both could refuse."""
    path = f"/runtimes/{target.made[number % len(target.made)]}/"
    method, path, document = {
        "page": ("POST", f"/runtimes/?maxResults={PAGE}", None),
        "get": ("GET", path, None),
        "update": ("PUT", path, target.configuration),
        "create": ("PUT", "/runtimes/", {"agentRuntimeName": f"at_once_{number}", **target.configuration}),
    }[operation]
    headers, body = target.signed(method, path, document)
    headers.setdefault("Host", urlsplit(target.caller.url).netloc)
    return load.request(method, path, headers, body)


def _at_scale(server: ephemeral.EphemeralServer, target: Target, samples: int) -> dict[str, Any]:
    """Medians with what is there and with many more, and how they compare."""
    arn = calls.deploy(server, bare.ECHO, "echo")
    few = _medians(target, arn, samples)
    _fill(server.data_dir / "state" / "freehold.db", target.create("template"))
    many = _medians(target, arn, samples)
    ratios = {name: round(many[name] / few[name], 2) for name in few}
    return {"runtimes": MANY_RUNTIMES, "versions": MANY_RUNTIMES * VERSIONS_EACH, "few_p50_ms": few,
            "many_p50_ms": many, "ratio": ratios}  # fmt: skip


def _medians(target: Target, arn: str, samples: int) -> dict[str, float]:
    target.durations_s.clear()
    runtime_id = arn.rpartition("/")[2]
    path, body = calls.invocation(arn), b"{}"
    session = {"Content-Type": "application/json", calls.SESSION_HEADER: calls.new_session()}
    signed = target.caller.signed("POST", path, body, session)
    invoked: list[float] = []
    for _ in range(WARM_UP + samples):
        target.send("get", "GET", f"/runtimes/{runtime_id}/")
        target.send("page", "POST", f"/runtimes/?maxResults={PAGE}")
        began = time.perf_counter()
        target.caller.call(target.connection, "POST", path, body, signed)
        invoked.append(time.perf_counter() - began)
    reported = target.reported()
    return {
        "get": reported["get"]["p50_ms"],
        "page": reported["page"]["p50_ms"],
        "invoke": summary(invoked[WARM_UP:])["p50_ms"],
    }


def _fill(database: Path, template: str) -> None:
    """Copies of one runtime with its endpoint and versions, written past the server: making them takes too long."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY_RUNTIMES})"
    renamed = {
        "runtime_id": "printf('bulk_%d-0123456789', i)",
        "name": "printf('bulk_%d', i)",
        "arn": "replace(arn, ?1, printf('bulk_%d-0123456789', i))",
        "status": "'READY'",
        "latest_version": str(VERSIONS_EACH),
        "live_version": str(VERSIONS_EACH),
        "target_version": str(VERSIONS_EACH),
    }
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as raw, raw:
        for table, cross, others in (
            ("agent_runtimes", "", {}),
            ("agent_runtime_versions", f" JOIN n AS v ON v.i <= {VERSIONS_EACH}", {"version": "v.i"}),
            ("agent_runtime_endpoints", "", {"name": "name"}),
        ):
            columns = [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
            values = [(renamed | others).get(column, column).replace(", i)", ", n.i)") for column in columns]
            source = ", ".join(f"t.{value}" if value == columns[at] else value for at, value in enumerate(values))
            raw.execute(
                f"{numbers} INSERT INTO {table} ({', '.join(columns)}) SELECT {source} FROM n{cross}"
                f" JOIN (SELECT * FROM {table} WHERE runtime_id = ?1 LIMIT 1) AS t",
                (template,),
            )


def _configuration(server: ephemeral.EphemeralServer) -> dict[str, Any]:
    calls.deploy(server, bare.ECHO, "first")  # so that there is a zip in a bucket
    (archive,) = [path for path in (server.data_dir / "buckets").rglob("*.zip") if "/." not in str(path)][:1]
    bucket, _, key = str(archive.relative_to(server.data_dir / "buckets")).partition("/")
    code = {"s3": {"bucket": bucket, "prefix": key}}
    runtime = f"PYTHON_3_{sys.version_info.minor}"
    return {
        "agentRuntimeArtifact": {"codeConfiguration": {"code": code, "runtime": runtime, "entryPoint": ["main.py"]}},
        "roleArn": "arn:aws:iam::123456789012:role/agent",
        "networkConfiguration": {"networkMode": "PUBLIC"},
        "environmentVariables": {"COLOUR": "blue"},
        "description": "a runtime to be measured",
    }


@contextlib.contextmanager
def moto() -> Generator[calls.Caller]:
    """moto's server on a free port. Raises FileNotFoundError when it isn't installed."""
    program = os.environ.get("BENCH_MOTO_SERVER") or shutil.which("moto_server", path=str(Path(sys.executable).parent))
    if program is None:
        raise FileNotFoundError("moto_server is not installed: it is in the dependency group bench")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield calls.Caller(f"http://127.0.0.1:{port}", "us-east-1", "AKIAIOSFODNN7EXAMPLE", "x" * 40)
    finally:
        process.terminate()
        process.wait(10)
