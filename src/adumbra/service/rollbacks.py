"""Rolling back: what a plan that failed has done is taken back, by a plan that is recorded and carried out like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from adumbra.provision.inverse import inverse
from adumbra.provision.plan import apply_step
from adumbra.provision.protocol import Provider
from adumbra.schema.errors import ConflictError
from adumbra.schema.plans import Actual, Kind, Plan
from adumbra.schema.state import NetworkState, PlanRecord, PlanState
from adumbra.service import networks, planning
from adumbra.service.activations import Activation, carry_on, one_at_a_time
from adumbra.service.providers import provider_of
from adumbra.service.workspace import Workspace

_CARRIED_OUT = tuple(state for state in PlanState if state.carried_out)


@dataclass(frozen=True, slots=True)
class _Back:
    """The plan that undoes `target`, the newest plan (that one, or the rollback of it that failed), and where the network
    comes to."""

    plan: Plan
    newest: PlanRecord
    target: PlanRecord
    aim: NetworkState


def rollback(workspace: Workspace, name: str, now: Callable[[], int], *, dry_run: bool = False) -> Activation:
    """Takes back what the newest plan of a network has done, where that failed or was interrupted.

    The plan's notes say what can't be taken back, and stays. Where a rollback fails, or is killed and then fails, rolling back
    again goes on from what stands. Raises ConflictError where the newest plan did not fail, ProvisionError where a step fails.
    """
    networks.get(workspace, name)
    _newest(workspace, name)
    with one_at_a_time(workspace, name):
        newest = _newest(workspace, name)
        target = workspace.state.plans.get(newest.plan["undoes"]) if newest.plan.get("undoes") is not None else newest
        undone = Plan.from_dict(target.plan)
        with provider_of(workspace, undone.provider, name) as provider:
            actual = provider.actual(name)
            plan = _planned(workspace, undone, _begun(target), actual, provider)
            if not dry_run:
                _carry_out(workspace, _Back(plan, newest, target, _aim(workspace, plan, actual)), provider, now)
            return Activation(plan, not dry_run, provider.place)


def _newest(workspace: Workspace, name: str) -> PlanRecord:
    """The newest plan that was carried out, which failed or was interrupted: its network's lock says that nobody is at it."""
    found = workspace.state.plans.newest(name, _CARRIED_OUT)
    if found is None:
        raise ConflictError(f"no plan of {name} was carried out, so there is nothing to roll back", "activate it first")
    if found.state in {PlanState.DONE, PlanState.UNDONE}:
        raise ConflictError(
            f"the newest plan of {name} is {found.state.value}, so there is nothing to roll back",
            f"run `adumbra deactivate {name}` to take away what stands",
        )
    return found


def _begun(record: PlanRecord) -> int:
    """How many steps were begun: those with an outcome, and the one whose outcome may have been lost."""
    return min(max((step.index for step in record.steps), default=-1) + 2, len(record.plan["steps"]))


def _planned(workspace: Workspace, undone: Plan, begun: int, actual: Actual, provider: Provider) -> Plan:
    back = inverse(undone, begun, actual, provider.rules)
    after = planning.price_of_items(_after(back, actual).items)
    return replace(back, price_per_hour=after, price_before_per_hour=planning.standing_price(workspace, actual))


def _after(plan: Plan, actual: Actual) -> Actual:
    items = actual.items
    for step in plan.steps:
        items = apply_step(items, step)
    return Actual(actual.network, items)


def _aim(workspace: Workspace, plan: Plan, actual: Actual) -> NetworkState:
    """The state that the network comes to: active where machines stand."""
    if any(item.kind is Kind.MACHINE for item in _after(plan, actual).items):
        return NetworkState.ACTIVE
    return NetworkState.READY if workspace.state.profile(plan.network) else NetworkState.SHADOWING


def _carry_out(workspace: Workspace, back: _Back, provider: Provider, now: Callable[[], int]) -> None:
    plans, plan, target = workspace.state.plans, back.plan, back.target
    if plan.empty:
        moved = back.aim, f"nothing of plan {target.id} stands any more that can be taken back"
        if back.newest.id == target.id:
            plans.finish(target.id, PlanState.UNDONE, now(), moved)
        else:  # the rollback that failed before has done its work
            plans.finish(back.newest.id, PlanState.DONE, now(), moved, target.id)
        return
    if back.newest.state is PlanState.EXECUTING:  # its process died
        plans.finish(back.newest.id, PlanState.FAILED, now())
    told = plan.to_dict() | {"aim": back.aim.value, "undoes": target.id}
    record = plans.begin(plan.network, told, now(), f"a plan of {len(plan.steps)} steps began, to undo plan {target.id}")
    carry_on(workspace, record, provider, now)
