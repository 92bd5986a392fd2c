"""Sign-in through another service: OpenID Connect Core 1.0, the authorization code flow with PKCE (RFC 7636), by Authlib.

Who it is, is the provider's to say; what they may, is settled here by their groups. Trusts nothing that the browser brings
but what this server's own cookie and the provider's signature vouch for.
"""

from __future__ import annotations

import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from adumbra.api.context import At
from adumbra.api.routes.sessions import set_cookie
from adumbra.schema.access import Act, NewUser, Principal, Role, Through
from adumbra.schema.errors import AccessError, AdumbraError, BusyError, ForbiddenError, InputError, NotFoundError
from adumbra.service import access
from adumbra.service.access import SignedIn
from adumbra.service.tls import is_loopback
from adumbra.service.workspace import Workspace
from adumbra.settings import OidcSettings, RoleRule

SIGN_IN, RETURN = "/v1/oidc/sign-in", "/v1/oidc/return"
COOKIE = "adumbra_oidc"
FLOW_S = 600
"""How long somebody may take at the provider's page."""
LEEWAY_S = 60
KEPT_S = 3_600
"""How long what the provider says of itself is kept; its keys are asked for again where one isn't known."""
KEYS_EVERY_S = 30
MAX_ANSWER_BYTES = 2**20
TIMEOUT_S = 10.0
TURN_S, REST_S = 0.5, 5.0
"""How long one waits while another asks the provider, and for how long none does after it was asked in vain."""
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""By which an ID token may be signed: with a key that the provider alone has."""

router = APIRouter(prefix="/oidc", include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Flow:
    """What this server keeps in the browser until it comes back: what must come back with it, and what proves that it is it."""

    state: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.state}.{self.nonce}.{self.verifier}"

    @classmethod
    def new(cls) -> Flow:
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48))

    @classmethod
    def of(cls, cookie: str) -> Flow | None:
        parts = cookie.split(".")
        return cls(*parts) if len(parts) == 3 and all(20 < len(part) < 100 for part in parts) else None


@dataclass(slots=True)
class _Provider:
    """What a provider says of itself, when it was asked, and its keys."""

    told: Mapping[str, Any]
    asked_s: float
    keys: Any = None
    keys_s: float = -KEYS_EVERY_S


class Oidc:
    """A provider that vouches for users. Opens nothing before somebody signs in; threads may share it.

    url: how browsers reach this server; "" as they say themselves. Raises InputError for settings that don't do.
    """

    def __init__(self, settings: OidcSettings, url: str = "") -> None:
        self.settings, self.url = settings, url.rstrip("/")
        _check(settings, self.url)
        self._provider: _Provider | None = None
        self._lock = threading.Lock()
        self._rests_until_s = 0.0

    def begin(self, redirect_uri: str, flow: Flow, now_s: float) -> str:
        """The provider's page to send a browser to. Raises BusyError where the provider can't be asked."""
        from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        told = self._told(now_s).told
        return str(
            prepare_grant_uri(
                told["authorization_endpoint"], client_id=self.settings.client_id, response_type="code",
                redirect_uri=redirect_uri, scope=self.settings.scopes, state=flow.state, nonce=flow.nonce,
                code_challenge=create_s256_code_challenge(flow.verifier), code_challenge_method="S256",
            )
        )  # fmt: skip

    def user(self, code: str, redirect_uri: str, flow: Flow, now_s: float) -> NewUser:
        """Who came back with that code, and what they may do.

        Raises AccessError where the provider doesn't vouch for them, ForbiddenError where they are of no group that may.
        """
        provider = self._told(now_s)
        tokens = self._tokens(provider, code, redirect_uri, flow)
        claims = self._claims(provider, tokens, flow, now_s)
        groups = _groups(claims, self.settings.groups_claim)
        if groups is None and (more := self._userinfo(provider, tokens, claims)):
            claims = {**more, **claims}
            groups = _groups(claims, self.settings.groups_claim)
        name = _name(claims, self.settings.name_claim)
        rights = rights_of(self.settings.roles, groups or ())
        if rights is None:
            raise ForbiddenError(f"{name} is of no group that may use this server", "ask an administrator")
        return NewUser(name, *rights, external=f"{self.settings.issuer}|{claims['sub']}"[:400])

    def _told(self, now_s: float) -> _Provider:
        if kept := self._kept(now_s):
            return kept
        with self._turn():
            if kept := self._kept(now_s):
                return kept
            told = _json(f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration")
            if told.get("issuer") != self.settings.issuer:
                raise AccessError(
                    "the provider calls itself by another name than it is known by here", "see ADUMBRA_OIDC_ISSUER"
                )
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                if not _safe(str(told.get(name, ""))):
                    raise AccessError(f"the provider has no {name} that can be used", "it must be an https address")
            self._provider = _Provider(told, now_s)
            return self._provider

    def _kept(self, now_s: float) -> _Provider | None:
        kept = self._provider
        return kept if kept is not None and 0 <= now_s - kept.asked_s < KEPT_S else None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One's turn at asking. A provider that hangs, or is away, must not hold all who ask, and with them the server.

        Raises BusyError where somebody asks, or asked in vain a moment ago.
        """
        if not self._lock.acquire(timeout=TURN_S):
            raise BusyError("the provider is being asked", "try again in a few seconds")
        try:
            if time.monotonic() < self._rests_until_s:
                raise BusyError("the provider can't be reached", "try again in a while")
            try:
                yield
            except BusyError:
                self._rests_until_s = time.monotonic() + REST_S
                raise
        finally:
            self._lock.release()

    def _tokens(self, provider: _Provider, code: str, redirect_uri: str, flow: Flow) -> dict[str, Any]:
        from authlib.oauth2.auth import ClientAuth
        from authlib.oauth2.rfc6749.parameters import prepare_token_request

        secret, endpoint = self._secret(), provider.told["token_endpoint"]
        how = provider.told.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "none" if not secret else "client_secret_basic" if "client_secret_basic" in how else "client_secret_post"
        body = prepare_token_request("authorization_code", "", redirect_uri, code=code, code_verifier=flow.verifier)
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        uri, headers, body = ClientAuth(self.settings.client_id, secret, method).prepare("POST", endpoint, headers, body)
        return _json(uri, "POST", headers, body)

    def _secret(self) -> str:
        file = self.settings.client_secret_file
        try:
            return file.read_text(encoding="utf-8").strip() if file else ""
        except (OSError, UnicodeError):
            raise AccessError(
                "the server's secret at the provider can't be read", "see ADUMBRA_OIDC_CLIENT_SECRET_FILE"
            ) from None

    def _claims(self, provider: _Provider, tokens: Mapping[str, Any], flow: Flow, now_s: float) -> dict[str, Any]:
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError, JoseError

        text, issuer, client = str(tokens.get("id_token", "")), self.settings.issuer, self.settings.client_id
        try:
            try:
                token = jwt.decode(text, self._keys(provider, now_s), algorithms=ALGORITHMS)
            except InvalidKeyIdError:  # it has new keys
                token = jwt.decode(text, self._keys(provider, now_s, anew=True), algorithms=ALGORITHMS)
            options = {"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client}}
            params = {"nonce": flow.nonce, "client_id": client, "access_token": tokens.get("access_token")}
            claims = CodeIDToken(token.claims, token.header, options, params)
            claims.validate(now=int(now_s), leeway=LEEWAY_S)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            structlog.get_logger(__name__).warning("an ID token was refused", reason=type(error).__name__)
            raise AccessError("the provider's word for you is not valid", "sign in again") from None
        if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:
            raise AccessError("the provider doesn't say who you are", "ask its administrator")
        return dict(claims)

    def _keys(self, provider: _Provider, now_s: float, *, anew: bool = False) -> Any:
        from joserfc.jwk import KeySet

        with self._turn():
            if provider.keys is None or (anew and now_s - provider.keys_s >= KEYS_EVERY_S):
                provider.keys = KeySet.import_key_set(_json(provider.told["jwks_uri"]))  # type: ignore[arg-type]
                provider.keys_s = now_s
            return provider.keys

    def _userinfo(self, provider: _Provider, tokens: Mapping[str, Any], claims: Mapping[str, Any]) -> dict[str, Any]:
        endpoint, bearer = str(provider.told.get("userinfo_endpoint", "")), tokens.get("access_token")
        if not _safe(endpoint) or not isinstance(bearer, str):
            return {}
        more = _json(endpoint, headers={"Authorization": f"Bearer {bearer}"})
        return more if more.get("sub") == claims["sub"] else {}


def of_settings(settings: OidcSettings, url: str = "") -> Oidc | None:
    """The provider that the settings name; None for none. Raises InputError for settings that don't do."""
    return Oidc(settings, url) if settings.issuer else None


def rights_of(rules: tuple[RoleRule, ...], groups: tuple[str, ...]) -> tuple[Role, tuple[str, ...] | None] | None:
    """What whoever is of these groups may do: the most that a rule gives, of all the networks that such rules name."""
    theirs = [rule for rule in rules if rule.group in groups]
    if not theirs:
        return None
    role = max((rule.role for rule in theirs), key=tuple(Role).index)
    of_role = [rule.networks for rule in theirs if rule.role is role]
    if None in of_role:
        return role, None
    return role, tuple(dict.fromkeys(name for networks in of_role for name in networks or ()))


@router.get("/sign-in", summary="Sign in through the OIDC provider")
def sign_in(request: Request, at: At) -> Response:
    try:
        oidc, flow = _oidc(request), Flow.new()
        to = oidc.begin(_redirect_uri(oidc, request), flow, at.now() / 1e9)
    except AdumbraError as error:
        return _page(error)
    answer = RedirectResponse(to, 303)
    secure = at.secure or request.url.scheme == "https"
    answer.set_cookie(COOKIE, str(flow), FLOW_S, path=RETURN, secure=secure, httponly=True, samesite="lax")
    return answer


@dataclass(frozen=True, slots=True)
class Back:
    """What a browser brings back from the provider, in its query."""

    code: str = ""
    state: str = ""
    iss: str | None = None
    error: str = ""


@router.get("/return", summary="Where the OIDC provider sends a browser back to")
def come_back(request: Request, at: At, back: Annotated[Back, Depends()]) -> Response:
    try:
        made = _came_back(request, at, back)
    except AdumbraError as refusal:
        answer: Response = _page(refusal)
    else:
        # Not a redirect: a browser that comes from another site wouldn't send the new cookie with it.
        answer = HTMLResponse(_HTML.format(head='<meta http-equiv="refresh" content="0;url=/">', text="You are signed in."))
        set_cookie(answer, request, at, made.secret, access.SESSION_S)
    answer.delete_cookie(COOKIE, path=RETURN)
    return answer


def _came_back(request: Request, at: At, back: Back) -> SignedIn:
    oidc, flow = _oidc(request), Flow.of(request.cookies.get(COOKIE, ""))
    if flow is None or not secrets.compare_digest(flow.state.encode(), back.state.encode()):
        raise AccessError("this sign-in was not begun here, or too long ago", "sign in again")
    if back.iss is not None and back.iss != oidc.settings.issuer:  # RFC 9207
        raise AccessError("another provider answered than was asked", "sign in again")
    if back.error or not back.code:
        structlog.get_logger(__name__).warning("the OIDC provider signed nobody in", error=back.error[:100])
        raise AccessError("the provider did not sign you in", "sign in again")
    new = oidc.user(back.code, _redirect_uri(oidc, request), flow, at.now() / 1e9)
    return _signed_in(at.workspace, new, at.now(), request.client.host if request.client else "?")


def _signed_in(workspace: Workspace, new: NewUser, now_ns: int, origin: str) -> SignedIn:
    before = workspace.state.access.user_by_external(new.external or "")
    who = Principal(new.name, new.role, new.networks, Through.SESSION, user_id=before.id if before else None)
    act = Act(who, "sign in by OIDC: rights by groups", origin, before=access.told(before) if before else None)
    user = access.make(workspace, act, now_ns, lambda: access.external_user(workspace, new, now_ns), access.told)
    return access.signed_in(workspace, user, now_ns, origin)


def _oidc(request: Request) -> Oidc:
    found: Oidc | None = getattr(request.app.state, "oidc", None)
    if found is None:
        raise NotFoundError("no OIDC provider is set for this server", "sign in with a name and a password")
    return found


def _redirect_uri(oidc: Oidc, request: Request) -> str:
    return (oidc.url or str(request.base_url).rstrip("/")) + RETURN


def _check(settings: OidcSettings, url: str) -> None:
    if find_spec("authlib") is None or find_spec("joserfc") is None:
        raise InputError("Authlib, which OIDC needs, is not installed", "run `pip install adumbra[oidc]`")
    for name, value in (("ADUMBRA_OIDC_ISSUER", settings.issuer), ("ADUMBRA_SERVE_URL", url)):
        if value and not _safe(value):
            raise InputError(f"{name} is no address that can be trusted", "write https://…; http only of this host itself")
    if not settings.client_id:
        raise InputError("ADUMBRA_OIDC_CLIENT_ID is not set", "the provider gives it when this server is registered there")
    if "openid" not in settings.scopes.split():
        raise InputError("ADUMBRA_OIDC_SCOPES is without openid", "add it")
    if not settings.roles:
        raise InputError("ADUMBRA_OIDC_ROLES is not set, so that nobody could sign in", "write GROUP=ROLE; GROUP=ROLE:NETWORK")


def _safe(url: str) -> bool:
    """Whether nobody on the way can change what is said there: https, or this host itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.username is not None or parts.fragment or not host:
        return False
    literal = host == "localhost" or ":" in host or host.replace(".", "").isdecimal()
    return parts.scheme == "https" or (parts.scheme == "http" and literal and is_loopback(host))


def _json(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: str | None = None
) -> dict[str, Any]:  # fmt: skip
    """What the provider answers. Follows no redirect, and reads no more than an answer has.

    Raises AccessError where it refuses, BusyError where it can't be reached.
    """
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, follow_redirects=False) as client,
            client.stream(method, url, headers=headers, content=body) as answer,
        ):
            text = b""
            for piece in answer.iter_bytes():
                text += piece
                if len(text) > MAX_ANSWER_BYTES:
                    raise AccessError("the provider answers more than such an answer has", "ask its administrator")
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        structlog.get_logger(__name__).warning("the OIDC provider can't be asked", reason=type(error).__name__)
        raise BusyError("the provider can't be reached", "try again in a while") from None
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if status != 200 or not isinstance(told, dict):
        structlog.get_logger(__name__).warning("the OIDC provider refused", status=status)
        raise AccessError("the provider refused", "sign in again")
    return told


def _groups(claims: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """Somebody's groups; None where the claims don't tell. Dots in the name lead inwards."""
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if found is None:
        return None
    return (found,) if isinstance(found, str) else tuple(each for each in found if isinstance(each, str))


def _name(claims: Mapping[str, Any], name: str) -> str:
    """What somebody is called: the claim, where it can be a name here; else one that is made of who they are."""
    told = claims.get(name)
    unverified = name == "email" and claims.get("email_verified") is False
    if isinstance(told, str) and access.is_name(told) and not unverified:
        return told
    whole = f"{claims['iss']}|{claims['sub']}"
    return f"oidc-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


_HTML = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Adumbra</title>
<meta name="viewport" content="width=device-width">{head}</head>
<body><p>{text}</p><p><a href="/">To the console</a></p></body></html>
"""


def _page(error: AdumbraError) -> HTMLResponse:
    status = {ForbiddenError: 403, NotFoundError: 404, BusyError: 503}.get(type(error), 401)
    return HTMLResponse(_HTML.format(head="", text=html.escape(f"{error.what}; {error.mend}")), status)
