"""Totals of what a tap ships stay exact, whichever of several servers takes each batch, and however often it is sent."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.store.conftest import at_ns, make_batch

from adumbra.schema.errors import InputError
from adumbra.schema.records import MetricBatch, Series, SeriesQuery
from adumbra.service import networks, shipping
from adumbra.service.shipping import Sender
from adumbra.service.workspace import Storage, Workspace
from adumbra.store.accumulate import Accumulator, part_of
from adumbra.store.batch_bytes import pack_batch, unpack_batch
from adumbra.store.prepared import dump, load
from adumbra.store.urls import parse_stores

SPEC = """
name: {name}
cidrs: [10.20.0.0/16]
subnets: [{{name: data, cidr: 10.20.1.0/24}}]
vms:
  - {{name: web-1, subnet: data, addresses: [10.20.1.10], role: web}}
  - {{name: db, subnet: data, addresses: [10.20.1.20], role: db}}
"""
COUNTED = ("rx_packets", "tx_bytes", "requests")
TAP = Sender("a-tap-of-this-test")


class Tap:
    """What a tap ships: batches with what was counted before each, as bytes that wait on its disk and travel."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.want: dict[str, dict[int, float]] = {}
        self.batches: list[bytes] = []
        totals, begin_s = Accumulator(), 0
        for _ in range(8):
            starts = list(range(begin_s, begin_s + rng.randint(1, 4)))
            begin_s = starts[-1] + (1 if rng.random() < 0.8 else 3)  # a gap now and then
            batch = make_batch(starts, network=name)
            counts = {each: np.array([[rng.randint(0, 1000) for _ in batch.vms] for _ in starts]) for each in COUNTED}
            batch = replace(batch, columns={**batch.columns, **counts})
            told = totals.telling(batch)
            self.batches.append(pack_batch(told))
            for each, values in counts.items():
                self.want.setdefault(each, {}).update({at_ns(s): row.tolist() for s, row in zip(starts, values, strict=True)})

    def batch(self, number: int) -> MetricBatch:
        return unpack_batch(self.batches[number])


@pytest.fixture(params=["victoriametrics", "prometheus"])
def store(request: pytest.FixtureRequest) -> str:
    return f"{request.param}+{request.getfixturevalue(f'{request.param}_url')}"


@pytest.fixture
def servers(store: str, tmp_path: Path) -> Iterator[Callable[[], Workspace]]:
    """Begins another server over one state, that knows nothing of what the others did."""
    storage = Storage(parse_stores(store), state=str(tmp_path / "state.db"), direct=True)
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Workspace(tmp_path / "home", storage))


def check(workspace: Workspace, name: str, want: dict[str, dict[int, float]]) -> None:
    """What is stored is what the tap counted, once the store shows it."""
    until_s = time.monotonic() + 60.0
    while True:
        series = workspace.metrics.read(SeriesQuery(name, COUNTED))
        got = {each: _told(series, each, want[each]) for each in COUNTED}
        if got == want or time.monotonic() > until_s:
            break
        time.sleep(0.2)
    assert got == want


def _told(series: Series, column: str, want: dict[int, float]) -> dict[int, list[float]]:
    places = [(ns, (ns - series.start_ns) // 1_000_000_000) for ns in want]
    rows = [series.vms.index(vm) for vm in ("web-1", "db") if vm in series.vms]
    return {ns: np.round(series.values[column][rows, at]).tolist() for ns, at in places if 0 <= at < series.steps}


@pytest.mark.parametrize("seed", range(4))
def test_whichever_server_takes_a_batch_and_however_often(servers: Callable[[], Workspace], seed: int) -> None:
    rng = random.Random(seed)
    running, name = [servers(), servers()], f"totals-{seed}-{time.time_ns()}"
    networks.create(running[0], SPEC.format(name=name), "spec", at_ns(0))
    tap = Tap(name, rng)
    for number in range(len(tap.batches)):
        for _ in range(rng.choice((1, 1, 2, 3))):  # the last answer arrives; those before were lost
            if rng.random() < 0.3:  # one is killed, and begun again
                running[rng.randrange(2)] = servers()
            shipping.accept(rng.choice(running), name, tap.batch(number), TAP, at_ns(1000))
    check(running[0], name, tap.want)


def test_a_server_that_dies_between_storing_and_saying_so(
    servers: Callable[[], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = servers(), servers()
    name = f"totals-{time.time_ns()}"
    networks.create(first, SPEC.format(name=name), "spec", at_ns(0))
    tap = Tap(name, random.Random(11))
    for number in range(3):
        shipping.accept(first, name, tap.batch(number), TAP, at_ns(1000))

    def dies(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(type(first.state.shipments), "settle", dies)
    with pytest.raises(InterruptedError):
        shipping.accept(first, name, tap.batch(3), TAP, at_ns(1000))
    monkeypatch.undo()
    for number in range(3, len(tap.batches)):
        shipping.accept(second, name, tap.batch(number), TAP, at_ns(1000))
    check(second, name, tap.want)


def test_a_batch_becomes_the_same_totals_in_any_process_and_in_any_parts() -> None:
    tap, whole = Tap("shop", random.Random(3)), Accumulator()
    for number in range(len(tap.batches)):
        batch = tap.batch(number)
        want = whole.add(batch)
        anew = Accumulator().add(batch)
        parts = [Accumulator().add(part_of(batch, slice(row, row + 1), slice(None))) for row in range(len(batch))]
        for name in COUNTED:
            np.testing.assert_array_equal(anew.batch.columns[name], want.batch.columns[name])
            joined = np.concatenate([part.batch.columns[name] for part in parts])
            np.testing.assert_array_equal(joined, want.batch.columns[name])
            base = np.nan_to_num(batch.before[name])  # 0 where it begins anew
            np.testing.assert_array_equal(anew.bases[name][0], base)


def test_what_was_counted_before_survives_spool_and_wire() -> None:
    totals = Accumulator()
    totals.telling(make_batch([0, 1]))
    told = totals.telling(make_batch([2]))
    assert told.before["rx_packets"].tolist() == [2.0, 4.0]
    assert unpack_batch(pack_batch(told)).before["rx_packets"].tolist() == [2.0, 4.0]
    prepared = Accumulator().add(told)
    assert load(dump(prepared)).before["rx_packets"].tolist() == [2.0, 4.0]
    assert np.isnan(totals.telling(make_batch([9])).before["rx_packets"]).all()


def test_a_batch_of_a_tap_that_tells_nothing_before_is_taken_as_ever() -> None:
    batch = make_batch([0, 1])
    assert unpack_batch(pack_batch(batch)).before == {}


@pytest.mark.parametrize("value", [-1.0, np.inf])
def test_what_can_not_have_been_counted_is_refused(value: float) -> None:
    batch = make_batch([0])
    with pytest.raises(InputError, match="values that no such metric has"):
        unpack_batch(pack_batch(replace(batch, before={"rx_packets": np.array([value, 1.0])})))
