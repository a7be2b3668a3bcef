"""A data directory's life: upgraded, backed up, restored, moved, reloaded. Real servers, real clients."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import sqlite3
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import first_release
import freehold_cli
import pytest
from botocore.exceptions import ClientError
from running_server import FREEHOLD, RunningServer, agent, session_id, wait_until

pytestmark = pytest.mark.slow


def freehold(*words: str | Path, status: int = 0) -> str:
    """Run a command; what it printed."""
    done = freehold_cli.freehold(*words)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def ask(server: RunningServer, arn: str, told: dict[str, Any], session: str | None = None) -> Any:
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session or session_id(), payload=json.dumps(told).encode()
    )
    return json.loads(answer["response"].read())


def greeting(server: RunningServer) -> str:
    return ask(server, first_release.GREETER_ARN, {})["greeting"]


@contextlib.contextmanager
def server_over(data_dir: Path, **environment: str) -> Iterator[RunningServer]:
    """A server over a data directory that is there."""
    server = RunningServer(**environment)
    data_dir.rename(server.data_dir)
    with server:
        yield server


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory of the first release."""
    first_release.make_data_dir(tmp_path / "data")
    return tmp_path / "data"


# -- upgrades ------------------------------------------------------------------------------------------------------


def test_a_data_directory_of_the_first_release_works_after_its_migration(data_dir: Path):
    assert "was at revision 0001 and is at" in freehold("migrate", "--data-dir", data_dir)
    assert "already" in freehold("migrate", "--data-dir", data_dir)
    with server_over(data_dir) as server:
        assert server.exported["AWS_ACCESS_KEY_ID"] == first_release.ACCESS_KEY_ID
        found = server.control.get_agent_runtime(agentRuntimeId=first_release.GREETER)
        assert (found["agentRuntimeVersion"], found["status"], found["description"]) == ("2", "READY", "the second")
        assert found["environmentVariables"] == {"GREETING": "hello from the first release"}
        broken = server.control.get_agent_runtime(agentRuntimeId=first_release.BROKEN)
        assert broken["status"] == "CREATE_FAILED"
        assert "entrypoint" in broken["failureReason"]
        assert greeting(server) == "hello from the first release"
        server.control.update_agent_runtime(
            agentRuntimeId=first_release.GREETER,
            agentRuntimeArtifact=found["agentRuntimeArtifact"],
            roleArn=found["roleArn"],
            networkConfiguration=found["networkConfiguration"],
            environmentVariables={"GREETING": "hello from this one"},
        )
        assert server.until_settled(first_release.GREETER)["agentRuntimeVersion"] == "3"
        assert greeting(server) == "hello from this one"


def test_a_backup_of_the_first_releases_data_works_after_its_restore(data_dir: Path, tmp_path: Path):
    freehold("backup", "--data-dir", data_dir, "--output", tmp_path / "b.tar", "--with-keys")
    freehold("restore", tmp_path / "b.tar", "--data-dir", tmp_path / "new")
    shutil.rmtree(data_dir)
    with server_over(tmp_path / "new") as server:
        assert greeting(server) == "hello from the first release"


def test_a_data_directory_of_a_newer_release_is_refused_by_name_and_left_alone(data_dir: Path):
    freehold("migrate", "--data-dir", data_dir)
    database = data_dir / "state" / "freehold.db"
    with contextlib.closing(sqlite3.connect(database)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    before = database.read_bytes()
    for command in (("up", "--port", "0"), ("migrate",)):
        said = freehold(*command, "--data-dir", data_dir, status=1)
        assert "revision 9999" in said
        assert re.search(r"up to 0\d{3}:", said)
        assert "newer release" in said
    assert database.read_bytes() == before


# -- backups -------------------------------------------------------------------------------------------------------


def test_a_backup_of_a_running_server_is_whole_and_serves_elsewhere(tmp_path: Path):
    with RunningServer() as server:
        arn = server.deployed("probe", agent("probe"), environmentVariables={"A": "secret-of-the-agent"})
        stop = threading.Event()
        writing = threading.Thread(target=keep_writing, args=(server, stop))
        writing.start()
        try:
            for number in range(2):
                freehold("backup", "--data-dir", server.data_dir, "--output", tmp_path / f"{number}.tar", "--with-keys")
        finally:
            stop.set()
            writing.join()
        keys = server.exported
        said = freehold("restore", tmp_path / "1.tar", "--data-dir", server.data_dir, status=1)
        assert "a server runs" in said
        said = freehold("migrate", "--data-dir", server.data_dir, status=1)
        assert "a server runs" in said
    with tarfile.open(tmp_path / "1.tar") as tar:
        names = tar.getnames()
    assert names[0] == "freehold-backup.json"
    assert {name.split("/")[0] for name in names[1:]} == {"state", "keys", "run", "buckets"}
    freehold("restore", tmp_path / "1.tar", "--data-dir", tmp_path / "new")
    with server_over(tmp_path / "new") as server:
        assert server.exported == keys | {name: server.url for name in keys if name.startswith("AWS_ENDPOINT_URL")}, (
            "the same keys"
        )
        assert ask(server, arn, {"do": "remember", "say": "x"})["remembered"] == ["x"]
        wait_until(lambda: "launches.made_again" in server.log_text(), "the code was unpacked again")


def keep_writing(server: RunningServer, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set() and number < 40:
        number += 1
        server.create(f"other_{number}", agent("probe"))


def test_without_the_master_key_a_restored_server_says_what_is_missing(data_dir: Path, tmp_path: Path):
    said = freehold("backup", "--data-dir", data_dir, "--output", tmp_path / "b.tar")
    assert "without the master key" in said
    new = tmp_path / "new"
    assert "keys/master.key" in freehold("restore", tmp_path / "b.tar", "--data-dir", new)
    said = freehold("up", "--port", "0", "--data-dir", new, status=1)
    assert "master.key is missing" in said
    (new / "keys").mkdir(exist_ok=True)
    shutil.copy(data_dir / "keys" / "master.key", new / "keys" / "master.key")
    with server_over(new) as server:
        assert greeting(server) == "hello from the first release"


def test_code_that_cannot_be_made_again_is_told_and_works_once_its_object_is_back(data_dir: Path):
    place = data_dir / "buckets" / "agents" / "greeter.zip"
    content = place.read_bytes()
    place.unlink()
    with server_over(data_dir) as server:
        with pytest.raises(ClientError) as refused:
            greeting(server)
        assert "can't be made again" in str(refused.value)
        assert "greeter.zip" in str(refused.value)
        found = server.control.get_agent_runtime(agentRuntimeId=first_release.GREETER)
        assert "greeter.zip" in found["failureReason"]
        server.put_object("agents", "greeter.zip", b"something else")
        with pytest.raises(ClientError, match="it can't be made again"):
            greeting(server)
        server.put_object("agents", "greeter.zip", content)
        assert greeting(server) == "hello from the first release"
        assert "failureReason" not in server.control.get_agent_runtime(agentRuntimeId=first_release.GREETER)


# -- moves ---------------------------------------------------------------------------------------------------------


def test_a_moved_data_directory_works_and_its_code_is_not_made_again(tmp_path: Path):
    with RunningServer() as server:
        arn = server.deployed("probe", agent("probe"))
        server.stop()
        server.data_dir.rename(tmp_path / "moved")
    with server_over(tmp_path / "moved") as server:
        shutil.rmtree(server.data_dir / "buckets" / "agents")
        assert ask(server, arn, {"do": "remember", "say": "x"})["remembered"] == ["x"]
        assert "launches.made_again" not in server.log_text()


# -- custody -------------------------------------------------------------------------------------------------------


def test_a_data_directory_that_others_can_write_is_refused_with_the_remedy(data_dir: Path):
    data_dir.chmod(0o775)
    said = freehold("up", "--port", "0", "--data-dir", data_dir, status=1)
    assert f"chmod -R go-w {data_dir}" in said


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_data_directory_of_another_user_is_refused_with_the_remedy(data_dir: Path):
    os.chown(data_dir, 12345, 12345)
    for command in (("up", "--port", "0"), ("migrate",), ("backup", "--output", data_dir.parent / "b.tar")):
        said = freehold(*command, "--data-dir", data_dir, status=1)
        assert "the user with id 12345" in said
        assert f"chown -R 0 {data_dir}" in said


def test_nothing_a_server_makes_can_be_read_by_others(tmp_path: Path):
    with RunningServer() as server:
        server.deployed("probe", agent("probe"))
        os.chmod(server.data_dir, 0o755)
        server.stop()
        server.start()
        assert server.data_dir.stat().st_mode & 0o077 == 0, "what was readable is closed again"
        for name in ("state", "keys", "run"):
            for path in [server.data_dir / name, *(server.data_dir / name).rglob("*")]:
                assert path.stat().st_mode & 0o077 == 0 or path.is_socket(), path


# -- reloads -------------------------------------------------------------------------------------------------------


def reload(server: RunningServer, toml: str, event: str) -> str:
    """Change the settings file and tell the server; the log line that then comes."""
    assert server.config is not None
    assert server.process is not None
    known = len(server.log_text())
    server.config.write_text(toml)
    server.process.send_signal(signal.SIGHUP)
    return wait_until(
        lambda: next((line for line in server.log_text()[known:].splitlines() if event in line), None), event
    )


@pytest.fixture(scope="module")
def with_settings() -> Iterator[RunningServer]:
    with RunningServer(workers=2, settings="") as server:
        yield server


@pytest.fixture
def reloadable(with_settings: RunningServer) -> Iterator[RunningServer]:
    """A server of no settings and no runtimes, as it was started."""
    server = with_settings
    yield server
    for runtime in server.control.list_agent_runtimes()["agentRuntimes"]:
        server.control.delete_agent_runtime(agentRuntimeId=runtime["agentRuntimeId"])
    wait_until(lambda: not server.control.list_agent_runtimes()["agentRuntimes"], "no runtime is left")
    reload(server, "", "settings.reloaded")


def test_limits_take_effect_at_once_and_no_stream_is_cut(reloadable: RunningServer):
    server = reloadable
    arn = server.deployed("probe", agent("probe"))
    session = session_id()
    told = {"do": "stream", "events": 2, "gate": "/tmp/gate"}
    answer = server.data.invoke_agent_runtime(
        agentRuntimeArn=arn, runtimeSessionId=session, payload=json.dumps(told).encode()
    )
    lines = answer["response"].iter_lines(chunk_size=1)
    assert next(lines) == b"data: 0"
    pids = {name: server.pids(name) for name in ("warden", "control", "gateway-0", "gateway-1")}

    said = reload(server, "[sessions]\nmax_sessions = 1\n[log]\nlevel = 'debug'\n", "settings.reloaded")
    assert "sessions.max_sessions" in said
    with pytest.raises(ClientError, match="maximum number of 1 active sessions"):
        ask(server, arn, {"do": "remember", "say": "x"})
    ask(server, arn, {"do": "write", "path": "/tmp/gate1", "text": ""}, session)
    assert b"data: 1" in list(lines)
    assert pids == {name: server.pids(name) for name in pids}

    reload(server, "[sessions]\nmax_sessions = 2\n", "settings.reloaded")
    assert ask(server, arn, {"do": "remember", "say": "x"})["remembered"] == ["x"]


def test_a_process_that_is_restarted_after_a_reload_has_the_new_settings(reloadable: RunningServer):
    server = reloadable
    arn = server.deployed("probe", agent("probe"))
    reload(server, "[sessions]\nmax_sessions = 1\n", "settings.reloaded")
    server.kill("warden")
    session = session_id()
    wait_until(lambda: answers(server, arn, session), "the new warden answers")
    with pytest.raises(ClientError, match="maximum number of 1 active sessions"):
        ask(server, arn, {"do": "remember", "say": "x"})


def answers(server: RunningServer, arn: str, session: str) -> bool:
    try:
        ask(server, arn, {"do": "remember", "say": "x"}, session)
    except ClientError:
        return False
    return True


def test_what_needs_a_restart_is_named_and_an_invalid_file_changes_nothing(reloadable: RunningServer):
    server = reloadable
    said = reload(server, "[aws]\nregion = 'eu-west-1'\n[sessions]\nmax_sessions = 7\n", "settings.restart_needed")
    assert "aws.region" in said
    assert "sessions.max_sessions" not in said
    for wrong, why in {
        "[sessions]\nmax_sessions = 0\n": "sessions.max_sessions",
        "[sessions]\nmax_session = 1\n": "there is no such setting",
        "this is no TOML": "freehold.toml",
    }.items():
        assert why in reload(server, wrong, "settings.reload_refused")
    assert server.control.list_agent_runtimes()["agentRuntimes"] == []


# -- supervisors and terminals -------------------------------------------------------------------------------------


def test_systemd_is_told_of_readiness_reloads_and_the_end(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        path = tmp_path / "notify"
        told.bind(str(path))
        told.settimeout(20)
        with RunningServer(NOTIFY_SOCKET=str(path)) as server:
            assert told.recv(4096).decode().splitlines() == ["READY=1", f"STATUS=Serving at {server.url}"]
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            first, second = told.recv(4096).decode().splitlines()
            assert first == "RELOADING=1"
            assert second.startswith("MONOTONIC_USEC=")
            assert told.recv(4096).decode().startswith("READY=1")
            for pid in server.pids("control"):
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
            server.stop()
            assert told.recv(4096) == b"STOPPING=1"


def test_a_server_ends_in_order_when_its_terminal_is_closed(tmp_path: Path):
    log = tmp_path / "log"
    log.touch()
    pid, terminal = pty.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            fd = os.open(log, os.O_WRONLY)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            os.execv(FREEHOLD, [str(FREEHOLD), "up", "--port", "0", "--data-dir", str(tmp_path / "data")])
        os._exit(127)
    try:
        wait_until(lambda: "is ready" in log.read_text(), "the server is ready", limit_s=60)
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, log.read_text()
