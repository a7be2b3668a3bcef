"""`./dev bench [NAME]`: lists the benchmarks, or runs one; its result is one JSON object on stdout."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import auth, control, gateway, invoke, invoke_latency, session_start
from tools import ephemeral

BENCHMARKS: dict[str, tuple[Callable[[int], dict[str, Any]], int, str]] = {
    "auth": (auth.measure, 2000, "CPU to know a caller, SigV4 and JWT, beside the bare library's check"),
    "control": (control.measure, 95, "operations of the control plane beside moto's server, and with 10,000 runtimes"),
    "gateway": (gateway.measure, 20_000, "what a request, an event, a stream costs beside nginx, HAProxy and Envoy"),
    "invoke": (invoke.measure, 10_000, "CPU and throughput of InvokeAgentRuntime, beside the agent direct and nginx"),
    "invoke_latency": (invoke_latency.measure, 2000, "round trips of InvokeAgentRuntime in one running session"),
    "session_start": (session_start.measure, 20, "first invocations of new sessions, one after another"),
}
"""Function, how many samples unless told, what is measured."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure Freehold on this machine.")
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS))
    parser.add_argument("--samples", type=int)
    options = parser.parse_args()
    if options.name is None:
        for name, (_, samples, what) in BENCHMARKS.items():
            print(f"{name:16} {what} ({samples} samples)")
        return 0
    measure, samples, what = BENCHMARKS[options.name]
    ephemeral.end_on_signals()
    try:
        measured = measure(options.samples or samples)
    except ephemeral.Interrupted as interrupted:
        return interrupted.status
    machine = {"cpu": platform.machine(), "cores": os.cpu_count(), "kernel": platform.release()}
    machine["python"] = platform.python_version()
    print(json.dumps({"benchmark": options.name, "what": what, "machine": machine} | measured, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
