"""The `freehold` command for tests that run it often: each time a process of its own, that has its imports already.

The processes are forks of one that has imported what the commands do (`cli_forks`), so a command takes a tenth of its
second. Not for `up` as a server that serves: `RunningServer` starts it as its users do.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

FORKS = Path(__file__).with_name("cli_forks.py")


class _Forks:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, FORKS, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._socket = ours
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait(20)

    def run(
        self, command: list[str], environment: dict[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            told = json.dumps({"command": command, "environment": environment, "directory": os.getcwd()}).encode()
            self._socket.settimeout(20)
            socket.send_fds(self._socket, [told], [out.fileno(), err.fileno()])
            pid = int(self._socket.recv(64))
            self._socket.settimeout(timeout_s)
            try:
                status = int(self._socket.recv(64))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._socket.settimeout(20)
                self._socket.recv(64)
                raise subprocess.TimeoutExpired(command, timeout_s) from None
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, status, out.read().decode(), err.read().decode())


@functools.cache
def _forks() -> _Forks:
    return _Forks()


def freehold(
    *words: str | Path, environment: Mapping[str, str] | None = None, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `freehold` with these words, here or in another environment: its status, and what it printed."""
    return _forks().run(
        [str(word) for word in words], dict(os.environ if environment is None else environment), timeout_s
    )
