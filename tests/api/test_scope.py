"""Whoever is let at some networks learns nothing of others, and nothing more once they aren't let at them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from tests.api.serving import SPEC, Serving, served

from adumbra.schema.access import NewUser, Role
from adumbra.service import access

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("home")) as running:
        running.make("shop")
        running.make("theirs")
        yield running


@pytest.mark.parametrize("path", ["", "/metrics", "/sources", "/profile", "/shadow", "/stream", "/trainings", "/plans"])
def test_a_network_that_is_not_there_names_no_other_to_whoever_may_not_see_it(serving: Serving, path: str) -> None:
    for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
        answer = serving.client(role, "shop", "yet-to-come").get(f"/v1/networks/yet-to-come{path}")
        assert (answer.status_code, "theirs" in answer.text) == (404, False)
    assert "theirs" in serving.viewer().get(f"/v1/networks/yet-to-come{path}").text


def test_changes_of_one_that_is_not_there_name_no_other(serving: Serving) -> None:
    operator, path = serving.operator("yet-to-come"), "/v1/networks/yet-to-come"
    answers = [
        operator.put(path, json={"spec": SPEC.format(name="yet-to-come")}),
        operator.post(f"{path}/sources", json={"source": "live:eth1"}),
        operator.post(f"{path}/trainings"),
        operator.delete(path),
    ]
    assert [(each.status_code, "theirs" in each.text) for each in answers] == [(404, False)] * 4


def test_a_stream_ends_with_the_rights_of_whoever_follows(serving: Serving) -> None:
    access.add_user(serving.workspace, NewUser("vera", Role.VIEWER, ("shop",)), PASSWORD, time.time_ns())
    with httpx.Client(base_url=serving.url, timeout=30.0) as vera:
        assert vera.post("/v1/sessions", json={"name": "vera", "password": PASSWORD}).status_code == 201
        with vera.stream("GET", "/v1/networks/shop/stream") as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith("event")) == "event: network"
            access.set_rights(serving.workspace, "vera", Role.ADMIN, ("elsewhere",))
            rest = list(lines)
    assert "event: problem" in rest
    problem = json.loads(next(line for line in rest if "problem" in line and line.startswith("data")).removeprefix("data: "))
    assert problem["status"] == 404


def test_a_stream_of_a_network_that_is_deleted_names_no_other(serving: Serving) -> None:
    serving.make("brief")
    with serving.viewer("brief").stream("GET", "/v1/networks/brief/stream") as answer:
        lines = answer.iter_lines()
        next(line for line in lines if line.startswith("event"))
        serving.operator("brief").delete("/v1/networks/brief")
        rest = "\n".join(lines)
    assert "event: problem" in rest
    assert "theirs" not in rest
