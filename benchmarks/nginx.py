"""nginx as a plain reverse proxy, with an access log and kept connections: what there is to compare a gateway with."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log {home}/access.log;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  keepalive_requests 1000000;
  upstream agent {{ server 127.0.0.1:{agent_port}; keepalive 64; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://agent; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def found() -> str | None:
    """Where nginx is on this machine."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@contextlib.contextmanager
def proxy(executable: str, agent_port: int) -> Generator[tuple[int, int]]:
    """Run nginx before the agent on `agent_port`; its port, and the process id of its one worker."""
    home = Path(tempfile.mkdtemp(prefix="freehold-nginx-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = home / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(home=home, port=port, agent_port=agent_port))
    # Its worker drops to a user who must be able to use the directories.
    home.chmod(0o755)
    process = subprocess.Popen([executable, "-e", str(home / "error.log"), "-c", str(configuration)])
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield port, int(children[0])
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(home)
