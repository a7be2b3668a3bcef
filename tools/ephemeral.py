"""A Freehold server for one purpose: in a temporary data directory, on a free loopback port, gone afterwards.

For: the example run, benchmarks and the soak. Invariant: when the context ends, however it ends, the server has
stopped and its directory is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
FREEHOLD = Path(sys.executable).with_name("freehold")
READY = re.compile(r"^Freehold is ready at (?P<url>https?://\S+) ")
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
"""The server gives each of its processes 20 s."""
LOG_LINES = 80


class ServerFailed(Exception):
    """The server did not start, or ended by itself."""


@dataclass(frozen=True, slots=True)
class EphemeralServer:
    url: str
    data_dir: Path
    process: subprocess.Popen[bytes]
    log_file: Path

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line of a `freehold` command that speaks to this server."""
        return [str(FREEHOLD), name, "--data-dir", str(self.data_dir), *arguments]

    def environment(self) -> dict[str, str]:
        """This process's environment with what `freehold env` says: for AWS SDKs."""
        told = subprocess.run(self.command("env"), check=True, capture_output=True, text=True).stdout
        script = f'{told}\nexec "$0" -c "import json, os; print(json.dumps(dict(os.environ)))"'
        done = subprocess.run(["/bin/sh", "-c", script, sys.executable], check=True, capture_output=True, text=True)
        return dict(json.loads(done.stdout))


@contextlib.contextmanager
def server(*flags: str) -> Generator[EphemeralServer]:
    """Run a server. Raises ServerFailed; shows the server's log on stderr when anything fails inside."""
    home = Path(tempfile.mkdtemp(prefix="freehold-"))
    log_file = home / "server.log"
    process: subprocess.Popen[bytes] | None = None
    try:
        command = [str(FREEHOLD), "up", "--host", "127.0.0.1", "--port", "0", "--data-dir", str(home / "data"), *flags]
        with log_file.open("wb") as log:
            # A process group of its own: Ctrl-C is for us, and we stop the server in order.
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, process_group=0
            )
        url = _await_ready(process)
        yield EphemeralServer(url, home / "data", process, log_file)
    except Exception:
        show_log(log_file)
        raise
    finally:
        with _signals_held():
            if process is not None:
                _stop(process)
            _remove(home)


def show_log(log_file: Path) -> None:
    """The end of the server's log, on stderr."""
    if log_file.is_file():
        lines = log_file.read_text(errors="replace").splitlines()[-LOG_LINES:]
        print("-- the server's log " + "-" * 60, *lines, "-" * 80, sep="\n", file=sys.stderr)


class Interrupted(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


def end_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP unwind this process, so that every context closes."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def _await_ready(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    told = b""
    while b"\n" not in told:
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise ServerFailed(f"the server was not ready within {START_TIMEOUT_S:g} s")
        part = os.read(process.stdout.fileno(), 4096)
        if not part:
            raise ServerFailed(f"the server did not start: it ended with status {process.wait()}")
        told += part
    line = told.split(b"\n", 1)[0].decode(errors="replace")
    if not (match := READY.match(line)):
        raise ServerFailed(f"the server said {line!r} instead of that it is ready")
    return match["url"]


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            print("the server did not stop in time and is killed", file=sys.stderr)
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def _signals_held() -> Generator[None]:
    """Cleaning up is not interrupted: a second Ctrl-C waits for its end."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remove(home: Path) -> None:
    """Unpacked code is read-only: its directories must be made writable first."""
    for directory, _, _ in os.walk(home):
        Path(directory).chmod(0o700)
    shutil.rmtree(home)
