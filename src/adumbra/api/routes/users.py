"""Users: add, list, show, disable, enable, rights, password. Nobody gives rights beyond their own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from adumbra.api.access import Giver
from adumbra.api.acts import Changing
from adumbra.api.context import At
from adumbra.api.paging import DEFAULT_LIMIT, After, Limit, page
from adumbra.api.shapes.access import NewPassword, NewUserIn, Rights, UserOut
from adumbra.api.shapes.common import Page
from adumbra.schema.access import NewUser
from adumbra.service import access

router = APIRouter(prefix="/users", tags=["access"])

UserName = Annotated[str, Path(max_length=63)]


@router.post("", status_code=201, summary="Add a user who signs in with a password")
def create(asked: NewUserIn, at: At, who: Giver, change: Changing, response: Response) -> UserOut:
    access.check_gives(who, asked.role, asked.networks)
    new = NewUser(asked.name, asked.role, asked.networks)
    made, _ = change.make_once(
        lambda: access.add_user(at.workspace, new, asked.password.get_secret_value(), at.now()),
        lambda subject: access.user(at.workspace, subject.partition("/")[2]),
        asked=asked.model_dump(mode="json", exclude={"password"}), after=access.told,
    )  # fmt: skip
    response.headers["Location"] = f"/v1/users/{made.name}"
    return UserOut.model_validate(made)


@router.get("", summary="List the users, by name")
def listing(at: At, who: Giver, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[UserOut]:
    found = access.users_for(at.workspace, who, limit + 1, after)
    these, following = page(found, limit, lambda record: record.name)
    return Page(items=[UserOut.model_validate(each) for each in these], next=following)


@router.get("/{user}", summary="Show a user")
def show(user: UserName, at: At, who: Giver) -> UserOut:
    return UserOut.model_validate(access.user_for(at.workspace, who, user))


@router.post("/{user}/disable", summary="Let a user sign in no more, and end their sign-ins")
def disable(user: UserName, at: At, who: Giver, change: Changing) -> UserOut:
    return _disabled(user, at, who, change, at.now())


@router.post("/{user}/enable", summary="Let a user sign in again")
def enable(user: UserName, at: At, who: Giver, change: Changing) -> UserOut:
    return _disabled(user, at, who, change, None)


def _disabled(user: str, at: At, who: Giver, change: Changing, disabled_ns: int | None) -> UserOut:
    before = access.user_for(at.workspace, who, user)
    done, _ = change.make_once(
        lambda: access.disable(at.workspace, who, user, disabled_ns),
        lambda _: access.user(at.workspace, user),
        before=access.told(before), after=access.told,
    )  # fmt: skip
    return UserOut.model_validate(done)


@router.put("/{user}/rights", summary="Give a user another role or other networks")
def rights(user: UserName, asked: Rights, at: At, who: Giver, change: Changing) -> UserOut:
    before = access.user_for(at.workspace, who, user)
    access.check_gives(who, asked.role, asked.networks)
    done, _ = change.make_once(
        lambda: access.set_rights(at.workspace, user, asked.role, asked.networks),
        lambda _: access.user(at.workspace, user),
        asked=asked.model_dump(mode="json"), before=access.told(before), after=access.told,
    )  # fmt: skip
    return UserOut.model_validate(done)


@router.put("/{user}/password", status_code=204, summary="Give a user another password, and end their sign-ins")
def password(user: UserName, asked: NewPassword, at: At, who: Giver, change: Changing) -> None:
    before = access.user_for(at.workspace, who, user)
    change.make_once(
        lambda: access.set_password(at.workspace, user, asked.password.get_secret_value()),
        lambda _: None,
        before=access.told(before), after=lambda _: access.told(before),
    )  # fmt: skip
