"""An agent as a bare process on loopback: what there is to compare with, in the same run."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

ECHO = Path(__file__).parent / "agents" / "echo"
POLL_S = 0.002


@contextlib.contextmanager
def agent(directory: Path = ECHO) -> Generator[http.client.HTTPConnection]:
    """Start the agent; a connection to it once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "BARE_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen([sys.executable, "main.py"], cwd=directory, env=environment)
    try:
        yield _connect(port)
    finally:
        process.kill()
        process.wait()


def _connect(port: int) -> http.client.HTTPConnection:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.connect()
        except ConnectionRefusedError:
            time.sleep(POLL_S)
        else:
            return connection
