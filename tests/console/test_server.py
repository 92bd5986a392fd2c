"""The console behind its guard, by a real server: who is let in, where others are sent, and what another site can't do."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
from tests.console.conftest import PASSWORD
from tests.console.serving import served
from tests.service.lab import made_lab
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from adumbra.api import access as api_access
from adumbra.console import guard
from adumbra.console.guard import COOKIE, SIGN_IN
from adumbra.schema.access import NewUser, Role
from adumbra.service import access
from adumbra.service.workspace import Workspace

PAGES = ("/", "/networks/lab", "/sources", "/frontier", "/tokens", "/backtests/x")


@dataclass(frozen=True, slots=True)
class Started:
    """A server of the lab's network. workspace: opened here beside it, for the state alone: the metrics are the server's."""

    url: str
    workspace: Workspace
    token: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    home = tmp_path_factory.mktemp("console") / "home"
    with Workspace(home) as workspace:
        made_lab(workspace)
    with served(home) as found, Workspace(home) as workspace:
        yield Started(found.url, workspace, found.first_token())


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=120, trust_env=False)


@contextmanager
def _signed_in(url: str, name: str = "ada") -> Iterator[httpx.Client]:
    with _client(url) as client:
        assert client.post(SIGN_IN, data={"name": name, "password": PASSWORD}).status_code == 303
        yield client


@pytest.fixture(scope="module")
def people(server: Started) -> str:
    """Made by the one-time token, at the console; then others, by the use case."""
    url, workspace, token = server.url, server.workspace, server.token
    with _client(url) as client:
        page = client.get(SIGN_IN)
        assert "One-time token" in page.text
        wrong = client.post("/first-user", data={"token": "adu_" + "x" * 43, "name": "ada", "password": PASSWORD})
        assert (wrong.status_code, "not accepted" in wrong.text) == (401, True)
        short = client.post("/first-user", data={"token": token, "name": "ada", "password": "short"})
        assert short.status_code == 422
        assert token not in short.text
        made = client.post("/first-user", data={"token": token, "name": "ada", "password": PASSWORD})
        assert (made.status_code, made.headers["location"]) == (303, "/")
        again = client.post("/first-user", data={"token": token, "name": "eve", "password": PASSWORD})
        assert again.status_code == 401  # it serves once
    act = next(each for each in workspace.state.access.acts() if each.what == "console: first user")
    assert (act.who, act.subject, act.asked) == ("first-start", "user/ada", {"name": "ada", "role": "admin"})
    for name, role, networks in (("vera", Role.VIEWER, ("lab",)), ("stan", Role.OPERATOR, ("other",))):
        access.add_user(workspace, NewUser(name, role, networks), PASSWORD, time.time_ns())
    return url


@pytest.mark.parametrize("path", PAGES)
def test_who_is_not_signed_in_is_sent_to_the_sign_in(people: str, path: str) -> None:
    with _client(people) as client:
        answer = client.get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(SIGN_IN)


def test_the_sign_in_needs_no_script_and_nothing_from_elsewhere(people: str) -> None:
    with _client(people) as client:
        page = client.get(SIGN_IN)
        assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for name in ("console.css", "console.js"):
            text = client.get(f"/console/static/{name}").text
            assert "url(" not in text
            assert "@import" not in text
        assert client.get("/console/static/../app.py").status_code in {303, 404}


def test_a_sign_in_holds_for_the_console_and_the_api_alike(people: str) -> None:
    assert COOKIE == api_access.COOKIE
    assert api_access.CSRF_HEADER.lower() == guard.CSRF_HEADER
    with _signed_in(people) as client:
        assert client.get("/v1/networks").status_code == 200
        page = client.get("/")
        assert page.status_code == 200
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


def test_the_cookie_is_kept_from_scripts_and_other_sites(people: str) -> None:
    with _client(people) as client:
        answer = client.post(SIGN_IN, data={"name": "ada", "password": PASSWORD})
    told = answer.headers["set-cookie"].lower()
    assert "httponly" in told
    assert "samesite=strict" in told
    assert "path=/" in told


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_leads_to_no_other_host(people: str, to: str) -> None:
    with _client(people) as client:
        answer = client.post(SIGN_IN, data={"name": "ada", "password": PASSWORD, "to": to})
    assert answer.headers["location"] == "/"


def test_a_wrong_password_is_told_like_a_name_that_is_not_there(people: str) -> None:
    told = []
    for name in ("ada", "nobody"):
        with _client(people) as client:
            answer = client.post(SIGN_IN, data={"name": name, "password": "wrong"})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        told.append(answer.text.replace(name, "X"))
    assert told[0] == told[1]


def test_another_site_can_neither_sign_in_nor_out(people: str) -> None:
    evil = {"Origin": "https://evil.example"}
    with _client(people) as client:
        assert client.post(SIGN_IN, data={"name": "ada", "password": PASSWORD}, headers=evil).status_code == 403
    with _signed_in(people) as client:
        assert client.post("/sign-out", data={"csrf": "x"}).status_code == 403
        assert client.get("/").status_code == 200
        page = client.get("/")
        start = page.text.index('name=\\"csrf\\" value=\\"') + len('name=\\"csrf\\" value=\\"')
        secret = page.text[start : page.text.index("\\", start)]
        assert client.post("/sign-out", data={"csrf": secret}).status_code == 303
        assert client.get("/").status_code == 303


def _socket(url: str, headers: dict[str, str], query: str = "client_id=none") -> int:
    """The status that a socket's handshake is answered with; 101 where it is taken."""
    where = url.replace("http", "ws") + f"/_nicegui_ws/socket.io/?EIO=4&transport=websocket&{query}"
    try:
        with connect(where, additional_headers=headers, open_timeout=30):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_a_socket_is_refused_without_a_sign_in_from_another_site_and_for_another_s_page(people: str) -> None:
    with _signed_in(people) as ada, _signed_in(people, "vera") as vera:
        cookies = {name: f"{COOKIE}={client.cookies[COOKIE]}" for name, client in (("ada", ada), ("vera", vera))}
        page = ada.get("/networks/lab")
        client_id = page.text[page.text.index("'client_id': '") + 14 :][:36]
        own = {"Origin": people}
        query = f"client_id={client_id}"
        assert _socket(people, own, query) == 403
        assert _socket(people, own | {"Cookie": f"{COOKIE}=made-up"}, query) == 403
        assert _socket(people, {"Origin": "https://evil.example", "Cookie": cookies["ada"]}, query) == 403
        assert _socket(people, {"Cookie": cookies["ada"]}, query) == 403  # no browser leaves the Origin out
        assert _socket(people, own | {"Cookie": cookies["vera"]}, query) == 403
        assert _socket(people, own | {"Cookie": cookies["ada"]}, query) == 101
        polling = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
        with _client(people) as nobody:
            assert nobody.get(polling).status_code == 401


def test_uploads_are_refused_without_a_page_of_ours_and_beyond_their_bound(people: str) -> None:
    with _client(people) as nobody:
        assert nobody.post("/_nicegui/client/x/upload/1", files={"f": b"x"}).status_code == 401
    with _signed_in(people) as ada:
        assert ada.post("/_nicegui/client/x/upload/1", files={"f": b"x"}).status_code == 403
        own = {"Origin": people}
        assert ada.post("/_nicegui/client/x/upload/1", files={"f": b"x"}, headers=own).status_code == 404
        large = http.client.HTTPConnection(people.removeprefix("http://"), timeout=120)
        large.putrequest("POST", "/_nicegui/client/x/upload/1")
        cookie = f"{COOKIE}={ada.cookies[COOKIE]}"
        for name, value in {"Origin": people, "Cookie": cookie, "Content-Length": str(2**40)}.items():
            large.putheader(name, value)
        large.endheaders()
        assert large.getresponse().status == 413  # before any of it came
        large.close()


def test_what_does_not_tell_its_length_is_broken_off_beyond_the_bound() -> None:
    """An upload in chunks has no length: what came is counted."""

    async def receive() -> guard.Message:
        return {"type": "http.request", "body": b"x" * 400, "more_body": True}

    async def story() -> list[str]:
        counted = guard._counted(receive, 1_000)
        return [(await counted())["type"] for _ in range(3)]

    assert asyncio.run(story()) == ["http.request", "http.request", "http.disconnect"]


def test_a_network_that_is_not_theirs_is_not_there(people: str) -> None:
    with _signed_in(people, "vera") as vera, _signed_in(people, "stan") as stan:
        assert vera.get("/networks/lab").status_code == 200
        foreign, missing = stan.get("/networks/lab"), stan.get("/networks/nowhere")
        assert (foreign.status_code, missing.status_code) == (404, 404)
        assert stan.get("/tokens").status_code == 403
        assert stan.get("/frontier").status_code == 403
        assert ">lab<" not in stan.get("/").text


def test_what_the_api_does_not_know_is_no_page(people: str) -> None:
    with _signed_in(people) as client:
        answer = client.get("/v1/nothing")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_assets_come_from_the_package_and_are_open(people: str) -> None:
    with _signed_in(people) as client:
        page = client.get("/networks/lab").text
    assert "https://" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    with _client(people) as nobody:
        from nicegui import __version__

        assert nobody.get(f"/_nicegui/{__version__}/static/nicegui.js").status_code == 200
        assert nobody.get("/favicon.ico").status_code == 200
