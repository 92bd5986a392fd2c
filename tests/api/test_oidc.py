"""Sign-in through a provider that runs here: who is let in, as whom, with which rights; and what is not believed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.api.guarding import guarded_server
from tests.api.oidc_provider import CLIENT, SECRET, Provider, other_key, provider

from adumbra.api import oidc
from adumbra.api.access import COOKIE
from adumbra.api.app import make_app
from adumbra.api.context import Care, Server
from adumbra.api.oidc import Oidc, rights_of
from adumbra.schema.access import NewUser, Role, Through
from adumbra.schema.errors import InputError
from adumbra.service import access
from adumbra.service.workspace import Workspace
from adumbra.settings import OidcSettings, RoleRule

RULES = (
    RoleRule("ops", Role.OPERATOR, ("shop", "lab")), RoleRule("more-ops", Role.OPERATOR, ("yard",)),
    RoleRule("root", Role.ADMIN), RoleRule("all", Role.VIEWER),
)  # fmt: skip
ADA = {"sub": "4711", "preferred_username": "ada", "groups": ["ops", "all", "choir"]}


class World:
    """A provider, a server that trusts it, and a browser's way through both."""

    def __init__(self, made: Provider, workspace: Workspace, port: int, app: Any, settings: OidcSettings) -> None:
        self.provider, self.workspace, self.url, self.app, self.settings = (
            made, workspace, f"http://127.0.0.1:{port}", app, settings,
        )  # fmt: skip

        self.first_key = made.key

    def believe(self, **more: Any) -> None:
        """Starts anew with another view of the provider: nothing of it is kept."""
        self.app.state.oidc = Oidc(self.settings.model_copy(update=more))

    def browser(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)

    def begun(self, browser: httpx.Client) -> str:
        """Where the provider sends the browser back to."""
        there = browser.get(oidc.SIGN_IN)
        assert there.status_code == 303, there.text
        assert there.headers["location"].startswith(f"{self.provider.issuer}/authorize?")
        back = httpx.get(there.headers["location"], trust_env=False)
        return back.headers["location"]

    def signed_in(self, browser: httpx.Client) -> httpx.Response:
        return browser.get(self.begun(browser))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("home")
    secret = folder / "secret"
    secret.write_text(f"{SECRET}\n")
    with provider() as made, Workspace(folder) as workspace:
        settings = OidcSettings(issuer=made.issuer, client_id=CLIENT, client_secret_file=secret, roles=RULES)
        care = Care(requests_per_s=1e6, burst=10**6, tries_per_min=10**6)
        app = make_app(Server(workspace, time.time_ns, care), oidc.of_settings(settings))
        with guarded_server(app, care) as port:
            yield World(made, workspace, port, app, settings)


@pytest.fixture(autouse=True)
def _honest(world: World) -> None:
    world.provider.claims, world.provider.lies, world.provider.told = dict(ADA), {}, {}
    world.provider.userinfo, world.provider.algorithm, world.provider.iss_in_answer = {}, "RS256", None
    world.provider.key = world.provider.published = world.first_key
    world.believe()


def test_who_is_of_a_group_is_let_in_with_its_rights(world: World) -> None:
    with world.browser() as browser:
        answer = world.signed_in(browser)
        assert answer.status_code == 200, answer.text
        assert 'http-equiv="refresh" content="0;url=/"' in answer.text
        cookie = next(each for each in answer.headers.get_list("set-cookie") if each.startswith(COOKIE))
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        told = browser.get("/v1/sessions/current").json()
        assert (told["name"], told["role"], told["networks"], told["through"]) == (
            "ada",
            "operator",
            ["shop", "lab"],
            "session",
        )
        assert told["csrf"]
    kept = world.workspace.state.access.user("ada")
    assert kept is not None
    assert kept[0].external == f"{world.provider.issuer}|4711"
    with world.browser() as browser:  # a password opens nothing
        for password in ("", "x", "correct horse battery staple"):
            assert browser.post("/v1/sessions", json={"name": "ada", "password": password}).status_code == 401
    acts = world.workspace.state.access.acts()
    assert [each.what for each in acts[:2]] == ["sign in by OIDC", "sign in by OIDC: rights by groups"]
    assert (acts[0].who, acts[0].through, acts[0].origin, acts[0].by_id) == ("ada", Through.SESSION, "127.0.0.1", kept[0].id)
    assert acts[1].after is not None
    assert acts[1].after["networks"] == ["shop", "lab"]


def test_rights_follow_the_groups_at_each_sign_in(world: World) -> None:
    for groups, wanted in (
        (["ops"], ("operator", ["shop", "lab"])), (["ops", "more-ops"], ("operator", ["shop", "lab", "yard"])),
        (["all"], ("viewer", None)), (["root", "ops"], ("admin", None)), ("all", ("viewer", None)),
    ):  # fmt: skip
        world.provider.claims = ADA | {"groups": groups}
        with world.browser() as browser:
            assert world.signed_in(browser).status_code == 200
            told = browser.get("/v1/sessions/current").json()
            assert (told["role"], told["networks"]) == wanted
    assert len([each for each in world.workspace.state.access.users() if each.name == "ada"]) == 1


def test_who_is_of_no_group_is_turned_away_and_not_kept(world: World) -> None:
    for groups in (["choir"], [], None, 7 and ["op"], ["OPS"]):
        world.provider.claims = {"sub": "0815", "preferred_username": "eve", "groups": groups}
        with world.browser() as browser:
            answer = world.signed_in(browser)
            assert answer.status_code == 403, groups
            assert COOKIE not in browser.cookies
    assert world.workspace.state.access.user("eve") is None


def test_who_is_disabled_here_is_not_let_in_by_the_provider(world: World) -> None:
    world.provider.claims = {"sub": "1", "preferred_username": "dis", "groups": ["all"]}
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 200
        world.workspace.state.access.set_disabled("dis", time.time_ns())
        assert browser.get("/v1/sessions/current").status_code == 401
        assert world.signed_in(browser).status_code == 401


def test_a_name_that_is_taken_is_not_given_to_whoever_a_provider_calls_so(world: World) -> None:
    access.add_user(world.workspace, NewUser("boss", Role.ADMIN), "correct horse battery staple", time.time_ns())
    world.provider.claims = {"sub": "2", "preferred_username": "boss", "groups": ["root"]}
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 401
        assert COOKIE not in browser.cookies
    kept = world.workspace.state.access.user("boss")
    assert kept is not None
    assert kept[0].external is None
    world.provider.claims = {"sub": "3", "preferred_username": "ada", "groups": ["root"]}  # another of the same name
    with world.browser() as browser:
        world.signed_in(browser)
        assert COOKIE not in browser.cookies


def test_a_name_that_can_be_none_here_is_made(world: World) -> None:
    for sub, name in (("10", "<script>"), ("11", None), ("12", 7), ("13", "x" * 64)):
        world.provider.claims = {"sub": sub, "preferred_username": name, "groups": ["all"]}
        with world.browser() as browser:
            assert world.signed_in(browser).status_code == 200
            assert browser.get("/v1/sessions/current").json()["name"].startswith("oidc-")
    world.believe(name_claim="email")
    world.provider.claims = {"sub": "14", "email": "ada@example.org", "email_verified": False, "groups": ["all"]}
    with world.browser() as browser:
        world.signed_in(browser)
        assert browser.get("/v1/sessions/current").json()["name"].startswith("oidc-")


def test_groups_may_lie_within_and_beside_the_token(world: World) -> None:
    world.believe(groups_claim="realm_access.roles")
    world.provider.claims = {"sub": "20", "preferred_username": "kay", "realm_access": {"roles": ["ops"]}}
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 200
    world.believe(groups_claim="https://example.org/groups")
    world.provider.claims = {"sub": "20", "preferred_username": "kay", "https://example.org/groups": ["all"]}
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 200
    world.believe()
    world.provider.claims = {"sub": "20", "preferred_username": "kay"}
    world.provider.userinfo = {"sub": "20", "groups": ["root"]}
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 200
        assert browser.get("/v1/sessions/current").json()["role"] == "admin"
    world.provider.userinfo = {"sub": "21", "groups": ["root"]}  # of somebody else
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 403


LIES: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "http://127.0.0.1:1"}, "for another client": {"aud": "other"}, "for no client": {"aud": None},
    "for several, by another": {"aud": [CLIENT, "other"], "azp": "other"}, "ended": {"exp": int(time.time()) - 3_600},
    "without an end": {"exp": None}, "yet to begin": {"nbf": int(time.time()) + 3_600}, "another nonce": {"nonce": "x" * 43},
    "no nonce": {"nonce": None}, "of nobody": {"sub": None}, "of no text": {"sub": 7}, "of emptiness": {"sub": ""},
    "another access token": {"at_hash": "x" * 22},
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_word_that_is_not_for_this_sign_in_is_not_believed(world: World, lie: str) -> None:
    world.provider.lies = LIES[lie]
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 401
        assert COOKIE not in browser.cookies


@pytest.mark.parametrize(
    ("algorithm", "key"), [("none", None), ("HS256", "oct"), ("RS256", "RSA"), ("ES256", "EC")]
)  # fmt: skip
def test_a_word_that_the_provider_did_not_sign_is_not_believed(world: World, algorithm: str, key: str | None) -> None:
    world.provider.algorithm = algorithm
    if key is not None:
        world.provider.key = other_key(key)
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 401


def test_a_public_key_is_no_secret_to_sign_with(world: World) -> None:
    world.provider.algorithm = "HS256"
    world.provider.key = world.provider.published.as_pem(private=False)
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 401


def test_new_keys_of_the_provider_are_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "KEYS_EVERY_S", 0)
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 200
    world.provider.new_key()
    world.provider.asked.clear()
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 200
    assert world.provider.asked.count("/jwks") == 1
    assert "/.well-known/openid-configuration" not in world.provider.asked  # that is kept


def test_a_sign_in_that_another_browser_began_is_not_ended_here(world: World) -> None:
    with world.browser() as mallory, world.browser() as victim:
        back = world.begun(mallory)
        assert victim.get(back).status_code == 401  # no state of its own
        world.begun(victim)
        assert victim.get(back).status_code == 401  # another state
        assert COOKIE not in victim.cookies
        state = parse_qs(urlsplit(back).query)["state"][0]
        assert mallory.get(f"{oidc.RETURN}?code=made-up&state={state}").status_code == 401
        assert mallory.get(back).status_code == 401  # that sign-in is over


def test_a_code_serves_once_and_needs_the_browser_that_it_is_for(world: World) -> None:
    with world.browser() as browser:
        back = world.begun(browser)
        cookie = browser.cookies[oidc.COOKIE]
        assert browser.get(back).status_code == 200
        browser.cookies.set(oidc.COOKIE, cookie, path=oidc.RETURN)
        assert browser.get(back).status_code == 401
    with world.browser() as browser:
        back = world.begun(browser)
        state, nonce, _ = browser.cookies[oidc.COOKIE].split(".")
        with world.browser() as thief:  # who saw the code on its way, and even state and nonce
            thief.cookies.set(oidc.COOKIE, f"{state}.{nonce}.{'v' * 64}")
            assert thief.get(back).status_code == 401


@pytest.mark.parametrize("query", ["", "error=access_denied&state={state}", "error=<script>&state={state}", "state={state}"])
def test_a_provider_that_says_no_signs_nobody_in(world: World, query: str) -> None:
    with world.browser() as browser:
        state = parse_qs(urlsplit(world.begun(browser)).query)["state"][0]
        answer = browser.get(f"{oidc.RETURN}?{query.format(state=state)}")
        assert answer.status_code == 401
        assert "<script>" not in answer.text


def test_the_answer_of_another_provider_is_not_taken(world: World) -> None:
    world.provider.iss_in_answer = "https://evil.example.org"
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 401
    world.provider.iss_in_answer = world.provider.issuer
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 200


@pytest.mark.parametrize(
    "told",
    [{"issuer": "http://127.0.0.1:1"}, {"token_endpoint": "http://example.org/token"}, {"jwks_uri": "file:///etc/passwd"},
     {"authorization_endpoint": None}, {"token_endpoint": "http://user:pw@127.0.0.1/"}],
)  # fmt: skip
def test_a_provider_that_tells_of_strange_places_is_not_asked_further(world: World, told: dict[str, Any]) -> None:
    world.provider.told = told
    with world.browser() as browser:
        assert browser.get(oidc.SIGN_IN).status_code == 401


def test_a_provider_that_is_away_is_told_of(world: World) -> None:
    world.believe(issuer="http://127.0.0.1:9")
    with world.browser() as browser:
        assert browser.get(oidc.SIGN_IN).status_code == 503
    world.app.state.oidc = None
    with world.browser() as browser:
        assert browser.get(oidc.SIGN_IN).status_code == 404


@pytest.mark.parametrize(
    ("given", "told"),
    [({"issuer": "http://login.example.org"}, "ISSUER"), ({"issuer": "ftp://127.0.0.1"}, "ISSUER"),
     ({"issuer": "http://127.0.0.1.example.org"}, "ISSUER"), ({"issuer": "https://"}, "ISSUER"),
     ({"issuer": "http://127.0.0.1@example.org"}, "ISSUER"), ({"issuer": "http://10.0.0.1"}, "ISSUER"),
     ({"client_id": ""}, "CLIENT_ID"), ({"scopes": "profile"}, "SCOPES"), ({"roles": ()}, "ROLES")],
)  # fmt: skip
def test_settings_that_can_not_be_trusted_are_refused(given: dict[str, Any], told: str) -> None:
    right: dict[str, Any] = {"issuer": "https://login.example.org", "client_id": "adumbra", "roles": RULES}
    Oidc(OidcSettings(**right))
    Oidc(OidcSettings(**right | {"issuer": "http://[::1]:8080/realm"}))
    Oidc(OidcSettings(**right | {"issuer": "http://localhost:8080"}))
    with pytest.raises(InputError, match=f"ADUMBRA_OIDC_{told}"):
        Oidc(OidcSettings(**right | given))
    assert oidc.of_settings(OidcSettings()) is None
    with pytest.raises(InputError, match="ADUMBRA_SERVE_URL"):
        Oidc(OidcSettings(**right), "http://adumbra.example.org")


def test_rules_give_the_most_that_a_group_may() -> None:
    assert rights_of(RULES, ("all", "ops")) == (Role.OPERATOR, ("shop", "lab"))
    assert rights_of(RULES, ()) is None
    both = (*RULES, RoleRule("chief", Role.OPERATOR))
    assert rights_of(both, ("ops", "chief")) == (Role.OPERATOR, None)


def test_a_secret_that_can_not_be_read_is_told_of_without_it(world: World, tmp_path: Path) -> None:
    world.believe(client_secret_file=tmp_path / "none")
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 401
    (tmp_path / "wrong").write_text("wrong")
    world.believe(client_secret_file=tmp_path / "wrong")
    with world.browser() as browser:
        assert world.signed_in(browser).status_code == 401
