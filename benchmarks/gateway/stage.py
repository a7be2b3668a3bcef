"""A gateway worker as `freehold up` starts it, before one agent that stands for the sandboxes of 1,000 sessions.

The worker is the real process (`freehold.process`), on its own processor. The warden and control are here, in a thread
of the benchmark: they speak the real messages, hand out sockets to the agent, and have nothing to do once the sessions
are claimed. Not for measuring sandboxes (`session_start`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from benchmarks.gateway import cores, traffic
from benchmarks.gateway.proxies import Candidate

from freehold import child, compose, configs, ipc
from freehold.auth import jwt_keys
from freehold.auth.jwt_claims import Authorizer
from freehold.auth.public_keys import generation_of
from freehold.aws import model
from freehold.control import protocol as control
from freehold.datadir.layout import Layout
from freehold.domain import errors
from freehold.domain.runtimes import ServerProtocol
from freehold.domain.sessions import SessionKey
from freehold.settings import Settings
from freehold.warden import protocol as warden

JWT_RUNTIME, SIGNED_RUNTIME = "bearers-0123456789", "signers-0123456789"
_AUTHORIZER = Authorizer("of the benchmark", "keys of the benchmark", audiences=(traffic.AUDIENCE,))
ROOT = Path(__file__).resolve().parents[2] / "src"
SAMPLED = 0.01
"""The share of requests that get a span."""
START_TIMEOUT_S = 30.0


def interpreter() -> str:
    """What runs the worker: this Python, or another of the same version, which finds this one's packages."""
    return os.environ.get("BENCH_PYTHON", sys.executable)


def described(executable: str) -> str:
    """An interpreter's version, and what its build says of speed: a distribution's may be optimised and not say so."""
    code = (
        "import platform, sysconfig; arguments = str(sysconfig.get_config_var('CONFIG_ARGS')); "
        "built = [word for word in ('--enable-optimizations', '--with-lto') if word in arguments]; "
        "print('CPython', platform.python_version(), *(built or ['without --enable-optimizations']))"
    )
    return subprocess.run([executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def compiled() -> str:
    """What `gateway.compiled` is to be for the worker."""
    return os.environ.get("BENCH_COMPILED", "auto")


def form() -> str:
    """Whether the worker is compiled, as its interpreter finds it."""
    code = f"from freehold.gateway import fast; print('compiled' if fast.load({compiled()!r}) else 'pure Python')"
    environment = os.environ | {"PYTHONPATH": _packages()}
    done = subprocess.run([interpreter(), "-c", code], check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip()


def _packages() -> str:
    """Where the worker's own code and its libraries are, for whatever interpreter."""
    return os.pathsep.join(path for path in sys.path if "site-packages" in path or path.startswith(str(ROOT)))


class _Control:
    """Answers the worker's questions about two runtimes, one access key, and the keys of one identity provider."""

    def __init__(self, issuer: traffic.Issuer) -> None:
        keys, unusable = jwt_keys.read_key_set(json.dumps(issuer.jwks).encode())
        assert not unusable
        self._key_set = control.KeySet(
            _AUTHORIZER.key_set,
            traffic.ISSUER,
            generation_of(traffic.ISSUER, keys),
            list(keys),
            usable_for_s=86_400,
            refresh_in_s=3600,
            renewal_in_s=60,
        )
        self._data_plane = model.load(compose.DATA_PLANE, compose.DATA_PLANE_OPERATIONS).to_data()
        self.spans = 0

    async def answer(self, _peer: ipc.Peer, body: Any, fds: list[int]) -> Any:
        ipc.close_all(fds)
        match body:
            case control.Hello():
                return control.Welcome(self._data_plane)
            case control.ResolveEndpoint(account, runtime_id, qualifier):
                return control.EndpointRoute(account, runtime_id, qualifier, 1)
            case control.GetContract(_, runtime_id, version):
                authorizer = _AUTHORIZER if runtime_id == JWT_RUNTIME else None
                return control.Contract(version, ServerProtocol.HTTP, 8080, [], authorizer=authorizer)
            case control.GetKeySet():
                return self._key_set
            case control.GetAccessKey(access_key_id) if access_key_id == traffic.ACCESS_KEY[0]:
                return control.AccessKey(access_key_id, traffic.ACCOUNT, traffic.ACCESS_KEY[1])
            case control.SpansEnded(spans):
                self.spans += len(spans)
                return None
            case _:
                raise errors.NotFound(f"no {type(body).__name__} here")


class _Warden:
    """Every session is the one agent."""

    def __init__(self, agent_port: int) -> None:
        self._agent_port = agent_port
        self._generations: dict[SessionKey, int] = {}

    async def answer(self, _peer: ipc.Peer, body: Any, fds: list[int]) -> Any:
        ipc.close_all(fds)
        match body:
            case warden.Claim(key, version, sockets):
                started = key not in self._generations
                generation = self._generations.setdefault(key, len(self._generations) + 1)
                return warden.Claimed(generation, version, started), [await self._connect() for _ in range(sockets)]
            case warden.Dial(_, sockets):
                return warden.Dialed(), [await self._connect() for _ in range(sockets)]
            case warden.Release():
                return None
            case _:
                raise errors.NotFound(f"no {type(body).__name__} here")

    async def _connect(self) -> int:
        sock = socket.socket()
        sock.setblocking(False)
        # As the supervisors of sandboxes make them.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._agent_port))
        return sock.detach()


class _Background:
    """The warden and control, serving in a thread until closed."""

    def __init__(self, layout: Layout, agent_port: int, issuer: traffic.Issuer) -> None:
        self._layout = layout
        self._control, self._warden = _Control(issuer), _Warden(agent_port)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=uvloop.run, args=(self._main(),), name="stage", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise RuntimeError("the stage does not start")

    async def _main(self) -> None:
        os.sched_setaffinity(0, {cores.load()})  # of this thread
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listeners = [ipc.listen(self._layout.warden_socket), ipc.listen(self._layout.feed_socket)]
        serving = [
            asyncio.ensure_future(ipc.serve(listeners[0], warden.REQUESTS, handler=self._warden.answer)),
            asyncio.ensure_future(ipc.serve(listeners[1], control.REQUESTS, handler=self._control.answer)),
        ]
        self._ready.set()
        await self._stop.wait()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for listener in listeners:
            listener.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@contextlib.contextmanager
def freehold(agent_port: int, issuer: traffic.Issuer) -> Generator[Candidate]:
    """One worker, with its access log in a file and SAMPLED of its requests traced."""
    home = Path(tempfile.mkdtemp(prefix="freehold-stage-"))
    layout = Layout(home)
    layout.run.mkdir(parents=True)
    background = _Background(layout, agent_port, issuer)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.set_inheritable(True)
    port = listener.getsockname()[1]
    settings = Settings.model_validate(
        {
            "aws": {"region": traffic.REGION, "account_id": traffic.ACCOUNT},
            "log": {"format": "json"},
            "gateway": {"compiled": compiled()},
            # Nobody is there: spans go to control, which is here.
            "observability": {"otlp_endpoint": "http://127.0.0.1:9", "trace_sample_ratio": SAMPLED},
        }
    )
    plan = configs.plan(settings, data_dir=home, url=f"http://127.0.0.1:{port}")
    config = plan.gateway(0, listener.fileno())
    log_file = home / "gateway.log"
    try:
        process, ready, reloads = _start(config, listener, log_file)
        try:
            if os.read(ready, child.MAX_REPORT_BYTES) != child.READY:
                raise RuntimeError(log_file.read_text()[-4000:])
            version = f"{form()}, {described(interpreter())}, uvloop {uvloop.__version__}"
            yield Candidate(port, (process.pid,), version)
        finally:
            process.terminate()
            process.wait()
            os.close(ready)
            reloads.close()
    finally:
        listener.close()
        background.close()
        shutil.rmtree(home)


def _start(
    config: configs.GatewayConfig, listener: socket.socket, log_file: Path
) -> tuple[subprocess.Popen[bytes], int, socket.socket]:
    config_read, config_write = os.pipe()
    ready_read, ready_write = os.pipe()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = child.Arguments("gateway-0", config_read, ready_write, theirs.fileno(), os.getpid())
    with log_file.open("wb") as log, cores.on(cores.measured()):
        process = subprocess.Popen(
            [interpreter(), "-m", "freehold.process", *arguments.words()],
            env=os.environ | {"PYTHONPATH": _packages()},
            pass_fds=(config_read, ready_write, theirs.fileno(), listener.fileno()),
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    os.close(config_read)
    os.close(ready_write)
    theirs.close()
    with os.fdopen(config_write, "wb") as pipe:
        pipe.write(msgspec.json.encode(config))
    return process, ready_read, ours
