"""Tokens, users, sign-ins and the audit log as they travel."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SecretStr

from adumbra.api.asked import Moment
from adumbra.api.shapes.common import Answer, Asked, Instant, Name
from adumbra.schema.access import Role, Through

Networks = Annotated[
    tuple[Name, ...] | None,
    Field(min_length=1, max_length=1_000, description="The networks that it is for; null for all.", examples=[["shop"]]),
]
Holder = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$", examples=["grafana"])]
"""The name of a token or user."""
Password = Annotated[SecretStr, Field(max_length=1_000, examples=["a long one, of 12 characters at least"])]


class NewHolder(Asked):
    """Somebody who is to have rights, that don't go beyond those of whoever asks."""

    name: Holder
    role: Role = Role.VIEWER
    networks: Networks = None


class HolderOut(Answer):
    """Somebody who has rights."""

    id: int
    name: str
    role: Role
    networks: list[str] | None
    created: Instant = Field(validation_alias="created_ns")


class NewTokenIn(NewHolder):
    """A token that is asked for: of rights that don't go beyond one's own."""

    expires: Moment | None = Field(None, description="From when on it is refused; null for never.")


class TokenOut(HolderOut):
    """A token, without its secret."""

    expires: Instant | None = Field(validation_alias="expires_ns")
    revoked: Instant | None = Field(validation_alias="revoked_ns")
    used: Instant | None = Field(validation_alias="used_ns", description="When it was last used, to the minute.")
    once: bool = Field(description="It serves for one act.")


class TokenMade(Answer):
    """A token that was just made."""

    token: TokenOut
    secret: str | None = Field(
        description="Shown this once. null where the token was made before, by a request with the same Idempotency-Key."
    )


class NewUserIn(NewHolder):
    """A user who is to sign in at the console: with rights that don't go beyond one's own."""

    password: Password


class Rights(Asked):
    """What a user may do from now on."""

    role: Role
    networks: Networks


class NewPassword(Asked):
    """Another password for a user."""

    password: Password


class OwnPassword(Asked):
    """Another password for whoever asks, who knows the one that holds."""

    current: Password
    password: Password


class UserOut(HolderOut):
    """A user, without their password."""

    disabled: Instant | None = Field(validation_alias="disabled_ns")
    external: str | None = Field(description="Whom an OIDC provider knows them as, its issuer first; null for none.")


class SignIn(Asked):
    """A name and a password."""

    name: str = Field(max_length=200, examples=["ada"])
    password: Password


class Whoami(Answer):
    """Whoever asks."""

    name: str
    role: Role
    networks: list[str] | None
    through: Through
    once: bool = False
    csrf: str | None = Field(None, description="What each change by this sign-in must repeat as X-CSRF-Token.")
    expires: Instant | None = Field(None, description="Until when the sign-in holds.")


class ActOut(Answer):
    """A change that somebody made."""

    id: int
    time: Instant = Field(validation_alias="time_ns")
    who: str
    by_id: int | None = Field(description="The number of the token or user.")
    role: Role
    through: Through
    origin: str = Field(description="From which address, or on which host.")
    what: str = Field(examples=["PUT /v1/networks/{name}"])
    network: str | None
    asked: dict[str, Any] | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    subject: str
