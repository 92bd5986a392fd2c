"""What a visitor may see and do: the same as by the API. Every change is made here, and logged with who made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from adumbra.console.context import Visitor
from adumbra.schema.access import Act, Principal, Role
from adumbra.schema.errors import ForbiddenError, NotFoundError
from adumbra.service import access

T = TypeVar("T")


def allowed(who: Principal, role: Role, network: str | None = None) -> Principal:
    """Raises ForbiddenError for what they may not do. A network that isn't theirs is, to them, not there."""
    if network is not None and not who.sees(network):
        raise NotFoundError(f"there is no network {network[:63]!r}", "or it is not one of yours")
    if not may(who, role, network):
        raise ForbiddenError(
            f"{who.name} is {who.role.value}{'' if who.networks is None else ' of some networks'}, and this needs {role.value}",
            "ask an administrator",
        )
    return who


def may(who: Principal, role: Role, network: str | None = None) -> bool:
    """Whether they may do what that role may to that network or, None, to whatever they see; of administrators, to all."""
    return who.may(role, network) or (network is None and role is not Role.ADMIN and who.role.includes(role))


def change(
    visitor: Visitor, what: str, role: Role, network: str | None, do: Callable[[], T],
    *, asked: Mapping[str, Any] | None = None, before: Mapping[str, Any] | None = None,
    after: Callable[[T], Mapping[str, Any] | None] = lambda _: None,
) -> T:  # fmt: skip
    """Does it, in the log, if whoever looks at the page still may. Runs in a thread of its own: stores wait.

    what: a word or two for the log; asked, before, after: what it tells, without secrets. Raises AccessError, ForbiddenError.
    """
    console = visitor.console
    who = allowed(visitor.again(), role, network)
    act = Act(who, f"console: {what}", visitor.origin, network, asked=asked, before=before)
    made = access.make(console.workspace, act, console.now(), do, after)
    console.looks.renew()
    return made
