"""A real server for tests of the API: uvicorn in a thread, on a free port of this host, over a workspace of its own.

    @pytest.fixture(scope="module")
    def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
        with served(tmp_path_factory.mktemp("home")) as running:
            yield running

Then `serving.viewer("shop").get("/v1/networks/shop")`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from adumbra.api.app import make_app
from adumbra.api.context import Care, Server
from adumbra.api.events_stream import Streams
from adumbra.schema.access import NewToken, Role
from adumbra.service import access
from adumbra.service.workspace import Storage, Workspace

START_S = 20.0
AT_EASE = Care(requests_per_s=1e6, burst=10**6, tries_per_min=10**6)
"""Tests ask as fast as they can, unless it is that what they try."""
SPEC = """name: {name}
cidrs: [10.20.0.0/16]
subnets: [{{name: web, cidr: 10.20.1.0/24}}]
vms:
  - {{name: web, count: 2, subnet: web, addresses: 10.20.1.10-10.20.1.11, role: web, type: m7i.large, ports: [80, 443]}}
  - {{name: db, subnet: web, addresses: [10.20.1.20], role: postgresql}}
"""
"""A small network: web-1, web-2 and db."""


@dataclass
class Serving:
    """A server that runs. url: where; woken: how often its loops were told that there is work."""

    workspace: Workspace
    server: Server
    url: str
    woken: list[int]
    streams: Streams
    stop: Callable[[], None] = lambda: None
    _clients: dict[tuple[Role | None, tuple[str, ...]], httpx.Client] = field(default_factory=dict)
    _others: list[httpx.Client] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def token(self, role: Role, *networks: str) -> str:
        """The secret of a new token; networks: none for all."""
        new = NewToken(f"{role.value}-{next(self._numbers)}", role, networks or None)
        return access.issue(self.workspace, new, self.server.now()).secret

    def client(self, role: Role, *networks: str) -> httpx.Client:
        """A client with a token of that role, of all networks or of these. The same again for the same."""
        key = (role, networks)
        if key not in self._clients:
            self._clients[key] = self.with_token(self.token(role, *networks))
        return self._clients[key]

    def with_token(self, secret: str) -> httpx.Client:
        """A client with that token. Closed with the server."""
        return self._made({"Authorization": f"Bearer {secret}"})

    def _made(self, headers: dict[str, str]) -> httpx.Client:
        self._others.append(httpx.Client(base_url=self.url, headers=headers, timeout=30.0, trust_env=False))
        return self._others[-1]

    def viewer(self, *networks: str) -> httpx.Client:
        return self.client(Role.VIEWER, *networks)

    def operator(self, *networks: str) -> httpx.Client:
        return self.client(Role.OPERATOR, *networks)

    def admin(self) -> httpx.Client:
        return self.client(Role.ADMIN)

    def nobody(self) -> httpx.Client:
        """A client without a token."""
        if (None, ()) not in self._clients:
            self._clients[None, ()] = self._made({})
        return self._clients[None, ()]

    def make(self, name: str) -> dict[str, Any]:
        """A network of that name, by SPEC."""
        answer = self.admin().post("/v1/networks", json={"spec": SPEC.format(name=name)})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def close(self) -> None:
        for client in self._others:
            client.close()


@contextmanager
def served(home: Path, storage: Storage | None = None, **server: Any) -> Iterator[Serving]:
    """Runs the API over a workspace in that folder. server: what Server is to be given beside workspace and wake."""
    woken: list[int] = []
    with Workspace(home, storage) as workspace:
        context = Server(workspace, **{"now": time.time_ns, "wake": lambda: woken.append(1), "care": AT_EASE, **server})
        app = make_app(context)
        with listening(app, app.state.streams.end) as (url, stop):
            running = Serving(workspace, context, url, woken, app.state.streams, stop)
            try:
                yield running
            finally:
                running.close()


@contextmanager
def listening(app: Any, stops: Callable[[], None] = lambda: None, **settings: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """Runs an ASGI app by uvicorn in a thread; gives its URL, and what stops it. stops: told as the server begins to stop."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        chosen = {"log_level": "warning", "lifespan": "off", "ws": "none", "access_log": False, **settings}
        server = uvicorn.Server(uvicorn.Config(app, **chosen))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
        thread.start()

        def stop() -> None:
            stops()
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop"

        try:
            until = time.monotonic() + START_S
            while not server.started:
                assert thread.is_alive(), "the server ended as it began"
                assert time.monotonic() < until, "the server did not start"
                time.sleep(0.005)
            yield f"http://127.0.0.1:{port}", stop
        finally:
            stop()
