"""Jobs: list, show, cancel. What queues them are the routes of what they do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from adumbra.api.access import Known, Viewer, allowed
from adumbra.api.acts import Changing
from adumbra.api.asked import JobNumber
from adumbra.api.context import At, Server
from adumbra.api.paging import DEFAULT_LIMIT, AfterId, Limit, id_after, page
from adumbra.api.routes.events import seen_of
from adumbra.api.shapes.common import Name, Page
from adumbra.api.shapes.jobs import JobOut
from adumbra.schema.access import Principal, Role
from adumbra.schema.errors import ConflictError, NotFoundError
from adumbra.schema.jobs import JobKind, JobQuery, JobRecord, JobState
from adumbra.service import uploads

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("", summary="Jobs, newest first")
def listing(
    at: At,
    who: Viewer,
    *,
    networks: Annotated[list[Name], Query(alias="network", max_length=100, description="Only of these networks.")] = [],  # noqa: B006
    kinds: Annotated[list[JobKind], Query(alias="kind", description="Only of these kinds.")] = [],  # noqa: B006
    states: Annotated[list[JobState], Query(alias="state", description="Only in these states.")] = [],  # noqa: B006
    limit: Limit = DEFAULT_LIMIT,
    after: AfterId = None,
) -> Page[JobOut]:
    query = JobQuery(seen_of(who, networks), tuple(kinds), tuple(states), id_after(after), limit + 1)
    these, following = page(at.workspace.state.jobs.listing(query), limit, lambda record: record.id)
    return Page(items=[JobOut.model_validate(each) for each in these], next=following)


@router.get("/{number}", summary="Show a job: how far it is, and what came of it")
def show(number: JobNumber, at: At, who: Known) -> JobOut:
    return JobOut.model_validate(job_of(at, who, number, Role.VIEWER))


@router.post("/{number}/cancel", summary="Cancel a job")
def cancel(number: JobNumber, at: At, who: Known, change: Changing) -> JobOut:
    """What it did until then stays. Nothing happens where it was cancelled before."""
    found = job_of(at, who, number, Role.OPERATOR)
    if found.state in {JobState.DONE, JobState.FAILED}:
        raise ConflictError(f"job {number} is {found.state.value}", "there is nothing left to cancel")
    jobs = at.workspace.state.jobs
    made, _ = change.make_once(
        lambda: jobs.finish(number, JobState.CANCELLED, at.now(), trouble=f"{who.name} cancelled it"),
        lambda _: jobs.get(number),
        asked={"job": number}, before={"state": found.state.value}, after=lambda job: {"state": job.state.value},
        network=found.network,
    )  # fmt: skip
    if found.state is JobState.QUEUED:  # nobody else will
        uploads.drop(at.workspace, found.asked)
    at.wake()
    return JobOut.model_validate(made)


def job_of(at: Server, who: Principal, number: int, role: Role) -> JobRecord:
    """A job that is theirs to look at, or to change. One of a network that isn't theirs is, to them, not there."""
    allowed(who, role, None)
    found = at.workspace.state.jobs.get(number)
    if not who.sees(found.network):
        raise NotFoundError(f"there is no job {number}", "its network was deleted, or newer jobs took its place")
    allowed(who, role, found.network)
    return found
