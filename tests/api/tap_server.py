"""A real server for the tests of taps: uvicorn in a thread, on loopback, over a workspace of the test's own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn

from adumbra.api.app import make_app
from adumbra.api.context import Server
from adumbra.schema.access import NewToken, Role
from adumbra.service import access
from adumbra.service.workspace import Storage, Workspace


@dataclass
class Serving:
    """A server that runs. Threads of the test may use its workspace beside it."""

    url: str
    workspace: Workspace
    token: str = field(repr=False)
    server: uvicorn.Server
    client: httpx.Client

    def token_of(self, role: Role, networks: tuple[str, ...] | None = None) -> str:
        name = f"{role.value}-{time.time_ns()}"
        return access.issue(self.workspace, NewToken(name, role, networks), time.time_ns()).secret


@contextmanager
def serving(home: Path, *, port: int = 0, storage: Storage | None = None, captures: Path | None = None) -> Iterator[Serving]:
    """A server over a folder, with a token of an administrator."""
    with Workspace(home, storage) as workspace:
        secret = access.issue(workspace, NewToken("test", Role.ADMIN), time.time_ns()).secret
        told = {} if captures is None else {"captures": captures}
        app = make_app(Server(workspace, time.time_ns, **told))
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.01)
        try:
            with httpx.Client(timeout=60) as client:
                yield Serving(f"http://127.0.0.1:{listening.getsockname()[1]}", workspace, secret, server, client)
        finally:
            server.should_exit = True
            thread.join(20)
            listening.close()
