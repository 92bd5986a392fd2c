"""Real servers for tests of the daemon: processes that are killed and begun again on the same home."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.forked import Forked

from adumbra.schema.access import NewToken, Role
from adumbra.service import access
from adumbra.service.workspace import Storage, Workspace

START_S = 60.0
SPEC = """name: {name}
cidrs: [10.20.0.0/16]
subnets: [{{name: web, cidr: 10.20.1.0/24}}]
vms:
  - {{name: web, count: 2, subnet: web, addresses: 10.20.1.10-10.20.1.11, role: web, type: m7i.large, ports: [80, 443]}}
targets: {{shortfall: {shortfall}%}}
"""


def until(done: Callable[[], bool], for_s: float, what: str) -> None:
    """Waits for something to become true. Fails the test where it doesn't."""
    end_s = time.monotonic() + for_s
    while not done():
        assert time.monotonic() < end_s, f"{what} did not come about in {for_s:.0f} s"
        time.sleep(0.02)


def alive(number: int) -> bool:
    """Whether a process lives; one that only waits to be looked after doesn't."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@dataclass
class ServerProcess:
    """A server of a test, on a home. environment: of its own; token: of an administrator, made before its first start."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = 0
    number: int = 0
    url: str = ""
    token: str = ""
    starts: int = 0

    def make_token(self) -> str:
        """Makes the administrator's token, as `adumbra token create` would."""
        state = self.environment.get("ADUMBRA_STATE", "")
        with Workspace(self.home, Storage(state=state)) as workspace:
            self.token = access.issue(workspace, NewToken("tests", Role.ADMIN), time.time_ns()).secret
        return self.token

    def begin(self) -> None:
        """Begins the process; waits for nothing."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._out = self.home / f"out-{self.starts}"
        self.starts += 1
        told = {"ADUMBRA_HOME": str(self.home), "ADUMBRA_SERVE_TRAIN_EVERY": "never", **self.environment}
        with self._out.open("ab") as out, (self.home / "err").open("ab") as err:
            self._process = Forked(
                "adumbra", "serve", "--port", str(self.port), env={**os.environ, **told}, stdin=subprocess.DEVNULL,
                stdout=out, stderr=err,
            )  # fmt: skip
        self.number = self._process.pid

    def start(self) -> None:
        """Begins the process, and waits until it answers."""
        self.begin()
        until(self._listens, START_S, f"a server's answer (it said: {self.said()[-2000:]})")

    def _listens(self) -> bool:
        assert alive(self.number), f"the server ended: {self.said()[-3000:]}"
        text = self._out.read_text() if self._out.exists() else ""
        if not text.endswith("\n"):
            return False
        self.url = text.split()[-1]
        return True

    def ready(self, for_s: float = START_S) -> None:
        """Waits until it says that it is ready."""

        def asks() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{self.url}/readyz", timeout=5.0, trust_env=False).status_code == 200
            return False

        until(asks, for_s, "readiness")

    def kill(self) -> None:
        """By SIGKILL: it has no time for a word."""
        self.signal(signal.SIGKILL)
        self._process.wait(60.0)

    def stop(self, for_s: float = 30.0) -> None:
        """By SIGTERM, as its administrator would."""
        self.signal(signal.SIGTERM)
        until(lambda: self._process.poll() is not None, for_s, f"a stop (it said: {self.said()[-2000:]})")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def client(self, timeout_s: float = 10.0) -> httpx.Client:
        """A client with the administrator's token."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=timeout_s, trust_env=False,
            verify=False,  # nothing is encrypted here, and to read all certificates takes a while
        )  # fmt: skip

    def said(self) -> str:
        """What it wrote on standard error, from its first start on."""
        err = self.home / "err"
        return err.read_text() if err.exists() else ""


@contextmanager
def ending(*servers: ServerProcess) -> Iterator[None]:
    """Kills the servers at the end, whatever comes."""
    try:
        yield
    finally:
        for server in servers:
            if server.number:
                server.kill()
