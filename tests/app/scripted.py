"""A server that says what a test wrote down for it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Scripted(ThreadingHTTPServer):
    """A server that gives the responses of a script, one after another: status, headers, JSON."""

    def __init__(self, *script: tuple[int, dict[str, str], Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.requests = list(script), []  # type: list[tuple[int, dict[str, str], Any]], list[tuple[str, str, bytes]]
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        self.server.requests.append((self.path, self.headers.get("authorization", ""), body))
        status, headers, document = self.server.script.pop(0)
        sent = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(sent))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Quietly."""
