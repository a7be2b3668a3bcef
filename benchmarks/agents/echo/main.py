"""The least an agent can be: answers every invocation with its own body. Standard library only."""

from __future__ import annotations

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.answer(json.dumps({"status": "Healthy"}).encode())

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: a line for each request would be measured too."""


if __name__ == "__main__":
    # 8080 is the contract's; the benchmarks run it bare beside, on another.
    server = ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("BARE_PORT", "8080"))), Echo)
    server.daemon_threads = True
    server.serve_forever()
