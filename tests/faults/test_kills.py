"""`kill -9` of each process while 20 sessions run."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from deaths import Watched
from leftovers import Leftovers
from running_server import RunningServer, agent, session_id, wait_until

SESSIONS = 20
pytestmark = pytest.mark.slow


class Running:
    """A server with 20 sessions, each with a long stream under way."""

    def __init__(self, server: RunningServer, arn: str) -> None:
        self.server = server
        self.arn = arn
        self.data = server.client("bedrock-agentcore", max_pool_connections=SESSIONS * 2)
        self.sessions = [session_id() for _ in range(SESSIONS)]
        with concurrent.futures.ThreadPoolExecutor(SESSIONS) as pool:
            self.pids = list(pool.map(lambda one: self.ask(one)["started"], self.sessions))

    def ask(self, session: str, **told: Any) -> Any:
        told = told or {"do": "remember", "say": "x"}
        answer = self.data.invoke_agent_runtime(
            agentRuntimeArn=self.arn, runtimeSessionId=session, payload=json.dumps(told).encode()
        )
        return json.loads(answer["response"].read())

    def stream(self, session: str, path: str) -> Any:
        """A stream that waits after its first event."""
        told = {"do": "stream", "events": 2, "gate": path}
        answer = self.data.invoke_agent_runtime(
            agentRuntimeArn=self.arn, runtimeSessionId=session, payload=json.dumps(told).encode()
        )
        lines = answer["response"].iter_lines(chunk_size=1)
        assert next(lines) == b"data: 0"
        return lines

    def stop(self) -> None:
        for session in self.sessions:
            with contextlib.suppress(ClientError):  # most of them have ended by what the test did
                self.server.data.stop_runtime_session(agentRuntimeArn=self.arn, runtimeSessionId=session)
        wait_until(lambda: self.server.sandboxes() == [], "every session has ended")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(workers=2) as started:
        yield started


@pytest.fixture(scope="module")
def arn(server: RunningServer) -> str:
    return server.deployed("probe", agent("probe"))


@pytest.fixture
def running(server: RunningServer, arn: str) -> Iterator[Running]:
    if server.process is None:  # another test has stopped it
        server.start()
    running = Running(server, arn)
    yield running
    if server.process is not None:
        running.stop()


def test_the_wardens_death_ends_every_sandbox_and_new_ones_start(running: Running):
    server = running.server
    agents = Leftovers(server).agents()
    assert len(agents) == SESSIONS
    watched = Watched(agents)
    server.kill("warden")
    watched.assert_ended(limit_s=2)
    wait_until(lambda: answers(running, running.sessions[0]), "a new session of the same id")
    assert running.ask(running.sessions[0])["remembered"] == ["x", "x"], "in-memory state of a lost session is gone"
    wait_until(lambda: len(server.sandboxes()) == 1, "what the dead sandboxes left is swept")


def answers(running: Running, session: str) -> bool:
    try:
        running.ask(session)
    except (ClientError, BotoCoreError):
        return False
    return True


def test_a_workers_death_loses_only_its_own_requests(running: Running):
    streams = {session: running.stream(session, "/tmp/gate") for session in running.sessions}
    running.server.kill("gateway-0")
    lost = 0
    for session, lines in streams.items():
        # Open the gate through whatever worker answers.
        wait_until(lambda session=session: opened(running, session), "the gate opens")
        try:
            assert b"data: 1" in list(lines)
        except (BotoCoreError, OSError):
            lost += 1
    assert 0 < lost < SESSIONS, "those of the killed worker, and no other"
    assert [running.ask(one)["started"] for one in running.sessions] == running.pids, "every session lives on"


def opened(running: Running, session: str) -> bool:
    try:
        running.ask(session, do="write", path="/tmp/gate1", text="")
    except (ClientError, BotoCoreError):
        return False
    return True


def test_controls_death_is_not_felt_by_running_sessions(running: Running):
    running.server.kill("control")
    assert [running.ask(one)["started"] for one in running.sessions] == running.pids

    def listed() -> Any:
        try:
            return running.server.control.list_agent_runtimes()["agentRuntimes"]
        except (ClientError, BotoCoreError):
            return None

    (line,) = wait_until(listed, "the control plane answers again")
    assert line["status"] == "READY"
    running.sessions.append(session_id())
    assert running.ask(running.sessions[-1])["remembered"] == ["x"], "new sessions start"


def test_the_death_of_the_whole_server_leaves_nothing_and_the_next_start_works(running: Running):
    server = running.server
    assert server.process is not None
    before = Leftovers(server)
    watched = Watched(before.agents())
    os.kill(server.process.pid, signal.SIGKILL)
    watched.assert_ended(limit_s=5)
    server.process.wait()
    assert server.process.stdout is not None
    server.process.stdout.close()
    server.process = None
    server.start()
    found = server.control.list_agent_runtimes()["agentRuntimes"]
    assert [line["status"] for line in found] == ["READY"]
    wait_until(lambda: server.sandboxes() == [], "nothing is left of the sessions")
    running.data = server.data
    assert running.ask(running.sessions[0])["remembered"] == ["x"]


def test_a_clean_shutdown_leaves_nothing(running: Running):
    server = running.server
    before = Leftovers(server)
    assert before.agents()
    assert server.stop() == 0
    after = Leftovers(server)
    assert after.agents() == set()
    assert after.cgroups() == []
    assert after.mounts() == []
    assert server.sandboxes() == []
    assert sorted(path.name for path in (server.data_dir / "run").iterdir()) == ["sessions"]
    assert [path.name for path in (server.data_dir / "run" / "sessions").iterdir()] == ["boots"]
