"""Activation as use cases: what is recorded, what a kill leaves behind, and what the next start makes of it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.service.profiled_lab import SPEC, opened_lab, profiled, state_of

from adumbra.schema.errors import ConflictError, InputError, ProvisionError
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import activations, networks, recovery
from adumbra.service.workspace import Workspace


@pytest.fixture
def clock() -> Iterator[int]:
    return itertools.count(1_700_000_000_000_000_000, 1_000_000_000)


@pytest.fixture
def workspace(tmp_path: Path, clock: Iterator[int]) -> Iterator[Workspace]:
    with opened_lab(tmp_path, clock) as opened:
        yield opened


def test_a_dry_run_touches_nothing(workspace, clock, tmp_path) -> None:
    activation = activations.activate(workspace, "lab", "terraform", clock.__next__, dry_run=True)
    assert not activation.plan.empty
    assert not activation.carried_out
    assert not Path(activation.place).exists()
    assert workspace.state.plans.newest("lab") is None
    assert state_of(workspace) is NetworkState.SHADOWING


def test_a_dry_run_keeps_nobody_from_acting_and_is_told_while_somebody_does(workspace, clock) -> None:
    with activations.one_at_a_time(workspace, "lab"):
        assert activations.activate(workspace, "lab", "terraform", clock.__next__, dry_run=True).plan.steps
        assert activations.deactivate(workspace, "lab", None, clock.__next__, dry_run=True).plan.empty
        with pytest.raises(ConflictError, match="another process"):
            activations.activate(workspace, "lab", "terraform", clock.__next__)


def test_activation_is_recorded_step_by_step_and_again_is_empty(workspace, clock) -> None:
    first = activations.activate(workspace, "lab", "terraform", clock.__next__)
    kept = workspace.state.plans.newest("lab")
    assert kept is not None
    assert kept.state is PlanState.DONE
    assert [step.index for step in kept.steps] == list(range(len(first.plan.steps)))
    assert state_of(workspace) is NetworkState.ACTIVE
    assert activations.activate(workspace, "lab", "terraform", clock.__next__).plan.empty


def test_a_smaller_type_is_a_change_and_not_a_new_network(workspace, clock) -> None:
    activations.activate(workspace, "lab", "terraform", clock.__next__)
    workspace.state.save_profile("lab", profiled(type="m7i.xlarge").to_dict(), next(clock))
    changed = activations.activate(workspace, "lab", "terraform", clock.__next__).plan
    assert [(step.act, step.item.name) for step in changed.steps] == [("update", "web-1"), ("update", "web-2")]
    assert all("stop" in step.interrupts for step in changed.steps)


def test_deactivation_leaves_the_shadow(workspace, clock) -> None:
    place = activations.activate(workspace, "lab", "terraform", clock.__next__).place
    activations.deactivate(workspace, "lab", "terraform", clock.__next__)
    assert not Path(place).exists()
    assert state_of(workspace) is NetworkState.READY
    assert workspace.state.shadow("lab").network == "lab"


def test_a_file_of_someone_else_is_left_alone_and_the_failure_is_kept(workspace, clock, tmp_path) -> None:
    place = tmp_path / "terraform" / "lab" / "main.tf.json"
    place.parent.mkdir(parents=True)
    place.write_text('{"resource": {}}')
    with pytest.raises(ProvisionError):
        activations.activate(workspace, "lab", "terraform", clock.__next__)
    assert place.read_text() == '{"resource": {}}'


def test_an_active_network_is_not_deleted_by_accident(workspace, clock) -> None:
    activations.activate(workspace, "lab", "terraform", clock.__next__)
    with pytest.raises(ConflictError, match="deactivate"):
        networks.delete(workspace, "lab", next(clock))
    networks.delete(workspace, "lab", next(clock), force=True)
    assert networks.listing(workspace) == ()


def test_a_profile_of_other_vms_is_refused(workspace, clock) -> None:
    workspace.state.save_profile("lab", profiled(("web-1",)).to_dict(), next(clock))
    with pytest.raises(InputError, match="adumbra profile lab"):
        activations.activate(workspace, "lab", "terraform", clock.__next__)


def test_a_network_stands_at_one_provider_at_a_time(workspace, clock) -> None:
    activations.activate(workspace, "lab", "terraform", clock.__next__)
    with pytest.raises(ConflictError, match="adumbra deactivate lab --provider terraform"):
        activations.activate(workspace, "lab", "libvirt", clock.__next__)
    assert state_of(workspace) is NetworkState.ACTIVE


@pytest.mark.parametrize("provider", ["", "tarraform", "aws"])
def test_an_unknown_provider_is_refused(workspace, clock, provider) -> None:
    with pytest.raises(InputError, match="terraform"):
        activations.activate(workspace, "lab", provider, clock.__next__)


KILLED = """
import itertools, os, sys
from pathlib import Path
from adumbra.service import activations
from adumbra.service.workspace import Workspace
from adumbra.store.plans import PlanStore

record, left = PlanStore.record_step, [int(sys.argv[2])]
def record_or_die(self, *arguments):
    record(self, *arguments)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), 9)
PlanStore.record_step = record_or_die
with Workspace(Path(sys.argv[1])) as workspace:
    activations.activate(workspace, "lab", "terraform", itertools.count(10**18).__next__)
"""


def test_killed_between_any_two_steps_the_next_start_finishes_the_plan(tmp_path, clock) -> None:
    with Workspace(tmp_path / "whole") as whole:
        networks.create(whole, SPEC, "lab.yaml", next(clock))
        whole.state.save_profile("lab", profiled().to_dict(), next(clock))
        finished = activations.activate(whole, "lab", "terraform", clock.__next__)
        want = json.loads(Path(finished.place).read_text())
    for after in range(1, len(finished.plan.steps) + 1):
        home = tmp_path / str(after)
        with Workspace(home) as workspace:
            networks.create(workspace, SPEC, "lab.yaml", next(clock))
            workspace.state.save_profile("lab", profiled().to_dict(), next(clock))
        killed = subprocess.run([sys.executable, "-c", KILLED, str(home), str(after)], check=False, env=dict(os.environ))
        assert killed.returncode == -9
        with Workspace(home) as workspace:
            told = recovery.recover(workspace, next(clock))
            assert any("lab was interrupted, and is finished" in line for line in told)
            kept = workspace.state.plans.newest("lab")
            assert kept is not None
            assert kept.state is PlanState.DONE
            assert sorted(step.index for step in kept.steps) == list(range(len(finished.plan.steps)))
            assert state_of(workspace) is NetworkState.ACTIVE
            assert json.loads((home / "terraform" / "lab" / "main.tf.json").read_text()) == want
            assert recovery.recover(workspace, next(clock)) == ()


def test_an_interrupted_deletion_is_ended_at_the_next_start(workspace, clock) -> None:
    workspace.state.set_network_state("lab", NetworkState.DELETING, next(clock), "deletion was asked for")
    assert any("deletion of lab" in line for line in recovery.recover(workspace, next(clock)))
    assert networks.listing(workspace) == ()


def test_two_at_a_time_is_refused_and_left_to_the_first(workspace, clock, tmp_path) -> None:
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); "
        "time.sleep(60)"
    )
    lock = tmp_path / "locks" / "lab.lock"
    lock.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", holder, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(ConflictError, match="another process"):
            activations.activate(workspace, "lab", "terraform", clock.__next__)
        assert time.monotonic() - began < 30
        process.kill()
    assert not activations.activate(workspace, "lab", "terraform", clock.__next__).plan.empty
