"""What one session can reach of another, of the server and of the host: nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import RunningServer, agent, session_id, wait_until

ORDINARY_UID = 54_321
SECRET = "what only the host may know"


@pytest.fixture(scope="module", params=["as-root", "as-an-ordinary-user"])
def isolating(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    if os.getuid() != 0:
        if request.param == "as-root":
            pytest.skip("needs root")
        uid = None
    else:
        uid = None if request.param == "as-root" else ORDINARY_UID
    with RunningServer(uid=uid, FREEHOLD_AWS__REGION="eu-west-1", SECRET_OF_THE_SERVER=SECRET) as running:
        yield running


class TwoSessions:
    """Two sessions of one runtime."""

    def __init__(self, server: RunningServer, name: str = "probe") -> None:
        self._data = server.data
        self._arn = server.deployed(name, agent("probe"))
        self._ids = (session_id(), session_id())

    def first(self, do: str, **told: Any) -> Any:
        return self._ask(0, do, told)

    def second(self, do: str, **told: Any) -> Any:
        return self._ask(1, do, told)

    def _ask(self, which: int, do: str, told: dict[str, Any]) -> Any:
        answer = self._data.invoke_agent_runtime(
            agentRuntimeArn=self._arn, runtimeSessionId=self._ids[which], payload=json.dumps(told | {"do": do}).encode()
        )
        return json.loads(answer["response"].read())


@pytest.fixture(scope="module")
def two(isolating: RunningServer) -> TwoSessions:
    return TwoSessions(isolating)


def test_a_session_sees_only_its_own_processes(two: TwoSessions):
    for ask in (two.first, two.second):
        seen = ask("processes")
        assert seen["processes"][str(seen["me"])].endswith("main.py ")
        assert set(seen["processes"]) == {"1", str(seen["me"])}, "the agent and its init"
        assert seen["uid"] != 0


@pytest.mark.parametrize("place", ["/tmp/note", "/home/agent/note", "/dev/shm/note"])
def test_what_a_session_writes_no_other_reads(two: TwoSessions, place: str):
    assert two.first("write", path=place, text="mine") == {"written": place}
    assert two.first("read", path=place) == {"text": "mine"}
    assert two.second("read", path=place) == {"error": "FileNotFoundError"}


def test_the_code_can_not_be_changed(two: TwoSessions, isolating: RunningServer):
    (code,) = [path for path in (isolating.data_dir / "artifacts").iterdir() if not path.name.startswith(".")]
    before = {path: path.stat().st_mtime_ns for path in code.rglob("*")}
    for name in ("main.py", "new.py"):
        assert "error" in two.first("write", path=f"/var/task/{name}", text="raise SystemExit")
    assert {path: path.stat().st_mtime_ns for path in code.rglob("*")} == before


@pytest.mark.parametrize(
    "address",
    [
        {"host": "127.0.0.1", "port": 9999},
        {"path": "/tmp/socket"},
        {"path": "agreed", "abstract": True},
    ],
    ids=["loopback", "unix", "abstract"],
)
def test_what_a_session_listens_on_no_other_reaches(two: TwoSessions, address: dict[str, Any]):
    two.first("listen", **address)
    for _ in range(100):
        if two.first("connect", **address) == {"connected": True}:
            break
    else:
        pytest.fail("the session does not reach its own listener")
    assert "error" in two.second("connect", **address)


def test_a_session_reaches_no_listener_of_the_host(two: TwoSessions, isolating: RunningServer):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert two.first("connect", host="127.0.0.1", port=port) == {"error": "ConnectionRefusedError"}
    server_port = int(isolating.url.rpartition(":")[2])
    assert "error" in two.first("connect", host="127.0.0.1", port=server_port)
    for name in ("warden", "feed", "control"):
        assert "error" in two.first("connect", path=str(isolating.data_dir / "run" / f"{name}.sock"))


def test_the_data_directory_is_not_to_be_seen(two: TwoSessions, isolating: RunningServer):
    for part in ("", "keys", "state", "buckets", "sessions", "run", "logs"):
        assert "error" in two.first("list", path=str(isolating.data_dir / part))
    assert "error" in two.first("read", path=str(isolating.data_dir / "keys" / "master.key"))


def test_other_users_files_are_not_to_be_seen(two: TwoSessions, tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    assert "error" in two.first("read", path=str(secret))
    for place in ("/root", "/home", "/etc/shadow", "/etc/ssh", "/var/lib", "/run", "/sys/fs/cgroup", "/boot", "/srv"):
        answer = two.first("list", path=place)
        assert "error" in answer or answer["names"] in ([], ["agent"]), place
    assert SECRET not in json.dumps(two.first("read", path="/etc/passwd"))


def test_nothing_of_the_servers_environment_is_in_a_session(two: TwoSessions):
    found = two.first("environment")
    assert SECRET not in json.dumps(found)
    for pid in two.first("processes")["processes"]:
        assert SECRET not in json.dumps(two.first("read", path=f"/proc/{pid}/environ"))


def test_no_descriptor_of_the_server_is_open_in_a_session(isolating: RunningServer):
    fresh = TwoSessions(isolating, "descriptors")

    def open_ones() -> list[str] | None:
        # The agent may not have closed yet what it was asked by whether it is there.
        told = fresh.first("descriptors")["targets"]
        return told if len([one for one in told if one.startswith("socket:")]) == 2 else None

    targets = wait_until(open_ones, "its sockets are the listener and this request's")
    assert len([one for one in targets if one.startswith("pipe:")]) == 2, "stdout and stderr"
    others = {one for one in targets if not one.startswith(("pipe:", "socket:"))}
    assert others <= {"/dev/null"} | {one for one in others if one.startswith("/proc/")}


def test_a_session_gains_no_privilege(two: TwoSessions):
    status = two.first("read", path="/proc/self/status")["text"]
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(lines[capabilities], 16) == 0, capabilities
    assert lines["NoNewPrivs"] == "1"
    assert lines["Seccomp"] == "2"
