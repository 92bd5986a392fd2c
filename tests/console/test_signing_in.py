"""Signing in and out without a server: what browsers are told to keep, whatever others set there, and what the log tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from adumbra.console import signin
from adumbra.console.context import Console, Visitor
from adumbra.console.guard import COOKIE, session_secret
from adumbra.console.pages import tokens
from adumbra.schema.access import NewToken, Role
from adumbra.service import access
from adumbra.service.workspace import Workspace

PASSWORD = "a long enough one"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def app(workspace: Workspace) -> FastAPI:
    made = FastAPI()
    made.include_router(signin.router)
    made.state.console = Console(workspace, time.time_ns)
    return made


def posted(app: FastAPI, url: str, path: str, cookie: str = "", **form: str) -> httpx.Response:
    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url) as client:
            return await client.post(path, data=form, headers={"Cookie": f"{COOKIE}={cookie}"} if cookie else {})

    return asyncio.run(post())


@pytest.mark.parametrize("others", ['prefs={"a": 1}; ', "bad name=x; ", "; =; ", 'x="never closed; '])
def test_cookies_of_other_programs_of_the_host_do_not_sign_anybody_out(others: str) -> None:
    assert session_secret(f"{others}{COOKIE}=secret") == "secret"
    assert session_secret(others) == ""


def test_who_comes_by_a_proxy_that_does_tls_is_given_a_secure_cookie_as_by_the_api(workspace: Workspace, app: FastAPI) -> None:
    first = access.first_token(workspace, time.time_ns())
    assert first is not None
    made = posted(app, "https://adumbra.test", "/first-user", token=first.secret, name="ada", password=PASSWORD)
    assert (made.status_code, "; Secure" in made.headers["set-cookie"]) == (303, True)
    made = posted(app, "http://127.0.0.1", "/sign-in", name="ada", password=PASSWORD)
    assert (made.status_code, "; Secure" in made.headers["set-cookie"]) == (303, False)


def test_the_log_tells_what_stood_before_and_after(workspace: Workspace, app: FastAPI) -> None:
    first = access.first_token(workspace, time.time_ns())
    assert first is not None
    made = posted(app, "http://127.0.0.1", "/first-user", token=first.secret, name="ada", password=PASSWORD)
    secret = made.cookies[COOKIE]
    who, session = access.by_session(workspace, secret, time.time_ns())
    visitor = Visitor(Console(workspace, time.time_ns), who, secret, session.csrf, "127.0.0.1")
    token = access.issue(workspace, NewToken("scrape", Role.VIEWER), time.time_ns()).record
    tokens.revoke(visitor, token.id)
    assert posted(app, "http://127.0.0.1", "/sign-out", secret, csrf=session.csrf).status_code == 303
    told = {each.what: each for each in workspace.state.access.acts()}
    added, revoked = told["console: first user"], told["console: revoke token"]
    assert (added.after or {})["role"] == "admin"
    assert ((revoked.before or {})["revoked_ns"], (revoked.after or {})["revoked_ns"] is None) == (None, False)
    assert told["console: sign out"].who == "ada"
