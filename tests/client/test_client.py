"""The client against servers that behave, misbehave, or are away: its errors, its patience, and that it keeps its secret."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.client.answering import ask
from tests.servers import free_port

from adumbra.client import Access, Client
from adumbra.client.asking import Request
from adumbra.client.following import events
from adumbra.client.records import time_ns
from adumbra.schema import errors
from adumbra.schema.problems import PROBLEMS, error_of_plain, plain_of
from adumbra.schema.units import format_time

TOKEN = "adu_" + "s3cret" * 7 + "x"
Answer = tuple[int, Mapping[str, str], Any]


class Pretended(ThreadingHTTPServer):
    """A server that answers what a test tells it to; None: it hangs up. asked: each request's line, headers and body."""

    daemon_threads = True

    def __init__(self, answer: Callable[[int, str], Answer | None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Pretended

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.requestline, dict(self.headers), body))
        answer = self.server.answer(len(self.server.asked), self.path)
        if answer is None:
            self.close_connection = True
            return
        status, headers, told = answer
        content = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@contextmanager
def pretending(answer: Callable[[int, str], Answer | None]) -> Iterator[Pretended]:
    server = Pretended(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def problem(error: errors.AdumbraError) -> Answer:
    told = plain_of(error)
    return told["status"], {"Content-Type": "application/problem+json"}, told


def client(url: str, give_up_s: float = 0.0, **more: Any) -> Client:
    return Client(access=Access(url, TOKEN, give_up_s=give_up_s, **more))


@pytest.mark.parametrize("kind", [kind for kind, _, _ in PROBLEMS], ids=lambda kind: kind.__name__)
def test_a_problem_becomes_the_very_error_again(kind: type[errors.AdumbraError]) -> None:
    error = errors.SpecError(["a:1: x", "a:2: y"]) if kind is errors.SpecError else kind("what went wrong", "what to do")
    again = error_of_plain(json.loads(json.dumps(plain_of(error))))
    assert (type(again), str(again), again.what, again.mend) == (kind, str(error), error.what, error.mend)
    assert again.exit_status == error.exit_status
    with pretending(lambda *_: problem(error)) as server, client(server.url) as asked, pytest.raises(kind) as raised:
        asked.network("shop")
    assert str(raised.value) == str(error)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((502, {}, b"<html>Bad gateway</html>"), "answers 502, and not as an Adumbra server does"),
        ((200, {}, b"<html>hello</html>"), "answer is no JSON"),
        ((200, {}, {"nothing": 1}), "a form that isn't known here: 'spec' is missing"),
        ((302, {"Location": "http://elsewhere"}, b""), "sends us elsewhere"),
        ((200, {"Content-Encoding": "gzip"}, b"xx"), "compressed answer that was not asked for"),
        ((429, {}, {"type": "about:blank", "title": "too often", "status": 429, "detail": "wait"}), "too often; wait"),
        ((500, {}, {"type": "x", "title": "a fault", "status": 500}), "a fault"),
        (None, "broke off, or does not speak HTTP"),
    ],
)
def test_what_is_no_good_answer_is_told_and_exits_by_1(answer: Answer | None, told: str) -> None:
    with pretending(lambda *_: answer) as server, client(server.url) as asked, pytest.raises(errors.AdumbraError) as raised:
        asked.network("shop")
    assert told in str(raised.value)
    assert raised.value.exit_status == 1


def test_a_busy_server_is_asked_again_after_what_it_says_and_a_creation_by_the_same_key() -> None:
    later = (429, {"Retry-After": "0"}, {"type": "about:blank", "title": "too often", "status": 429, "detail": ""})
    job = {
        "id": 3, "network": "shop", "kind": "train", "state": "queued", "asked": {}, "share": None, "doing": "", "result": None,
        "trouble": "", "attempts": 0, "by": "me", "created": "2026-01-31T12:00:00Z", "started": None, "finished": None,
    }  # fmt: skip
    said: list[str] = []
    with pretending(lambda number, _: [later, None, (202, {}, job)][number - 1]) as server:
        with Client(access=Access(server.url, TOKEN, give_up_s=20.0), say=said.append) as asked:
            assert asked.train("shop", 7).id == 3
        keys = {headers["Idempotency-Key"] for _, headers, _ in server.asked}
    assert len(server.asked) == 3
    assert len(keys) == 1
    assert said == ["too often; trying again for 20 s"]


def test_a_deletion_whose_answer_was_lost_was_done() -> None:
    gone = problem(errors.NotFoundError("there is no network 'shop'"))
    with pretending(lambda number, _: [None, gone][number - 1]) as server, client(server.url, 20.0) as asked:
        asked.delete_network("shop")
    with pretending(lambda *_: gone) as server, client(server.url, 20.0) as asked, pytest.raises(errors.NotFoundError):
        asked.delete_network("shop")


def test_pages_are_fetched_as_they_are_wanted_and_have_an_end() -> None:
    def page(number: int, path: str) -> Answer:
        event = {
            "id": number,
            "time": "2026-01-31T12:00:00.000000001Z",
            "network": None,
            "kind": "k",
            "message": "",
            "data": {},
        }
        return 200, {}, {"items": [event] * 3, "next": str(number)}

    with pretending(page) as server, client(server.url) as asked:
        found = asked.events()
        assert next(found).time_ns % 10**9 == 1
        assert len(server.asked) == 1
        assert [next(found).id for _ in range(3)] == [1, 1, 2]
        assert len(list(asked.events("shop", 7))) == 7
        assert "limit=7" in server.asked[2][0]


def test_a_server_that_is_away_is_told_well() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = ask({"ADUMBRA_SERVER": url, "ADUMBRA_TOKEN": TOKEN, "ADUMBRA_SERVER_GIVE_UP_S": "0"}, "network", "list")
    assert (said.status, said.shown) == (1, "")
    assert said.told.startswith(f"{url} can't be reached: ")
    assert said.told.endswith("is `adumbra serve` running there, and ADUMBRA_SERVER right?")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://adumbra.example:8642", "is another host, and all that goes there, the token too, could be read on the way"),
        ("ftp://adumbra.example", "begins with neither http:// nor https://"),
        ("adumbra.example:8642", "begins with neither"),
        ("https://me:hunter2@adumbra.example", "has a user or a query in it"),
        ("https://adumbra.example/?token=hunter2", "has a user or a query in it"),
        ("http://[::1", "is none"),
    ],
)
def test_an_address_that_is_wrong_or_not_safe_is_refused(url: str, told: str) -> None:
    said = ask({"ADUMBRA_SERVER": url, "ADUMBRA_TOKEN": TOKEN}, "network", "list")
    assert said.status == 2
    assert told in said.told
    assert "hunter2" not in said.told
    assert TOKEN not in said.told


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://adumbra.example"])
def test_a_safe_address_is_taken(url: str) -> None:
    assert Access(url, TOKEN).base == f"{url}/v1"
    assert Access("http://adumbra.example", TOKEN, insist=True).base == "http://adumbra.example/v1"


def test_a_token_file_is_read_again_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    row = {"items": [], "next": None}
    with pretending(lambda *_: (200, {}, row)) as server, Client(access=Access(server.url, token_file=file)) as asked:
        list(asked.networks())
        file.write_text("adu_another")
        list(asked.networks())
        given = [headers["Authorization"] for _, headers, _ in server.asked]
    assert given == [f"Bearer {TOKEN}", "Bearer adu_another"]
    for text, told in {"": "can't be a token", "two words": "can't be a token", "x" * 5000: "too large"}.items():
        file.write_text(text)
        with Client(access=Access(server.url, token_file=file)) as asked, pytest.raises(errors.AccessError, match=told):
            list(asked.networks())
    file.unlink()
    with Client(access=Access(server.url, token_file=file)) as asked, pytest.raises(errors.AccessError, match="can't be read"):
        list(asked.networks())


def test_the_secret_is_in_no_error_and_no_repr() -> None:
    def repeats(number: int, path: str) -> Answer:
        return (
            422,
            {},
            {"type": "x", "title": f"bad: {TOKEN}", "status": 422, "detail": f"{TOKEN} is wrong", "problems": [TOKEN]},
        )

    with pretending(repeats) as server, client(server.url) as asked, pytest.raises(errors.InputError) as raised:
        asked.network("shop")
    assert "***" in str(raised.value)
    shown = f"{raised.value!r} {raised.value} {asked!r} {asked.access!r} {vars(asked)} {Request('GET', '/', content=b'x')!r}"
    assert TOKEN not in shown
    oops = 500, {}, f"oops {TOKEN}".encode()
    with pretending(lambda *_: oops) as server, client(server.url) as asked, pytest.raises(errors.ServerError) as told:
        asked.network("shop")
    assert TOKEN not in str(told.value)


def test_what_is_no_token_is_refused_before_it_is_sent() -> None:
    with pytest.raises(errors.InputError, match="can't be a token") as raised:
        Access("https://adumbra.example", "two words\n")
    assert "two words" not in str(raised.value)


@pytest.mark.parametrize("time", [0, 1, 10**9 - 1, 1_900_000_000_123_456_789, 1_900_000_000_100_000_000])
def test_times_come_back_to_the_nanosecond(time: int) -> None:
    assert time_ns(format_time(time)) == time


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        (["event: job", 'data: {"a": 1}', ""], [("job", {"a": 1})]),
        ([": still here", "", "data: [1,", "data: 2]", "", "data: 3"], [("message", [1, 2])]),
        (["id: 7", "retry: 10", "event:job", "data:null", ""], [("job", None)]),
    ],
)
def test_events_of_a_stream(lines: list[str], want: list[tuple[str, Any]]) -> None:
    assert list(events(iter(lines))) == want


def test_an_event_that_is_none_is_refused() -> None:
    with pytest.raises(errors.ServerError, match="no JSON"):
        list(events(iter(["data: {", ""])))
    with pytest.raises(errors.ServerError, match="too long"):
        list(events(iter(["data: " + "x" * (5 * 2**20), ""])))
