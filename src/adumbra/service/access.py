"""Who may act: tokens, users, sign-ins. Makes secrets and checks them; keeps and logs only hashes of them.

A token's secret has 256 random bits, so that its SHA-256 is enough; a password has few, so it is hashed by Argon2id (RFC 9106).
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from adumbra.schema.access import Act, NewToken, NewUser, Principal, Role, SessionRecord, Through, TokenRecord, UserRecord
from adumbra.schema.errors import AccessError, BusyError, ConflictError, ForbiddenError, InputError, NotFoundError
from adumbra.service.workspace import Workspace
from adumbra.store.database import acting

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

PREFIX = "adu_"
"""What a token's secret begins with, so that scanners for leaked secrets know it."""
SESSION_S = 12 * 3600
FIRST_TOKEN_S = 24 * 3600
MAX_TOKEN_S = 100 * 366 * 86_400
MIN_PASSWORD, MAX_PASSWORD = 12, 1_000
PASSES, MEMORY_KIB, LANES = 3, 64 * 1024, 4
"""Of Argon2id: the second choice that RFC 9106, section 4, recommends."""
HASHED_AT_ONCE, HASH_WAIT_S = 4, 5.0
"""So many passwords are hashed at a time, which bounds the memory of it; whoever waits longer for a turn is sent away."""
MAX_LISTED = 10_000
MAX_NETWORKS = 1_000
"""Of how many networks a token or user may be, if not of all."""
_HASHING = threading.BoundedSemaphore(HASHED_AT_ONCE)
_NETWORK = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_TOKEN = re.compile(r"adu_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Issued:
    """A token as it was just made. secret: shown now, and never again."""

    record: TokenRecord
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A sign-in as it was just made. secret: what the browser keeps in its cookie."""

    session: SessionRecord
    secret: str = field(repr=False)


def issue(workspace: Workspace, new: NewToken, now_ns: int) -> Issued:
    """Makes a token. Raises InputError for a name that is none, or an end that is past."""
    _check_name(new.name)
    _check_networks(new.networks)
    if new.expires_ns is not None and not now_ns < new.expires_ns <= now_ns + MAX_TOKEN_S * 10**9:
        raise InputError("the token would end in the past, or in more than 100 years", "give a time to come, or none")
    secret = PREFIX + secrets.token_urlsafe(32)
    return Issued(workspace.state.access.add_token(new, _hash(secret), now_ns), secret)


def first_token(workspace: Workspace, now_ns: int) -> Issued | None:
    """The one-time token of a first start, for an administrator; None where there is a token or a user already."""
    if workspace.state.access.count_tokens() or workspace.state.access.users():
        return None
    return issue(workspace, NewToken("first-start", Role.ADMIN, None, now_ns + FIRST_TOKEN_S * 10**9, once=True), now_ns)


def by_token(workspace: Workspace, secret: str, now_ns: int) -> Principal:
    """Whoever has that token. Raises AccessError where it isn't one, has ended or was revoked; which of them isn't told."""
    found = workspace.state.access.token_by_hash(_hash(secret)) if _TOKEN.fullmatch(secret) else None
    if found is None or not found.holds(now_ns):
        raise AccessError("the token is not accepted", "make one with `adumbra token create`, and give it whole")
    workspace.state.access.note_use(found, now_ns)
    return Principal(found.name, found.role, found.networks, Through.TOKEN, token_id=found.id, once=found.once)


def by_session(workspace: Workspace, secret: str, now_ns: int) -> tuple[Principal, SessionRecord]:
    """Whoever signed in so. Raises AccessError where that sign-in is over."""
    found = workspace.state.access.session(_hash(secret)) if secret else None
    if found is None or now_ns >= found.expires_ns or found.user.disabled_ns is not None:
        raise AccessError("you are not signed in", "sign in again")
    return _principal(found.user, found.id), found


def _principal(user: UserRecord, session_id: int | None = None) -> Principal:
    return Principal(user.name, user.role, user.networks, Through.SESSION, session_id=session_id, user_id=user.id)


def sign_in(workspace: Workspace, name: str, password: str, now_ns: int, origin: str = "?") -> SignedIn:
    """A sign-in with a password. origin: from where, for the log.

    Raises AccessError for a name and password that don't belong together, taking as long, and saying the same, for a name that
    isn't there; and BusyError where too many sign in at once.
    """
    nobody = _nobody()
    found = workspace.state.access.user(name) if len(name) <= 63 else None
    right = _verified((found and found[1]) or nobody, password)
    if found is None or not right or found[0].disabled_ns is not None:
        raise AccessError("the name and the password don't belong together", "try again, or ask an administrator")
    again = hash_password(password) if _hasher().check_needs_rehash(found[1]) else ""

    def do() -> SignedIn:
        if again:
            workspace.state.access.set_password(name, again, keep_sessions=True)
        return _session(workspace, found[0], now_ns)

    act = Act(_principal(found[0]), "sign in", origin)
    return make(workspace, act, now_ns, do, _of_sign_in)


def signed_in(workspace: Workspace, user: UserRecord, now_ns: int, origin: str = "?") -> SignedIn:
    """A sign-in of somebody whom another service vouches for (OIDC). origin: from where, for the log."""
    if user.disabled_ns is not None:
        raise AccessError(f"{user.name} may not sign in", "ask an administrator")
    act = Act(_principal(user), "sign in by OIDC", origin)
    return make(workspace, act, now_ns, lambda: _session(workspace, user, now_ns), _of_sign_in)


def _of_sign_in(made: SignedIn) -> Mapping[str, Any]:
    return {"session": made.session.id, "expires_ns": made.session.expires_ns}


def sign_out(workspace: Workspace, secret: str) -> None:
    """Ends a sign-in."""
    workspace.state.access.end_session(_hash(secret))


def add_user(workspace: Workspace, new: NewUser, password: str | None, now_ns: int) -> UserRecord:
    """Adds a user. password: None for one who signs in by another service only. Raises InputError, ConflictError."""
    _check_name(new.name)
    _check_networks(new.networks)
    return workspace.state.access.add_user(new, "" if password is None else hash_password(password), now_ns)


def user(workspace: Workspace, name: str) -> UserRecord:
    """A user by name. Raises NotFoundError."""
    found = workspace.state.access.user(name)
    if found is None:
        raise NotFoundError(f"there is no user {name[:63]!r}", "`adumbra user list` shows those that there are")
    return found[0]


def set_rights(workspace: Workspace, name: str, role: Role, networks: tuple[str, ...] | None) -> UserRecord:
    """Lets a user do other things than before, from their next request on. Raises InputError, NotFoundError."""
    _check_networks(networks)
    return workspace.state.access.set_rights(name, role, networks)


def change_password(workspace: Workspace, who: Principal, current: str, password: str) -> None:
    """Lets a user give themselves another password, if they know the one that holds. Their sign-ins end.

    Raises AccessError where they don't, InputError.
    """
    found = workspace.state.access.user(who.name)
    if not _verified((found and found[1]) or _nobody(), current):
        raise AccessError("that is not your password", "try again, or ask an administrator for a new one")
    set_password(workspace, who.name, password)


def set_password(workspace: Workspace, name: str, password: str) -> None:
    """Gives a user another password and ends their sign-ins. Raises InputError, NotFoundError."""
    workspace.state.access.set_password(name, hash_password(password))


def hash_password(password: str) -> str:
    """Raises InputError for a password that is too short, or too long to be one."""
    check_password(password)
    with _turn():
        return _hasher().hash(_bytes(password))


def check_password(password: str) -> None:
    """Raises InputError for a password that is too short, or too long to be one."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InputError(
            f"a password of {len(password)} characters is not taken", f"give {MIN_PASSWORD} to {MAX_PASSWORD} characters"
        )


def external_user(workspace: Workspace, new: NewUser, now_ns: int) -> UserRecord:
    """The user whom another service (OIDC) knows as `new.external`, with these rights: added where they are new.

    Raises ConflictError where the name is another user's: whoever vouches for a name doesn't get what is kept under it.
    """
    assert new.external is not None
    kept = workspace.state.access.user_by_external(new.external)
    if kept is None:
        return add_user(workspace, new, None, now_ns)
    if (kept.role, kept.networks) == (new.role, new.networks):
        return kept
    return set_rights(workspace, kept.name, new.role, new.networks)


def now_of(workspace: Workspace, who: Principal, now_ns: int) -> Principal | None:
    """Whoever began something long (a stream of events), with the rights that they have by now; None once their token or
    sign-in is over."""
    if who.session_id is not None:
        found = workspace.state.access.user(who.name) if workspace.state.access.session_holds(who.session_id, now_ns) else None
        return _principal(found[0], who.session_id) if found else None
    if who.token_id is None:
        return who
    try:
        return who if workspace.state.access.token(who.token_id).holds(now_ns) else None
    except NotFoundError:
        return None


# Who may give what to whom


def check_gives(who: Principal, role: Role, networks: tuple[str, ...] | None) -> None:
    """Raises ForbiddenError where somebody would give or take rights beyond their own."""
    if who.covers(role, networks):
        return
    theirs = "all networks" if who.networks is None else ", ".join(who.networks)
    raise ForbiddenError(
        f"{who.name} is {who.role.value} of {theirs}, and can give no rights beyond these",
        "ask for less, or ask an administrator of all networks",
    )


def known_to(who: Principal, record: TokenRecord | UserRecord) -> bool:
    """Whether somebody who gives rights is shown that token or user: their rights are within their own."""
    return who.covers(record.role, record.networks)


def token_for(workspace: Workspace, who: Principal, number: int) -> TokenRecord:
    """A token, to somebody who may be shown it. Raises NotFoundError, also where they may not."""
    found = workspace.state.access.token(number)
    if not known_to(who, found):
        raise NotFoundError(f"there is no token {number}", "or it is beyond your rights")
    return found


def user_for(workspace: Workspace, who: Principal, name: str) -> UserRecord:
    """A user, to somebody who may be shown them. Raises NotFoundError, also where they may not."""
    found = user(workspace, name)
    if not known_to(who, found):
        raise NotFoundError(f"there is no user {name[:63]!r}", "or they are beyond your rights")
    return found


def tokens_for(workspace: Workspace, who: Principal, most: int, before_id: int | None = None) -> tuple[TokenRecord, ...]:
    """Those tokens that somebody may be shown, newest first, no more than `most`; `before_id` pages on."""
    found: list[TokenRecord] = []
    while len(found) < most:
        several = workspace.state.access.tokens(min(most, 1_000) if who.networks is None else 1_000, before_id)
        found += (each for each in several if known_to(who, each))
        if not several:
            break
        before_id = several[-1].id
    return tuple(found[:most])


def users_for(workspace: Workspace, who: Principal, most: int, after: str | None = None) -> tuple[UserRecord, ...]:
    """Those users that somebody may be shown, by name, no more than `most`; `after` pages on."""
    return tuple(each for each in workspace.state.access.users(after=after) if known_to(who, each))[:most]


def disable(workspace: Workspace, who: Principal, name: str, now_ns: int | None) -> UserRecord:
    """Lets a user sign in no more, and ends their sign-ins; with None lets them again. Raises ConflictError for oneself."""
    if now_ns is not None and who.through is Through.SESSION and who.name == name:
        raise ConflictError("you would lock yourself out", "let another administrator do it")
    return workspace.state.access.set_disabled(name, now_ns)


# What the log tells


def told(record: TokenRecord | UserRecord) -> dict[str, Any]:
    """What the log tells of a token or user."""
    return asdict(record)


def local_user() -> Principal:
    """The user of this host who runs a command: whoever can write the state may do all."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid-{os.getuid()}"
    return Principal(name[:63], Role.ADMIN, None, Through.LOCAL)


@contextlib.contextmanager
def acting_locally(what: str, now_ns: int, network: str | None = None) -> Iterator[None]:
    """What a command on this host changes meanwhile is logged as one act. what: the command; network: that it is done to."""
    with acting(Act(local_user(), what, socket.gethostname(), network and network[:63]), now_ns):
        yield


@dataclass(frozen=True, slots=True)
class LocalAct:
    """A change by a command on this host. what: the command."""

    workspace: Workspace
    what: str
    now_ns: int
    network: str | None = None

    def make(
        self,
        do: Callable[[], T],
        asked: Mapping[str, Any] | None = None,
        before: Mapping[str, Any] | None = None,
        after: Callable[[T], Mapping[str, Any] | None] = lambda _: None,
    ) -> T:
        """Does it, in the log. asked, before, after: what the log tells, without secrets."""
        act = Act(local_user(), self.what, socket.gethostname(), self.network, "", "", asked, before)
        return make(self.workspace, act, self.now_ns, do, after)


def make(workspace: Workspace, act: Act, now_ns: int, do: Callable[[], T], after: Callable[[T], Mapping[str, Any] | None]) -> T:
    """Does what an act asks for, in the log. after: what the log tells of what stands then."""
    with acting(act, now_ns) as started:
        made = do()
        if started.id is not None and (stands := after(made)) is not None:
            workspace.state.access.finish_act(started.id, stands)
        return made


def _session(workspace: Workspace, user: UserRecord, now_ns: int) -> SignedIn:
    secret, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    kept = workspace.state.access.add_session(user.id, _hash(secret), csrf, now_ns, now_ns + SESSION_S * 10**9)
    return SignedIn(kept, secret)


def _verified(kept: str, password: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    with _turn():
        try:
            return _hasher().verify(kept, _bytes(password[: MAX_PASSWORD + 1]))
        except (VerificationError, InvalidHashError):
            return False


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """One's turn at hashing. Raises BusyError where it doesn't come."""
    if not _HASHING.acquire(timeout=HASH_WAIT_S):
        raise BusyError("too many sign in at this moment", "try again in a few seconds")
    try:
        yield
    finally:
        _HASHING.release()


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher(PASSES, MEMORY_KIB, LANES, hash_len=32, salt_len=16)


@cache
def _nobody() -> str:
    """A hash that no password fits, so that asking for a name that isn't there takes as long as for one that is."""
    return hash_password(secrets.token_urlsafe(32))


def _hash(secret: str) -> str:
    return hashlib.sha256(_bytes(secret)).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def is_name(text: str) -> bool:
    """Whether a token or user may be called so."""
    return _NAME.fullmatch(text) is not None


def _check_name(name: str) -> None:
    if not is_name(name):
        raise InputError(
            f"{name[:63]!r} is no name for a token or user",
            "write up to 63 letters, digits, and . _ @ -, a letter or digit first",
        )


def _check_networks(networks: tuple[str, ...] | None) -> None:
    if networks is None:
        return
    if not 0 < len(networks) <= MAX_NETWORKS:
        raise InputError(
            f"rights to {len(networks)} networks are not given", f"name 1 to {MAX_NETWORKS:,} of them, or none for all"
        )
    wrong = next((each for each in networks if not _NETWORK.fullmatch(each)), None)
    if wrong is not None:
        raise InputError(f"{wrong[:63]!r} is no name of a network", "write it as its spec does")
