"""Runs the collector Rotel until its standard input closes: `collector.py DIRECTORY HTTP_PORT GRPC_PORT NEXT_URL`.

A program of its own, because Rotel forks and hangs on to what it finds open.
"""

from __future__ import annotations

import sys

from rotel import Config, Rotel

if __name__ == "__main__":
    directory, http_port, grpc_port, next_url = sys.argv[1:]
    collector = Rotel(
        enabled=True,
        otlp_http_endpoint=f"127.0.0.1:{http_port}",
        otlp_grpc_endpoint=f"127.0.0.1:{grpc_port}",
        pid_file=f"{directory}/pid",
        log_file=f"{directory}/log",
        batch_timeout="100ms",
        exporter=Config.otlp_exporter(endpoint=next_url, protocol="http"),
    )
    collector.start()
    sys.stdin.read()
    collector.stop()
