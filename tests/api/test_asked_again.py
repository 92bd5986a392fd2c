"""Asked again with the same key, a change is answered as it was, also where others came between, or nothing was left to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.api.serving import SPEC, Serving, served


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with served(tmp_path_factory.mktemp("home")) as running:
        running.make("shop")
        yield running


def test_an_observation_is_noted_once(serving: Serving) -> None:
    operator, path = serving.operator("shop"), "/v1/networks/shop/observations"
    first = operator.post(path, json={"source": "pcap:one"}, headers={"Idempotency-Key": "one"})
    operator.post(path, json={"source": "pcap:two"})
    again = operator.post(path, json={"source": "pcap:one"}, headers={"Idempotency-Key": "one"})
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert [each["source"] for each in operator.get(path).json()] == ["pcap:two", "pcap:one"]


def test_what_was_over_before_is_so_again(serving: Serving) -> None:
    operator = serving.operator("shop")
    job = f"/v1/jobs/{operator.post('/v1/networks/shop/trainings').json()['id']}/cancel"
    source = operator.post("/v1/networks/shop/sources", json={"source": "live:eth1"}).json()["id"]
    for path in (job, f"/v1/networks/shop/sources/{source}/stop"):
        operator.post(path)
        answers = [operator.post(path, headers={"Idempotency-Key": path}) for _ in range(2)]
        assert [each.status_code for each in answers] == [200, 200], answers[1].text


def test_what_a_tap_follows_is_told_apart_from_that_of_a_network_that_had_the_name_before(serving: Serving) -> None:
    operator, path = serving.operator("brief"), "/v1/networks/brief/shadow/followed"
    serving.make("brief")
    known = {"If-None-Match": operator.get(path).headers["ETag"]}
    assert operator.get(path, headers=known).status_code == 304
    operator.delete("/v1/networks/brief")
    operator.post("/v1/networks", json={"spec": SPEC.format(name="brief").replace("count: 2", "count: 1")})
    assert operator.get(path, headers=known).status_code == 200
