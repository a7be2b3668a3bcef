"""An AG-UI agent of the standard library, whose runs end at once: in an error when it is asked to sing; for tests."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Agent(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer("application/json", b'{"status":"Healthy"}')

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        run = {"threadId": asked["threadId"], "runId": asked["runId"]}
        events = [{"type": "RUN_STARTED", **run}]
        if "sing" in asked["messages"][-1]["content"]:
            events.append({"type": "RUN_ERROR", "message": "it can not sing"})
        else:
            events.append({"type": "RUN_FINISHED", **run})
        self.answer("text/event-stream", "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode())

    def answer(self, kind, data):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


ThreadingHTTPServer(("0.0.0.0", 8080), Agent).serve_forever()
