"""Tokens: make, list, show, revoke. Nobody gives rights beyond their own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from adumbra.api.access import Giver
from adumbra.api.acts import Changing
from adumbra.api.context import At
from adumbra.api.paging import DEFAULT_LIMIT, After, Limit, id_after, page
from adumbra.api.shapes.access import NewTokenIn, TokenMade, TokenOut
from adumbra.api.shapes.common import Page
from adumbra.schema.access import NewToken
from adumbra.service import access
from adumbra.service.access import Issued

router = APIRouter(prefix="/tokens", tags=["access"])

Number = Annotated[int, Path(ge=1, lt=2**63)]


@router.post("", status_code=201, summary="Make a token; its secret is shown this once")
def create(asked: NewTokenIn, at: At, who: Giver, change: Changing, response: Response) -> TokenMade:
    access.check_gives(who, asked.role, asked.networks)
    expires_ns = None if asked.expires is None else round(asked.expires.timestamp() * 1e6) * 1000
    new = NewToken(asked.name, asked.role, asked.networks, expires_ns)
    made, _ = change.make_once(
        lambda: access.issue(at.workspace, new, at.now()),
        lambda subject: Issued(at.workspace.state.access.token(int(subject.partition("/")[2])), ""),
        asked=asked.model_dump(mode="json"), after=lambda issued: access.told(issued.record),
    )  # fmt: skip
    response.headers["Location"] = f"/v1/tokens/{made.record.id}"
    return TokenMade(token=TokenOut.model_validate(made.record), secret=made.secret or None)


@router.get("", summary="List the tokens, newest first, revoked ones too")
def listing(at: At, who: Giver, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[TokenOut]:
    found = access.tokens_for(at.workspace, who, limit + 1, id_after(after))
    these, following = page(found, limit, lambda record: record.id)
    return Page(items=[TokenOut.model_validate(each) for each in these], next=following)


@router.get("/{token}", summary="Show a token, without its secret")
def show(token: Number, at: At, who: Giver) -> TokenOut:
    return TokenOut.model_validate(access.token_for(at.workspace, who, token))


@router.delete("/{token}", summary="Revoke a token: it is refused from this moment on")
def revoke(token: Number, at: At, who: Giver, change: Changing) -> TokenOut:
    before = access.token_for(at.workspace, who, token)
    done, _ = change.make_once(
        lambda: at.workspace.state.access.revoke_token(token, at.now()),
        lambda _: at.workspace.state.access.token(token),
        before=access.told(before), after=access.told,
    )  # fmt: skip
    return TokenOut.model_validate(done)
