"""Loops: done again and again, sooner when woken, later while they fail, ended at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from tests.daemon.running import until

from adumbra.daemon import loops
from adumbra.daemon.loops import Health, Loop
from adumbra.schema.errors import StoreError


@pytest.fixture
def made() -> Iterator[list[Loop]]:
    started: list[Loop] = []
    yield started
    for loop in started:
        loop.stop()
        assert loop.join(5.0)


def test_it_works_when_it_begins_and_when_it_is_woken(made: list[Loop]) -> None:
    done: list[float] = []
    made.append(loop := Loop("one", lambda: done.append(time.monotonic()), 3_600.0))
    loop.start()
    until(lambda: len(done) == 1, 5.0, "the first work")
    loop.wake()
    until(lambda: len(done) == 2, 5.0, "the work that it was woken for")
    assert loop.health().well
    assert str(loop.health()) == "ok"


def test_it_works_again_after_its_period_or_when_the_work_says(made: list[Loop]) -> None:
    done: list[int] = []
    made.append(often := Loop("often", lambda: done.append(1), 0.01))
    made.append(told := Loop("told", lambda: done.append(2) or 0.01, 3_600.0))  # type: ignore[func-returns-value]
    often.start()
    told.start()
    until(lambda: done.count(1) > 5 and done.count(2) > 5, 5.0, "ten works")


def test_one_that_fails_is_tried_again_ever_later_and_says_why(made: list[Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "FIRST_PAUSE_S", 0.01)
    times: list[float] = []
    mended = threading.Event()

    def work() -> None:
        times.append(time.monotonic())
        if not mended.is_set():
            raise StoreError("the disk is full", "free some space")

    made.append(loop := Loop("fails", work, 3_600.0, longest_pause_s=0.2))
    monkeypatch.setattr(loops, "pause_s", lambda failures, longest_s: min(longest_s, 0.01 * 2**failures))
    loop.start()
    until(lambda: len(times) >= 6, 10.0, "six tries")
    assert times[5] - times[4] > times[1] - times[0]
    found = loop.health()
    assert not found.well
    assert "the disk is full" in str(found)
    mended.set()
    until(lambda: loop.health().well, 10.0, "work that goes well")
    assert loop.health().in_a_row == 0
    assert loop.health().failures >= 6


def test_waking_does_not_hurry_one_that_fails(made: list[Loop]) -> None:
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise ValueError

    made.append(loop := Loop("fails", work, 3_600.0))
    loop.start()
    until(lambda: loop.health().in_a_row == 1, 5.0, "a failure")
    for _ in range(50):
        loop.wake()
    assert len(tries) == 1


def test_it_stops_while_it_waits() -> None:
    loop = Loop("waits", lambda: None, 3_600.0)
    loop.start()
    until(lambda: loop.health().runs == 1, 5.0, "the first work")
    began_s = time.monotonic()
    loop.stop()
    assert loop.join(5.0)
    assert time.monotonic() - began_s < 1.0
    assert not loop.alive


def test_one_that_is_stuck_is_not_well() -> None:
    stuck = Health(runs=5, working_s=loops.STUCK_S)
    assert not stuck.well
    assert "600 s" in str(stuck)
    assert str(Health()) == "starting"
