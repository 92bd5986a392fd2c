"""A server as it is served: an app behind the bounds of connections, of addresses that are trusted, and TLS."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from adumbra.api.connections import uvicorn_options
from adumbra.api.context import Care
from adumbra.settings import ServeSettings

START_S = 30.0


@contextmanager
def guarded_server(
    app: Any, care: Care, settings: ServeSettings | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Runs an app in a thread, on a free port of this host, which it gives."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        options = uvicorn_options(settings or ServeSettings(), care, tls)
        config = uvicorn.Config(app, **{"log_level": "critical", "lifespan": "off", "ws": "none", **options})
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until = time.monotonic() + START_S
            while not server.started:
                assert thread.is_alive(), "the server ended as it began"
                assert time.monotonic() < until, "the server did not start"
                time.sleep(0.005)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server did not stop"


def spoken(port: int, *said: bytes, pause_s: float = 0.0, timeout_s: float = 30.0) -> bytes:
    """What a server answers to these pieces, until it closes the connection; said is told no further once it answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as client:
        client.settimeout(timeout_s)
        for piece in said:
            try:
                client.sendall(piece)
            except OSError:  # it closed: its answer was sent before
                break
            if pause_s and _answers(client, pause_s):
                break
        return _all(client)


def _answers(client: socket.socket, within_s: float) -> bool:
    client.settimeout(within_s)
    try:
        client.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    finally:
        client.settimeout(30.0)
    return True


def _all(client: socket.socket) -> bytes:
    found = b""
    while True:
        try:
            piece = client.recv(65_536)
        except ConnectionResetError:  # it closed with some of what we sent unread
            return found
        if not piece:
            return found
        found += piece


def certificate(folder: Path, name: str, *more: str, days: int = 30) -> tuple[Path, Path]:
    """A certificate of this host, signed by itself, and its key."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", key, "-out", cert, "-days", str(days), "-subj", f"/CN={name}",
            "-addext", "subjectAltName=DNS:localhost,DNS:adumbra.test,IP:127.0.0.1", *more,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key
