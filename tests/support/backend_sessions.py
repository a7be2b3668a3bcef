"""Backends with real agents, for tests: each is driven as the warden drives it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from freehold.backends.base import SessionBackend, SessionRef, StartSpec
from freehold.backends.process import ProcessBackend
from freehold.backends.sandbox.backend import SandboxBackend, SandboxLimits
from freehold.domain.launch import Interpreter, LaunchSpec, Program
from freehold.domain.runtimes import ServerProtocol

EVALUATING = Path(__file__).parent / "agents" / "evaluating.py"
PORT = 8080
PREFIX = str(Path(sys.base_prefix).resolve())
PYTHON = Interpreter(
    executable=str(Path(sys.executable).resolve()),
    prefixes=() if PREFIX.startswith("/usr") else (PREFIX,),
    site_dirs=(f"{PREFIX}/lib/python3.{sys.version_info.minor}/site-packages",),
)
LIMITS = SandboxLimits(memory_bytes=256 * 1024 * 1024, processes=64, open_files=512)
UID_FIRST = 310_000


class Bench:
    """A data directory, a backend over it, and what its agents printed."""

    def __init__(self, kind: str, data_dir: Path, *, stop_grace_s: float = 5.0) -> None:
        data_dir.mkdir(mode=0o700, exist_ok=True)
        self.kind = kind
        self.data_dir = data_dir
        self.sessions_root = data_dir / "sessions"
        self.lines: list[tuple[int, str, str]] = []
        self.instance = f"test-{hashlib.sha256(bytes(data_dir)).hexdigest()[:12]}"
        """In the names of control groups, so it must be no other server's on this host."""
        self.generations = itertools.count(1)
        self.stop_grace_s = stop_grace_s
        self.backend = self.make()

    def make(self) -> SessionBackend:
        """Another backend over the same directory, as a server has that is started again."""
        if self.kind == "process":
            return ProcessBackend(self.sessions_root, on_line=self._on_line, stop_grace_s=self.stop_grace_s)
        return SandboxBackend(
            self.sessions_root,
            instance=self.instance,
            limits=LIMITS,
            uid_first=UID_FIRST,
            on_line=self._on_line,
            stop_grace_s=self.stop_grace_s,
        )

    def _on_line(self, generation: int, stream: str, line: str) -> None:
        self.lines.append((generation, stream, line))

    def code(self, main: str | None = None, **files: str) -> Path:
        """A bundle whose main.py is `main`, or else the agent that runs what it is sent."""
        directory = self.data_dir / "artifacts" / str(next(self.generations))
        directory.mkdir(parents=True)
        texts = {"main.py": EVALUATING.read_text() if main is None else main, **files}
        for name, text in texts.items():
            (directory / name).write_text(text)
            (directory / name).chmod(0o644)
        directory.chmod(0o755)
        return directory

    def spec(
        self,
        main: str | None = None,
        *,
        args: tuple[str, ...] = ("main.py",),
        environment: dict[str, str] | None = None,
        interpreter: Interpreter = PYTHON,
        **files: str,
    ) -> StartSpec:
        launch = LaunchSpec(
            account="0" * 12,
            region="us-east-1",
            runtime_id="agent-0123456789",
            runtime_name="agent",
            version=1,
            protocol=ServerProtocol.HTTP,
            port=PORT,
            code_dir=str(self.code(main, **files)),
            program=Program(interpreter, args),
            idle_timeout_s=900,
            max_lifetime_s=28800,
        )
        return StartSpec(next(self.generations), launch, environment or {})

    async def start(self, spec: StartSpec | None = None) -> Agent:
        spec = spec or self.spec()
        ref = SessionRef(spec.generation)
        async for made in self.backend.start(spec):
            assert made.generation == spec.generation
            ref = made
        return Agent(self, ref)

    def processes(self) -> set[int]:
        """The host's processes that belong to a session of this directory, as far as can be told from outside."""
        mark = bytes(self.sessions_root)
        found: set[int] = set()
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit() and int(directory.name) != os.getpid():
                for name in ("mountinfo", "environ", "cmdline"):
                    with contextlib.suppress(OSError):
                        if mark in (directory / name).read_bytes():
                            found.add(int(directory.name))
        return found

    def cgroups(self) -> list[Path]:
        return [path for path in Path("/sys/fs/cgroup").rglob(f"*{self.instance}*/*") if path.is_dir()]

    def directories(self) -> list[str]:
        return sorted(path.name for path in self.sessions_root.iterdir())


class Agent:
    """One running agent. `run` sends Python to it, and returns what that returns or fails with."""

    def __init__(self, bench: Bench, ref: SessionRef) -> None:
        self.bench = bench
        self.ref = ref

    async def dial(self, wait_s: float = 20.0) -> socket.socket:
        return await self.bench.backend.dial(self.ref, PORT, wait_s=wait_s)

    async def run(self, code: str) -> Any:
        sock = await self.dial()
        return await asyncio.to_thread(_post, sock, code)

    async def value(self, code: str) -> Any:
        answer = await self.run(code)
        assert "value" in answer, (answer, self.bench.lines[-20:])
        return answer["value"]

    async def stop(self) -> None:
        await self.bench.backend.stop(self.ref)


def _post(sock: socket.socket, code: str) -> Any:
    sock.settimeout(20)
    connection = http.client.HTTPConnection("agent", PORT)
    connection.sock = sock
    try:
        connection.request("POST", "/invocations", code)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def opened(bench: Bench) -> AsyncIterator[Bench]:
    await bench.backend.open()
    try:
        yield bench
    finally:
        await bench.backend.aclose()


async def until(condition: Callable[[], Any], what: str, limit_s: float = 10.0) -> float:
    """Wait until `condition` holds; the seconds it took."""
    began_at = time.monotonic()
    while not condition():
        assert time.monotonic() - began_at < limit_s, f"not within {limit_s} s: {what}"
        await asyncio.sleep(0.01)
    return time.monotonic() - began_at
