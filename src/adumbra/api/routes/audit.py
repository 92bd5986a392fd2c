"""The audit log: who changed what, from where, and what stood before and after."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from adumbra.api.access import Operator, allowed
from adumbra.api.asked import Moment, ns_of
from adumbra.api.context import At
from adumbra.api.paging import DEFAULT_LIMIT, After, Limit, id_after, page
from adumbra.api.shapes.access import ActOut
from adumbra.api.shapes.common import Page
from adumbra.schema.access import ActFilter, Principal, Role, Through

router = APIRouter(prefix="/audit", tags=["access"])

Network = Annotated[str | None, Query(max_length=63, description="Only what was done to this network.")]
Who = Annotated[str | None, Query(alias="who", max_length=63, description="Only what a token or user of this name did.")]
By = Annotated[Through | None, Query(description="Only what was done by a token, a sign-in, or on the server's host.")]
What = Annotated[str | None, Query(max_length=200, description="Only acts that begin so.", examples=["DELETE /v1/networks"])]
Since = Annotated[Moment | None, Query(description="Only what was done then or later.")]
Until = Annotated[Moment | None, Query(description="Only what was done before.")]


@router.get("", summary="What was changed, newest first: all, or, to whoever isn't admin of all, in their networks")
def listing(
    at: At, who: Operator, limit: Limit = DEFAULT_LIMIT, after: After = None, network: Network = None, by: Who = None,
    through: By = None, what: What = None, since: Since = None, until: Until = None,
) -> Page[ActOut]:  # fmt: skip
    if network is not None:
        allowed(who, Role.OPERATOR, network)
    chosen = ActFilter(
        (network,) if network is not None else who.networks, not _sees_all(who), by, through, what,
        ns_of(since), ns_of(until),
    )  # fmt: skip
    found = at.workspace.state.access.acts(chosen, limit + 1, id_after(after))
    these, following = page(found, limit, lambda record: record.id)
    return Page(items=[ActOut.model_validate(each) for each in these], next=following)


def _sees_all(who: Principal) -> bool:
    return who.role is Role.ADMIN and who.networks is None
