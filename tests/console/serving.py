"""`adumbra serve` in a process of its own, on a free port, as an administrator has it: what begins it, and ends it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

PATIENCE_S = 300.0
"""How long is waited for what takes a second on a machine with nothing else to do."""
_TOKEN = re.compile(r"^adu_[A-Za-z0-9_-]{43}$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is ready. url: where; process: its number; said: the file of its standard error."""

    url: str
    process: int
    said: Path

    def first_token(self) -> str:
        """The one-time token that its first start printed."""
        _until(lambda: bool(_TOKEN.search(self.said.read_text())), "the first token", self.said)
        return _TOKEN.findall(self.said.read_text())[0]


@contextlib.contextmanager
def served(home: Path, **environment: str) -> Iterator[Served]:
    """A server on that home, with variables of its own beside those of the tests. It trains only when asked to."""
    home.mkdir(parents=True, exist_ok=True)
    told = {**os.environ, "ADUMBRA_HOME": str(home), "ADUMBRA_SERVE_TRAIN_EVERY": "never", **environment}
    out, err = home.with_name(f"{home.name}.out"), home.with_name(f"{home.name}.err")
    with out.open("w") as says, err.open("w") as complains:
        process = subprocess.Popen(
            [sys.executable, "-m", "adumbra", "serve", "--port", "0"], env=told, stdin=subprocess.DEVNULL, stdout=says,
            stderr=complains,
        )  # fmt: skip
        try:
            _until(lambda: _lives(process, err) and out.read_text().endswith("\n"), "a server", err)
            url = out.read_text().split()[-1]
            _until(lambda: _lives(process, err) and _ready(url), "readiness", err)
            yield Served(url, process.pid, err)
        finally:
            _end(process)


def _lives(process: subprocess.Popen[bytes], err: Path) -> bool:
    assert process.poll() is None, f"the server ended: {err.read_text()[-3000:]}"
    return True


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz", timeout=30.0, trust_env=False).status_code == 200
    return False


def _until(done: Callable[[], bool], what: str, err: Path) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < until_s, f"{what} did not come about; the server said: {err.read_text()[-3000:]}"
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
