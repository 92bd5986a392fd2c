"""What a follower makes of real machines' counters, in every kind of store: counts, gauges and gaps come back as they were."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pytest
from tests.store.conftest import STORES, at_ns

from adumbra.scale.readings import Followed, Follower
from adumbra.schema.live import MachineReading
from adumbra.schema.records import Origin, SeriesQuery

COLUMNS = ("rx_bytes", "cpu_seconds", "memory_bytes", "storage_ops")


@pytest.mark.parametrize("name", STORES)
def test_live_rows_come_back_as_they_were(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """web runs for 10 s, is away for 4, and comes again; db tells nothing of its CPU, and little by little of its bytes."""
    kind, network = STORES[name], f"live-{secrets.token_hex(6)}"
    address = request.getfixturevalue(kind.server) if kind.server else ""
    follower = Follower(Followed(network, 10**9, {"web": ("front", "nginx"), "db": ("back", "postgresql")}, "libvirt"))

    def web(second: int, run: str) -> MachineReading:
        return MachineReading(
            "web", at_ns(second), run, second * 10**9 // 4, 2.0, memory_bytes=2**31 + second,
            rx_bytes=1000 * second, rx_packets=second,
        )  # fmt: skip

    def db(second: int) -> MachineReading:
        return MachineReading("db", at_ns(second), "1", rx_bytes=500 * second, read_ops=second, write_ops=0)

    with kind.open(tmp_path, address) as store:
        for second in range(0, 21, 2):
            machines = (web(second, "1"),) if second <= 10 else (web(second, "2"),) if second >= 14 else ()
            for batch in follower.add((*machines, db(second))):
                store.write(batch)
        kind.settle(address)
        found = store.read(SeriesQuery(network, COLUMNS, ("web", "db"), at_ns(0), at_ns(20), 1.0, Origin.LIVE))
        assert store.span(network) is None, "the shadow saw nothing"
    there = np.array([second < 10 or second >= 14 for second in range(20)])
    assert found.steps == 20
    told = {column: dict(zip(found.vms, values, strict=True)) for column, values in found.values.items()}
    for vm, column, want in (
        ("web", "rx_bytes", 1000.0 - 14), ("web", "cpu_seconds", 0.25), ("db", "rx_bytes", 500.0), ("db", "storage_ops", 1.0),
    ):  # fmt: skip
        known = there if vm == "web" else np.ones(20, np.bool_)
        assert np.array_equal(np.isfinite(told[column][vm]), known)
        assert told[column][vm][known] == pytest.approx(want, rel=max(kind.exact, 1e-9))
    assert told["memory_bytes"]["web"][there][[0, 2, -1]].tolist() == [2**31, 2**31 + 2, 2**31 + 18]
    assert np.isnan(told["cpu_seconds"]["db"]).all()
    assert np.isnan(told["storage_ops"]["web"]).all()
