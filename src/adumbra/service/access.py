"""Who may act: tokens, users, sign-ins. Makes secrets and checks them; keeps and logs only hashes of them.

A token's secret has 256 random bits, so that its SHA-256 is enough; a password has few, so it is hashed by Argon2id (RFC 9106).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field

from adumbra.schema.access import NewToken, NewUser, Principal, Role, SessionRecord, Through, TokenRecord, UserRecord
from adumbra.schema.errors import AccessError, InputError
from adumbra.service.workspace import Workspace

PREFIX = "adu_"
"""What a token's secret begins with, so that scanners for leaked secrets know it."""
SESSION_S = 12 * 3600
FIRST_TOKEN_S = 24 * 3600
MIN_PASSWORD, MAX_PASSWORD = 12, 1_000
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
    if new.expires_ns is not None and new.expires_ns <= now_ns:
        raise InputError("the token would have ended before it is made", "give a time to come, or none")
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
    user = found.user
    return Principal(user.name, user.role, user.networks, Through.SESSION, session_id=found.id, user_id=user.id), found


def sign_in(workspace: Workspace, name: str, password: str, now_ns: int) -> SignedIn:
    """Raises AccessError for a name and password that don't belong together; takes as long for a name that isn't there."""
    found = workspace.state.access.user(name) if len(name) <= 63 else None
    right = _verified(found[1] if found else _nobody(), password)
    if found is None or not right or found[0].disabled_ns is not None:
        raise AccessError("the name and the password don't belong together", "try again, or ask an administrator")
    return _session(workspace, found[0], now_ns)


def signed_in(workspace: Workspace, user: UserRecord, now_ns: int) -> SignedIn:
    """A sign-in of somebody whom another service vouches for (OIDC)."""
    if user.disabled_ns is not None:
        raise AccessError(f"{user.name} may not sign in", "ask an administrator")
    return _session(workspace, user, now_ns)


def sign_out(workspace: Workspace, secret: str) -> None:
    """Ends a sign-in."""
    workspace.state.access.end_session(_hash(secret))


def add_user(workspace: Workspace, new: NewUser, password: str | None, now_ns: int) -> UserRecord:
    """Adds a user. password: None for one who signs in by another service only. Raises InputError, ConflictError."""
    _check_name(new.name)
    return workspace.state.access.add_user(new, "" if password is None else hash_password(password), now_ns)


def set_password(workspace: Workspace, name: str, password: str) -> None:
    """Gives a user another password and ends their sign-ins. Raises InputError, NotFoundError."""
    workspace.state.access.set_password(name, hash_password(password))


def hash_password(password: str) -> str:
    """Raises InputError for a password that is too short, or too long to be one."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InputError(
            f"a password of {len(password)} characters is not taken", f"give {MIN_PASSWORD} to {MAX_PASSWORD} characters"
        )
    from argon2 import PasswordHasher

    return PasswordHasher().hash(password)


def _session(workspace: Workspace, user: UserRecord, now_ns: int) -> SignedIn:
    secret, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    kept = workspace.state.access.add_session(user.id, _hash(secret), csrf, now_ns, now_ns + SESSION_S * 10**9)
    return SignedIn(kept, secret)


def _verified(kept: str, password: str) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return PasswordHasher().verify(kept, password[:MAX_PASSWORD])
    except (VerificationError, InvalidHashError):
        return False


_NOBODY: list[str] = []


def _nobody() -> str:
    """A hash that no password fits, so that asking for a name that isn't there takes as long as for one that is."""
    if not _NOBODY:
        _NOBODY.append(hash_password(secrets.token_urlsafe(32)))
    return _NOBODY[0]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name[:63]!r} is no name for a token or user",
            "write up to 63 letters, digits, and . _ @ -, a letter or digit first",
        )
