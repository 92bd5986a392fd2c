"""Each route of the app, called by everybody there is: each role, of its own network, of another, of all; and by nobody.

A route that tests/api/rules.py has no rule for fails here, so that none is left open by being forgotten.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from tests.api.rules import RULES, Rule
from tests.api.serving import SPEC, Serving, served

from adumbra.api.access import COOKIE, CSRF_HEADER
from adumbra.api.app import make_app
from adumbra.api.context import Server
from adumbra.schema.access import NewToken, NewUser, Role
from adumbra.service import access
from adumbra.service.workspace import Workspace

OWN, FOREIGN = "own", "foreign"
SAFE = {"GET", "HEAD", "OPTIONS"}
HOUR_NS = 3600 * 10**9
PASSWORD = "correct horse battery staple"


def routes() -> list[str]:
    app = make_app(Server(Workspace(Path("/nowhere")), time.time_ns))
    found = set()
    for each in iter_route_contexts(app.routes):
        assert each.methods is not None, f"{each.path} is no route of this API; give it a rule of its own"
        found |= {f"{method} {each.path}" for method in each.methods - {"HEAD", "OPTIONS"}}
    return sorted(found)


@dataclass
class Callers:
    """Everybody who may call. refused: those whom nobody knows any more."""

    serving: Serving
    known: dict[tuple[Role, str], httpx.Client] = field(default_factory=dict)
    refused: dict[str, httpx.Client] = field(default_factory=dict)
    once: httpx.Client = field(init=False)
    signed_in: tuple[httpx.Client, str] = field(init=False)


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    moved_ns = [0]
    with served(tmp_path_factory.mktemp("home"), now=lambda: time.time_ns() + moved_ns[0]) as serving:
        found = Callers(serving)
        for role in Role:
            for of, networks in (("all", ()), (OWN, (OWN,)), (FOREIGN, (FOREIGN,))):
                found.known[role, of] = serving.with_token(serving.token(role, *networks))
        workspace, now = serving.workspace, serving.server.now
        expired = access.issue(workspace, NewToken("expired", Role.ADMIN, None, now() + HOUR_NS), now())
        revoked = access.issue(workspace, NewToken("revoked", Role.ADMIN), now())
        workspace.state.access.revoke_token(revoked.record.id, now())
        access.add_user(workspace, NewUser("ada", Role.ADMIN), PASSWORD, now())
        access.add_user(workspace, NewUser("gone", Role.ADMIN), PASSWORD, now())
        gone = access.sign_in(workspace, "gone", PASSWORD, now())
        workspace.state.access.set_disabled("gone", now())
        late = access.sign_in(workspace, "ada", PASSWORD, now() - (access.SESSION_S + 60) * 10**9)
        moved_ns[0] = 2 * HOUR_NS
        found.refused = {
            "nobody": serving.nobody(),
            "a token that nobody made": serving.with_token(f"adu_{'x' * 43}"),
            "no token at all": serving.with_token("' OR 1=1 --"),
            "an expired token": serving.with_token(expired.secret),
            "a revoked token": serving.with_token(revoked.secret),
            "a token's hash": serving.with_token(access._hash(revoked.secret)),
            "another way": _with(serving, {"Authorization": "Basic YWRhOmFkYQ=="}),
            "a disabled user": _with(serving, {"Cookie": f"{COOKIE}={gone.secret}"}),
            "a sign-in that is over": _with(serving, {"Cookie": f"{COOKIE}={late.secret}"}),
            "a cookie that nobody made": _with(serving, {"Cookie": f"{COOKIE}={'x' * 43}"}),
        }
        once = access.issue(workspace, NewToken("once", Role.ADMIN, once=True), now())
        found.once = serving.with_token(once.secret)
        made = access.sign_in(workspace, "ada", PASSWORD, now())
        found.signed_in = _with(serving, {"Cookie": f"{COOKIE}={made.secret}"}), made.session.csrf
        yield found
        for client in (*found.known.values(), *found.refused.values(), found.once, found.signed_in[0]):
            client.close()


def _with(serving: Serving, headers: dict[str, str]) -> httpx.Client:
    return httpx.Client(base_url=serving.url, headers=headers, timeout=30.0, trust_env=False)


def called(client: httpx.Client, route: str, **more: str) -> httpx.Response:
    """The answer to a call without a body: of a route that takes one, whoever may call it hears that it is missing.

    No network is there, and nothing has the number 999: whoever may call hears of that, and nothing is changed.
    """
    method, path = route.split(" ")
    path = re.sub(r"\{(token|number|version)\}", "999", path.replace("{name}", OWN).replace("{user}", "nobody"))
    with client.stream(method, path, headers=more, follow_redirects=False) as answer:
        if "event-stream" not in answer.headers.get("content-type", ""):
            answer.read()
        return answer


def test_each_route_has_a_rule() -> None:
    there = routes()
    assert sorted(set(there) - set(RULES)) == [], "routes without a rule: add them to tests/api/rules.py"
    assert sorted(set(RULES) - set(there)) == [], "rules without a route"


@pytest.mark.parametrize("route", [route for route, rule in RULES.items() if rule is not Rule.OPEN])
def test_whoever_is_not_known_is_refused(callers: Callers, route: str) -> None:
    for who, client in callers.refused.items():
        answer = called(client, route)
        assert answer.status_code == 401, (who, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", who
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("route", [route for route, rule in RULES.items() if rule is Rule.OPEN])
def test_what_is_open_is_so_to_nobody_and_needs_no_token(callers: Callers, route: str) -> None:
    answer = called(callers.refused["nobody"], route)
    assert answer.status_code in {200, 404, 422} or (answer.status_code, route) == (401, "GET /v1/oidc/return")


@pytest.mark.parametrize(("route", "rule"), [each for each in RULES.items() if each[1] is not Rule.OPEN])
def test_each_role_may_do_what_its_rule_says_to_its_own_networks(callers: Callers, route: str, rule: Rule) -> None:
    for (role, of), client in callers.known.items():
        answer = called(client, route)
        foreign = "{name}" in route and of == FOREIGN
        may = role.includes(rule.role) and (rule is not Rule.ADMIN or of == "all")
        if foreign:
            assert answer.status_code == 404, (role, of, answer.text)
            assert "not one of yours" in answer.text
        elif may:
            assert answer.status_code not in {401, 403}, (role, of, answer.text)
            assert "not one of yours" not in answer.text
        elif route == "POST /v1/networks":
            assert answer.status_code == 422  # what it is of stands in the body: see below
        else:
            assert answer.status_code in {403} | ({404} if "/jobs/" in route else set()), (role, of, answer.text)


@pytest.mark.parametrize(("route", "rule"), [each for each in RULES.items() if each[1] is not Rule.OPEN])
def test_the_first_token_does_nothing_but_give_rights(callers: Callers, route: str, rule: Rule) -> None:
    answer = called(callers.once, route)
    if rule in {Rule.GIVER, Rule.ADMIN, Rule.KNOWN}:
        assert answer.status_code not in {401, 403}, answer.text
    elif route == "POST /v1/networks":
        assert answer.status_code == 422
    else:
        assert answer.status_code == 403


@pytest.mark.parametrize("route", [r for r, rule in RULES.items() if rule is not Rule.OPEN and r.split(" ")[0] not in SAFE])
def test_a_change_by_a_sign_in_repeats_its_csrf_token(callers: Callers, route: str) -> None:
    if route.endswith("sessions/current"):
        return  # it would end the sign-in that the others use; see test_access.py
    client, csrf = callers.signed_in
    for wrong in ({}, {CSRF_HEADER: ""}, {CSRF_HEADER: "x" * 43}, {CSRF_HEADER: f"{csrf} "}, {CSRF_HEADER: csrf[:-1]}):
        if wrong.get(CSRF_HEADER, "").strip() != csrf:
            assert called(client, route, **wrong).status_code == 403, wrong
    assert called(client, route, **{CSRF_HEADER: csrf}).status_code not in {401, 403}


def test_a_network_is_made_only_by_who_may_change_it(callers: Callers) -> None:
    spec = {"spec": SPEC.format(name=OWN)}
    for (role, of), client in callers.known.items():
        if not (role.includes(Role.OPERATOR) and of != FOREIGN):
            assert client.post("/v1/networks", json=spec).status_code in {403, 404}, (role, of)
    assert callers.once.post("/v1/networks", json=spec).status_code == 403


def test_nothing_was_changed_by_all_this(callers: Callers) -> None:
    kept = callers.serving.workspace.state
    assert kept.networks() == ()
    assert {each.what for each in kept.access.acts()} <= {"sign in"}
