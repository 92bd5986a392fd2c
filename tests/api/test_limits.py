"""What a server takes from its clients: too much, too often, too slowly, too many; and what all its answers carry."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.guarding import guarded_server, spoken
from tests.api.serving import SPEC

from adumbra.api.app import make_app
from adumbra.api.buckets import Buckets, Known, place
from adumbra.api.connections import raise_open_files, uvicorn_options
from adumbra.api.context import Care, Server
from adumbra.schema.access import NewToken, NewUser, Role
from adumbra.service import access, networks
from adumbra.service.workspace import Workspace
from adumbra.settings import ServeSettings

EASY = Care(requests_per_s=1e6, burst=10**6, tries_per_min=10**6)
PASSWORD = "correct horse battery staple"
PROBLEM = b"application/problem+json"


@dataclass
class Served:
    """A server that runs. tokens: secrets of viewers of all."""

    port: int
    workspace: Workspace
    tokens: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def head(self, line: str, *headers: str, token: str | None = "") -> bytes:
        """A request's head. token: "" for a viewer's, None for none."""
        bearer = () if token is None else (f"Authorization: Bearer {token or self.tokens[0]}",)
        return "\r\n".join((f"{line} HTTP/1.1", "Host: adumbra", *bearer, *headers, "", "")).encode()

    def client(self, token: str | None = None, **headers: str) -> httpx.Client:
        more = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=more | headers, timeout=60.0, trust_env=False)


@contextmanager
def served(home: Path, care: Care, settings: ServeSettings | None = None) -> Iterator[Served]:
    with Workspace(home) as workspace:
        now = time.time_ns()
        tokens = [access.issue(workspace, NewToken(f"t{i}", Role.VIEWER), now).secret for i in range(12)]
        with guarded_server(make_app(Server(workspace, time.time_ns, care)), care, settings) as port:
            yield Served(port, workspace, tokens)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Takes little: 200 kB of somebody who is known, 2 kB of a stranger; waits a second, and for no less than 4 kB a second."""
    care = replace(EASY, body_bytes=200_000, stranger_bytes=2_000, bodies_bytes=300_000, wait_s=1.0, head_bytes=8_192)
    with served(tmp_path_factory.mktemp("home"), care) as found:
        yield found


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert found is not None, answer[:200]
    return int(found[1])


def refused(answer: bytes, wanted: int, kind: str) -> dict[str, Any]:
    """The problem of an answer that ends its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == wanted, answer[:300]
    assert PROBLEM in head
    assert b"connection: close" in head.lower()
    told: dict[str, Any] = json.loads(body)
    assert told["type"] == f"urn:adumbra:problem:{kind}"
    assert told["detail"]
    if wanted in {408, 429, 503}:
        assert re.search(rb"retry-after: [1-9]\d*\r\n", head.lower() + b"\r\n")
    return told


# Too much


def test_what_says_that_it_is_too_large_is_refused_before_it_comes(small: Served) -> None:
    head = small.head("POST /v1/specs/check", "Content-Type: application/json", "Content-Length: 200001")
    refused(spoken(small.port, head), 413, "too-large")
    assert "200,000" in refused(spoken(small.port, head.replace(b"200001", b"9" * 18)), 413, "too-large")["title"]


def test_what_does_not_say_how_large_it_is_is_refused_once_it_is(small: Served) -> None:
    head = small.head("POST /v1/specs/check", "Content-Type: application/json", "Transfer-Encoding: chunked")
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    refused(spoken(small.port, head, *[chunk] * 200), 413, "too-large")  # 2 MB, of which a tenth is read


def test_a_stranger_is_not_listened_to_for_long(small: Served) -> None:
    for token, kind in ((None, "not-known"), (f"adu_{'x' * 43}", "not-known")):
        head = small.head("POST /v1/specs/check", "Content-Type: application/json", "Content-Length: 2001", token=token)
        refused(spoken(small.port, head), 401, kind)
        head = small.head("POST /v1/specs/check", "Content-Type: application/json", "Transfer-Encoding: chunked", token=token)
        refused(spoken(small.port, head, b"bb8\r\n" + b"x" * 3_000 + b"\r\n"), 401, kind)
    with small.client() as nobody:
        assert nobody.post("/v1/sessions", json={"name": "x", "password": "y" * 1_900}).status_code == 422
        assert nobody.post("/v1/sessions", json={"name": "x", "password": "y" * 900}).status_code == 401


def test_a_body_within_bounds_is_read_whole_however_it_comes(small: Served) -> None:
    spec = json.dumps({"spec": f"name: shop\n#{'x' * 150_000}\ncidrs: [10.0.0.0/8]"}).encode()
    with small.client(small.tokens[0], **{"Content-Type": "application/json"}) as client:
        whole = client.post("/v1/specs/check", content=spec)
        pieces = client.post("/v1/specs/check", content=(spec[i : i + 1_000] for i in range(0, len(spec), 1_000)))
    assert whole.status_code == pieces.status_code
    assert whole.json() == pieces.json()


def test_all_that_is_being_sent_at_a_time_has_a_bound(tmp_path: Path) -> None:
    with served(tmp_path, replace(EASY, body_bytes=200_000, bodies_bytes=250_000, wait_s=60.0)) as found:
        head = found.head(
            "POST /v1/specs/check", "Content-Type: application/json", "Content-Length: 150000", "Connection: close"
        )
        until = time.monotonic() + 60
        told = 422
        while told != 503:  # the other may come first
            assert time.monotonic() < until
            with socket.create_connection(("127.0.0.1", found.port)) as half:
                half.sendall(head + b"x" * 140_000)  # is taken, and held
                answer = spoken(found.port, head + b"x" * 150_000)
                told = status(answer)
        refused(answer, 503, "busy")
        while status(spoken(found.port, head + b"x" * 150_000)) != 422:  # what was held is free again
            assert time.monotonic() < until


def test_the_head_of_a_request_has_a_bound(small: Served) -> None:
    endless = [b"X-More: " + b"x" * 990 + b"\r\n"] * 100
    answer = spoken(small.port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n", *endless, pause_s=0.005)
    refused(answer, 431, "too-large")


MALFORMED = {
    "no JSON": b"{",
    "nothing": b"",
    "another form": b"[]",
    "a word": b'"shop"',
    "no text": b'{"spec": "\xff\xfe"}',
    "half a surrogate": b'{"spec": "\\ud800"}',
    "too deep": b"[" * 50_000,
    "a number that never ends": b'{"spec": 1' + b"0" * 5_000 + b"}",
    "no number": b'{"spec": NaN}',
    "a field that isn't known": b'{"spec": "a: b", "speck": 1}',
    "twice": b'{"spec": "a: b"}{"spec": "a: b"}',
    "NUL": b'{"spec": "\\u0000"}',
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_malformed_is_the_client_s_fault(small: Served, what: str) -> None:
    with small.client(small.tokens[0]) as client:
        for path, method in (("/v1/specs/check", "POST"), ("/v1/sessions", "POST")):
            answer = client.request(method, path, content=MALFORMED[what], headers={"Content-Type": "application/json"})
            if what == "NUL" and path == "/v1/specs/check":
                assert answer.json()["valid"] is False
                continue
            assert answer.status_code in {400, 401, 422}, (path, answer.text)
            assert answer.headers["content-type"].encode() == PROBLEM
        typed = client.post("/v1/sessions", content=b'{"name":"a","password":"b"}', headers={"Content-Type": "text/plain"})
        assert typed.status_code == 422  # so that a form of another site can't send it


@pytest.mark.parametrize(
    "said",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\r\n" * 3 + b"GET /healthz HTTP/9.9\r\n\r\n",
     b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
     b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_http_ends_the_connection(small: Served, said: bytes) -> None:
    answer = spoken(small.port, said)
    assert not answer or 400 <= status(answer) < 500
    assert status(spoken(small.port, small.head("GET /healthz", "Connection: close"))) == 200


# Too slowly


def test_a_connection_that_says_nothing_is_closed(small: Served) -> None:
    began = time.monotonic()
    assert spoken(small.port) == b""
    assert 0.5 < time.monotonic() - began < 15


def test_a_head_that_does_not_end_is_refused(small: Served) -> None:
    refused(spoken(small.port, b"GET /healthz HTTP/1.1\r\nHost:"), 408, "too-slow")
    drops = [bytes([each]) for each in b"GET /healthz HTTP/1.1\r\nHost: adumbra\r\nX: " + b"y" * 200]
    refused(spoken(small.port, *drops, pause_s=0.05), 408, "too-slow")


def test_a_body_that_stops_is_refused(small: Served) -> None:
    head = small.head("POST /v1/specs/check", "Content-Type: application/json", "Content-Length: 1000")
    refused(spoken(small.port, head + b"{"), 408, "too-slow")


def test_a_body_that_drips_is_refused(small: Served) -> None:
    head = small.head("POST /v1/specs/check", "Content-Type: application/json", "Content-Length: 10000")
    began = time.monotonic()
    refused(spoken(small.port, head, *[b"xxx"] * 400, pause_s=0.05), 408, "too-slow")
    assert time.monotonic() - began < 15


def test_a_next_request_that_does_not_come_ends_the_connection(tmp_path: Path) -> None:
    care = replace(EASY, wait_s=1.0, idle_s=1.0)
    with served(tmp_path, care) as found:
        began = time.monotonic()
        answer = spoken(found.port, found.head("GET /healthz"), b"GET /heal", pause_s=0.2)
        assert status(answer) == 200
        assert time.monotonic() - began < 15


def test_whoever_does_not_read_the_answer_is_left(tmp_path: Path) -> None:
    """64 MB are sent to somebody who reads nothing: the kernel gives up, and the app hears of it."""
    left = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1_024):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        left.set()

    with (
        guarded_server(app, replace(EASY, wait_s=1.0)) as port,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert left.wait(30)


# Too many


def test_a_thousand_connections_are_held_and_served_and_what_is_beyond_the_bound_is_told(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = raise_open_files(Care(connections=2_500))
    if soft < 2_500:
        pytest.skip(f"this process may open {hard} files only")
    care = replace(EASY, connections=1_010, wait_s=60.0, idle_s=120.0)
    with served(tmp_path, care) as found:
        held, beyond, after = asyncio.run(_many(found, 1_000, 20))
    assert held == [200] * 1_000
    assert sorted(set(beyond)) == [200, 503]
    assert beyond.count(200) == 10
    assert after == 200


async def _many(found: Served, many: int, more: int) -> tuple[list[int], list[int], int]:
    ask = found.head("GET /healthz", token=None)

    async def asked(to: tuple[asyncio.StreamReader, asyncio.StreamWriter], head: bytes) -> int:
        to[1].write(head)
        answer = await to[0].readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer.lower())
        await to[0].readexactly(int(length[1]) if length else 0)
        return status(answer)

    turn = asyncio.Semaphore(100)

    async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with turn:
            return await asyncio.open_connection("127.0.0.1", found.port)

    connections = await asyncio.gather(*(opened() for _ in range(many)))
    held = [await asked(each, ask) for each in connections[:1]]
    held += await asyncio.gather(*(asked(each, ask) for each in connections[1:]))
    beyond = []
    for _ in range(more):
        connections.append(await opened())
        beyond.append(await asked(connections[-1], ask))
    for _, writer in connections:
        writer.close()
    after = 503
    for _ in range(200):
        last = await opened()
        after = await asked(last, ask)
        last[1].close()
        if after == 200:
            break
        await asyncio.sleep(0.05)
    return held, beyond, after


# Too often


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Takes 12 requests at once of each client, then one in 2 s; 3 tries, then one in 20 s."""
    care = Care(requests_per_s=0.5, burst=12, tries_per_min=3)
    settings = ServeSettings(trusted_proxies=(ip_network("127.0.0.1"),))
    with served(tmp_path_factory.mktemp("home"), care, settings) as found:
        access.add_user(found.workspace, NewUser("ada", Role.VIEWER), PASSWORD, time.time_ns())
        yield found


def _from(number: int) -> dict[str, str]:
    """As a proxy that is trusted says: from another address."""
    return {"X-Forwarded-For": f"192.0.2.{number}"}


def _told_later(answer: httpx.Response, kind: str) -> int:
    assert answer.status_code == 429, answer.text
    assert answer.json()["type"] == f"urn:adumbra:problem:{kind}"
    assert answer.headers["connection"] == "close"
    return int(answer.headers["retry-after"])


def test_each_client_has_its_own_bound_and_it_fills_again(strict: Served) -> None:
    with strict.client(strict.tokens[1]) as one, strict.client(strict.tokens[2]) as two:
        assert one.get("/v1/networks", headers=_from(1)).status_code == 200  # by the address, once: it wasn't known yet
        answers = [one.get("/v1/networks", headers=_from(1))]
        while answers[-1].status_code == 200:
            answers.append(one.get("/v1/networks", headers=_from(1)))
            assert len(answers) < 500
        assert len(answers) >= 13
        assert 1 <= _told_later(answers[-1], "too-often") <= 2
        assert two.get("/v1/networks", headers=_from(1)).status_code == 200  # of the same address, and not of the same token
        until = time.monotonic() + 10
        while one.get("/v1/networks", headers=_from(1)).status_code == 429:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_an_address_may_not_guess_tokens_and_who_is_known_there_goes_on(strict: Served) -> None:
    with strict.client(strict.tokens[3]) as known, strict.client() as guesses:
        assert known.get("/v1/networks", headers=_from(2)).status_code == 200
        told = [
            guesses.get("/v1/networks", headers=_from(2) | {"Authorization": f"Bearer adu_{i:043d}"}).status_code
            for i in range(4)
        ]
        assert told == [401, 401, 401, 429]
        right = {"Authorization": f"Bearer {strict.tokens[4]}"}  # not told apart from a guess, for as long
        assert 1 <= _told_later(guesses.get("/v1/networks", headers=_from(2) | right), "tries") <= 20
        both = [*_from(2).items(), ("Authorization", f"Bearer adu_{'y' * 43}"), ("Authorization", f"Bearer {strict.tokens[3]}")]
        assert guesses.get("/v1/networks", headers=both).status_code == 429  # what is tried is what counts
        assert known.get("/v1/networks", headers=_from(2)).status_code == 200
        assert guesses.get("/v1/networks", headers=_from(3) | right).status_code == 200
        assert guesses.get("/healthz", headers=_from(2)).status_code == 200


def test_an_address_may_not_guess_passwords_not_even_all_at_once(strict: Served) -> None:
    def guess(number: int) -> int:
        with strict.client() as client:
            wrong = {"name": "ada", "password": f"wrong {number}"}
            return client.post("/v1/sessions", json=wrong, headers=_from(4)).status_code

    with ThreadPoolExecutor(12) as pool:
        told = list(pool.map(guess, range(12)))
    assert told.count(401) <= 4
    assert set(told) == {401, 429}
    right = {"name": "ada", "password": PASSWORD}
    with strict.client() as client:
        assert client.post("/v1/sessions", json=right, headers=_from(4)).status_code == 429
        assert client.post("/v1/sessions", json=right, headers=_from(5)).status_code == 201
        proxied = client.post("/v1/sessions", json=right, headers=_from(5) | {"X-Forwarded-Proto": "https"})
        assert proxied.status_code == 201  # a right one is no try
        assert "Secure" in proxied.headers["set-cookie"]
    assert strict.workspace.state.access.acts()[0].origin == "192.0.2.5"


def test_who_is_signed_in_may_not_guess_either(strict: Served) -> None:
    with strict.client() as client:
        made = client.post("/v1/sessions", json={"name": "ada", "password": PASSWORD}, headers=_from(6))
        csrf = {"X-CSRF-Token": made.json()["csrf"]}
        body = {"current": "wrong wrong wrong", "password": "another long one"}
        told = [client.put("/v1/sessions/current/password", json=body, headers=_from(6) | csrf).status_code for _ in range(4)]
        assert told == [401, 401, 401, 429]


def test_a_cookie_that_is_over_is_no_try(strict: Served) -> None:
    with strict.client(Cookie="adumbra_session=" + "x" * 43) as client:
        assert [client.get("/v1/networks", headers=_from(7)).status_code for _ in range(5)] == [401] * 5
    with strict.client() as client:
        right = {"name": "ada", "password": PASSWORD}
        answer = client.post("/v1/sessions", json=right, headers=_from(7))
        assert answer.status_code == 201 or answer.json()["type"].endswith("too-often")


def test_many_with_tokens_that_are_right_come_from_one_address(strict: Served) -> None:
    until = time.monotonic() + 30
    with strict.client() as client:
        for token in strict.tokens[5:12]:  # more than there are tries
            bearer = {"Authorization": f"Bearer {token}"}
            while (answer := client.get("/v1/networks", headers=_from(8) | bearer)).status_code == 429:
                assert answer.json()["type"].endswith("too-often")
                assert time.monotonic() < until
                time.sleep(0.1)
            assert answer.status_code == 200


def test_a_stream_is_no_try_for_as_long_as_it_lasts(strict: Served) -> None:
    networks.create(strict.workspace, SPEC.format(name="shop"), "spec", time.time_ns())
    with ExitStack() as open_ones, strict.client() as client:
        for number in range(5):  # more than there are tries
            secret = access.issue(strict.workspace, NewToken(f"s{number}", Role.VIEWER), time.time_ns()).secret
            headers = _from(9) | {"Authorization": f"Bearer {secret}"}
            stream = open_ones.enter_context(client.stream("GET", "/v1/networks/shop/stream", headers=headers))
            assert stream.status_code == 200


def test_who_is_not_trusted_says_nothing_of_addresses(small: Served, tmp_path: Path) -> None:
    assert uvicorn_options(ServeSettings(), Care())["proxy_headers"] is False
    trusting = ServeSettings(trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("192.0.2.1")))
    assert uvicorn_options(trusting, Care())["forwarded_allow_ips"] == ["10.0.0.0/8", "192.0.2.1"]
    with small.client() as client:
        client.post("/v1/sessions", json={"name": "x", "password": "y"}, headers={"X-Forwarded-For": "192.0.2.99"})
    access.add_user(small.workspace, NewUser("bea", Role.VIEWER), PASSWORD, time.time_ns())
    with small.client() as client:
        made = client.post("/v1/sessions", json={"name": "bea", "password": PASSWORD}, headers=_from(99))
        assert made.status_code == 201
    assert small.workspace.state.access.acts()[0].origin == "127.0.0.1"


def test_buckets_fill_at_their_rate_and_so_many_are_kept() -> None:
    buckets = Buckets(2.0, 3, 100)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("a", 0.25) == pytest.approx(0.25)
    assert buckets.take("a", 0.5) == 0.0
    assert buckets.take("a", 0.4) > 0  # a clock that goes back gives nothing
    buckets.give_back("a")
    assert buckets.take("a", 0.4) == 0.0
    assert [buckets.take("a", 1e9) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]  # no more than they hold
    for number in range(1_000):
        buckets.take(str(number), 2e9)
    assert len(buckets) == 100
    known = Known(100)
    for number in range(1_000):
        known.note(str(number).encode(), "m")
    assert len(known) == 100
    assert known.mark(b"999") == "m"
    known.forget(b"999")
    assert known.mark(b"999") is None


@pytest.mark.parametrize(
    ("address", "wanted"),
    [("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
     ("fe80::1%eth0", "fe80::/64"), ("testclient", "testclient"), ("x" * 1_000, "x" * 64)],
)  # fmt: skip
def test_an_address_counts_as_a_place(address: str, wanted: str) -> None:
    assert place(address) == wanted


# What all answers carry


def test_all_answers_tell_browsers_what_to_heed(small: Served) -> None:
    with small.client(small.tokens[0]) as client, small.client() as nobody:
        answers = [
            client.get("/v1/networks"), nobody.get("/v1/networks"), client.get("/v1/networks/none"), client.get("/v1/nothing"),
            client.put("/v1/networks"), client.post("/v1/specs/check", content=b"x" * 200_001), nobody.get("/healthz"),
        ]  # fmt: skip
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers
        if answer.url.path.startswith("/v1/"):
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
            assert answer.headers["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in answer.headers


def test_pages_beyond_the_api_bring_their_own_policy(tmp_path: Path) -> None:
    with Workspace(tmp_path) as workspace:
        app = make_app(Server(workspace, time.time_ns, EASY))
        app.add_api_route("/page", lambda: "a page", methods=["GET"])
        app.state.page_headers = {"Content-Security-Policy": "default-src 'self'"}
        with guarded_server(app, EASY) as port, _client(port) as client:
            assert client.get("/page").headers["content-security-policy"] == "default-src 'self'"
            assert client.get("/v1/networks").headers["content-security-policy"].startswith("default-src 'none'")


def test_a_fault_is_told_as_a_problem_without_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adumbra.api.problems.structlog.get_logger", lambda _: _Silent())
    with Workspace(tmp_path) as workspace:
        app = make_app(Server(workspace, time.time_ns, EASY))

        def fault() -> None:
            raise RuntimeError("a secret")

        app.add_api_route("/v1/fault", fault, methods=["GET"])
        with guarded_server(app, EASY) as port, _client(port) as client:
            answer = client.get("/v1/fault")
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:adumbra:problem:fault")
    assert "a secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def _client(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0, trust_env=False)


class _Silent:
    def error(self, *_: object, **__: object) -> None: ...
