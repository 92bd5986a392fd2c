"""What happened: of one network, or of all that whoever asks may see."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from adumbra.api.access import Viewer
from adumbra.api.asked import Since, ns_of
from adumbra.api.context import At
from adumbra.api.paging import DEFAULT_LIMIT, AfterId, Limit, id_after, page
from adumbra.api.shapes.common import Name, Page
from adumbra.api.shapes.events import EventOut
from adumbra.schema.access import Principal
from adumbra.schema.errors import NotFoundError
from adumbra.schema.state import EventQuery

router = APIRouter(prefix="/events", tags=["events"])


@router.get("", summary="Events, newest first")
def listing(
    at: At,
    who: Viewer,
    *,
    networks: Annotated[
        list[Name], Query(alias="network", max_length=100, description="Only of these networks, there or deleted.")
    ] = [],  # noqa: B006
    kinds: Annotated[
        list[Annotated[str, Query(pattern=r"^[a-z]+(\.[a-z]+)*$", max_length=64)]],
        Query(alias="kind", max_length=20, description='Only of these kinds; "job" is "job.done" too.', examples=[["job"]]),
    ] = [],  # noqa: B006
    since: Since = None,
    limit: Limit = DEFAULT_LIMIT,
    after: AfterId = None,
) -> Page[EventOut]:
    query = EventQuery(
        seen_of(who, networks), tuple(kinds), ns_of(since), before_id=id_after(after), limit=limit + 1
    )  # fmt: skip
    these, following = page(at.workspace.state.events_of(query), limit, lambda record: record.id)
    return Page(items=[EventOut.model_validate(each) for each in these], next=following)


def seen_of(who: Principal, asked: list[str]) -> tuple[str, ...] | None:
    """The networks to look at, None for all. Raises NotFoundError for one that isn't theirs."""
    for each in asked:
        if not who.sees(each):
            raise NotFoundError(f"there is no network {each!r}", "or it is not one of yours")
    return tuple(asked) or who.networks
