"""Who may do what: roles, those who act, their tokens, users and sessions, and the log of what they changed. Nouns only.

Times are ns since the epoch. No secret stands here but those that are shown once, when they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What somebody may do, each all that the one before may, too."""

    VIEWER = "viewer"  # read
    OPERATOR = "operator"  # change networks: specs, sources, trainings, profiles, activations
    ADMIN = "admin"  # tokens, users, the audit log

    def includes(self, other: Role) -> bool:
        """Whether whoever has this role may do what that one may."""
        order = tuple(Role)
        return order.index(self) >= order.index(other)


class Through(StrEnum):
    """By what somebody is known."""

    TOKEN = "token"  # noqa: S105 a word
    SESSION = "session"
    LOCAL = "local"  # the user of this host who runs a command


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever acts. networks: the names of those that are theirs, None for all; token_id, session_id: by which they came."""

    name: str
    role: Role
    networks: tuple[str, ...] | None
    through: Through
    token_id: int | None = None
    session_id: int | None = None
    user_id: int | None = None
    once: bool = False

    @property
    def mark(self) -> str:
        """What tells them from everybody else, also from those of the same name."""
        number = self.token_id if self.through is Through.TOKEN else self.user_id
        if number is not None:
            return f"{self.through.value}:{number}"
        return f"{self.through.value}:{self.name}:{','.join(self.networks or ())[:63]}"

    def may(self, role: Role, network: str | None = None) -> bool:
        """Whether they may do what `role` may, to that network or, None, to what is of no network."""
        theirs = self.networks is None or (network is not None and network in self.networks)
        return self.role.includes(role) and theirs

    def sees(self, network: str | None) -> bool:
        """Whether that network, or what is of no network (None), is theirs to look at."""
        return self.networks is None or (network is not None and network in self.networks)

    def covers(self, role: Role, networks: tuple[str, ...] | None) -> bool:
        """Whether those rights are within theirs, so that they may give them, and take them."""
        within = self.networks is None or (networks is not None and set(networks) <= set(self.networks))
        return self.role.includes(role) and within


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that is asked for. networks: None for all; expires_ns: None for never; once: it serves for one act only."""

    name: str
    role: Role
    networks: tuple[str, ...] | None = None
    expires_ns: int | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token without its secret. used_ns: when it was last used, to the minute."""

    id: int
    name: str
    role: Role
    networks: tuple[str, ...] | None
    created_ns: int
    expires_ns: int | None
    revoked_ns: int | None
    used_ns: int | None
    once: bool

    def holds(self, now_ns: int) -> bool:
        """Whether it is accepted at that time."""
        return self.revoked_ns is None and (self.expires_ns is None or now_ns < self.expires_ns)


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user who is to be able to sign in. networks: None for all; external: whom another service knows them as, if it does."""

    name: str
    role: Role
    networks: tuple[str, ...] | None = None
    external: str | None = None


@dataclass(frozen=True, slots=True)
class UserRecord:
    """Somebody who signs in at the console, without their password. external: whom another service (OIDC) knows them as."""

    id: int
    name: str
    role: Role
    networks: tuple[str, ...] | None
    created_ns: int
    disabled_ns: int | None
    external: str | None = None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A sign-in that holds until expires_ns. csrf: what each change made by it must repeat."""

    id: int
    user: UserRecord
    csrf: str = field(repr=False)
    created_ns: int
    expires_ns: int


@dataclass(frozen=True, slots=True)
class Act:
    """A change that somebody asks for, as it is logged. what: method and path, or the command; origin: from where.

    key, fingerprint: of an act that must not be done twice, what names it and what tells whether it is the same one, ""
    for none. network: that it is done to, None for none. asked: what was asked for; before: what stood. Both without secrets.
    """

    who: Principal
    what: str
    origin: str
    network: str | None = None
    key: str = ""
    fingerprint: str = ""
    asked: Mapping[str, Any] | None = None
    before: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ActRecord:
    """An act that was done. by_id: the number of the token or user; subject: what came of it, by which it is found again;
    after: what stands then, None where whoever did it died before saying so."""

    id: int
    time_ns: int
    who: str
    role: Role
    through: Through
    origin: str
    what: str
    network: str | None
    fingerprint: str
    asked: Mapping[str, Any] | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    subject: str
    by_id: int | None = None


@dataclass(frozen=True, slots=True)
class ActFilter:
    """Which acts are asked for. networks: of these, None for all; of_networks: leave out what is of no network.

    who: the name; through: by what they were known; what: how it begins; since_ns, until_ns: from, and before.
    """

    networks: tuple[str, ...] | None = None
    of_networks: bool = False
    who: str | None = None
    through: Through | None = None
    what: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None
