"""Settings that need new workers, taken over while clients are served: no request fails and no stream is cut."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import RunningServer, session_id, wait_until
from tools import calls
from tools.streams import Load

TICKER = Path(__file__).parents[2] / "tools" / "agents" / "ticker" / "main.py"

SHORT = "[gateway]\nkeep_alive_timeout_s = 2.0\n"
"""So that replaced workers need not wait long for what clients keep open."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(workers=2, settings=SHORT) as made:
        yield made


@pytest.fixture(scope="module")
def arn(server: RunningServer) -> str:
    return server.deployed("ticker", {"main.py": TICKER.read_text()})


def load_on(server: RunningServer, arn: str, **more: float) -> Load:
    return Load(server.caller, arn, [session_id(), session_id()], **more)  # pyright: ignore[reportArgumentType]


def reloaded(server: RunningServer, toml: str) -> None:
    """Returns when new workers have taken over."""
    assert server.config is not None
    assert server.process is not None
    known = len(server.log_text())
    server.config.write_text(toml)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "workers.replaced" in server.log_text()[known:], "new workers")


def workers(server: RunningServer) -> set[int]:
    return {pid for number in range(20) for pid in server.pids(f"gateway-{number}")}


def test_workers_are_replaced_under_load_and_no_request_fails_and_no_stream_is_cut(server: RunningServer, arn: str):
    load = load_on(server, arn, events=10, every_s=0.1, begin_within_s=1.0)
    before = workers(server)

    async def main() -> None:
        load.until = time.monotonic() + 60
        async with asyncio.TaskGroup() as group:
            group.create_task(load.streams(12))
            group.create_task(load.requests(6))
            for toml in (f"{SHORT}[log]\naccess = false\n", f"{SHORT}max_chunk_bytes = 2048\n"):
                known = load.tally["requests"]
                while load.tally["requests"] < known + 40 or load.open_now < 10:
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(reloaded, server, toml)
            known = load.tally["requests"]
            while load.tally["requests"] < known + 40:
                await asyncio.sleep(0.02)
            load.until = 0

    asyncio.run(main())

    assert load.tally["whole"] >= 12
    wait_until(lambda: len(workers(server)) == 2, "the replaced workers have ended")
    assert not before & workers(server)


def test_settings_of_the_gateway_hold_from_the_reload_on(server: RunningServer, arn: str):
    load = load_on(server, arn)
    path, body = calls.invocation(arn), b'{"say": "' + b"x" * 1000 + b'"}'
    headers = load.caller.signed("POST", path, body, {calls.SESSION_HEADER: session_id()})
    assert load.caller.call(load.caller.connection(), "POST", path, body, headers) == body
    reloaded(server, f"{SHORT}max_payload_bytes = 1000\n")

    def is_refused() -> bool:
        try:
            load.caller.call(load.caller.connection(), "POST", path, body, headers)
        except calls.CallFailed as refusal:
            return "larger than the maximum of 1000 bytes" in str(refusal)
        return False

    # An old worker may take a connection until it hears that it has been replaced.
    wait_until(is_refused, "the new bound")


def test_agents_that_die_and_clients_that_leave_disturb_no_other_stream(server: RunningServer, arn: str):
    """The short form of `./dev soak --streams`."""
    load = load_on(server, arn, events=10, every_s=0.05, leave=0.3, begin_within_s=1.0)
    load.may_be_cut = True

    async def main() -> None:
        load.until = time.monotonic() + 60
        async with asyncio.TaskGroup() as group:
            group.create_task(load.streams(40))
            group.create_task(load.dying(every_s=0.4))
            while load.tally["deaths"] < 2 or load.tally["whole"] < 40 or not load.tally["cut"]:
                await asyncio.sleep(0.05)
            load.until = 0

    asyncio.run(main())
    assert load.tally["left"] > 0
    wait_until(lambda: not in_flight(server), "no request is under way")


def in_flight(server: RunningServer) -> int:
    caller = load_on(server, "").caller
    path = "/_freehold/metrics"
    told = caller.call(caller.connection(), "GET", path, b"", caller.signed("GET", path)).decode()
    found = [line for line in told.splitlines() if "active_streaming_connections" in line and not line.startswith("#")]
    assert found, told[:2000]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))
