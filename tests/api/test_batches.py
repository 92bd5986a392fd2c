"""Metrics that are shipped to a server: what it takes, what it refuses, and what stands where two taps told of the same."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.tap_server import Serving, serving
from tests.store.conftest import at_ns, make_batch

from adumbra.http_asking import HttpAccess
from adumbra.schema.access import Role
from adumbra.schema.errors import InputError, StoreError
from adumbra.schema.records import MetricBatch, SeriesQuery
from adumbra.service import networks
from adumbra.store.batch_bytes import BATCH_BYTES, MEDIA_TYPE, pack_batch, unpack_batch, unpack_series
from adumbra.store.served import GoneError, ServedConfig, ServedStore, parts_of

SPEC = """
name: {name}
cidrs: [10.20.0.0/16]
subnets: [{{name: web, cidr: 10.20.1.0/24}}]
vms:
  - {{name: web, count: 2, subnet: web, addresses: 10.20.1.10-10.20.1.11, role: web}}
  - {{name: db, subnet: web, addresses: [10.20.1.20]}}
"""
VMS = ("web-1", "web-2", "db")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def name(server: Serving, request: pytest.FixtureRequest) -> str:
    """A network of the test's own."""
    told = f"n{abs(hash(request.node.nodeid)) % 10**12}-{time.time_ns() % 10**6}"
    networks.create(server.workspace, SPEC.format(name=told), "spec", at_ns(0))
    return told


def post(server: Serving, name: str, body: bytes, token: str = "", method: str = "POST", **query: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token or server.token}", "Content-Type": MEDIA_TYPE}
    url = f"{server.url}/v1/networks/{name}/batches"
    return server.client.request(method, url, params=query, content=body, headers=headers)


def batch_of(name: str, starts: list[float], vms: tuple[str, ...] = VMS, **told: Any) -> MetricBatch:
    return make_batch(starts, vms, network=name, **told)


def quiet(batch: MetricBatch, *vms: str) -> MetricBatch:
    """The batch of a tap that saw nothing of some VMs."""
    gone = [batch.vms.index(vm) for vm in vms]
    columns = {name: np.array(values) for name, values in batch.columns.items()}
    for values in columns.values():
        values[:, gone] = 0
    return replace(batch, columns=columns)


def stored(server: Serving, name: str, column: str = "rx_packets") -> dict[str, list[float]]:
    series = server.workspace.metrics.read(SeriesQuery(name, (column,)))
    return dict(zip(series.vms, series.values[column].tolist(), strict=True))


def test_a_batch_is_stored_once_however_often_it_is_sent(server: Serving, name: str) -> None:
    body = pack_batch(batch_of(name, [10, 11, 12]))
    assert [post(server, name, body, instance="a").json()["replaced"] for _ in range(3)] == [0, 9, 9]
    assert stored(server, name) == {"db": [3, 3, 3], "web-1": [1, 1, 1], "web-2": [2, 2, 2]}


def test_labels_are_those_of_the_network_whatever_a_tap_says(server: Serving, name: str) -> None:
    batch = replace(batch_of(name, [1]), subnets=("x", "y", "z"), roles=("x", "y", "z"))
    assert post(server, name, pack_batch(batch)).status_code == 200


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"vms": ("web-1", "web-2", "nobody")}, "has no VM 'nobody'"),
        ({"interval_s": 2.0, "start_ns": np.array([at_ns(2), at_ns(4)])}, "intervals of 2 s"),
        ({"start_ns": np.array([at_ns(1), at_ns(2) + 5])}, "don't begin at multiples"),
        ({"start_ns": np.array([at_ns(1), at_ns(1e9)])}, "to come"),
        ({"start_ns": np.array([-(10**9), 0])}, "don't begin at multiples"),
        ({"network": "another"}, "not of"),
    ],
)
def test_what_is_not_of_the_network_is_refused(server: Serving, name: str, broken: dict[str, Any], said: str) -> None:
    answer = post(server, name, pack_batch(replace(batch_of(name, [1, 2]), **broken)))
    assert answer.status_code == 422
    assert said in answer.json()["title"]
    assert server.workspace.metrics.vms(name) == ()


@pytest.mark.parametrize("value", [-1.0, math.inf, 1e19])
def test_values_that_no_metric_has_are_refused(server: Serving, name: str, value: float) -> None:
    batch = batch_of(name, [1])
    columns = {**batch.columns, "cpu_seconds": np.full((1, 3), value)}
    assert post(server, name, pack_batch(replace(batch, columns=columns))).status_code == 422


def test_what_waited_for_an_earlier_spec_is_still_taken(server: Serving, name: str) -> None:
    spec = SPEC.format(name=name).replace("count: 2", "count: 1").replace("-10.20.1.11", "")
    networks.update(server.workspace, spec.replace("name: web, subnet", "name: www, subnet"), "spec", at_ns(5))
    assert post(server, name, pack_batch(batch_of(name, [1]))).status_code == 200


def test_what_is_too_large_is_not_read(server: Serving, name: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"\1" * 2**20

    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": MEDIA_TYPE}
    url = f"{server.url}/v1/networks/{name}/batches"
    with contextlib.suppress(httpx.HTTPError):  # it may hang up before all is sent
        assert httpx.post(url, content=endless(), headers=headers, timeout=60).status_code == 413
    assert post(server, name, b"x" * (64 * 2**20 + 1)).status_code == 413
    bomb = b"\1B" + zstandard.ZstdCompressor().compress(bytes(BATCH_BYTES + 1))
    assert len(bomb) < 100_000
    assert post(server, name, bomb).status_code == 422
    assert httpx.post(url, content=b"{}", headers={**headers, "Content-Type": "application/json"}).status_code == 415


def test_who_may_not_change_the_network_may_not_ship_and_is_told_before_sending(server: Serving, name: str) -> None:
    body = pack_batch(batch_of(name, [1]))
    assert post(server, name, body, server.token_of(Role.VIEWER)).status_code == 403
    assert post(server, name, body, server.token_of(Role.OPERATOR, ("other",))).status_code == 404
    assert httpx.post(f"{server.url}/v1/networks/{name}/batches", content=body).status_code == 401
    assert post(server, name, body, server.token_of(Role.OPERATOR, (name,))).status_code == 200


_GOOD = pack_batch(make_batch([1, 2], VMS, network="hostile"))


def _packed(header: Any, body: bytes) -> bytes:
    told = json.dumps(header).encode()
    return b"\1B" + zstandard.compress(len(told).to_bytes(4, "little") + told + body)


_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        key: st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3), max_size=4))
        for key in ("network", "interval_s", "vms", "source", "origin", "subnets", "roles", "rows")
    } | {"arrays": st.lists(st.tuples(st.sampled_from(["start_ns", "one_sided", "rx_bytes", "x"]), st.sampled_from("ifbx")))},
)  # fmt: skip
_MUTATED = st.builds(
    lambda at, byte: _GOOD[:at] + bytes([byte]) + _GOOD[at + 1 :], st.integers(0, len(_GOOD) - 1), st.integers(0, 255)
)
_INNER = st.builds(
    lambda at, bytes_: b"\1B" + zstandard.compress((plain := zstandard.decompress(_GOOD[2:]))[:at] + bytes_ + plain[at + 1 :]),
    st.integers(0, 5_000), st.binary(max_size=9),
)  # fmt: skip
HOSTILE = st.one_of(
    st.binary(max_size=300), _MUTATED, _INNER, st.builds(_packed, _HEADERS, st.binary(max_size=64)),
    st.integers(0, len(_GOOD)).map(lambda n: _GOOD[:n]),
)  # fmt: skip


@settings(max_examples=150)
@given(raw=HOSTILE)
def test_hostile_bytes_are_refused_or_are_a_batch(raw: bytes) -> None:
    for unpack in (unpack_batch, unpack_series):
        with contextlib.suppress(InputError):
            assert isinstance(unpack(raw), MetricBatch)


@settings(max_examples=25)
@given(raw=HOSTILE)
def test_hostile_bodies_never_break_a_server(hostile: Serving, raw: bytes) -> None:
    answer = post(hostile, "hostile", raw)
    assert answer.status_code in {200, 422}, answer.text
    if answer.status_code == 422:
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.fixture(scope="module")
def hostile(server: Serving) -> Serving:
    networks.create(server.workspace, SPEC.format(name="hostile"), "spec", at_ns(0))
    return server


def test_a_large_batch_goes_in_parts_that_make_it_up() -> None:
    vms = tuple(f"v{n}" for n in range(2_000))
    batch = make_batch([*range(70)], vms)
    parts = [*parts_of(batch)]
    assert len(parts) > 1
    assert sum(len(part) * len(part.vms) for part in parts) == 70 * 2_000
    assert all(len(unpack_batch(pack_batch(part)).vms) == 2_000 for part in parts)


class TestTwoTaps:
    def test_one_that_saw_nothing_takes_nothing_away(self, server: Serving, name: str) -> None:
        both = batch_of(name, [10, 11])
        assert post(server, name, pack_batch(quiet(both, "db")), instance="web-host").json()["duplicates"] == 0
        answer = post(server, name, pack_batch(quiet(both, "web-1", "web-2")), instance="db-host").json()
        assert (answer["replaced"], answer["duplicates"]) == (2, 0)
        assert stored(server, name) == {"db": [3, 3], "web-1": [1, 1], "web-2": [2, 2]}

    def test_the_first_that_told_of_traffic_keeps_it_and_the_other_is_told(self, server: Serving, name: str) -> None:
        post(server, name, pack_batch(quiet(batch_of(name, [10, 11]), "db")), instance="first")
        answer = post(server, name, pack_batch(batch_of(name, [11, 12], value=5)), instance="later").json()
        assert answer["duplicates"] == 2
        assert "had told of" in answer["trouble"]
        assert "web-1, web-2" in answer["trouble"]
        assert stored(server, name) == {"db": [0, 7, 7], "web-1": [1, 1, 5], "web-2": [2, 2, 6]}
        (overlap,) = server.workspace.state.shipments.overlaps(name)
        assert (overlap.first, overlap.later, overlap.rows) == ("first", "later", 2)
        events = [each for each in server.workspace.state.events(name) if each.kind == "source.duplicate"]
        assert len(events) == 1

    def test_it_is_said_once_and_counted_always(self, server: Serving, name: str) -> None:
        for start in range(10, 16):
            post(server, name, pack_batch(batch_of(name, [start])), instance="first")
            post(server, name, pack_batch(batch_of(name, [start], value=2)), instance="later")
        (overlap,) = server.workspace.state.shipments.overlaps(name)
        assert overlap.rows == 18
        assert len([each for each in server.workspace.state.events(name) if each.kind == "source.duplicate"]) == 1
        assert stored(server, name)["web-1"] == [1] * 6

    def test_sending_again_what_was_settled_changes_nothing(self, server: Serving, name: str) -> None:
        first, later = pack_batch(batch_of(name, [10])), pack_batch(quiet(batch_of(name, [10], value=9), "web-1"))
        for body, instance in ((first, "first"), (later, "later"), (first, "first"), (later, "later")):
            answer = post(server, name, body, instance=instance).json()
        assert answer["duplicates"] == 0
        assert stored(server, name) == {"db": [3], "web-1": [1], "web-2": [2]}
        assert server.workspace.state.shipments.overlaps(name)[0].rows == 2

    def test_a_server_that_died_between_storing_and_noting_it_is_no_second_tap(
        self, server: Serving, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine, others = pack_batch(batch_of(name, [10, 11])), pack_batch(quiet(batch_of(name, [10, 11]), *VMS))
        post(server, name, others, instance="other")
        with monkeypatch.context() as broken:
            broken.setattr(server.workspace.state.shipments, "settle", lambda *_: (_ for _ in ()).throw(StoreError("died")))
            assert post(server, name, mine, instance="mine").status_code == 500
        assert post(server, name, mine, instance="mine").json()["duplicates"] == 0
        assert server.workspace.state.shipments.overlaps(name) == ()
        assert stored(server, name)["web-1"] == [1, 1]

    def test_while_one_is_stored_by_another_server_the_other_waits(self, server: Serving, name: str) -> None:
        shipments = server.workspace.state.shipments
        claim = shipments.claim(name, "first", [(at_ns(10), at_ns(11))], time.time_ns())
        answer = post(server, name, pack_batch(batch_of(name, [10])), instance="later")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        shipments.settle(name, "first", claim, time.time_ns())
        assert post(server, name, pack_batch(batch_of(name, [10])), instance="later").status_code == 200

    def test_contiguous_time_is_one_row(self, server: Serving, name: str) -> None:
        for start in range(10, 20):
            post(server, name, pack_batch(batch_of(name, [start])), instance="first")
        held = server.workspace.state.shipments.claim(name, "x", [(at_ns(0), at_ns(100))], time.time_ns()).held
        assert [(each.instance, each.span, each.settled) for each in held] == [("first", (at_ns(10), at_ns(20)), True)]


def test_a_store_behind_a_server_says_what_is_gone(server: Serving, name: str) -> None:
    with ServedStore(ServedConfig((HttpAccess(server.url, token=server.token, give_up_s=0.0),), 10**9, "x")) as store:
        assert store.version().startswith("Adumbra ")
        with pytest.raises(GoneError, match="there is no source"):
            store.write(batch_of(name, [1]))
        with pytest.raises(GoneError, match="there is no network"):
            store.write(batch_of("nowhere", [1]))


def test_the_next_of_several_servers_is_asked_where_one_is_away(server: Serving, name: str) -> None:
    accesses = tuple(HttpAccess(url, token=server.token, give_up_s=0.0) for url in ("http://127.0.0.1:1", server.url))
    with ServedStore(ServedConfig(accesses)) as store:
        assert store.write(batch_of(name, [1])) == 0
        assert store.servers.name == server.url
        assert store.span(name) == (at_ns(1), at_ns(2))
