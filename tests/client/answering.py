"""Commands asked in this process: of a workspace here, and of a server; what they print and their exit status."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.api.serving import Serving, served
from typer.testing import CliRunner

from adumbra.cli import session
from adumbra.cli.main import app
from adumbra.daemon import work
from adumbra.schema.access import Role
from adumbra.schema.errors import AdumbraError
from adumbra.service.workspace import Workspace

NOW_NS = 1_900_000_000_123_456_789
"""The time at both places, so that what they say of it is the same; to the nanosecond, as stores keep it."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said. told: on standard error."""

    status: int
    shown: str
    told: str


def ask(environment: dict[str, str], *arguments: str) -> Said:
    """A command, with no more of the environment than is given, beyond what every process has."""
    bare = dict.fromkeys(("ADUMBRA_SERVER", "ADUMBRA_TOKEN", "ADUMBRA_TOKEN_FILE", "ADUMBRA_HOME"))
    done = CliRunner(env={**bare, "COLUMNS": "110", **environment}).invoke(app, list(arguments))
    if isinstance(done.exception, AdumbraError):
        return Said(done.exception.exit_status, done.stdout, f"{done.stderr}{done.exception}")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return Said(done.exit_code, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class Both:
    """The same state twice: in a folder of this host, and in one that a server has."""

    here: Path
    serving: Serving
    environment: dict[str, str]

    def ask_here(self, *arguments: str) -> Said:
        return ask({"ADUMBRA_HOME": str(self.here)}, *arguments)

    def ask_there(self, *arguments: str) -> Said:
        said = ask(self.environment, *arguments)
        there = str(self.serving.workspace.home)
        return replace(said, shown=said.shown.replace(there, str(self.here)), told=said.told.replace(there, str(self.here)))


@contextmanager
def both(folder: Path, home: Path) -> Iterator[Both]:
    """A server over a copy of a workspace, its jobs worked on in a thread; the clock stands at NOW_NS everywhere."""
    there = folder / "there"
    shutil.copytree(home, there)
    waiting: queue.SimpleQueue[bool] = queue.SimpleQueue()
    with pytest.MonkeyPatch.context() as patch:
        clock = SimpleNamespace(time_ns=lambda: NOW_NS, monotonic=time.monotonic)
        patch.setattr(session, "now_ns", lambda: NOW_NS)
        patch.setattr(work, "time", clock)
        with served(there, now=lambda: NOW_NS, wake=lambda: waiting.put(True)) as running:
            worker = threading.Thread(target=_work, args=(running.workspace, waiting), name="jobs")
            worker.start()
            environment = {
                "ADUMBRA_SERVER": running.url, "ADUMBRA_TOKEN": running.token(Role.ADMIN),
                "ADUMBRA_HOME": str(folder / "elsewhere"), "ADUMBRA_SERVER_GIVE_UP_S": "5",
            }  # fmt: skip
            try:
                yield Both(home, running, environment)
            finally:
                waiting.put(False)
                worker.join(30)


def _work(workspace: Workspace, waiting: queue.SimpleQueue[bool]) -> None:
    """Works at the jobs that wait, whenever there may be some."""
    while waiting.get():
        for job in workspace.state.jobs.open():
            work.work(workspace, job.id)
