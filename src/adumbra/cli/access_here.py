"""The use cases of tokens and users in the workspace on this host: each change is in the log, as the command's."""

from __future__ import annotations

from collections.abc import Sequence

from adumbra.schema.access import NewToken, NewUser, Role, TokenRecord, UserRecord
from adumbra.service import access
from adumbra.service.access import Issued
from adumbra.service.workspace import Workspace


class AccessHere:
    """In an opened workspace; each change in the log, as the command's."""

    def __init__(self, workspace: Workspace, now_ns: int) -> None:
        self._opened, self._now_ns = workspace, now_ns

    def issue(self, new: NewToken) -> Issued:
        told = {"name": new.name, "role": new.role, "networks": new.networks, "expires_ns": new.expires_ns}
        return access.LocalAct(self._opened, "adumbra token create", self._now_ns).make(
            lambda: access.issue(self._opened, new, self._now_ns), told,
            after=lambda issued: access.told(issued.record),
        )  # fmt: skip

    def tokens(self) -> Sequence[TokenRecord]:
        return access.tokens_for(self._opened, access.local_user(), access.MAX_LISTED)

    def revoke(self, number: int) -> TokenRecord:
        before = self._opened.state.access.token(number)
        return access.LocalAct(self._opened, "adumbra token revoke", self._now_ns).make(
            lambda: self._opened.state.access.revoke_token(number, self._now_ns),
            before=access.told(before), after=access.told,
        )  # fmt: skip

    def add_user(self, new: NewUser, password: str) -> UserRecord:
        told = {"name": new.name, "role": new.role, "networks": new.networks}
        return access.LocalAct(self._opened, "adumbra user add", self._now_ns).make(
            lambda: access.add_user(self._opened, new, password, self._now_ns), told, after=access.told
        )

    def users(self) -> Sequence[UserRecord]:
        return access.users_for(self._opened, access.local_user(), access.MAX_LISTED)

    def set_rights(self, name: str, role: Role, networks: tuple[str, ...] | None) -> UserRecord:
        before = access.told(access.user(self._opened, name))
        return access.LocalAct(self._opened, "adumbra user rights", self._now_ns).make(
            lambda: access.set_rights(self._opened, name, role, networks), {"role": role, "networks": networks},
            before, access.told,
        )  # fmt: skip

    def set_disabled(self, name: str, *, disabled: bool) -> UserRecord:
        before, who = access.told(access.user(self._opened, name)), access.local_user()
        what = f"adumbra user {'disable' if disabled else 'enable'}"
        return access.LocalAct(self._opened, what, self._now_ns).make(
            lambda: access.disable(self._opened, who, name, self._now_ns if disabled else None),
            before=before, after=access.told,
        )  # fmt: skip

    def set_password(self, name: str, password: str) -> None:
        before = access.told(access.user(self._opened, name))
        access.LocalAct(self._opened, "adumbra user password", self._now_ns).make(
            lambda: access.set_password(self._opened, name, password), before=before, after=lambda _: before
        )
