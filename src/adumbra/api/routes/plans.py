"""Plans, and carrying them out: what an activation would do, what it did, activate, deactivate."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from adumbra.api.access import Operator, Viewer
from adumbra.api.acts import Changing
from adumbra.api.asked import NetworkName
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
    SettingChangeOut,
    StepOut,
    TakingAwayAsked,
)
from adumbra.provision.changes import changes, lines
from adumbra.schema.errors import ConflictError, NotFoundError
from adumbra.schema.jobs import JobKind
from adumbra.schema.plans import PROVIDERS, Plan, Step
from adumbra.schema.state import PlanRecord, StepRecord
from adumbra.service import activations
from adumbra.service.providers import active_provider

router = APIRouter(prefix="/networks/{name}", tags=["plans"])


@router.get("/plan", summary="The newest plan that was carried out, or is")
def show(name: NetworkName, at: At, who: Viewer) -> KeptPlanOut:
    found = at.workspace.state.plans.newest(name)
    if found is None:
        raise NotFoundError(f"no plan of {name} was carried out yet", "activate it, or POST to plans/dry-run for a plan")
    return _kept(found)


@router.get("/plans", summary="The plans that were carried out, newest first")
def listing(name: NetworkName, at: At, who: Viewer, limit: Limit = DEFAULT_LIMIT, after: AfterId = None) -> Page[KeptPlanOut]:
    found = at.workspace.state.plans.of(name, limit + 1, id_after(after))
    these, following = page(found, limit, lambda record: record.id)
    return Page(items=[_kept(each) for each in these], next=following)


@router.post("/plans/dry-run", summary="What an activation, or a deactivation, would do now; touches nothing")
def dry_run(name: NetworkName, at: At, who: Viewer, asked: DryRunAsked | None = None) -> DryPlanOut:
    given = asked or DryRunAsked()
    if given.deactivate:
        found = activations.deactivate(at.workspace, name, given.provider, at.now, dry_run=True)
    else:
        provider = given.provider or active_provider(at.workspace, name) or PROVIDERS[0]
        found = activations.activate(at.workspace, name, provider, at.now, dry_run=True)
    return DryPlanOut.model_validate(_plan(found.plan, {}) | {"plan": found.plan.to_dict(), "place": found.place})


@router.post("/activations", status_code=202, summary="Make a network real, with the sizes of its profile; a job")
def activate(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: ProviderAsked | None = None
) -> JobOut:
    if at.workspace.state.profile(name) is None:
        raise ConflictError(f"{name} has no profile yet", f"run `adumbra train {name}` and `adumbra profile {name}` first")
    return queued(change, response, name, JobKind.ACTIVATE, (asked or ProviderAsked()).model_dump(mode="json"))


@router.post("/deactivations", status_code=202, summary="Take away what an activation made; the shadow stays; a job")
def deactivate(
    name: NetworkName, at: At, who: Operator, change: Changing, response: Response, asked: TakingAwayAsked | None = None
) -> JobOut:
    return queued(change, response, name, JobKind.DEACTIVATE, (asked or TakingAwayAsked()).model_dump(mode="json"))


def _kept(record: PlanRecord) -> KeptPlanOut:
    last = {step.index: step for step in record.steps}
    told = _plan(Plan.from_dict(record.plan), last)
    return KeptPlanOut.model_validate(
        told | {
            "id": record.id, "state": record.state, "created": instant(record.created_ns), "finished": record.finished_ns,
        }
    )  # fmt: skip


def _plan(plan: Plan, last: dict[int, StepRecord]) -> dict[str, Any]:
    return {
        "network": plan.network, "provider": plan.provider, "price_per_hour": plan.price_per_hour,
        "steps": [_step(step, last.get(number)) for number, step in enumerate(plan.steps)], "diff": list(lines(plan)),
    }  # fmt: skip


def _step(step: Step, last: StepRecord | None) -> StepOut:
    done, detail = (None, "") if last is None else (bool(last.outcome["done"]), str(last.outcome.get("detail", "")))
    return StepOut(
        act=step.act, kind=step.item.kind, name=step.item.name, interrupts=step.interrupts,
        changes=[SettingChangeOut.model_validate(each) for each in changes(step)], done=done, detail=detail,
    )  # fmt: skip
