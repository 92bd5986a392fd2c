"""Taps and workers as real processes: begun, begun again, given up, ended; with their parent, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.daemon.running import SPEC, alive, until

from adumbra.daemon import taps as taps_module
from adumbra.daemon.children import Begun, Child, Command
from adumbra.daemon.insiders import Insiders
from adumbra.daemon.jobs import Jobs
from adumbra.daemon.ownership import SoleOwner
from adumbra.daemon.taps import Taps
from adumbra.schema.access import Role
from adumbra.schema.jobs import JobKind, JobRecord, JobState, SourceRecord, SourceState
from adumbra.service import networks
from adumbra.service.workspace import Workspace
from adumbra.store.jobs import MAX_ATTEMPTS

STANDIN = str(Path(__file__).with_name("standin.py"))


def standin(what: str, file: Path | None = None) -> Command:
    return Command((sys.executable, STANDIN, what, *([str(file)] if file else [])))


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        networks.create(opened, SPEC.format(name="shop", shortfall=1), "spec", time.time_ns())
        yield opened


class Watched:
    """Taps over a workspace, whose sources' names say what their stand-ins do, such as live:fails."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        self.workspace, self.folder = workspace, folder
        self.owner = SoleOwner()
        self.ended = 0
        self.taps = Taps(workspace, time.time_ns, self.owner, self._begun)

    def _begun(self, source: SourceRecord) -> Begun:
        return Begun(standin(source.source.partition(":")[2], self.folder / f"{source.id}"), self._note)

    def _note(self) -> None:
        self.ended += 1

    def add(self, what: str) -> int:
        return self.workspace.state.sources.add("shop", f"live:{what}", {}, time.time_ns()).id

    def get(self, number: int) -> SourceRecord:
        return self.workspace.state.sources.get(number)

    def begun(self, number: int) -> list[int]:
        """The processes that were begun for a source."""
        file = self.folder / f"{number}"
        return [int(line.split()[0]) for line in file.read_text().splitlines()] if file.exists() else []

    def turns(self, done: Callable[[], bool], what: str, for_s: float = 20.0) -> None:
        def look() -> bool:
            self.taps.turn()
            return done()

        until(look, for_s, what)


@pytest.fixture
def watched(workspace: Workspace, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(workspace, tmp_path)
    yield made
    made.taps.kill()
    made.taps.end(5.0)


def test_a_source_is_observed_until_somebody_stops_it(watched: Watched) -> None:
    number = watched.add("goes-on")
    watched.turns(lambda: bool(watched.begun(number)), "the tap's beginning")
    assert watched.get(number).state is SourceState.RUNNING
    (process,) = watched.begun(number)
    assert watched.get(number).process.split()[-2] == str(process)
    watched.workspace.state.sources.move(number, SourceState.STOPPED, time.time_ns(), "it was asked for")
    watched.turns(lambda: not watched.taps.running(), "the tap's end")
    assert watched.get(number).state is SourceState.STOPPED
    assert not alive(process)
    assert watched.ended == 1


def test_one_that_dies_is_begun_again(watched: Watched) -> None:
    number = watched.add("goes-on")
    watched.turns(lambda: len(watched.begun(number)) == 1, "the tap's beginning")
    os.kill(watched.begun(number)[0], signal.SIGKILL)
    watched.turns(lambda: watched.get(number).state is SourceState.WAITING, "notice of its death")
    assert "signal 9" in watched.get(number).trouble
    assert watched.get(number).next_ns is not None
    watched.turns(lambda: len(watched.begun(number)) == 2, "its beginning again")
    assert watched.get(number).restarts == 1
    kinds = [event.kind for event in watched.workspace.state.events("shop")]
    assert kinds[:3] == ["source.running", "source.waiting", "source.running"]


def test_one_that_can_not_be_observed_is_given_up(watched: Watched) -> None:
    number = watched.add("wrong")
    watched.turns(lambda: watched.get(number).state is SourceState.FAILED, "giving up")
    assert watched.get(number).trouble == "wrong it is"
    watched.taps.turn()
    assert len(watched.begun(number)) == 1


def test_one_that_fails_waits_longer_each_time(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps_module, "pause_s", lambda failures: 0.05 * failures)
    number = watched.add("fails")
    watched.turns(lambda: len(watched.begun(number)) >= 3, "three tries")
    assert watched.get(number).trouble == "fails it is"
    assert watched.get(number).restarts >= 2


def test_a_file_that_was_observed_to_its_end_is_done(watched: Watched) -> None:
    number = watched.add("ends")
    watched.turns(lambda: watched.get(number).state is SourceState.DONE, "the end")


def test_one_that_does_not_heed_is_killed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps_module, "STOP_S", 0.2)
    number = watched.add("deaf")
    watched.turns(lambda: bool(watched.begun(number)), "the tap's beginning")
    time.sleep(0.2)  # until it doesn't hear
    watched.workspace.state.sources.move(number, SourceState.STOPPED, time.time_ns(), "it was asked for")
    watched.turns(lambda: not watched.taps.running(), "the tap's end", 10.0)


def test_what_is_not_owned_any_more_ends_at_once_and_stays_as_it_is(watched: Watched) -> None:
    number = watched.add("deaf")
    watched.turns(lambda: bool(watched.begun(number)), "the tap's beginning")
    watched.owner.end()
    watched.turns(lambda: not watched.taps.running(), "the tap's end", 5.0)
    assert watched.get(number).state is SourceState.RUNNING  # its next owner says what becomes of it


def test_a_server_that_stops_leaves_its_sources_to_the_next(watched: Watched) -> None:
    number = watched.add("goes-on")
    watched.turns(lambda: bool(watched.begun(number)), "the tap's beginning")
    watched.taps.end(10.0)
    assert watched.get(number).state is SourceState.WAITING
    assert watched.get(number).trouble == ""
    assert not alive(watched.begun(number)[0])


def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "begun"
    program = (
        "import sys, time\nfrom adumbra.daemon.children import Child, Command\n"
        f"Child(Command((sys.executable, {STANDIN!r}, 'goes-on', {str(file)!r})))\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        until(lambda: file.exists() and file.read_text().endswith("\n"), 30.0, "the child")
        child = int(file.read_text().split()[0])
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not alive(child), 10.0, "the child's end")


def test_a_child_is_told_secrets_by_its_environment_alone_and_no_other_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADUMBRA_SERVER", "https://elsewhere")
    file = tmp_path / "begun"
    command = Command((sys.executable, STANDIN, "goes-on", str(file)), {"ADUMBRA_TOKEN": "adi_secret"}, ("ADUMBRA_SERVER",))
    assert "adi_secret" not in repr(command)
    child = Child(command)
    try:
        until(lambda: file.exists() and file.read_text().endswith("\n"), 30.0, "the child")
        number, token = file.read_text().split()
        assert token == "adi_secret"
        assert b"adi_secret" not in Path(f"/proc/{number}/cmdline").read_bytes()
        assert b"elsewhere" not in Path(f"/proc/{number}/environ").read_bytes()
    finally:
        child.kill()
        child.wait(5.0)


def test_insiders_are_known_until_they_are_dismissed() -> None:
    insiders = Insiders()
    secret = insiders.admit("shop", "tap/1")
    who = insiders.known(secret)
    assert who is not None
    assert (who.role, who.networks) == (Role.OPERATOR, ("shop",))
    assert insiders.known("adi_" + "x" * 43) is None
    assert insiders.known("adu_" + "x" * 43) is None
    insiders.dismiss(secret)
    assert insiders.known(secret) is None


class Queue:
    """Jobs over a workspace, whose workers are stand-ins that take them."""

    def __init__(self, workspace: Workspace, program: str) -> None:
        self.workspace = workspace
        self.owner = SoleOwner()
        self.program = program
        self.jobs = Jobs(workspace, time.time_ns, self.owner, self._begun, 2)

    def _begun(self, job: JobRecord) -> Begun:
        program = TAKES.format(home=str(self.workspace.home), number=job.id) + self.program
        return Begun(Command((sys.executable, "-c", program)))

    def add(self, kind: JobKind = JobKind.TRAIN) -> int:
        return self.workspace.state.jobs.add("shop", kind, {}, "tests", time.time_ns()).id

    def state(self, number: int) -> JobState:
        return self.workspace.state.jobs.get(number).state

    def turns(self, done: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            self.jobs.turn()
            return done()

        until(look, 60.0, what)


TAKES = """
import os, signal, sys, time
from pathlib import Path
from adumbra.schema.jobs import JobState
from adumbra.store.state import StateStore
from adumbra.store.processes import this_process
number = {number}
state = StateStore(Path({home!r}) / "state.db").__enter__()
job = state.jobs.take(number, time.time_ns())
assert job is not None
"""
DONE = "state.jobs.finish(number, JobState.DONE, time.time_ns(), {'found': 1}, process=this_process())\n"
LONG = "while state.jobs.tell(number, 0.5, 'working'): time.sleep(0.05)\n"


@pytest.fixture
def queue(workspace: Workspace) -> Iterator[Queue]:
    made = Queue(workspace, DONE)
    yield made
    made.jobs.kill()
    made.jobs.end(5.0)


def test_a_job_is_worked_off(queue: Queue) -> None:
    number = queue.add()
    queue.turns(lambda: queue.state(number) is JobState.DONE, "the job's end")
    assert queue.workspace.state.jobs.get(number).result == {"found": 1}


def test_a_job_whose_worker_dies_is_begun_again_a_few_times(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adumbra.daemon.jobs.pause_s", lambda failures: 0.0)
    queue.program = "os.kill(os.getpid(), signal.SIGKILL)"
    number = queue.add()
    queue.turns(lambda: queue.state(number) is JobState.FAILED, "giving up")
    found = queue.workspace.state.jobs.get(number)
    assert found.attempts == MAX_ATTEMPTS
    assert "died" in found.trouble


def test_a_job_that_is_cancelled_ends_at_once(queue: Queue) -> None:
    queue.program = "signal.signal(signal.SIGTERM, signal.SIG_DFL)\ntime.sleep(60)"
    number = queue.add()
    queue.turns(lambda: queue.state(number) is JobState.RUNNING, "the job's beginning")
    queue.workspace.state.jobs.finish(number, JobState.CANCELLED, time.time_ns(), trouble="nobody wants it")
    queue.turns(lambda: not queue.jobs.working(), "the worker's end")
    assert queue.state(number) is JobState.CANCELLED


def test_a_worker_whose_job_was_given_to_another_says_nothing_of_it(queue: Queue) -> None:
    queue.program = LONG + "time.sleep(60)\n"
    number = queue.add()
    queue.turns(lambda: queue.workspace.state.jobs.get(number).share == 0.5, "the job's beginning")
    process = queue.workspace.state.jobs.get(number).process
    assert not queue.workspace.state.jobs.tell(number, 0.9, "somebody else")
    queue.workspace.state.jobs.finish(number, JobState.DONE, time.time_ns(), process="another")
    assert queue.state(number) is JobState.RUNNING
    assert queue.workspace.state.jobs.lay_down(number, "another", time.time_ns()) is False
    assert queue.workspace.state.jobs.get(number).process == process


def test_a_server_that_stops_leaves_its_jobs_to_the_next_and_it_counts_as_no_attempt(queue: Queue) -> None:
    queue.program = LONG
    number = queue.add()
    queue.turns(lambda: queue.state(number) is JobState.RUNNING, "the job's beginning")
    queue.jobs.end(5.0)
    found = queue.workspace.state.jobs.get(number)
    assert (found.state, found.attempts, found.process) == (JobState.QUEUED, 0, "")


def test_a_network_has_one_worker_at_a_time(queue: Queue) -> None:
    queue.program = LONG
    first, second = queue.add(), queue.add(JobKind.PROFILE)
    queue.turns(lambda: queue.state(first) is JobState.RUNNING, "the first job's beginning")
    queue.jobs.turn()
    assert queue.state(second) is JobState.QUEUED
    assert queue.jobs.working() == 1
