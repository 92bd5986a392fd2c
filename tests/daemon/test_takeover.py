"""Two servers over one PostgreSQL and one VictoriaMetrics: the one that owns a network is killed, and the other goes on.

A tap ships to both meanwhile. What is stored in the end is what observing the same traffic in one go stores: no interval is
lost, and none is counted twice.
"""

from __future__ import annotations

import itertools
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import zstandard
from tests.daemon.running import SPEC, ServerProcess, ending, until
from tests.servers import folder_of, running, victoriametrics

from adumbra.http_asking import HttpAccess
from adumbra.schema.errors import AdumbraError
from adumbra.schema.jobs import SourceState
from adumbra.schema.records import NANOSECONDS, Series, SeriesQuery
from adumbra.service import networks, observations, tapping
from adumbra.service.following import ObserveOptions
from adumbra.service.observations import Observation
from adumbra.service.tapping import TapJob
from adumbra.service.workspace import Storage, Workspace
from adumbra.store.prepared import Prepared
from adumbra.store.served import ServedStore
from adumbra.store.urls import parse_stores

TAKEOVER_S = 30.0
SHOP = Path(__file__).parents[2] / "examples" / "shop"
SHOP_S, KILLED_AT = 90, 30
COUNTED = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "requests")


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


def test_another_takes_over_what_a_killed_owner_had(tmp_path: Path, database: str) -> None:
    first, second = (ServerProcess(tmp_path / name, {"ADUMBRA_STATE": database}) for name in ("first", "second"))
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
    tmp_path: Path, database: str, metrics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"ADUMBRA_STATE": database, "ADUMBRA_STORE": metrics}
    first, second = (ServerProcess(tmp_path / name, environment) for name in ("first", "second"))
    second.token = first.make_token()
    source = f"pcap:{beginning_of_shop(tmp_path / 'shop.pcap')}"
    shipping, killed = watch_shipping(monkeypatch)
    with ending(first, second):
        first.start()
        with first.client(60.0) as client:
            answer = client.post("/v1/networks", json={"spec": (SHOP / "shop.yaml").read_text()})
            assert answer.status_code == 201, answer.text
        until(lambda: owned(first) == 1, 60.0, "ownership")
        second.start()
        second.ready()
        assert owned(second) == 0
        accesses = tuple(HttpAccess(each.url, token=first.token, give_up_s=0.5) for each in (first, second))
        with tapping_for(TapJob("shop", source, tmp_path / "tap", accesses, host="edge", drain_s=600.0)) as tapped:
            until(lambda: shipping.is_set() or tapped.over, 600.0, "the first intervals")
            first.kill()
            killed_s = time.monotonic()
            killed.set()
            until(lambda: owned(second) == 1, TAKEOVER_S, "takeover")
            sys.stdout.write(f"taken over {time.monotonic() - killed_s:.1f} s after the owner was killed\n")
            until(lambda: tapped.over, 600.0, "the tap's end")
        assert tapped.told, tapped.said
        assert not tapped.told[0].notes
        with second.client(60.0) as client:
            (known,) = client.get("/v1/networks/shop/sources").json()["items"]
            assert known["state"] == SourceState.DONE.value
    want = observed(tmp_path / "local", source)
    with Workspace(tmp_path / "reader", Storage(parse_stores(metrics), direct=True)) as workspace:
        until(lambda: (workspace.metrics.span("shop") or (0, 0))[1] == end_ns(want), 60.0, "what VictoriaMetrics took last")
        got = workspace.metrics.read(SeriesQuery("shop", COUNTED))
    compare(got, want)


def beginning_of_shop(path: Path) -> Path:
    """The first minute and a half of the example's capture, as a file (pcap, whose header says whether times are in ns)."""
    with (SHOP / "shop.pcap.zst").open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed) as capture:
        kept = [capture.read(24)]
        first_s = None
        while True:
            head = capture.read(16)
            second_s, _, size, _ = struct.unpack("<IIII", head)
            first_s = first_s or second_s
            if second_s - first_s >= SHOP_S:
                break
            kept += [head, capture.read(size)]
    path.write_bytes(b"".join(kept))
    return path


def watch_shipping(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Has the tap ship interval by interval. Gives an event that is set while it is about to ship one in the middle, and one
    for which it waits some intervals later: so the first server is killed while it is at work."""
    shipping, killed, count, send = threading.Event(), threading.Event(), itertools.count(), ServedStore.send

    def watched(store: ServedStore, prepared: Prepared) -> int:
        number = next(count)
        if number == KILLED_AT:
            shipping.set()
        if number == KILLED_AT + 20:
            killed.wait(120.0)
        return send(store, prepared)

    monkeypatch.setattr(ServedStore, "send", watched)
    monkeypatch.setattr(tapping, "WRITE_EVERY_S", 0.0)
    return shipping, killed


@dataclass
class Tapped:
    """A tap in a thread of this process. told: what came of it."""

    told: list[Observation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    over: bool = False


@contextmanager
def tapping_for(job: TapJob) -> Iterator[Tapped]:
    """Runs a tap; has it end with the block, whatever comes."""
    tapped, stop = Tapped(), threading.Event()

    def work() -> None:
        try:
            options = ObserveOptions(stop=stop.is_set)
            tapped.told.append(tapping.tap(replace(job, options=options, say=tapped.said.append), time.time_ns))
        except AdumbraError as error:
            tapped.said.append(str(error))
        finally:
            tapped.over = True

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield tapped
    finally:
        stop.set()
        thread.join(60.0)


def observed(home: Path, source: str) -> Series:
    """What an observation of the same on one host stores."""
    with Workspace(home) as workspace:
        networks.create(workspace, (SHOP / "shop.yaml").read_text(), "spec", 1)
        observations.observe(workspace, "shop", source, time.time_ns)
        return workspace.metrics.read(SeriesQuery("shop", COUNTED))


def end_ns(series: Series) -> int:
    return series.start_ns + round(series.steps * series.step_s * NANOSECONDS)


def compare(got: Series, want: Series) -> None:
    assert (got.vms, got.start_ns, got.steps, got.step_s) == (want.vms, want.start_ns, want.steps, want.step_s)
    assert np.nansum(want.values["rx_packets"]) > 10_000
    for name in COUNTED:
        np.testing.assert_array_equal(np.round(got.values[name]), want.values[name], err_msg=name)
