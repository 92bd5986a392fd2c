"""A network's state moves in the transaction of what moves it: no death, and no other change, comes between the two."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service.profiled_lab import profiled

from adumbra.schema.errors import PreconditionError
from adumbra.schema.jobs import JobKind, JobState
from adumbra.schema.sizing import NetworkProfile
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import activations, networks, profiles, recovery
from adumbra.service.workspace import Workspace
from adumbra.store import plans, statements
from adumbra.store.plans import PlanStore

SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets: [{name: a, cidr: 10.9.1.0/24}]
vms: [{name: web, count: 2, subnet: a, type: m7i.large, ports: [80]}]
"""


class _DiedError(BaseException):
    """In place of SIGKILL: nobody catches it."""


@pytest.fixture
def clock() -> Iterator[int]:
    return itertools.count(1_700_000_000_000_000_000, 1_000_000_000)


@pytest.fixture
def workspace(tmp_path: Path, clock: Iterator[int]) -> Iterator[Workspace]:
    with Workspace(tmp_path) as opened:
        networks.create(opened, SPEC, "lab.yaml", next(clock))
        opened.state.save_profile("lab", profiled().to_dict(), next(clock), 1)
        yield opened


def state_of(workspace: Workspace) -> NetworkState:
    return workspace.state.network("lab").state


@pytest.mark.parametrize("to", [NetworkState.ACTIVATING, NetworkState.ACTIVE])
def test_one_that_is_killed_at_a_move_is_where_its_plan_is_and_the_next_start_ends_it(
    workspace: Workspace, clock: Iterator[int], monkeypatch: pytest.MonkeyPatch, to: NetworkState
) -> None:
    real = statements.move

    def dies(*arguments: object) -> None:
        if arguments[2] is to:
            raise _DiedError
        real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(plans, "move", dies)
        with pytest.raises(_DiedError):
            activations.activate(workspace, "lab", "terraform", clock.__next__)
    kept = workspace.state.plans.newest("lab")
    if to is NetworkState.ACTIVATING:
        assert (state_of(workspace), kept) == (NetworkState.READY, None)
        return
    assert kept is not None
    assert (state_of(workspace), kept.state) == (NetworkState.ACTIVATING, PlanState.EXECUTING)
    recovery.recover(workspace, next(clock))
    kept = workspace.state.plans.newest("lab")
    assert kept is not None
    assert (state_of(workspace), kept.state) == (NetworkState.ACTIVE, PlanState.DONE)


def test_an_activation_that_was_cancelled_is_not_carried_out_later(
    workspace: Workspace, clock: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = workspace.state.jobs.add("lab", JobKind.ACTIVATE, {"provider": "terraform"}, "ada", next(clock))
    workspace.state.jobs.take(job.id, next(clock))

    def dies(*_: object) -> None:
        raise _DiedError

    with monkeypatch.context() as patched:
        patched.setattr(PlanStore, "record_step", dies)
        with pytest.raises(_DiedError):
            activations.activate(workspace, "lab", "terraform", clock.__next__)
    workspace.state.jobs.finish(job.id, JobState.CANCELLED, next(clock), trouble="ada cancelled it")
    assert not any("is finished" in told for told in recovery.recover(workspace, next(clock)))
    kept = workspace.state.plans.newest("lab")
    assert kept is not None
    assert (state_of(workspace), kept.state) == (NetworkState.FAILED, PlanState.FAILED)
    assert "cancelled" in workspace.state.events("lab", 1)[0].message
    activations.activate(workspace, "lab", "terraform", clock.__next__)  # and may be asked for anew
    assert state_of(workspace) is NetworkState.ACTIVE


def test_a_profile_is_of_the_spec_that_makes_the_network_ready(
    workspace: Workspace, clock: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = (SPEC.replace("80", str(port)) for port in itertools.count(81))
    changes = [2]
    sized: list[int] = []

    def sizes(*_: object) -> NetworkProfile:
        sized.append(workspace.state.network("lab").version)
        if changes[0]:
            changes[0] -= 1
            networks.update(workspace, next(specs), "spec", next(clock))
        return profiled()

    monkeypatch.setattr(profiles, "sized", sizes)
    assert profiles.kept(workspace, "lab", clock.__next__)[1].version == 2
    assert (sized, state_of(workspace)) == ([1, 2, 3], NetworkState.READY)
    changes[0] = 3
    monkeypatch.setattr(profiles, "_TRIES", 1)
    with pytest.raises(PreconditionError):
        profiles.kept(workspace, "lab", clock.__next__)
    assert state_of(workspace) is NetworkState.SHADOWING
