"""An owner that lost its networks acts no more, also where that is so because its state store is away."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.daemon.running import SPEC, until

from adumbra.daemon.children import Begun, Command
from adumbra.daemon.jobs import Jobs
from adumbra.daemon.server import Daemon
from adumbra.daemon.taps import Taps
from adumbra.schema.errors import StoreError
from adumbra.schema.jobs import JobKind
from adumbra.service import networks
from adumbra.service.workspace import Workspace

DEAF = Command((sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """One whose loops don't run, but for what a test begins; its children hear no SIGTERM."""
    with Workspace(tmp_path / "home") as workspace:
        networks.create(workspace, SPEC.format(name="shop", shortfall=1), "spec", time.time_ns())
        made = Daemon(workspace, time.time_ns, lambda: "http://127.0.0.1:1")
        made.taps = Taps(workspace, time.time_ns, made.ownership, lambda _: Begun(DEAF))
        made.jobs = Jobs(workspace, time.time_ns, made.ownership, lambda _: Begun(DEAF))
        workspace.state.sources.add("shop", "live:eth9", {}, time.time_ns())
        workspace.state.jobs.add("shop", JobKind.TRAIN, {}, "tests", time.time_ns())
        made.taps.turn()
        made.jobs.turn()
        assert (made.taps.running(), made.jobs.working()) == (1, 1)
        yield made
        made.kill()
        made.taps.end(5.0)
        made.jobs.end(5.0)


def test_children_end_with_the_lease_while_the_store_is_away(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    tap, worker = (next(iter(each.values())).child for each in (daemon.taps._taps, daemon.jobs._workers))
    lease = next(loop for loop in daemon.loops if loop.name == "lease")
    with _away(daemon, monkeypatch) as turns:
        lease.start()
        until(lambda: lease.health().runs > 0, 20.0, "a look at what is owned")
        assert (tap.status(), worker.status()) == (None, None)  # all is owned
        daemon.ownership.end()
        for turn in turns:  # these can't help: they know nothing without the store
            with pytest.raises(StoreError):
                turn()
        until(lambda: None not in {tap.status(), worker.status()}, 20.0, "the children's end")
    lease.stop()
    assert lease.join(5.0)


@contextmanager
def _away(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Callable[[], None], ...]]:
    def refuse(*_: object, **__: object) -> None:
        raise StoreError("it is away")

    with monkeypatch.context() as away:
        away.setattr("adumbra.store.database.Database.reading", refuse)
        away.setattr("adumbra.store.database.Database.writing", refuse)
        yield daemon.taps.turn, daemon.jobs.turn
