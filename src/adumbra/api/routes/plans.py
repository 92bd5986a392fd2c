"""Plans, and carrying them out: what an activation would do, what it did, activate, deactivate."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from adumbra.api.access import Admin, Operator, Viewer, allowed
from adumbra.api.acts import Changing
from adumbra.api.asked import NetworkName, PlanNumber
from adumbra.api.context import At
from adumbra.api.paging import DEFAULT_LIMIT, AfterId, Limit, id_after, page
from adumbra.api.queueing import queued
from adumbra.api.shapes.common import Page, instant
from adumbra.api.shapes.jobs import JobOut
from adumbra.api.shapes.plans import (
    DryPlanOut,
    DryRunAsked,
    KeptPlanOut,
    ProviderAsked,
    RollbackAsked,
    SettingChangeOut,
    StepOut,
    TakingAwayAsked,
)
from adumbra.provision.changes import changes, lines
from adumbra.schema.access import Role
from adumbra.schema.errors import ConflictError
from adumbra.schema.jobs import JobKind
from adumbra.schema.plans import Plan, Step
from adumbra.schema.state import PlanRecord, StepRecord
from adumbra.service import activations, approvals, rollbacks
from adumbra.service.providers import usual_provider

router = APIRouter(prefix="/networks/{name}", tags=["plans"])


@router.get("/plan", summary="The newest plan: carried out, being so, or waiting for approval")
def show(name: NetworkName, at: At, who: Viewer) -> KeptPlanOut:
    return _kept(approvals.newest(at.workspace, name))


@router.get("/plans", summary="The plans that were carried out, are, or were to be, newest first")
def listing(name: NetworkName, at: At, who: Viewer, limit: Limit = DEFAULT_LIMIT, after: AfterId = None) -> Page[KeptPlanOut]:
    found = at.workspace.state.plans.of(name, limit + 1, id_after(after))
    these, following = page(found, limit, lambda record: record.id)
    return Page(items=[_kept(each) for each in these], next=following)


@router.get("/plans/{number}", summary="One of the plans")
def one(name: NetworkName, number: PlanNumber, at: At, who: Viewer) -> KeptPlanOut:
    return _kept(approvals.newest(at.workspace, name, number))


@router.post("/plans/dry-run", summary="What an activation, or a deactivation, would do now; touches nothing")
def dry_run(name: NetworkName, at: At, who: Viewer, asked: DryRunAsked | None = None) -> DryPlanOut:
    given = asked or DryRunAsked()
    if given.rollback:
        found = rollbacks.rollback(at.workspace, name, at.now, dry_run=True)
    elif given.deactivate:
        found = activations.deactivate(at.workspace, name, given.provider, at.now, dry_run=True)
    else:
        provider = given.provider or usual_provider(at.workspace, name)
        found = activations.activate(at.workspace, name, provider, at.now, dry_run=True)
    return DryPlanOut.model_validate(_plan(found.plan, {}) | {"plan": found.plan.to_dict(), "place": found.place})


@router.post("/activations", status_code=202, summary="Make a network real, with the sizes of its profile; a job")
def activate(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: ProviderAsked | None = None
) -> JobOut:
    if at.workspace.state.profile(name) is None:
        raise ConflictError(f"{name} has no profile yet", f"run `adumbra train {name}` and `adumbra profile {name}` first")
    given = asked or ProviderAsked()
    if given.approve:
        allowed(who, Role.ADMIN, name)
    told = {"provider": given.provider} | ({"approve": True} if given.approve else {})
    return queued(change, response, name, JobKind.ACTIVATE, told)


@router.post("/plans/{number}/approval", status_code=202, summary="Approve a plan that waits, and carry it out; a job")
def approve(name: NetworkName, number: PlanNumber, at: At, who: Admin, change: Changing, response: Response) -> JobOut:
    """It is planned again first: where the plan would be another one now, it is not carried out."""
    record = approvals.waiting(at.workspace, name, number)
    told = {"provider": record.plan["provider"], "plan": number}
    return queued(change, response, name, JobKind.ACTIVATE, told)


@router.post("/plans/{number}/rejection", summary="Say that a plan which waits for approval won't be carried out")
def reject(name: NetworkName, number: PlanNumber, at: At, who: Operator, change: Changing) -> KeptPlanOut:
    made, _ = change.make_once(
        lambda: approvals.reject(at.workspace, name, number, who.name, at.now),
        lambda subject: at.workspace.state.plans.get(int(subject.partition("/")[2])), asked={"plan": number},
        after=lambda record: {"state": record.state.value},
    )  # fmt: skip
    return _kept(made)


@router.post("/plans/rollback", status_code=202, summary="Take back what the newest plan, which failed, has done; a job")
def rollback(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: RollbackAsked | None = None
) -> JobOut:
    return queued(change, response, name, JobKind.ROLLBACK, {})


@router.post("/deactivations", status_code=202, summary="Take away what an activation made; the shadow stays; a job")
def deactivate(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: TakingAwayAsked | None = None
) -> JobOut:
    return queued(change, response, name, JobKind.DEACTIVATE, (asked or TakingAwayAsked()).model_dump(mode="json"))


def _kept(record: PlanRecord) -> KeptPlanOut:
    last = {step.index: step for step in record.steps}
    plan = Plan.from_dict(record.plan)
    told = _plan(plan, last)
    return KeptPlanOut.model_validate(
        told | {
            "id": record.id, "state": record.state, "created": instant(record.created_ns), "finished": record.finished_ns,
            "decided_by": record.decided_by, "decided": record.decided_ns, "undoes": record.plan.get("undoes"),
            "plan": dict(record.plan),
        }
    )  # fmt: skip


def _plan(plan: Plan, last: dict[int, StepRecord]) -> dict[str, Any]:
    done, detail = _came_to(last.get(len(plan.steps)))
    return {
        "network": plan.network, "provider": plan.provider, "price_per_hour": plan.price_per_hour,
        "price_before_per_hour": plan.price_before_per_hour, "approval": plan.approval, "notes": plan.notes,
        "steps": [_step(step, last.get(number)) for number, step in enumerate(plan.steps)], "diff": list(lines(plan)),
        "finished_done": done, "finished_detail": detail,
    }  # fmt: skip


def _step(step: Step, last: StepRecord | None) -> StepOut:
    done, detail = _came_to(last)
    return StepOut(
        act=step.act, kind=step.item.kind, name=step.item.name, interrupts=step.interrupts,
        changes=[SettingChangeOut.model_validate(each) for each in changes(step)], done=done, detail=detail,
    )  # fmt: skip


def _came_to(last: StepRecord | None) -> tuple[bool | None, str]:
    """Whether an act was carried out, None where it wasn't tried; and what its last attempt came to."""
    return (None, "") if last is None else (bool(last.outcome["done"]), str(last.outcome.get("detail", "")))
