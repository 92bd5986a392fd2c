"""Sources of a network through the API: asked for, registered by taps, heard of, stopped; files only where settings say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.tap_server import Serving, serving
from tests.api.test_batches import SPEC

from adumbra.schema.access import Role
from adumbra.schema.jobs import SourceState
from adumbra.service import networks, taps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    (made / "captures" / "inner").mkdir(parents=True)
    (made / "captures" / "monday.pcap").write_bytes(b"x")
    (made / "secret.pcap").write_bytes(b"x")
    (made / "captures" / "link.pcap").symlink_to(made / "secret.pcap")
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server"), captures=folder / "captures") as running:
        yield running


@pytest.fixture
def name(server: Serving) -> str:
    told = f"n{time.time_ns()}"
    networks.create(server.workspace, SPEC.format(name=told), "spec", 1)
    return told


def ask(server: Serving, method: str, path: str, told: Any = None, token: str = "", **headers: str) -> httpx.Response:
    return server.client.request(
        method, f"{server.url}/v1/networks/{path}", json=told,
        headers={"Authorization": f"Bearer {token or server.token}", **headers},
    )  # fmt: skip


def tap(instance: str = "one", **told: Any) -> dict[str, Any]:
    return {"source": "live:eth0", "place": "remote", "instance": instance, "host": "edge", **told}


def test_a_source_of_the_server_is_added_listed_and_stopped(server: Serving, name: str) -> None:
    made = ask(server, "POST", f"{name}/sources", {"source": "vxlan:4789", "workers": 1})
    assert made.status_code == 201
    number = made.json()["id"]
    assert made.headers["location"] == f"/v1/networks/{name}/sources/{number}"
    assert (made.json()["state"], made.json()["place"]) == ("waiting", "server")
    (listed,) = ask(server, "GET", f"{name}/sources").json()["items"]
    assert listed == ask(server, "GET", f"{name}/sources/{number}").json()
    assert ask(server, "POST", f"{name}/sources/{number}/stop").json()["state"] == "stopped"
    assert ask(server, "GET", f"{name}/sources?state=waiting").json()["items"] == []


def test_a_key_adds_a_source_once(server: Serving, name: str) -> None:
    key = {"Idempotency-Key": f"k{name}"}
    made = [ask(server, "POST", f"{name}/sources", {"source": "live:eth0"}, **key).json()["id"] for _ in range(2)]
    assert made[0] == made[1]
    assert ask(server, "POST", f"{name}/sources", {"source": "live:eth0"}).status_code == 409


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        ("pcap:monday.pcap", 201, ""),
        ("pcap:inner/../monday.pcap", 201, ""),
        ("pcap:../secret.pcap", 403, "not in the server's folder"),
        ("pcap:/etc/passwd", 403, "not in the server's folder"),
        ("flowlog:/nowhere/at/all", 403, "not in the server's folder"),
        ("pcap:link.pcap", 403, "not in the server's folder"),
        ("netflow:/etc/shadow", 403, "not in the server's folder"),
        ("pcap:tuesday.pcap", 422, "there is no tuesday.pcap"),
        ("pcap:inner", 422, "is no file"),
        ("nonsense", 422, "is no source"),
    ],
)
def test_only_files_in_the_folder_of_captures_may_be_named(
    server: Serving, name: str, folder: Path, source: str, status: int, said: str
) -> None:
    answer = ask(server, "POST", f"{name}/sources", {"source": source})
    assert answer.status_code == status, answer.text
    if status == 201:
        assert answer.json()["source"] == f"pcap:{folder / 'captures' / 'monday.pcap'}"
    else:
        assert said in answer.json()["title"]


def test_without_a_folder_no_file_may_be_named(tmp_path: Path) -> None:
    with serving(tmp_path) as closed:
        networks.create(closed.workspace, SPEC.format(name="shop"), "spec", 1)
        answer = ask(closed, "POST", "shop/sources", {"source": "pcap:/etc/passwd"})
        assert answer.status_code == 403
        assert "ADUMBRA_CAPTURES" in answer.json()["detail"]


def test_who_may_only_read_adds_and_stops_nothing(server: Serving, name: str) -> None:
    viewer = server.token_of(Role.VIEWER, (name,))
    assert ask(server, "POST", f"{name}/sources", {"source": "live:eth0"}, viewer).status_code == 403
    assert ask(server, "GET", f"{name}/sources", None, viewer).status_code == 200
    assert ask(server, "GET", f"{name}/shadow/followed", None, viewer).status_code == 200
    assert ask(server, "GET", f"{name}/sources", None, server.token_of(Role.ADMIN, ("other",))).status_code == 404


def test_a_tap_registers_once_says_how_it_goes_and_hears_that_it_is_stopped(server: Serving, name: str) -> None:
    number = ask(server, "POST", f"{name}/sources", tap()).json()["id"]
    assert ask(server, "POST", f"{name}/sources", tap()).json()["id"] == number
    beat = {"instance": "one", "process": "p", "accounts": {"offered": 7, "late": 2, "losses": {"dropped": 3}}}
    heard = ask(server, "POST", f"{name}/sources/{number}/heartbeat", beat).json()
    assert heard == {"state": "running", "spec_version": 1, "calibration_version": 0, "trouble": ""}
    shown = ask(server, "GET", f"{name}/sources/{number}").json()
    assert shown["losses"] == {"dropped": 3, "late": 2}
    assert ask(server, "POST", f"{name}/sources/{number}/heartbeat", {**beat, "instance": "two"}).status_code == 409
    ask(server, "POST", f"{name}/sources/{number}/stop")
    assert ask(server, "POST", f"{name}/sources/{number}/heartbeat", beat).json()["state"] == "stopped"


def test_a_tap_that_lost_its_folder_takes_over_once_the_other_is_silent(server: Serving, name: str) -> None:
    first = ask(server, "POST", f"{name}/sources", tap()).json()["id"]
    assert ask(server, "POST", f"{name}/sources", tap("two")).status_code == 409
    assert ask(server, "POST", f"{name}/sources", tap("two", host="elsewhere")).status_code == 201
    sources = server.workspace.state.sources
    sources.tell(first, time.time_ns() - round(1e9 * taps.SILENT_S) - 1, {})
    assert ask(server, "POST", f"{name}/sources", tap("two")).status_code == 201
    assert sources.get(first).state is SourceState.FAILED


def test_a_tap_that_is_not_heard_of_is_silent_until_it_is(server: Serving, name: str) -> None:
    number = ask(server, "POST", f"{name}/sources", tap()).json()["id"]
    beat = {"instance": "one", "process": "p", "accounts": {"offered": 7}}
    ask(server, "POST", f"{name}/sources/{number}/heartbeat", beat)
    store = server.workspace.state.sources
    seen_ns = store.get(number).seen_ns
    assert seen_ns is not None
    taps.note_silent(server.workspace, seen_ns + round(59e9))
    assert store.get(number).state is SourceState.RUNNING
    (told,) = [each for each in taps.note_silent(server.workspace, seen_ns + round(61e9)) if each.startswith(f"{name}:")]
    assert "Nothing was heard of live:eth0 on edge for 60 s" in told
    shown = ask(server, "GET", f"{name}/sources?state=silent").json()["items"]
    assert [(each["id"], each["state"]) for each in shown] == [(number, "silent")]
    assert store.get(number).seen_ns == seen_ns  # as it was heard of last
    assert server.workspace.state.tallies().sources["remote", "silent"] >= 1  # for /metrics
    assert not [each for each in taps.note_silent(server.workspace, seen_ns + round(90e9)) if each.startswith(f"{name}:")]
    assert ask(server, "POST", f"{name}/sources/{number}/heartbeat", beat).json()["state"] == "running"
    kinds = [event.kind for event in server.workspace.state.events(name)]
    assert kinds.count("source.silent") == 1
    assert kinds.count("source.running") == 2


def test_a_tap_says_how_it_ended(server: Serving, name: str) -> None:
    number = ask(server, "POST", f"{name}/sources", tap()).json()["id"]
    told = {"instance": "one", "ended": "failed", "trouble": "eth0 is gone"}
    assert ask(server, "POST", f"{name}/sources/{number}/heartbeat", told).json()["state"] == "failed"
    shown = ask(server, "GET", f"{name}/sources/{number}").json()
    assert (shown["state"], shown["trouble"]) == ("failed", "eth0 is gone")


@pytest.mark.parametrize(
    "broken",
    [
        {"instance": "a b"}, {"instance": ""}, {"accounts": {"x": "y" * 70_000}}, {"trouble": "x" * 3_000}, {"ended": "asleep"},
        {"more": 1},
    ],
)  # fmt: skip
def test_a_heartbeat_that_is_none_is_refused(server: Serving, name: str, broken: dict[str, Any]) -> None:
    number = ask(server, "POST", f"{name}/sources", tap()).json()["id"]
    assert ask(server, "POST", f"{name}/sources/{number}/heartbeat", {"instance": "one", **broken}).status_code == 422


def test_what_a_shadow_follows_has_a_version(server: Serving, name: str) -> None:
    first = ask(server, "GET", f"{name}/shadow/followed")
    assert first.json()["spec"]["name"] == name
    assert (first.json()["spec_version"], first.json()["calibration"]) == (1, None)
    known = {"If-None-Match": first.headers["etag"]}
    assert ask(server, "GET", f"{name}/shadow/followed", **known).status_code == 304
    networks.update(server.workspace, SPEC.format(name=name), "spec", 2)
    again = ask(server, "GET", f"{name}/shadow/followed", **known)
    assert (again.status_code, again.json()["spec_version"]) == (200, 2)


def test_a_source_of_another_network_is_not_there(server: Serving, name: str) -> None:
    number = ask(server, "POST", f"{name}/sources", tap()).json()["id"]
    networks.create(server.workspace, SPEC.format(name=f"{name}x"), "spec", 1)
    for method, path in (("GET", ""), ("POST", "/stop")):
        assert ask(server, method, f"{name}x/sources/{number}{path}").status_code == 404
