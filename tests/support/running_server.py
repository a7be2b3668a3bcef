"""A real server for tests: `freehold up` as a user starts it, real boto3 clients, real zips in local buckets."""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from tools import calls
from tools.process_tree import children_by_parent, command_line, tree

from freehold import running
from freehold.cli.main import exports

ONE_WORKER = pytest.mark.parametrize("server", [1], ids=["one-worker"], indirect=True)
"""For tests with which the number of gateway workers has nothing to do: with the first `server` only."""
FREEHOLD = Path(sys.executable).with_name("freehold")
ROLE = "arn:aws:iam::000000000000:role/agent"
RUNTIME = f"PYTHON_3_{sys.version_info.minor}"
START_LIMIT_S = 60
AGENTS = Path(__file__).parent / "agents"
AS_USER = Path(__file__).with_name("as_user.py")


def session_id() -> str:
    return f"session-{uuid.uuid4()}"


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = 20) -> Any:
    """Poll until `condition` holds; what it returned. Less and less often: to ask costs what is waited for its time."""
    deadline = time.monotonic() + limit_s
    pause_s = 0.01
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.25, 0.2)
    return found


def make_zip(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class RunningServer:
    """`freehold up` with a data directory of its own. `with` starts and stops it."""

    def __init__(
        self, *, workers: int = 1, uid: int | None = None, settings: str | None = None, **environment: str
    ) -> None:
        """`settings` are what a settings file says, if there is one."""
        self._home = Path(tempfile.mkdtemp(prefix="freehold-test-"))
        self.data_dir = self._home / "data"
        self.log = self._home / "server.log"
        self.workers = workers
        self.uid = uid
        """The user the server runs as, if not this one."""
        if uid is not None:
            os.chown(self._home, uid, uid)
        self.environment = environment
        self.config: Path | None = None
        """The settings file."""
        if settings is not None:
            self.config = self._home / "freehold.toml"
            self.config.write_text(settings)
        self.url = ""
        self.announced = ""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningServer:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._remove_home()

    def _remove_home(self) -> None:
        # Unpacked bundles are read-only, also for an ordinary user who owns them.
        for directory, _, _ in os.walk(self._home):
            Path(directory).chmod(0o700)
        shutil.rmtree(self._home)

    # -- the process -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        command = [FREEHOLD, "up", "--port", "0", "--data-dir", self.data_dir, "--workers", str(self.workers)]
        if self.config is not None:
            command += ["--config", self.config]
        if self.uid is not None:
            command = [sys.executable, AS_USER, str(self.uid), self._home, *command]
        # Little of a test run's environment, but what says where interpreters are.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYENV_ROOT", "NVM_DIR") if name in os.environ}
        environment = {"HOME": "/", **kept, **self.environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        ready = re.match(r"Freehold is ready at (http://\S+) ", line)
        assert ready, f"the server did not start: {line!r}\n{self.log_text()}"
        self.url = ready[1]
        self.announced = line

    def stop(self) -> int:
        """Ask it to stop, as Ctrl-C does; its exit status."""
        if self.process is None:
            return 0
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()
            self.process = None
        return code

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def pids(self, name: str) -> list[int]:
        """The processes of this server that are called `name`: warden, control, gateway-0, ..."""
        assert self.process is not None
        children = children_by_parent().get(self.process.pid, [])
        return [pid for pid in children if name.encode() in command_line(pid).split(b"\0")]

    def tree(self) -> list[int]:
        """The server's processes, and all that they have started: sandboxes and agents, too."""
        assert self.process is not None
        return tree(self.process.pid)

    def kill(self, name: str) -> int:
        """`kill -9` one process and wait until another has taken its place; the old pid."""
        (old,) = self.pids(name)
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.pids(name) not in ([], [old]), f"a new {name}")
        return old

    # -- clients ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def exported(self) -> dict[str, str]:
        """What `freehold env` exports; the keys stay the same as long as the data directory."""
        return exports(running.connection(self.data_dir))

    def client(self, service: str, **config: Any) -> Any:
        """A plain boto3 client of `service`, as a user of `freehold env` has it."""
        found = self.exported
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=found["AWS_REGION"],
            aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
            config=Config(**{"retries": {"total_max_attempts": 1}, "read_timeout": 120, **config}),
        )

    @property
    def caller(self) -> calls.Caller:
        """Who signs and sends raw requests as the owner."""
        told = self.exported
        return calls.Caller(self.url, told["AWS_REGION"], told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"])

    @property
    def control(self) -> Any:
        return self._control(self.url)

    @property
    def data(self) -> Any:
        return self._data(self.url)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a test's server is kept for as long as the test
    def _control(self, url: str) -> Any:
        return self.client("bedrock-agentcore-control")

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _data(self, url: str) -> Any:
        return self.client("bedrock-agentcore", max_pool_connections=64)

    # -- agents ----------------------------------------------------------------------------------------------------

    def put_object(self, bucket: str, key: str, data: bytes) -> None:
        """A local bucket is a directory: put a file into it."""
        path = self.data_dir / "buckets" / bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def artifact(self, files: dict[str, str | bytes] | bytes, entry_point: str = "main.py") -> dict[str, Any]:
        """An agentRuntimeArtifact of these files, or of these bytes as a zip."""
        key = f"{uuid.uuid4()}.zip"
        self.put_object("agents", key, files if isinstance(files, bytes) else make_zip(files))
        code = {"s3": {"bucket": "agents", "prefix": key}}
        return {"codeConfiguration": {"code": code, "runtime": RUNTIME, "entryPoint": [entry_point]}}

    def create(self, name: str, files: dict[str, str | bytes], protocol: str = "HTTP", **more: Any) -> dict[str, Any]:
        """Create an agent runtime; what CreateAgentRuntime answered."""
        return self.control.create_agent_runtime(
            agentRuntimeName=name,
            agentRuntimeArtifact=self.artifact(files),
            roleArn=ROLE,
            networkConfiguration={"networkMode": "PUBLIC"},
            protocolConfiguration={"serverProtocol": protocol},
            **more,
        )

    def until_settled(self, runtime_id: str) -> dict[str, Any]:
        """GetAgentRuntime once it is neither CREATING nor UPDATING."""
        control = self.control
        return wait_until(
            lambda: (
                found
                if (found := control.get_agent_runtime(agentRuntimeId=runtime_id))["status"]
                not in ("CREATING", "UPDATING")
                else None
            ),
            f"{runtime_id} settled",
            limit_s=90,
        )

    def deployed(self, name: str, files: dict[str, str | bytes], protocol: str = "HTTP", **more: Any) -> str:
        """The ARN of a new agent runtime that is READY."""
        found = self.until_settled(self.create(name, files, protocol, **more)["agentRuntimeId"])
        assert found["status"] == "READY", found.get("failureReason")
        return found["agentRuntimeArn"]

    def deployed_from(self, artifact: dict[str, Any], entry_point: str, protocol: str, **more: Any) -> str:
        """The same of a zip that is there already, started at one of its programs."""
        made = self.control.create_agent_runtime(
            agentRuntimeName=f"from_zip_{uuid.uuid4().hex[:8]}",
            agentRuntimeArtifact={"codeConfiguration": {**artifact["codeConfiguration"], "entryPoint": [entry_point]}},
            roleArn=ROLE,
            protocolConfiguration={"serverProtocol": protocol},
            **more,
        )
        found = self.until_settled(made["agentRuntimeId"])
        assert found["status"] == "READY", found.get("failureReason")
        return found["agentRuntimeArn"]

    def sandboxes(self) -> list[Path]:
        """What the server keeps of running sessions."""
        sessions = self.data_dir / "sessions"
        return list(sessions.iterdir()) if sessions.exists() else []


def agent(name: str) -> dict[str, str | bytes]:
    """The files of an agent in `agents/`, which needs nothing but the standard library."""
    return {"main.py": (AGENTS / f"{name}.py").read_text()}
