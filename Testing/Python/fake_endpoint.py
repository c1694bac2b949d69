"""A chat endpoint on the loopback interface that gives prepared answers and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-very/secret+key=0123456789"


class FakeEndpoint(ThreadingHTTPServer):
    """``replies`` are (status, body), or functions that write to the connection; used in turn, the last one again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[tuple[int, bytes] | Callable[[_Handler], None]] = []
        self.asked: list[tuple[str, dict[str, str], bytes]] = []  # request line, headers, body
        self.over = threading.Event()  # lets a handler that plays dead end with the test

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def requests(self) -> list[dict]:
        return [json.loads(body) for _, _, body in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.requestline, dict(self.headers), body))
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if callable(reply):
            reply(self)
            return
        status, answer = reply
        self.send_response(status)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.do_POST()

    def do_CONNECT(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def running_endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def completion(text: str | None) -> tuple[int, bytes]:
    """A reply whose message is ``text``."""
    message = {"role": "assistant", "content": text}
    return 200, json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": message}]}).encode()
