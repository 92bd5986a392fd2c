"""What pages look at is read once for all of them, and anew only where it changed."""

from __future__ import annotations

import pytest
from tests.service.lab import profile

from adumbra.console.looks import FRESH_NS, KEPT, Looks
from adumbra.schema.errors import NotFoundError
from adumbra.schema.jobs import JobKind
from adumbra.service.workspace import Workspace


class _Clock:
    """Stands still until it is moved."""

    now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


def test_a_network_that_did_not_change_is_the_same_object_again(lab: Workspace) -> None:
    clock = _Clock()
    looks = Looks(lab, clock)
    first = looks.network("lab")
    clock.now_ns += FRESH_NS
    assert looks.network("lab") is first
    lab.state.save_profile("lab", profile().to_dict(), 3)
    assert looks.network("lab") is first  # the last look still serves
    clock.now_ns += FRESH_NS
    second = looks.network("lab")
    assert second is not first
    assert second.overview.profiled_ns == 3


def test_what_is_changed_here_is_seen_at_once(lab: Workspace) -> None:
    looks = Looks(lab, _Clock())
    assert looks.network("lab").jobs == ()
    lab.state.jobs.add("lab", JobKind.TRAIN, {}, "ada", 4)
    looks.renew()
    assert [each.kind for each in looks.network("lab").jobs] == ["train"]


def test_a_network_that_is_not_there_is_not_remembered(lab: Workspace) -> None:
    looks = Looks(lab, _Clock())
    for _ in range(2):
        with pytest.raises(NotFoundError):
            looks.network("nowhere")


def test_what_is_remembered_is_bounded(lab: Workspace) -> None:
    looks = Looks(lab, _Clock())
    for number in range(2 * KEPT):
        looks.shared(number, lambda _, found=number: found + 1)
    assert len(looks._slots) == KEPT
