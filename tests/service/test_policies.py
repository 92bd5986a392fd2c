"""Policies, approvals and rollbacks as use cases: what is held, what waits, what is taken back, and what a kill leaves."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.service.profiled_lab import SPEC, opened_lab, profiled, state_of

from adumbra.provision.terraform import TerraformProvider
from adumbra.schema.errors import ConflictError, InputError, NotFoundError, PreconditionError, ProvisionError, SpecError
from adumbra.schema.plans import Act, Kind, Step, StepOutcome
from adumbra.schema.records import MetricBatch, Origin
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import activations, approvals, networks, policies, recovery, rollbacks
from adumbra.service.workspace import Workspace

LIMIT = "approval: {above: $0.1/h}"  # two m7i.large cost more
NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture
def clock() -> Iterator[int]:
    return itertools.count(NOW_NS, 1_000_000_000)


@pytest.fixture
def workspace(tmp_path: Path, clock: Iterator[int]) -> Iterator[Workspace]:
    with opened_lab(tmp_path, clock) as opened:
        yield opened


def events(workspace: Workspace) -> list[str]:
    return [event.kind for event in workspace.state.events("lab")]


def machines(activation: activations.Activation) -> dict[str, dict[str, object]]:
    return {
        step.item.name: dict(step.item.settings) for step in activation.plan.steps if step.item.kind is Kind.MACHINE
    }  # fmt: skip


class TestPolicies:
    def test_a_policy_is_kept_in_versions_and_cleared(self, workspace, clock) -> None:
        with pytest.raises(NotFoundError, match="adumbra policy set lab"):
            policies.shown(workspace, "lab")
        first = policies.put(workspace, "lab", "budget: $9/h", clock.__next__)
        second = policies.put(workspace, "lab", "budget: $8/h", clock.__next__, was=1)
        assert (first.record.version, second.record.version) == (1, 2)
        assert policies.shown(workspace, "lab") == second
        with pytest.raises(PreconditionError, match="is of version 2, not 1"):
            policies.put(workspace, "lab", "budget: $7/h", clock.__next__, was=1)
        assert policies.clear(workspace, "lab", clock.__next__) == second
        assert policies.of(workspace, "lab") == policies.NO_POLICY
        assert policies.put(workspace, "lab", "budget: $6/h", clock.__next__, was=0).record.version == 4
        assert events(workspace)[:4] == ["policy.set", "policy.cleared", "policy.set", "policy.set"]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("vms:\n  wbe: {floors: {cpu_cores: 2}}", "p.yaml:2: vms.wbe: there is no such VM or VM group; there are: web"),
            ("vms: {web: {types: [m7i.lorge]}}", "did you mean m7i.large"),
            ("vms: {web: {types: ['t3.*']}}", "must be named whole"),
            ("budget: 3", "p.yaml:1: budget"),
        ],
    )
    def test_what_the_network_or_the_catalogue_does_not_have_is_refused_by_line(self, workspace, clock, text, says) -> None:
        with pytest.raises(SpecError) as refused:
            policies.put(workspace, "lab", text, clock.__next__, file="p.yaml")
        assert says in refused.value.problems[0]
        assert policies.of(workspace, "lab") == policies.NO_POLICY

    def test_a_floor_raises_the_machine_and_its_type_is_chosen_again(self, workspace, clock) -> None:
        policies.put(workspace, "lab", "vms: {web-1: {floors: {cpu_cores: 4}, types: ['m7i.*']}}", clock.__next__)
        found = activations.activate(workspace, "lab", "terraform", clock.__next__, dry_run=True)
        made = machines(found)
        assert (made["web-1"]["cpu_cores"], made["web-1"]["type"]) == (4, "m7i.xlarge")
        assert (made["web-2"]["cpu_cores"], made["web-2"]["type"]) == (2, "m7i.large")
        assert "CPU 4 cores in place of 2 cores: the floor of web-1" in found.plan.notes["web-1"]
        assert found.plan.price_per_hour == pytest.approx(0.2016 + 0.1)  # the profile's own price of what stays
        assert (found.plan.price_before_per_hour, found.plan.approval) == (0.0, "")

    def test_an_architecture_is_changed_only_where_the_policy_allows_none_of_the_other(self, workspace, clock) -> None:
        for types, family in (("['m7i.*', 'm7g.*']", "m7i"), ("['m7g.*']", "m7g")):
            policies.put(workspace, "lab", f"vms: {{web: {{floors: {{cpu_cores: 4}}, types: {types}}}}}", clock.__next__)
            made = machines(activations.activate(workspace, "lab", "terraform", clock.__next__, dry_run=True))
            assert {str(each["type"]).partition(".")[0] for each in made.values()} == {family}

    def test_a_broken_budget_stops_the_activation_and_touches_nothing(self, workspace, clock) -> None:
        policies.put(workspace, "lab", "budget: $100/month", clock.__next__)
        with pytest.raises(ConflictError, match=r"over the budget of \$0.1370/h; web-2 costs the most"):
            activations.activate(workspace, "lab", "terraform", clock.__next__)
        assert workspace.state.plans.newest("lab") is None

    def test_a_group_that_went_from_the_spec_is_said(self, workspace, clock) -> None:
        policies.put(workspace, "lab", "vms: {web-2: {caps: {cpu_cores: 4}}}", clock.__next__)
        networks.update(workspace, SPEC.replace("count: 2", "count: 1"), "lab.yaml", next(clock))
        workspace.state.save_profile("lab", profiled(("web",)).to_dict(), next(clock))
        with pytest.raises(InputError, match="'web-2', and there is no such VM"):
            activations.activate(workspace, "lab", "terraform", clock.__next__)

    def test_nothing_shrinks_below_what_was_measured(self, workspace, clock) -> None:
        big = profiled(type="m7i.2xlarge")
        big = replace(big, vms=tuple(replace(vm, cpu_cores=8, memory_gb=32.0) for vm in big.vms))
        workspace.state.save_profile("lab", big.to_dict(), next(clock))
        activations.activate(workspace, "lab", "terraform", clock.__next__)
        workspace.state.save_profile("lab", profiled().to_dict(), next(clock))
        write_use(workspace, "web-1", cores=3.2, memory_gb=10.0)
        found = activations.activate(workspace, "lab", "terraform", clock.__next__, dry_run=True)
        made = machines(found)
        assert (made["web-1"]["cpu_cores"], made["web-1"]["memory_gb"]) == (4, 11.0)
        assert str(made["web-1"]["type"]).endswith(".xlarge")
        assert (made["web-2"]["cpu_cores"], made["web-2"]["type"]) == (2, "m7i.large")
        assert any("what is used of it" in said for said in found.plan.notes["web-1"])
        policies.put(workspace, "lab", "keep_above_use: false", clock.__next__)
        made = machines(activations.activate(workspace, "lab", "terraform", clock.__next__, dry_run=True))
        assert made["web-1"]["cpu_cores"] == 2


def write_use(workspace: Workspace, vm: str, cores: float, memory_gb: float) -> None:
    """An hour of what a real machine was measured to use."""
    from adumbra.schema.metrics import METRICS

    steps = 3600
    columns = {
        each.name: np.zeros((steps, 1), np.int64) if each.whole else np.full((steps, 1), np.nan) for each in METRICS
    }  # fmt: skip
    columns["cpu_seconds"][:] = cores
    columns["memory_bytes"][:] = memory_gb * 2**30
    start = NOW_NS + np.arange(steps, dtype=np.int64) * 10**9
    batch = MetricBatch("lab", 1.0, (vm,), start, columns, np.zeros((steps, 1), np.bool_), "live", origin=Origin.LIVE)
    workspace.metrics.write(batch)


class TestApprovals:
    @pytest.fixture
    def limited(self, workspace, clock) -> Workspace:
        policies.put(workspace, "lab", LIMIT, clock.__next__)
        return workspace

    def test_a_plan_above_the_limit_waits_and_touches_nothing(self, limited, clock) -> None:
        dry = activations.activate(limited, "lab", "terraform", clock.__next__, dry_run=True)
        assert "more than $0.1000/h needs approval" in dry.plan.approval
        asked = activations.activate(limited, "lab", "terraform", clock.__next__)
        kept = limited.state.plans.newest("lab")
        assert (asked.carried_out, asked.awaiting, kept.state, kept.steps) == (False, kept.id, PlanState.AWAITING, ())
        assert not Path(asked.place).exists()
        assert state_of(limited) is NetworkState.SHADOWING
        assert limited.state.plans.open() == ()
        assert recovery.recover(limited, next(clock)) == ()  # a start does not carry it out
        assert activations.activate(limited, "lab", "terraform", clock.__next__).awaiting == kept.id  # asking twice asks once

    def test_what_was_approved_is_carried_out_and_who_did_is_kept(self, limited, clock) -> None:
        asked = activations.activate(limited, "lab", "terraform", clock.__next__)
        done = approvals.approve(limited, "lab", None, "ada", clock.__next__)
        kept = limited.state.plans.newest("lab")
        assert (kept.id, kept.state, kept.decided_by) == (asked.awaiting, PlanState.DONE, "ada")
        assert (done.carried_out, done.plan) == (True, asked.plan)
        assert state_of(limited) is NetworkState.ACTIVE
        assert {"plan.awaiting", "plan.approved", "plan.done"} <= set(events(limited))
        with pytest.raises(ConflictError, match="waits for approval"):
            approvals.approve(limited, "lab", None, "ada", clock.__next__)
        assert approvals.approve(limited, "lab", kept.id, "ada", clock.__next__).carried_out  # a job that is done again
        assert len(limited.state.plans.newest("lab").steps) == len(asked.plan.steps)

    def test_what_would_differ_now_is_not_carried_out(self, limited, clock) -> None:
        asked = activations.activate(limited, "lab", "terraform", clock.__next__)
        limited.state.save_profile("lab", profiled(type="m7i.xlarge").to_dict(), next(clock))
        with pytest.raises(ConflictError, match="would be another one now"):
            approvals.approve(limited, "lab", asked.awaiting, "ada", clock.__next__)
        assert limited.state.plans.newest("lab").state is PlanState.REJECTED
        assert not Path(asked.place).exists()
        with pytest.raises(ConflictError, match="is rejected"):
            approvals.approve(limited, "lab", asked.awaiting, "ada", clock.__next__)

    def test_a_newer_plan_takes_the_place_of_one_that_waits(self, limited, clock) -> None:
        first = activations.activate(limited, "lab", "terraform", clock.__next__)
        limited.state.save_profile("lab", profiled(type="m7i.xlarge").to_dict(), next(clock))
        second = activations.activate(limited, "lab", "terraform", clock.__next__)
        assert second.awaiting != first.awaiting
        assert limited.state.plans.get(first.awaiting).state is PlanState.REJECTED

    def test_a_rejected_plan_is_over(self, limited, clock) -> None:
        activations.activate(limited, "lab", "terraform", clock.__next__)
        gone = approvals.reject(limited, "lab", None, "bob", clock.__next__)
        assert (gone.state, gone.decided_by) == (PlanState.REJECTED, "bob")
        with pytest.raises(ConflictError, match="no plan of lab waits"):
            approvals.reject(limited, "lab", None, "bob", clock.__next__)
        with pytest.raises(NotFoundError):
            approvals.reject(limited, "lab", 999, "bob", clock.__next__)

    def test_who_may_approves_in_the_same_act(self, limited, clock) -> None:
        done = activations.activate(limited, "lab", "terraform", clock.__next__, approved_by="ada")
        assert done.carried_out
        assert limited.state.plans.newest("lab").decided_by == "ada"

    def test_less_for_less_needs_nobody(self, limited, clock) -> None:
        activations.activate(limited, "lab", "terraform", clock.__next__, approved_by="ada")
        policies.put(limited, "lab", 'approval: {above: $0.1/h}\nvms: {"*": {types: [t3.large]}}', clock.__next__)
        found = activations.activate(limited, "lab", "terraform", clock.__next__)
        assert found.plan.price_per_hour < found.plan.price_before_per_hour
        assert found.carried_out
        assert not activations.deactivate(limited, "lab", None, clock.__next__).plan.approval


class Failing:
    """The real provider, of which the step after so many fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        perform, left = TerraformProvider.perform, [after]

        def perform_or_fail(provider: TerraformProvider, step: Step) -> StepOutcome:
            if left[0] == 0:
                raise ProvisionError("the quota is used up", "ask for more")
            left[0] -= 1
            return perform(provider, step)

        monkeypatch.setattr(TerraformProvider, "perform", perform_or_fail)
        self._undo = lambda: monkeypatch.setattr(TerraformProvider, "perform", perform)

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None:
        self._undo()


class TestRollbacks:
    @pytest.mark.parametrize("after", [0, 1, 3, 6])
    def test_what_a_failed_activation_made_is_gone(self, workspace, clock, monkeypatch, after) -> None:
        with Failing(monkeypatch, after), pytest.raises(ProvisionError, match="quota"):
            activations.activate(workspace, "lab", "terraform", clock.__next__)
        failed = workspace.state.plans.newest("lab")
        drawn = rollbacks.rollback(workspace, "lab", clock.__next__, dry_run=True)
        assert len(drawn.plan.steps) == after
        assert (drawn.carried_out, workspace.state.plans.newest("lab")) == (False, failed)
        done = rollbacks.rollback(workspace, "lab", clock.__next__)
        assert done.plan == drawn.plan
        assert not Path(done.place).exists()
        assert workspace.state.plans.get(failed.id).state is PlanState.UNDONE
        assert state_of(workspace) is NetworkState.READY
        with pytest.raises(ConflictError, match="nothing to roll back"):
            rollbacks.rollback(workspace, "lab", clock.__next__)

    def test_what_stood_before_a_change_stands_again(self, workspace, clock, monkeypatch) -> None:
        place = Path(activations.activate(workspace, "lab", "terraform", clock.__next__).place)
        before = json.loads(place.read_text())
        workspace.state.save_profile("lab", profiled(type="m7i.xlarge").to_dict(), next(clock))
        with Failing(monkeypatch, 1), pytest.raises(ProvisionError, match="quota"):
            activations.activate(workspace, "lab", "terraform", clock.__next__)
        assert json.loads(place.read_text()) != before
        back = rollbacks.rollback(workspace, "lab", clock.__next__).plan
        assert [(step.act, step.item.name) for step in back.steps] == [(Act.UPDATE, "web-1")]
        assert back.price_before_per_hour > back.price_per_hour
        assert json.loads(place.read_text()) == before
        assert state_of(workspace) is NetworkState.ACTIVE
        # and the failed act can be made again
        assert len(activations.activate(workspace, "lab", "terraform", clock.__next__).plan.steps) == 2

    def test_a_rollback_that_fails_goes_on_when_it_is_asked_for_again(self, workspace, clock, monkeypatch) -> None:
        with Failing(monkeypatch, 5), pytest.raises(ProvisionError):
            activations.activate(workspace, "lab", "terraform", clock.__next__)
        failed = workspace.state.plans.newest("lab")
        with Failing(monkeypatch, 2), pytest.raises(ProvisionError):
            rollbacks.rollback(workspace, "lab", clock.__next__)
        assert workspace.state.plans.get(failed.id).state is PlanState.FAILED
        assert len(rollbacks.rollback(workspace, "lab", clock.__next__).plan.steps) == 3
        assert workspace.state.plans.get(failed.id).state is PlanState.UNDONE
        assert state_of(workspace) is NetworkState.READY

    def test_destroyed_disks_are_said(self, workspace, clock, monkeypatch) -> None:
        activations.activate(workspace, "lab", "terraform", clock.__next__)
        with Failing(monkeypatch, 3), pytest.raises(ProvisionError):
            activations.deactivate(workspace, "lab", None, clock.__next__)
        back = rollbacks.rollback(workspace, "lab", clock.__next__).plan
        assert set(back.notes) == {"web-1", "web-2"}
        assert all("disk was destroyed" in said for (said,) in back.notes.values())
        assert [(step.act, step.item.kind) for step in back.steps] == [(Act.CREATE, Kind.FIREWALL)]
        assert state_of(workspace) is NetworkState.READY

    @pytest.mark.parametrize("with_plan", [False, True])
    def test_nothing_is_rolled_back_where_nothing_failed(self, workspace, clock, with_plan) -> None:
        if with_plan:
            activations.activate(workspace, "lab", "terraform", clock.__next__)
        with pytest.raises(ConflictError, match="nothing to roll back"):
            rollbacks.rollback(workspace, "lab", clock.__next__)


KILLED = """
import itertools, os, sys
from pathlib import Path
from adumbra.service import rollbacks
from adumbra.service.workspace import Workspace
from adumbra.store.plans import PlanStore

record, left = PlanStore.record_step, [int(sys.argv[2])]
def record_or_die(self, *arguments):
    if sys.argv[3] == "before" and left[0] == 1:
        os.kill(os.getpid(), 9)
    record(self, *arguments)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), 9)
PlanStore.record_step = record_or_die
with Workspace(Path(sys.argv[1])) as workspace:
    rollbacks.rollback(workspace, "lab", itertools.count(10**18).__next__)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rollback_killed_between_any_two_steps_is_finished_at_the_next_start(tmp_path, clock, monkeypatch, when) -> None:
    made = 4
    for step in range(1, made + 1):
        home = tmp_path / str(step)
        with Workspace(home) as workspace:
            networks.create(workspace, SPEC, "lab.yaml", next(clock))
            workspace.state.save_profile("lab", profiled().to_dict(), next(clock))
            with Failing(monkeypatch, made), pytest.raises(ProvisionError):
                activations.activate(workspace, "lab", "terraform", clock.__next__)
            failed = workspace.state.plans.newest("lab")
        killed = subprocess.run([sys.executable, "-c", KILLED, str(home), str(step), when], check=False, env=dict(os.environ))
        assert killed.returncode == -9
        with Workspace(home) as workspace:
            assert workspace.state.plans.get(failed.id).state is PlanState.FAILED
            assert any("lab was interrupted, and is finished" in line for line in recovery.recover(workspace, next(clock)))
            back = workspace.state.plans.newest("lab")
            assert (back.state, back.plan["undoes"], len(back.plan["steps"])) == (PlanState.DONE, failed.id, made)
            assert workspace.state.plans.get(failed.id).state is PlanState.UNDONE
            assert sorted({each.index for each in back.steps}) == list(range(made))
            assert not (home / "terraform" / "lab" / "main.tf.json").exists()
            assert state_of(workspace) is NetworkState.READY
            assert recovery.recover(workspace, next(clock)) == ()
