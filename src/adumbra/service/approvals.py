"""Approvals: a plan that waits is carried out exactly as it was approved, or not at all."""

from __future__ import annotations

from collections.abc import Callable

from adumbra.schema.errors import ConflictError, NotFoundError
from adumbra.schema.plans import Plan
from adumbra.schema.state import PlanRecord, PlanState
from adumbra.service import networks, planning
from adumbra.service.activations import Activation, carry_on, one_at_a_time, same
from adumbra.service.providers import provider_of
from adumbra.service.workspace import Workspace


def waiting(workspace: Workspace, name: str, number: int | None = None) -> PlanRecord:
    """The plan of a network that waits for approval, or (by its number) one that did. Raises NotFoundError, ConflictError."""
    networks.get(workspace, name)
    if number is None:
        found = workspace.state.plans.newest(name, (PlanState.AWAITING,))
        if found is None:
            raise none_waits(name)
        return found
    found = newest(workspace, name, number)
    if found.state is not PlanState.AWAITING and (found.decided_by is None or found.state is PlanState.REJECTED):
        raise ConflictError(f"plan {number} of {name} is {found.state.value}, and waits for nobody", "plan again, to ask anew")
    return found


def none_waits(name: str) -> ConflictError:
    """What is said where no plan waits."""
    return ConflictError(f"no plan of {name} waits for approval", f"see `adumbra plan show {name}`")


def approve(workspace: Workspace, name: str, number: int | None, by: str, now: Callable[[], int]) -> Activation:
    """Approves a plan that waits (None: the one that does), and carries it out. One that was approved before is carried on.

    It is planned again first: where the plan would be another one now, it is rejected. Raises ConflictError then, and where no
    plan waits; NotFoundError; ProvisionError where a step fails.
    """
    number = waiting(workspace, name, number).id
    with one_at_a_time(workspace, name):
        record = waiting(workspace, name, number)  # as it is once nobody else is at it
        plan = Plan.from_dict(record.plan)
        with provider_of(workspace, plan.provider, name) as provider:
            if record.state is PlanState.AWAITING:
                if not same(plan, planning.activation(workspace, name, provider)):
                    workspace.state.plans.reject(number, None, now(), "What it was made from has changed since.")
                    raise ConflictError(
                        f"plan {number} of {name} would be another one now, so it is not carried out",
                        f"run `adumbra activate {name} --provider {plan.provider}` again, and approve what that asks for",
                    )
                reason = f"{by} approved a plan of {len(plan.steps)} steps, which began"
                record = workspace.state.plans.approve(number, by, now(), reason)
            done = record.state is PlanState.DONE
            told = () if done else carry_on(workspace, record, provider, now)
            return Activation(plan, carried_out=True, place=provider.place, told=told)


def newest(workspace: Workspace, name: str, number: int | None = None) -> PlanRecord:
    """A network's newest plan, or the one of that number. Raises NotFoundError."""
    networks.get(workspace, name)
    found = workspace.state.plans.newest(name) if number is None else workspace.state.plans.get(number)
    if found is None:
        raise NotFoundError(f"there is no plan of {name} yet", f"run `adumbra activate {name} --provider PROVIDER`")
    if found.network != name:
        raise NotFoundError(f"there is no plan {number} of {name}", f"see `adumbra plan show {name}`")
    return found


def reject(workspace: Workspace, name: str, number: int | None, by: str, now: Callable[[], int]) -> PlanRecord:
    """Says that a plan which waits (None: the one that does) won't be carried out. Raises ConflictError, NotFoundError."""
    return workspace.state.plans.reject(waiting(workspace, name, number).id, by, now())
