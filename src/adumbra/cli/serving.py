"""How the server process listens, and how it ends: uvicorn with the daemon beside it. Knows no route."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from adumbra.schema.errors import InputError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from adumbra.daemon.server import Daemon

BACKLOG = 2_048
ANSWERS_S = 5
"""How long requests that are being answered may take when the server stops."""


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InputError where that can't be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise InputError(
            f"{host}:{port} can't be listened on: {error.strerror or error}",
            "give another --host or --port, or stop what has it",
        ) from None
    listener.set_inheritable(False)
    return listener


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where it listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server listens. outer: for everybody; inner: on this host alone and without TLS, for its own children, None where
    these can use the outer one; tls: whether the outer one speaks TLS."""

    outer: socket.socket
    inner: socket.socket | None
    tls: bool

    @property
    def url(self) -> str:
        """Where everybody reaches it."""
        return url_of(self.outer, "https" if self.tls else "http")

    @property
    def own_url(self) -> str:
        """Where its children do."""
        return url_of(self.inner or self.outer)


def listening_on(host: str, port: int, *, tls: bool) -> Listening:
    """Sockets that listen there, and on loopback where that is another place. Raises InputError where that can't be."""
    outer = bound(host, port)
    try:
        inner = None if not tls and outer.getsockname()[0] in {"127.0.0.1", "::1"} else bound("127.0.0.1", 0)
    except BaseException:
        outer.close()
        raise
    return Listening(outer, inner, tls)


@dataclass(frozen=True, slots=True)
class Running:
    """What is served. options: uvicorn's, for whoever asks, and inner_options for the server's own children; answering: told
    once it answers; ending: told as it stops to."""

    app: ASGIApp
    daemon: Daemon
    options: Mapping[str, Any]
    inner_options: Mapping[str, Any]
    answering: Callable[[], None]
    ending: Callable[[], None]


class _Uvicorn(uvicorn.Server):
    """Says when it answers; leaves signals to `run`."""

    def __init__(self, config: uvicorn.Config, answering: Callable[[], None]) -> None:
        super().__init__(config)
        self._answering = answering

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._answering()


def run(running: Running, listening: Listening) -> None:
    """Serves until SIGTERM or SIGINT: then the loops end, while the API still answers their children, and then it ends, too.

    A second signal ends everything at once, as a power cut would: nothing that was acknowledged is lost by it.
    """
    daemon, asked = running.daemon, threading.Event()

    def answering() -> None:
        if not asked.is_set():
            # Not before: as it starts, NiceGUI looks through all objects, and a tuple that another thread makes then fails.
            daemon.start()
        running.answering()

    servers = [_Uvicorn(_config(running.app, running.options), answering)]
    if listening.inner is not None:
        servers.append(_Uvicorn(_config(running.app, {**running.inner_options, "lifespan": "off"}), lambda: None))

    def end(number: int, frame: object) -> None:
        del number, frame
        if asked.is_set():
            daemon.kill()
            os._exit(0)
        asked.set()
        threading.Thread(target=end_in_order, name="stopping", daemon=True).start()

    def end_in_order() -> None:
        try:
            daemon.stop()
        finally:
            running.ending()
            for server in servers:
                server.should_exit = True

    async def serve() -> None:
        sockets = [each for each in (listening.outer, listening.inner) if each is not None]
        await asyncio.gather(*(server.serve([each]) for server, each in zip(servers, sockets, strict=True)))

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(serve())
    finally:
        if not asked.is_set():
            daemon.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _config(app: ASGIApp, options: Mapping[str, Any]) -> uvicorn.Config:
    return uvicorn.Config(app, log_config=None, backlog=BACKLOG, timeout_graceful_shutdown=ANSWERS_S, **options)
