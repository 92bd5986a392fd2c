"""A local HTTP server that answers as a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import cramjam


@dataclass(frozen=True)
class Asked:
    """A request. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        text = self.path.partition("?")[2] if self.method == "GET" else self.body.decode()
        return {name: values[0] for name, values in parse_qs(text).items()}

    @property
    def samples(self) -> dict[tuple[tuple[str, str], ...], list[tuple[int, bytes]]]:
        return written(bytes(cramjam.snappy.decompress_raw(self.body)))


Reply = tuple[int, bytes, dict[str, str]]


@dataclass
class Fake:
    """`answer` makes each answer; without a body of bytes, it does as it likes with the connection."""

    answer: Callable[[Asked], Reply | Callable[[BaseHTTPRequestHandler], None]]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""


@contextmanager
def fake(answer: Callable[[Asked], Any], tls: ssl.SSLContext | None = None) -> Iterator[Fake]:
    told = Fake(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            asked = Asked(self.command, self.path, headers, body)
            told.asked.append(asked)
            reply = told.answer(asked)
            if callable(reply):
                reply(self)
                self.close_connection = True
                return
            status, text, more = reply
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(text)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    told.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(0.01))
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def messages(data: bytes) -> Iterator[tuple[int, Any]]:
    """Protobuf's wire format (https://protobuf.dev/programming-guides/encoding/): fields of a message, by number."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
        else:
            assert kind in {1, 2}
            size = 8 if kind == 1 else varint()
            assert at + size <= len(data)
            yield number, data[at : at + size]
            at += size


def written(plain: bytes) -> dict[tuple[tuple[str, str], ...], list[tuple[int, bytes]]]:
    """Of a WriteRequest: labels -> (time in ms, the double's bytes), as the specification wants them."""
    series: dict[tuple[tuple[str, str], ...], list[tuple[int, bytes]]] = {}
    for number, one in messages(plain):
        assert number == 1
        labels, samples = list[tuple[str, str]](), list[tuple[int, bytes]]()
        for kind, part in messages(one):
            fields = dict(messages(part))
            if kind == 1:
                labels.append((fields[1].decode(), fields[2].decode()))
            else:
                samples.append((struct.unpack("<q", struct.pack("<Q", fields[2]))[0], fields[1]))
        assert labels == sorted(set(labels))
        assert all(name and value for name, value in labels)
        assert samples == sorted(samples, key=lambda sample: sample[0])
        assert tuple(labels) not in series
        series[tuple(labels)] = samples
    return series
