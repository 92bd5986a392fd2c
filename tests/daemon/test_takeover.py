"""Two servers over one PostgreSQL and one VictoriaMetrics: the one that owns a network is killed, and the other goes on.

A tap ships to both meanwhile. What is stored in the end is what observing the same traffic in one go stores: no interval is
lost, and none is counted twice.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest
from tests.daemon.running import SPEC, ServerProcess, Zygote, ending, until
from tests.servers import folder_of, running, victoriametrics

from adumbra.http_asking import HttpAccess
from adumbra.schema.jobs import SourceState
from adumbra.schema.records import Series, SeriesQuery
from adumbra.service import networks, observations, tapping
from adumbra.service.tapping import TapJob
from adumbra.service.workspace import Storage, Workspace
from adumbra.store.urls import parse_stores

TAKEOVER_S = 30.0
SHOP = Path(__file__).parents[2] / "examples" / "shop"
SOURCE = f"pcap:{SHOP / 'shop.pcap.zst'}"
COUNTED = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "requests")


@pytest.fixture
def state(postgresql_url: str) -> Iterator[str]:
    """A database of the test's own, as ADUMBRA_STATE."""
    name = f"takeover_{time.time_ns()}"
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgresql_url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def metrics() -> Iterator[str]:
    """A VictoriaMetrics of the test's own, as ADUMBRA_STORE."""
    with folder_of("takeover") as folder, running(victoriametrics(folder)) as server:
        yield f"victoriametrics+{server.url}"


def owned(server: ServerProcess) -> int:
    """How many networks a server owns."""
    page = httpx.get(f"{server.url}/metrics", timeout=60.0, trust_env=False).text
    found = re.search(r"^adumbra_networks_owned (\d+)", page, re.MULTILINE)
    return int(found[1]) if found else 0


def test_another_takes_over_what_a_killed_owner_had(zygote: Zygote, tmp_path: Path, state: str) -> None:
    first, second = (ServerProcess(zygote, tmp_path / name, {"ADUMBRA_STATE": state}) for name in ("first", "second"))
    second.token = first.make_token()
    with ending(first, second):
        first.start()
        with first.client(60.0) as client:
            for name in ("shop", "lab"):
                answer = client.post("/v1/networks", json={"spec": SPEC.format(name=name, shortfall=1)})
                assert answer.status_code == 201, answer.text
        until(lambda: owned(first) == 2, 30.0, "ownership")
        second.start()
        second.ready()
        assert owned(second) == 0
        first.kill()
        killed_s = time.monotonic()
        until(lambda: owned(second) == 2, TAKEOVER_S, "takeover")
        took_s = time.monotonic() - killed_s
        sys.stdout.write(f"taken over {took_s:.1f} s after the owner was killed\n")
        first.start()  # it comes again, and leaves alone what the other has
        first.ready()
        assert (owned(first), owned(second)) == (0, 2)
        second.stop()
        until(lambda: owned(first) == 2, TAKEOVER_S, "takeover after a stop")


def test_another_takes_over_and_no_interval_is_lost_or_doubled(
    zygote: Zygote, tmp_path: Path, state: str, metrics: str
) -> None:
    environment = {"ADUMBRA_STATE": state, "ADUMBRA_STORE": metrics}
    first, second = (ServerProcess(zygote, tmp_path / name, environment) for name in ("first", "second"))
    second.token = first.make_token()
    with ending(first, second):
        first.start()
        with first.client(60.0) as client:
            answer = client.post("/v1/networks", json={"spec": (SHOP / "shop.yaml").read_text()})
            assert answer.status_code == 201, answer.text
        until(lambda: owned(first) == 1, 30.0, "ownership")
        second.start()
        second.ready()
        assert owned(second) == 0

        accesses = tuple(HttpAccess(each.url, token=first.token, give_up_s=0.5) for each in (first, second))
        said: list[str] = []
        tap = TapJob("shop", SOURCE, tmp_path / "tap", accesses, host="edge", heartbeat_s=0.3, drain_s=240.0, say=said.append)
        told: list[observations.Observation] = []
        tapping_it = threading.Thread(target=lambda: told.append(tapping.tap(tap, time.time_ns)))
        tapping_it.start()
        until(lambda: stored(metrics) > 0, 400.0, "the first intervals")
        first.kill()
        killed_s = time.monotonic()
        until(lambda: owned(second) == 1, TAKEOVER_S, "takeover")
        took_s = time.monotonic() - killed_s
        assert took_s < TAKEOVER_S
        tapping_it.join(300.0)
        assert not tapping_it.is_alive()
        assert told, said
        with second.client(60.0) as client:
            (source,) = client.get("/v1/networks/shop/sources").json()["items"]
            assert source["state"] == SourceState.DONE.value
    with Workspace(tmp_path / "reader", Storage(parse_stores(metrics), direct=True)) as workspace:
        got = workspace.metrics.read(SeriesQuery("shop", COUNTED))
    compare(got, observed(tmp_path / "local"))


def stored(metrics: str) -> int:
    """How many samples VictoriaMetrics has of the network's VMs."""
    url = metrics.partition("+")[2]
    asked = {"query": 'count(count_over_time({__name__=~"adumbra_vm_receive_packets_total"}[100y]))', "nocache": "1"}
    answer = httpx.get(f"{url}/api/v1/query", params=asked, timeout=30.0, trust_env=False).json()
    return len(answer["data"]["result"])


def observed(home: Path) -> Series:
    """What an observation of the same on one host stores."""
    with Workspace(home) as workspace:
        networks.create(workspace, (SHOP / "shop.yaml").read_text(), "spec", 1)
        observations.observe(workspace, "shop", SOURCE, time.time_ns)
        return workspace.metrics.read(SeriesQuery("shop", COUNTED))


def compare(got: Series, want: Series) -> None:
    assert (got.vms, got.start_ns, got.steps, got.step_s) == (want.vms, want.start_ns, want.steps, want.step_s)
    for name in COUNTED:
        np.testing.assert_array_equal(np.round(got.values[name]), want.values[name], err_msg=name)
