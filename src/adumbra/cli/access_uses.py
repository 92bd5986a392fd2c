"""What the commands on tokens and users ask for, done in the workspace on this host, or through a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from adumbra.cli.session import now_ns, workspace

if TYPE_CHECKING:
    from adumbra.client import Client
    from adumbra.schema.access import NewToken, NewUser, Role, TokenRecord, UserRecord
    from adumbra.service.access import Issued


class AccessUses(Protocol):
    """The use cases of tokens and users. Each raises what its function of service.access does."""

    def issue(self, new: NewToken) -> Issued: ...
    def tokens(self) -> Sequence[TokenRecord]: ...
    def revoke(self, number: int) -> TokenRecord: ...
    def add_user(self, new: NewUser, password: str) -> UserRecord: ...
    def users(self) -> Sequence[UserRecord]: ...
    def set_rights(self, name: str, role: Role, networks: tuple[str, ...] | None) -> UserRecord: ...
    def set_disabled(self, name: str, *, disabled: bool) -> UserRecord: ...
    def set_password(self, name: str, password: str) -> None: ...


@contextmanager
def access_uses() -> Iterator[AccessUses]:
    """Those of the server that ADUMBRA_SERVER names, or else of the user's workspace."""
    from adumbra.cli.session import server_client

    client = server_client()
    if client is None:
        from adumbra.cli.access_here import AccessHere

        with workspace() as opened:
            yield AccessHere(opened, now_ns())
        return
    with client:
        yield AccessThere(client)


class AccessThere:
    """At a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def issue(self, new: NewToken) -> Issued:
        return self._client.issue_token(new)

    def tokens(self) -> Sequence[TokenRecord]:
        from adumbra.service.access import MAX_LISTED

        return tuple(self._client.tokens(MAX_LISTED))

    def revoke(self, number: int) -> TokenRecord:
        return self._client.revoke_token(number)

    def add_user(self, new: NewUser, password: str) -> UserRecord:
        return self._client.add_user(new, password)

    def users(self) -> Sequence[UserRecord]:
        from adumbra.service.access import MAX_LISTED

        return tuple(self._client.users(MAX_LISTED))

    def set_rights(self, name: str, role: Role, networks: tuple[str, ...] | None) -> UserRecord:
        return self._client.set_rights(name, role, networks)

    def set_disabled(self, name: str, *, disabled: bool) -> UserRecord:
        return self._client.set_disabled(name, disabled=disabled)

    def set_password(self, name: str, password: str) -> None:
        self._client.set_password(name, password)
