"""`./dev soak`: sessions started, used at once and stopped for a long time; then nothing may be left over.

Fails when a call fails, when a session outlives its stop, when a process is left, or when the server's processes
hold more descriptors or much more memory at the end than after the warm-up.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import random
import subprocess
import sys
import time

from tools import calls, ephemeral, fuzz, many_streams, soak_bodies
from tools.process_tree import Footprint, footprint, tree

ECHO = ephemeral.ROOT / "benchmarks" / "agents" / "echo"
INVOCATIONS = 5
MORE_DESCRIPTORS = 32
MORE_MEMORY_MIB = 96


class SoakFailed(Exception):
    """Something was left over. The message says what."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev soak", description="Use Freehold for a long time.")
    parser.add_argument("--control", action="store_true", help="the long tests of the control plane instead")
    parser.add_argument("--bodies", action="store_true", help="large bodies of clients without a right to them instead")
    parser.add_argument("--exchanges", action="store_true", help="10,000 generated exchanges through a worker instead")
    parser.add_argument("--streams", action="store_true", help="streams of events at once instead, 1,000 if not said")
    parser.add_argument("--reload-every", type=float, default=0.0, help="seconds; with streams that then all are whole")
    parser.add_argument("--fuzz", action="store_true", help="coverage-guided fuzzing of what reads the wire instead")
    parser.add_argument("--target", help="the only one to fuzz")
    parser.add_argument("--seed", type=int, help="of the generated exchanges; without it another one each time")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--at-once", type=int, help="sessions (8), or streams (1,000)")
    options = parser.parse_args()
    if options.control:
        return control_plane()
    if options.streams:
        return many_streams.main(options.minutes, options.at_once, reload_every_s=options.reload_every)
    if options.fuzz:
        return fuzz.main(options.minutes, at_once=os.cpu_count() or 1, only=options.target)
    if options.bodies:
        return soak_bodies.main(options.minutes)
    if options.exchanges:
        return exchanges(options.seed)
    ephemeral.end_on_signals()
    try:
        with ephemeral.server() as server:
            rounds = soak(server, options.minutes * 60, options.at_once or 8)
    except ephemeral.Interrupted as interrupted:
        return interrupted.status
    except (SoakFailed, calls.CallFailed, ephemeral.ServerFailed, OSError) as problem:
        print(f"soak: {problem}", file=sys.stderr)
        return 1
    print(f"soak: {rounds} sessions, nothing left over")
    return 0


def control_plane() -> int:
    """The long forms of the suite's churn (a minute) and state machine (2,000 steps); pytest's status."""
    tests = ("tests/e2e/test_control_churn.py", "tests/integration/control/test_control_machine.py")
    environment = {**os.environ, "SOAK_CHURN_SECONDS": "60", "SOAK_MACHINE_STEPS": "2000"}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-s", *tests], env=environment).returncode


def exchanges(seed: int | None) -> int:
    """The long form of the suite's generated exchanges; pytest's status."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    environment = {**os.environ, "SOAK_EXCHANGES": "10000", "SOAK_SEED": str(seed)}
    print(f"soak: seed {seed}", flush=True)
    test = "tests/integration/gateway/test_gateway_exchanges.py"
    return subprocess.run([sys.executable, "-m", "pytest", "-q", test], env=environment).returncode


def soak(server: ephemeral.EphemeralServer, duration_s: float, at_once: int) -> int:
    """How many sessions were run. Raises SoakFailed."""
    caller = calls.caller(server)
    arn = calls.deploy(server, ECHO, "echo")
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(one_session, caller, arn) for _ in range(at_once * 2)]:
            done.result()
        before = settled(server, caller, None)
        print(f"soak: after the warm-up {before}", flush=True)
        end, rounds = time.monotonic() + duration_s, 0
        while time.monotonic() < end:
            for done in [pool.submit(one_session, caller, arn) for _ in range(at_once)]:
                done.result()
            rounds += at_once
    after = settled(server, caller, before)
    print(f"soak: at the end {after}", flush=True)
    if after.descriptors > before.descriptors + MORE_DESCRIPTORS:
        raise SoakFailed(f"descriptors grew from {before.descriptors} to {after.descriptors}")
    if after.memory_mib > before.memory_mib + MORE_MEMORY_MIB:
        raise SoakFailed(f"memory grew from {before.memory_mib:.0f} to {after.memory_mib:.0f} MiB")
    return rounds


def one_session(caller: calls.Caller, arn: str) -> None:
    connection = caller.connection()
    session = {"Content-Type": "application/json", calls.SESSION_HEADER: calls.new_session()}
    try:
        for number in range(INVOCATIONS):
            body = f'{{"number": {number}}}'.encode()
            path = calls.invocation(arn)
            told = caller.call(connection, "POST", path, body, caller.signed("POST", path, body, session))
            if told != body:
                raise calls.CallFailed(f"the echo agent answered {told!r}")
        path = calls.stop(arn)
        caller.call(connection, "POST", path, b"", caller.signed("POST", path, b"", session))
    finally:
        connection.close()


def settled(server: ephemeral.EphemeralServer, caller: calls.Caller, wanted: Footprint | None) -> Footprint:
    """The footprint once no session runs and, given an earlier one, no more processes than then. Raises SoakFailed."""
    deadline = time.monotonic() + 30
    while True:
        sessions, now = caller.sessions(), footprint(tree(server.process.pid))
        if not sessions and (wanted is None or now.processes <= wanted.processes):
            return now
        if time.monotonic() > deadline:
            raise SoakFailed(f"{len(sessions)} sessions and {now.processes} processes are left")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
