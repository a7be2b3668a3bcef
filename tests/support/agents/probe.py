"""An agent of the standard library alone, that does what the payload tells it; for tests."""

import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STARTED = time.time()
remembered = []


def target(descriptor):
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:
        return None  # the one that the directory was read with


def act(told, handler):
    match told.get("do"):
        case "echo":
            return {"said": told.get("say"), "headers": {k.lower(): v for k, v in handler.headers.items()}}
        case "remember":
            remembered.append(told["say"])
            return {"remembered": remembered, "pid": os.getpid(), "started": STARTED}
        case "environment":
            return dict(os.environ)
        case "write":
            try:
                Path(told["path"]).write_text(told["text"])
            except OSError as error:
                return {"error": type(error).__name__}
            return {"written": told["path"]}
        case "read":
            try:
                return {"text": Path(told["path"]).read_text(errors="replace")[:4096]}
            except OSError as error:
                return {"error": type(error).__name__}
        case "list":
            try:
                return {"names": sorted(one.name for one in Path(told["path"]).iterdir())}
            except OSError as error:
                return {"error": type(error).__name__}
        case "descriptors":
            return {"targets": sorted(filter(None, map(target, Path("/proc/self/fd").iterdir())))}
        case "processes":
            found = {}
            for name in (one.name for one in Path("/proc").iterdir()):
                if name.isdecimal():
                    found[name] = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            return {"processes": found, "me": os.getpid(), "uid": os.getuid()}
        case "connect":
            family = socket.AF_UNIX if "path" in told else socket.AF_INET
            address = told.get("path") or (told["host"], told["port"])
            if told.get("abstract"):
                address = "\0" + address
            with socket.socket(family) as sock:
                sock.settimeout(1)
                try:
                    sock.connect(address)
                except OSError as error:
                    return {"error": type(error).__name__}
                return {"connected": True}
        case "listen":
            threading.Thread(target=listen, args=(told,), daemon=True).start()
            return {"listening": True}
        case "exit":
            os._exit(told["code"])
        case "sleep":
            time.sleep(told["seconds"])
            return {"slept": told["seconds"]}
        case other:
            return {"unknown": other}


def listen(told):
    family = socket.AF_UNIX if "path" in told else socket.AF_INET
    address = told.get("path") or (told["host"], told["port"])
    if told.get("abstract"):
        address = "\0" + address
    with socket.socket(family) as sock:
        sock.bind(address)
        sock.listen()
        while True:
            sock.accept()[0].close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, {"status": "Healthy"})

    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        if told.get("do") == "stream":
            return self.stream(told)
        if told.get("do") == "status":
            return self.answer(told["status"], {"secret": "detail"})
        return self.answer(200, act(told, self))

    def stream(self, told):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(told["events"]):
            if number and told.get("gate"):
                # The next event only after the client has read the last: it opens the gate.
                while not Path(told["gate"] + str(number)).exists():
                    time.sleep(0.005)
            time.sleep(told.get("pause", 0))
            data = f"data: {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status, document):
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    print("probe starts", file=sys.stderr, flush=True)
    ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
