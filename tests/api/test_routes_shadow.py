"""What a network's shadow has seen, and its metrics, by the API."""

from __future__ import annotations

import pytest
from tests.api import lives
from tests.api.serving import Serving

from adumbra.schema.units import format_time


def at(second: int) -> str:
    """A time of the metrics, so many seconds after their beginning."""
    return format_time((lives.START_S + second) * 10**9)


def test_a_shadow_says_what_it_has_seen_and_how_far_that_may_be_trusted(lived: Serving) -> None:
    told = lived.viewer("shop").get("/v1/networks/shop/shadow").json()
    assert (told["start"], told["learned_s"]) == ("2023-11-14T22:15:00Z", lives.STEPS)
    assert told["confidence"] == "low"
    assert [(vm["vm"], vm["seen"]) for vm in told["vms"]] == [("web-1", True), ("web-2", True), ("db", True)]
    assert told["accounts"] == {"offered": 1000, "attributed": 990, "missed": 10}
    assert [each["source"] for each in told["observations"]] == ["pcap:made.pcap"]
    runs = lived.viewer("shop").get("/v1/networks/shop/observations").json()
    assert runs == told["observations"]


def test_a_shadow_that_saw_nothing_says_so(lived: Serving) -> None:
    told = lived.viewer().get("/v1/networks/bare/shadow").json()
    assert (told["start"], told["learned_s"], told["confidence"], told["observations"]) == (None, 0.0, None, [])
    assert not any(vm["seen"] for vm in told["vms"])
    assert lived.viewer().get("/v1/networks/bare/metrics").json()["vms"] == {}
    assert lived.viewer().get("/v1/networks/bare/metrics/latest").json()["vms"] == {}


def test_metrics_stand_on_a_grid_with_units_and_how_they_were_come_by(lived: Serving) -> None:
    asked = {"vm": "web-1", "column": ["rx_bytes", "rtt_ms_p50", "cpu_seconds"], "since": at(10), "until": at(20)}
    told = lived.viewer("shop").get("/v1/networks/shop/metrics", params=asked).json()
    assert (told["start"], told["step_s"], told["steps"]) == (at(10), 1.0, 10)
    assert list(told["vms"]) == ["web-1"]
    column = told["columns"]["rtt_ms_p50"]
    assert (column["unit"], column["provenance"], column["one_sided_provenance"]) == ("ms", "observed", "simulated")
    stored = lives.batch("shop").columns["rx_bytes"][10:20, 0]
    assert told["vms"]["web-1"]["rx_bytes"] == stored.tolist()
    assert told["vms"]["web-1"]["rtt_ms_p50"] == [None] * 10
    assert told["one_sided"]["web-1"] == [0.0] * 10


def test_metrics_are_rolled_up_into_the_steps_asked_for_or_those_that_suit(lived: Serving) -> None:
    shop = lived.viewer("shop")
    rolled = shop.get("/v1/networks/shop/metrics", params={"column": "requests", "step_s": 60}).json()
    assert rolled["steps"] == lives.STEPS / 60
    total = lives.batch("shop").columns["requests"].sum()
    assert sum(sum(each["requests"]) for each in rolled["vms"].values()) == total
    few = shop.get("/v1/networks/shop/metrics", params={"points": 10}).json()
    assert (few["step_s"], few["steps"]) == (30.0, 10)


def test_the_newest_interval(lived: Serving) -> None:
    told = lived.viewer("shop").get("/v1/networks/shop/metrics/latest", params={"column": "requests"}).json()
    assert (told["start"], told["steps"]) == (at(lives.STEPS - 1), 1)
    newest = lives.batch("shop").columns["requests"][-1].tolist()
    assert [told["vms"][vm]["requests"] for vm in lives.VMS] == [[each] for each in newest]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"vm": "nope"}, 404, "has no VM 'nope'"),
        ({"column": "speed"}, 422, "no metric 'speed'"),
        ({"step_s": 0.7}, 422, "can't be made of the 1 s intervals"),
        ({"step_s": 0.001, "column": "all"}, 422, "is the most"),
        ({"since": "yesterday"}, 422, "not of the form"),
        ({"since": "2026-01-31T12:00:00"}, 422, "not of the form"),
        ({"points": 0}, 422, "not of the form"),
    ],
)
def test_what_cannot_be_told_is_refused(lived: Serving, query: dict[str, str], status: int, said: str) -> None:
    answer = lived.viewer("shop").get("/v1/networks/shop/metrics", params=query)
    assert answer.status_code == status, answer.text
    assert said in answer.text


def test_times_beyond_all_that_is_stored_are_empty(lived: Serving) -> None:
    for since in ("9999-12-31T23:59:59Z", "1900-01-01T00:00:00Z"):
        told = lived.viewer().get("/v1/networks/shop/metrics", params={"since": since, "column": "requests"})
        assert told.status_code == 200
        assert bool(told.json()["vms"]) == since.startswith("1900")
