"""The same rows in DuckDB and in a server: whatever is asked, both answer alike. No rows overlap, as not all stores replace."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.store.conftest import STORES, at_ns

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.duckdb import DuckDBStore
from adumbra.store.protocol import MetricStore

COLUMNS = (
    "rx_bytes", "requests", "connections_active", "peers", "rtt_ms_p50", "rtt_ms_p99", "cpu_utilization", "cpu_seconds",
    "storage_bytes", "rtt_le_1ms", "rtt_le_inf", "rtt_sum_ms",
)  # fmt: skip
VMS = ("web-1", "web-2", "db")
SERVED = [name for name, kind in STORES.items() if kind.server]


def batches(rng: np.random.Generator, network: str) -> Iterator[MetricBatch]:
    """Stretches of rows with gaps, of other sources, roles, VMs and lengths; some of them put in later, into gaps."""
    second, listed = int(rng.integers(0, 5)), list[MetricBatch]()
    for _ in range(8):
        second += int(rng.choice([0, 0, 1, 7, 40]))
        length = int(rng.choice([1, 1, 1, 2, 5]))
        second += -second % length
        rows = int(rng.integers(1, 20))
        vms = tuple(str(vm) for vm in rng.permutation(VMS)[: rng.integers(1, 4)])
        roles = tuple(str(role) for role in rng.choice(["web", "db", ""], len(vms)))
        starts = at_ns(second) + np.arange(rows) * length * NANOSECONDS
        shape = (rows, len(vms))
        columns = {name: rng.integers(0, 1000, shape).astype(np.float64) for name in COLUMNS}
        for values in columns.values():
            values[rng.random(shape) < rng.choice([0.0, 0.0, 0.3])] = np.nan
        columns["rx_bytes"] = rng.integers(0, 2**40, shape)
        sided = rng.random(shape) < 0.5
        source = str(rng.choice(["pcap:a", "pcap:b"]))
        listed.append(MetricBatch(network, float(length), vms, starts, columns, sided, source, Origin.SHADOW, roles, roles))
        second += rows * length
    order = np.arange(len(listed))
    if rng.random() < 0.5:
        rng.shuffle(order)
    yield from (listed[place] for place in order)


def answer(store: MetricStore, query: SeriesQuery) -> Series | str:
    try:
        return store.read(query)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("seed", [1, 3, 8])
@pytest.mark.parametrize("name", SERVED)
def test_whatever_is_asked(name: str, seed: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    kind, rng = STORES[name], np.random.default_rng(seed)
    address = request.getfixturevalue(kind.server)
    network = f"same-{secrets.token_hex(6)}"
    with DuckDBStore(tmp_path / "metrics.duckdb") as want, kind.open(tmp_path, address) as got:
        for batch in batches(rng, network):
            want.write(batch)
            got.write(batch)
        kind.settle(address)
        assert got.vms(network) == want.vms(network)
        assert got.span(network) == want.span(network)
        base = SeriesQuery(network, COLUMNS)
        for step_s in (None, 1.0, 10.0, 60.0):
            first, last = sorted(rng.integers(0, 120, 2).tolist())
            for query in (
                replace(base, step_s=step_s),
                replace(base, step_s=step_s, vms=("db",)),
                replace(base, step_s=step_s, start_ns=at_ns(first), end_ns=at_ns(last)),
                replace(base, step_s=step_s, start_ns=at_ns(first) + 1_000_000),
            ):
                one, other = answer(want, query), answer(got, query)
                if isinstance(one, str) or isinstance(other, str):
                    assert one == other
                    continue
                assert (other.vms, other.start_ns, other.step_s, other.steps) == (one.vms, one.start_ns, one.step_s, one.steps)
                for column in COLUMNS:
                    told = f"{column} {query}"
                    np.testing.assert_allclose(other.values[column], one.values[column], 1e-9, err_msg=told)
                np.testing.assert_allclose(other.one_sided, one.one_sided, 1e-9, err_msg=f"one_sided {query}")
