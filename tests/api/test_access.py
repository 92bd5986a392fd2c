"""Tokens, users, sign-ins and the audit log by the API: what is shown once, who gives what to whom, and what the log tells."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from tests.api.serving import SPEC, Serving, served

from adumbra.api.access import COOKIE, CSRF_HEADER
from adumbra.schema.access import NewToken, Role
from adumbra.service import access

PASSWORD = "correct horse battery staple"


@dataclass
class Clock:
    """The server's clock, which the test may move."""

    ahead_ns: int = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("home"), now=clock) as running:
        yield running


@pytest.fixture(scope="module")
def admin(serving: Serving) -> httpx.Client:
    return serving.admin()


def made_token(client: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/tokens", json={"name": "a", **asked})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def made_user(client: httpx.Client, name: str, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/users", json={"name": name, "password": PASSWORD, **asked})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def nobody(serving: Serving) -> httpx.Client:
    """A browser without any cookie."""
    return httpx.Client(base_url=serving.url, timeout=60.0, trust_env=False)


def tried(serving: Serving, path: str, **asked: Any) -> int:
    """What comes of an attempt by nobody."""
    with nobody(serving) as client:
        return client.post(path, **asked).status_code


def signed_in(serving: Serving, name: str, password: str = PASSWORD) -> tuple[httpx.Client, dict[str, str]]:
    """A browser that signed in, and the headers of its changes."""
    client = nobody(serving)
    answer = client.post("/v1/sessions", json={"name": name, "password": password})
    assert answer.status_code == 201, answer.text
    return client, {CSRF_HEADER: answer.json()["csrf"]}


# Tokens


def test_a_token_is_made_used_and_revoked(serving: Serving, admin: httpx.Client) -> None:
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    made = made_token(admin, name="grafana", role="viewer", networks=["shop"], expires=ends)
    secret, token = made["secret"], made["token"]
    assert secret.startswith("adu_")
    assert len(secret) == 47
    assert (token["name"], token["role"], token["networks"], token["once"]) == ("grafana", "viewer", ["shop"], False)
    assert datetime.fromisoformat(token["expires"]) == datetime.fromisoformat(ends)
    shown = admin.get(f"/v1/tokens/{token['id']}")
    assert secret not in shown.text
    assert shown.json() == token
    with serving.with_token(secret) as holder:
        assert holder.get("/v1/sessions/current").json()["name"] == "grafana"
        assert admin.get(f"/v1/tokens/{token['id']}").json()["used"] is not None
        assert admin.delete(f"/v1/tokens/{token['id']}").json()["revoked"] is not None
        assert holder.get("/v1/sessions/current").status_code == 401  # at once
        again = admin.delete(f"/v1/tokens/{token['id']}")
        assert again.status_code == 200  # nothing happens twice
    assert admin.get("/v1/tokens/9999").status_code == 404


def test_a_token_is_refused_from_its_end_on(serving: Serving, admin: httpx.Client, clock: Clock) -> None:
    made = made_token(admin, expires=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    with serving.with_token(made["secret"]) as holder:
        assert holder.get("/v1/networks").status_code == 200
        clock.ahead_ns = 3_600 * 10**9
        assert holder.get("/v1/networks").status_code == 401
        clock.ahead_ns = 0
    assert admin.post("/v1/tokens", json={"name": "a", "expires": "2001-01-01T00:00:00Z"}).status_code == 422
    assert admin.post("/v1/tokens", json={"name": "a", "expires": "9999-01-01T00:00:00Z"}).status_code == 422
    assert admin.post("/v1/tokens", json={"name": "a", "expires": "2127-01-01T00:00:00"}).status_code == 422  # of which zone?


@pytest.mark.parametrize(
    "asked",
    [{"name": ""}, {"name": "a b"}, {"name": "x" * 64}, {"name": "a", "role": "root"}, {"name": "a", "networks": []},
     {"name": "a", "networks": ["Shop!"]}, {"name": "a", "networks": ["x"] * 1_001}, {"name": "a", "once": True},
     {"name": "a\n"}, {"name": 7}, {}],
)  # fmt: skip
def test_a_token_that_can_be_none_is_refused(admin: httpx.Client, asked: dict[str, Any]) -> None:
    before = admin.get("/v1/tokens").json()
    assert admin.post("/v1/tokens", json=asked).status_code == 422
    assert admin.get("/v1/tokens").json() == before


def test_tokens_are_listed_a_page_at_a_time(admin: httpx.Client) -> None:
    for number in range(5):
        made_token(admin, name=f"page-{number}")
    whole = admin.get("/v1/tokens", params={"limit": 1_000}).json()
    assert whole["next"] is None
    found: list[Any] = []
    after: str | None = None
    while True:
        page = admin.get("/v1/tokens", params={"limit": 2} | ({"after": after} if after else {})).json()
        found += page["items"]
        if (after := page["next"]) is None:
            break
    assert found == whole["items"]
    assert [each["id"] for each in found] == sorted((each["id"] for each in found), reverse=True)
    for wrong in ("x", "-1", "9" * 30):
        assert admin.get("/v1/tokens", params={"after": wrong}).status_code == 422


def test_asking_again_with_a_key_makes_one_token_and_shows_no_secret_again(serving: Serving, admin: httpx.Client) -> None:
    count = serving.workspace.state.access.count_tokens()
    key = {"Idempotency-Key": "once-more"}
    first = admin.post("/v1/tokens", json={"name": "once"}, headers=key)
    second = admin.post("/v1/tokens", json={"name": "once"}, headers=key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["secret"]
    assert second.json() == first.json() | {"secret": None}
    assert serving.workspace.state.access.count_tokens() == count + 1
    assert admin.post("/v1/tokens", json={"name": "other"}, headers=key).status_code == 409
    with serving.with_token(serving.token(Role.ADMIN)) as other:  # whose key it is another
        assert other.post("/v1/tokens", json={"name": "once"}, headers=key).json()["secret"]


def test_the_first_token_makes_one_token_and_is_over(serving: Serving, admin: httpx.Client) -> None:
    now = serving.server.now()
    once = access.issue(serving.workspace, NewToken("first-start", Role.ADMIN, once=True), now)
    with serving.with_token(once.secret) as first:
        assert first.post("/v1/networks", json={"spec": SPEC.format(name="shop")}).status_code == 403
        assert first.get("/v1/networks").status_code == 403
        assert first.post("/v1/tokens", json={"name": "bad name"}).status_code == 422  # what fails spends nothing
        assert first.get("/v1/tokens").status_code == 200  # nor does looking
        secret = made_token(first, name="mine", role="admin")["secret"]
        assert first.post("/v1/tokens", json={"name": "two"}).status_code == 401
        assert first.get("/v1/tokens").status_code == 401
    with serving.with_token(secret) as mine:
        assert mine.get("/v1/users").status_code == 200
    assert access.first_token(serving.workspace, now) is None


def test_an_administrator_of_some_networks_gives_no_more_than_they_have(serving: Serving, admin: httpx.Client) -> None:
    of_all = made_token(admin, name="of-all", role="viewer")["token"]
    of_other = made_token(admin, name="of-other", role="viewer", networks=["other"])["token"]
    with serving.with_token(serving.token(Role.ADMIN, "shop", "lab")) as some:
        for beyond in ({"networks": None}, {"networks": ["other"]}, {"networks": ["shop", "other"]}, {}):
            answer = some.post("/v1/tokens", json={"name": "a", "role": "viewer", **beyond})
            assert answer.status_code == 403, beyond
            assert some.post("/v1/users", json={"name": "b", "password": PASSWORD, **beyond}).status_code == 403, beyond
        mine = made_token(some, role="admin", networks=["shop"])["token"]
        ids = {each["id"] for each in some.get("/v1/tokens", params={"limit": 1_000}).json()["items"]}
        assert mine["id"] in ids
        assert not ids & {of_all["id"], of_other["id"]}
        for hidden in (of_all, of_other):
            assert some.get(f"/v1/tokens/{hidden['id']}").status_code == 404
            assert some.delete(f"/v1/tokens/{hidden['id']}").status_code == 404
        assert some.delete(f"/v1/tokens/{mine['id']}").status_code == 200
    assert admin.get(f"/v1/tokens/{of_other['id']}").json()["revoked"] is None


# Users and sign-ins


def test_a_user_is_added_signs_in_and_out(serving: Serving, admin: httpx.Client) -> None:
    made = made_user(admin, "ada", role="operator", networks=["shop"])
    assert "password" not in made
    browser, change = signed_in(serving, "ada")
    cookie = browser.post("/v1/sessions", json={"name": "ada", "password": PASSWORD}).headers["set-cookie"]
    parts = cookie.split("; ")
    assert parts[0].startswith(f"{COOKIE}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(parts)
    assert "Secure" not in parts  # there is no TLS here: see test_tls.py
    change = {CSRF_HEADER: browser.get("/v1/sessions/current").json()["csrf"]}
    told = browser.get("/v1/sessions/current").json()
    assert (told["name"], told["role"], told["networks"], told["through"]) == ("ada", "operator", ["shop"], "session")
    secret = browser.cookies[COOKIE]
    assert browser.delete("/v1/sessions/current").status_code == 403
    assert browser.delete("/v1/sessions/current", headers=change).status_code == 204
    assert COOKIE not in browser.cookies
    browser.cookies.set(COOKIE, secret)
    assert browser.get("/v1/sessions/current").status_code == 401  # it is over at the server, too
    assert admin.delete("/v1/sessions/current").status_code == 422  # a token is no sign-in
    browser.close()


def test_a_sign_in_ends_by_itself(serving: Serving, admin: httpx.Client, clock: Clock) -> None:
    made_user(admin, "late")
    browser, _ = signed_in(serving, "late")
    clock.ahead_ns = (access.SESSION_S - 60) * 10**9
    assert browser.get("/v1/networks").status_code == 200
    clock.ahead_ns = (access.SESSION_S + 60) * 10**9
    assert browser.get("/v1/networks").status_code == 401
    clock.ahead_ns = 0
    browser.close()


def test_nothing_tells_a_name_that_is_there_from_one_that_is_not(serving: Serving, admin: httpx.Client) -> None:
    made_user(admin, "there")
    made_user(admin, "off")
    admin.post("/v1/users/off/disable")
    asked = [
        {"name": "there", "password": "wrong wrong wrong"}, {"name": "nobody", "password": "wrong wrong wrong"},
        {"name": "off", "password": PASSWORD}, {"name": "x" * 200, "password": PASSWORD}, {"name": "", "password": ""},
        {"name": "there' --", "password": PASSWORD}, {"name": "THERE", "password": PASSWORD},
        {"name": "there", "password": f"{PASSWORD}x"}, {"name": "there", "password": PASSWORD[:-1]},
    ]  # fmt: skip
    with nobody(serving) as client:
        told = {(answer.status_code, answer.text) for answer in (client.post("/v1/sessions", json=each) for each in asked)}
    assert len(told) == 1
    assert next(iter(told))[0] == 401


def test_a_sign_in_is_asked_for_by_this_server_s_own_page_only(serving: Serving, admin: httpx.Client) -> None:
    made_user(admin, "own")
    right = {"name": "own", "password": PASSWORD}
    with nobody(serving) as client:
        for site, wanted in (("cross-site", 403), ("same-site", 403), ("same-origin", 201), ("none", 201)):
            assert client.post("/v1/sessions", json=right, headers={"Sec-Fetch-Site": site}).status_code == wanted
        form = client.post("/v1/sessions", data=right)  # what a form of another site can send without asking
        assert form.status_code == 422


def test_a_user_is_disabled_and_enabled(serving: Serving, admin: httpx.Client) -> None:
    made_user(admin, "bea")
    browser, _ = signed_in(serving, "bea")
    assert admin.post("/v1/users/bea/disable").json()["disabled"] is not None
    assert browser.get("/v1/networks").status_code == 401
    assert tried(serving, "/v1/sessions", json={"name": "bea", "password": PASSWORD}) == 401
    assert admin.post("/v1/users/bea/enable").json()["disabled"] is None
    assert browser.get("/v1/networks").status_code == 401  # that sign-in is over
    signed_in(serving, "bea")[0].close()
    browser.close()


def test_other_rights_hold_from_the_next_request_on(serving: Serving, admin: httpx.Client) -> None:
    made_user(admin, "cyd", role="admin")
    browser, change = signed_in(serving, "cyd")
    assert browser.get("/v1/users").status_code == 200
    assert browser.post("/v1/users/cyd/disable", headers=change).status_code == 409  # nobody locks themselves out
    answer = admin.put("/v1/users/cyd/rights", json={"role": "viewer", "networks": ["shop"]})
    assert (answer.json()["role"], answer.json()["networks"]) == ("viewer", ["shop"])
    assert browser.get("/v1/users").status_code == 403
    assert browser.get("/v1/networks/lab").status_code == 404
    assert (
        admin.put("/v1/users/cyd/rights", json={"role": "viewer"}).status_code == 422
    )  # of which networks is said, not guessed
    browser.close()


def test_passwords_are_changed_by_who_may(serving: Serving, admin: httpx.Client) -> None:
    made_user(admin, "dan")
    browser, change = signed_in(serving, "dan")
    other = "another long password"
    body = {"current": "wrong wrong wrong", "password": other}
    assert browser.put("/v1/sessions/current/password", json=body, headers=change).status_code == 401
    assert browser.put("/v1/sessions/current/password", json=body | {"current": PASSWORD}).status_code == 403
    short = browser.put("/v1/sessions/current/password", json={"current": PASSWORD, "password": "short"}, headers=change)
    assert short.status_code == 422
    done = browser.put("/v1/sessions/current/password", json=body | {"current": PASSWORD}, headers=change)
    assert done.status_code == 204
    assert browser.get("/v1/networks").status_code == 401
    signed_in(serving, "dan", other)[0].close()
    assert admin.put("/v1/users/dan/password", json={"password": PASSWORD}).status_code == 204
    assert tried(serving, "/v1/sessions", json={"name": "dan", "password": other}) == 401
    signed_in(serving, "dan")[0].close()
    assert admin.put("/v1/users/nobody/password", json={"password": PASSWORD}).status_code == 404
    browser.close()


def test_an_administrator_of_some_networks_does_nothing_to_others_users(serving: Serving, admin: httpx.Client) -> None:
    made_user(admin, "eve", role="viewer", networks=["shop"])
    made_user(admin, "fay", role="viewer", networks=["other"])
    made_user(admin, "gil", role="admin")
    with serving.with_token(serving.token(Role.ADMIN, "shop")) as some:
        names = {each["name"] for each in some.get("/v1/users", params={"limit": 1_000}).json()["items"]}
        assert "eve" in names
        assert not {"fay", "gil"} & names
        for name in ("fay", "gil"):
            assert some.get(f"/v1/users/{name}").status_code == 404
            assert some.post(f"/v1/users/{name}/disable").status_code == 404
            assert some.put(f"/v1/users/{name}/password", json={"password": PASSWORD}).status_code == 404
            assert some.put(f"/v1/users/{name}/rights", json={"role": "viewer", "networks": ["shop"]}).status_code == 404
        beyond = some.put("/v1/users/eve/rights", json={"role": "viewer", "networks": ["shop", "other"]})
        assert beyond.status_code == 403
        assert some.put("/v1/users/eve/rights", json={"role": "admin", "networks": ["shop"]}).status_code == 200
        assert some.post("/v1/users/eve/disable").status_code == 200
        taken = some.post("/v1/users", json={"name": "fay", "password": PASSWORD, "networks": ["shop"]})
        assert taken.status_code == 409


def test_users_are_listed_a_page_at_a_time(admin: httpx.Client) -> None:
    for name in ("page-b", "page-a", "page-c"):
        made_user(admin, name)
    whole = [each["name"] for each in admin.get("/v1/users", params={"limit": 1_000}).json()["items"]]
    assert whole == sorted(whole)
    first = admin.get("/v1/users", params={"limit": 2}).json()
    second = admin.get("/v1/users", params={"limit": 1_000, "after": first["next"]}).json()
    assert [each["name"] for each in first["items"] + second["items"]] == whole


def test_a_user_is_added_once_however_often_it_is_asked_for(serving: Serving, admin: httpx.Client) -> None:
    asked = {"name": "once", "password": PASSWORD}
    key = {"Idempotency-Key": "a-user"}
    told = [admin.post("/v1/users", json=asked, headers=key) for _ in range(2)]
    assert [each.status_code for each in told] == [201, 201]
    assert told[0].json() == told[1].json()
    assert admin.post("/v1/users", json=asked).status_code == 409
    other = admin.post("/v1/users", json=asked | {"password": f"{PASSWORD} 2"}, headers=key)
    assert other.status_code == 409  # another password is another request


# The audit log


def test_the_log_tells_who_changed_what_from_where_and_what_stood(serving: Serving, admin: httpx.Client) -> None:
    made = made_token(admin, name="logged", role="operator", networks=["shop"])
    admin.delete(f"/v1/tokens/{made['token']['id']}")
    first, second = admin.get("/v1/audit", params={"limit": 2}).json()["items"]
    assert (first["what"], second["what"]) == ("DELETE /v1/tokens/{token}", "POST /v1/tokens")
    assert first["subject"] == second["subject"] == f"token/{made['token']['id']}"
    assert (first["before"]["revoked_ns"], first["after"]["revoked_ns"] is not None) == (None, True)
    assert second["before"] is None
    assert second["asked"]["networks"] == ["shop"]
    assert second["after"]["name"] == "logged"
    assert {first["who"], second["who"]} == {"admin-1"} or first["who"].startswith("admin")
    assert (first["role"], first["through"], first["origin"], first["network"]) == ("admin", "token", "127.0.0.1", None)
    assert first["by_id"] is not None
    assert abs((datetime.fromisoformat(first["time"]) - datetime.now(UTC)).total_seconds()) < 60


def test_what_fails_and_what_only_looks_is_not_in_the_log(serving: Serving, admin: httpx.Client) -> None:
    before = admin.get("/v1/audit").json()["items"][0]["id"]
    admin.post("/v1/users", json={"name": "x y", "password": PASSWORD})
    admin.post("/v1/tokens", json={"name": "x", "expires": "2001-01-01T00:00:00Z"})
    admin.get("/v1/tokens")
    tried(serving, "/v1/sessions", json={"name": "x", "password": "y"})
    assert admin.get("/v1/audit").json()["items"][0]["id"] == before


def test_an_operator_sees_what_was_done_to_their_own_networks(serving: Serving, admin: httpx.Client) -> None:
    for name in ("shop", "yard"):
        serving.make(name)
    with serving.with_token(serving.token(Role.OPERATOR, "shop")) as own, serving.with_token(
        serving.token(Role.OPERATOR)
    ) as every, serving.with_token(serving.token(Role.ADMIN, "shop")) as some, serving.with_token(
        serving.token(Role.VIEWER, "shop")
    ) as viewer:  # fmt: skip
        for client in (own, some):
            assert {each["network"] for each in client.get("/v1/audit").json()["items"]} == {"shop"}
            assert client.get("/v1/audit", params={"network": "yard"}).status_code == 404
            assert len(client.get("/v1/audit", params={"network": "shop"}).json()["items"]) == 1
        assert {each["network"] for each in every.get("/v1/audit", params={"limit": 1_000}).json()["items"]} == {"shop", "yard"}
        assert viewer.get("/v1/audit").status_code == 403
    everything = admin.get("/v1/audit", params={"limit": 1_000}).json()["items"]
    assert {None, "shop", "yard"} <= {each["network"] for each in everything}


def test_the_log_is_filtered_and_paged(serving: Serving, admin: httpx.Client) -> None:
    made_user(admin, "hal", role="admin")
    browser, change = signed_in(serving, "hal")
    assert browser.post("/v1/tokens", json={"name": "of-hal"}, headers=change).status_code == 201
    browser.close()

    def found(**asked: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = admin.get("/v1/audit", params={"limit": 1_000} | asked).json()["items"]
        return items

    assert [each["what"] for each in found(who="hal")] == ["POST /v1/tokens", "sign in"]
    assert {each["through"] for each in found(through="session")} == {"session"}
    assert {each["what"] for each in found(what="DELETE /v1/tokens")} == {"DELETE /v1/tokens/{token}"}
    assert found(what="%") == []
    newest = found()[0]["time"]
    assert [each["who"] for each in found(since=newest)] == ["hal"]
    assert newest not in {each["time"] for each in found(until=newest)}
    assert found(since="9999-01-01T00:00:00Z") == []
    assert found(until="0001-01-01T00:00:00Z") == []
    whole, pages, after = found(), [], None
    while True:
        page = admin.get("/v1/audit", params={"limit": 7} | ({"after": after} if after else {})).json()
        pages += page["items"]
        if (after := page["next"]) is None:
            break
    assert pages == whole
    assert admin.get("/v1/audit", params={"through": "magic"}).status_code == 422


def test_no_secret_is_kept_or_logged(serving: Serving, admin: httpx.Client, capfd: pytest.CaptureFixture[str]) -> None:
    made = made_token(admin, name="secretive", role="admin")
    made_user(admin, "ivy", role="admin")
    browser, change = signed_in(serving, "ivy")
    browser.post("/v1/users/ivy/enable", headers=change | {"Idempotency-Key": "k"})
    secrets = [made["secret"], PASSWORD, browser.cookies[COOKIE]]
    browser.close()
    written = "".join(capfd.readouterr())
    shown = json.dumps([admin.get(path, params={"limit": 1_000}).json() for path in ("/v1/audit", "/v1/tokens", "/v1/users")])
    serving.workspace.state.access.acts()
    files = b"".join(each.read_bytes() for each in serving.workspace.home.glob("state.db*"))
    for secret in secrets:
        assert secret not in written
        assert secret not in shown
        assert secret.encode() not in files
    assert change[CSRF_HEADER] not in shown
    with sqlite3.connect(serving.workspace.home / "state.db") as kept:
        hashes = [each[0] for each in kept.execute("select password from users where password != ''")]
    assert hashes
    assert all(each.startswith("$argon2id$v=19$m=65536,t=3,p=4$") for each in hashes)
    assert len(set(hashes)) == len(hashes)  # salted


def test_a_stream_ends_once_its_token_is_revoked(serving: Serving, admin: httpx.Client) -> None:
    if serving.admin().get("/v1/networks/shop").status_code == 404:
        serving.make("shop")
    made = made_token(admin, name="watcher", networks=["shop"])
    with serving.with_token(made["secret"]) as watcher, watcher.stream("GET", "/v1/networks/shop/stream") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        admin.delete(f"/v1/tokens/{made['token']['id']}")
        rest = list(lines)
    assert "event: problem" in rest
    assert any("your token or sign-in is over" in each for each in rest)
