"""A gate before an S3 server that can be slow, away or break a reply; a process of its own: store_gate.py PORT BEHIND.

It is not a thread of the test, since deltalake holds Python's lock while it waits for a reply.
"""

import http.client
import http.server
import json
import sys
import time


class Gate(http.server.ThreadingHTTPServer):
    """Passes requests on to the store; each of `faults` is done to one request: 503, 'slow', 'cut' or 'gone'."""

    def __init__(self, port: int, behind: int):
        super().__init__(("127.0.0.1", port), Passing)
        self.behind, self.faults, self.met = behind, [], []

    def handle_error(self, request, client_address):
        """Nothing: a client that does not wait for an answer is no fault of the gate's."""


class Passing(http.server.BaseHTTPRequestHandler):
    """One request to the store and its answer."""

    protocol_version = "HTTP/1.1"

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/gate":
            self.server.faults = json.loads(body) if body else self.server.faults
            self.answer(200, json.dumps([self.server.faults, self.server.met]).encode(), {})
            return
        fault = self.server.faults.pop(0) if self.server.faults else None
        self.server.met += [fault] if fault else []
        if fault == "slow":
            time.sleep(1.5)
        if fault == 503:
            self.answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
            return
        if fault == "gone":
            self.close_connection = True
            return
        store = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        store.request(self.command, self.path, body, dict(self.headers))
        reply = store.getresponse()
        self.answer(reply.status, reply.read(), dict(reply.getheaders()), cut=fault == "cut")

    def answer(self, status, content, headers, cut=False):
        self.send_response_only(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        for name, value in {**headers, "Content-Length": length or "0"}.items():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

    def log_message(self, *_):
        """Nothing: the tests read what was met."""


if __name__ == "__main__":
    Gate(int(sys.argv[1]), int(sys.argv[2])).serve_forever()
