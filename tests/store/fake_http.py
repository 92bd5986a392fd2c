"""A strict HTTP server for tests of stores: it notes what it was asked and answers as it was told to."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request: body as it is without compression, query and form each name once."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return _once(self.body.decode())


@dataclass(frozen=True)
class Say:
    """An answer. pieces: the body, each piece after a pause of pause_s; length: what is said of it, None: what is right."""

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: int = 1
    pause_s: float = 0.0
    length: int | None = None


@dataclass
class Fake:
    url: str
    answer: Callable[[Asked], Say]
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def fake_server(answer: Callable[[Asked], Say]) -> Iterator[Fake]:
    """A server on a free loopback port that answers each request by `answer`."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            parts = urlsplit(self.path)
            asked = Asked(self.command, parts.path, _once(parts.query), headers, body)
            fake.asked.append(asked)
            self._say(fake.answer(asked))

        do_GET = do_POST

        def _say(self, say: Say) -> None:
            self.send_response(say.status)
            for name, value in say.headers.items():
                self.send_header(name, value)
            if say.status != 204:
                self.send_header("Content-Length", str(len(say.body) if say.length is None else say.length))
            self.end_headers()
            size = max(1, -(-len(say.body) // say.pieces))
            try:
                for first in range(0, len(say.body), size):
                    if over.wait(say.pause_s):
                        return
                    self.wfile.write(say.body[first : first + size])
                    self.wfile.flush()
            except OSError:  # whoever asked has had enough
                return
            if say.length is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever asked went away."""

    server = Server(("127.0.0.1", 0), Handler)
    fake = Fake(f"http://127.0.0.1:{server.server_address[1]}", answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _once(query: str) -> dict[str, str]:
    told = parse_qs(query, keep_blank_values=True, strict_parsing=True) if query else {}
    assert all(len(values) == 1 for values in told.values()), f"a name is there twice: {query}"
    return {name: values[0] for name, values in told.items()}
