"""An agent of the standard library alone, that runs the Python it is sent; for tests of backends."""

import json
import os
import signal
import sys
import textwrap
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEPT = {}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"{}")

    def do_POST(self):
        code = self.rfile.read(int(self.headers["Content-Length"])).decode()
        scope = {"KEPT": KEPT}
        try:
            exec("def told():\n" + textwrap.indent(code, "    "), scope)
            answer = {"value": scope["told"]()}
        except BaseException as error:
            answer = {"error": type(error).__name__, "errno": getattr(error, "errno", None)}
            if not isinstance(error, OSError):
                traceback.print_exc()
        self.answer(json.dumps(answer).encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def end(*_):
    print("asked to end")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    print("starts", *sys.argv[1:])
    print("complains", file=sys.stderr)
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
