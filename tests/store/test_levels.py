"""Roll-ups and retention: whatever is written, amended, rolled up, forgotten or rewritten, reads say what a model says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.store.conftest import at_ns, make_batch
from tests.thorough import tries

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, MetricBatch, SeriesQuery
from adumbra.store.duckdb import DuckDBStore
from adumbra.store.grid import Stored, plan_grid
from adumbra.store.levels import LEVELS, Retention

HOUR_S = 3600
SHORT = Retention(raw_s=HOUR_S, minute_s=2 * HOUR_S, five_minutes_s=3 * HOUR_S, hour_s=6 * HOUR_S)
COLUMNS = ("rx_bytes", "peers", "cpu_utilization", "storage_bytes")  # a sum, a largest, a mean, a last one
VMS = ("a", "b", "c")


@dataclass
class Row:
    """An interval of a VM, or a cell of several: how many went in, how many one-sided, and the columns' values."""

    length_ns: int
    rows: int
    one_sided: int
    total: float
    largest: float
    mean: float
    mean_ns: int
    last: float
    last_at: int


def added(one: Row | None, other: Row) -> Row:
    if one is None:
        return other
    known = [row for row in (one, other) if row.mean_ns]
    mean_ns = sum(row.mean_ns for row in known)
    latest = max((row for row in (one, other) if not math.isnan(row.last)), key=lambda row: row.last_at, default=one)
    return Row(
        one.length_ns, one.rows + other.rows, one.one_sided + other.one_sided, float(np.nansum([one.total, other.total])),
        max(one.largest, other.largest), sum(row.mean * row.mean_ns for row in known) / mean_ns if mean_ns else math.nan,
        mean_ns, latest.last, latest.last_at,
    )  # fmt: skip


@dataclass
class Model:
    """The rows that stand, by VM and beginning, and from when on each level is kept."""

    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    kept: list[int] = field(default_factory=lambda: [-(2**62)] * len(LEVELS))

    def write(self, batch: MetricBatch, interval_ns: int) -> int:
        met, gone = set(), set()
        for vm, start in itertools.product(batch.vms, batch.start_ns.tolist()):
            for (other, begun), row in self.rows.items():
                if other == vm and begun < start + interval_ns and begun + row.length_ns > start:
                    met.add((vm, start))
                    gone.add((other, begun))
        for key in gone:
            del self.rows[key]
        of = batch.columns
        for (v, vm), (t, start) in itertools.product(enumerate(batch.vms), enumerate(batch.start_ns.tolist())):
            mean, last = float(of["cpu_utilization"][t, v]), float(of["storage_bytes"][t, v])
            self.rows[vm, start] = Row(
                interval_ns, 1, int(batch.one_sided[t, v]), float(of["rx_bytes"][t, v]), float(of["peers"][t, v]),
                mean, 0 if math.isnan(mean) else interval_ns, last, start,
            )  # fmt: skip
        if len(batch) and batch.start_ns[0] < self.kept[0]:
            self.rows = self.standing(self.kept)
        return len(met)

    def amend(self, batch: MetricBatch, interval_ns: int) -> int:
        amended = 0
        for (v, vm), (t, start) in itertools.product(enumerate(batch.vms), enumerate(batch.start_ns.tolist())):
            row = self.rows.get((vm, start))
            if row is not None and row.rows == 1 and row.length_ns == interval_ns and row.last_at == start:
                mean = float(batch.columns["cpu_utilization"][t, v])
                row.mean, row.mean_ns = mean, 0 if math.isnan(mean) else interval_ns
                amended += 1
        return amended

    def forget(self, now_ns: int) -> None:
        if not self.rows:
            return
        newest = min(now_ns, max(start + row.length_ns for (_, start), row in self.rows.items()))
        hour = HOUR_S * NANOSECONDS
        kept: list[int] = []
        for old, keep_ns in zip(self.kept, SHORT.kept_ns, strict=True):
            kept.append(max(old, min([newest - keep_ns, *kept]) // hour * hour))
        left = self.standing(kept)
        if {(key, row.length_ns) for key, row in left.items()} != {(key, row.length_ns) for key, row in self.rows.items()}:
            self.rows, self.kept = left, kept

    def standing(self, kept: list[int]) -> dict[tuple[str, int], Row]:
        left: dict[tuple[str, int], Row] = {}
        for (vm, start), row in sorted(self.rows.items()):
            finest = next((level for level, from_ns in zip(LEVELS, kept, strict=True) if start >= from_ns), None)
            if finest is None:
                continue
            if finest.takes(row.length_ns, start % row.length_ns):
                key = vm, start // finest.length_ns * finest.length_ns
                left[key] = added(left.get(key), replace(row, length_ns=finest.length_ns))
            else:
                left[vm, start] = row
        return left

    def check(self, store: DuckDBStore, query: SeriesQuery) -> None:
        from_ns, to_ns = query.start_ns or 0, query.end_ns or 2**62
        inside = {key: row for key, row in self.rows.items() if from_ns <= key[1] < to_ns}
        stored = [
            Stored(length, min(starts), max(starts))
            for length in {row.length_ns for row in inside.values()}
            for starts in [[start for (_, start), row in inside.items() if row.length_ns == length]]
        ]
        if not stored:
            assert store.read(query).steps == 0
            return
        try:
            grid = plan_grid(query, stored)
        except InputError as error:
            with pytest.raises(InputError, match=str(error).partition(";")[0][:40]):
                store.read(query)
            return
        series = store.read(query)
        assert (series.start_ns, series.step_s, series.steps) == (grid.start_ns, grid.step_ns / NANOSECONDS, grid.steps)
        cells: dict[tuple[str, int], Row] = {}
        for (vm, start), row in sorted(inside.items()):
            if row.length_ns in grid.intervals_ns:
                key = vm, (start - grid.start_ns) // grid.step_ns
                cells[key] = added(cells.get(key), row)
        want = {name: np.full((len(series.vms), series.steps), np.nan) for name in (*COLUMNS, "one_sided")}
        for (vm, step), row in cells.items():
            told = (row.total, row.largest, row.mean, row.last, row.one_sided / row.rows)
            for name, value in zip(want, told, strict=True):
                want[name][series.vms.index(vm), step] = value
        for name, values in want.items():
            got: Floats = series.one_sided if name == "one_sided" else series.values[name]
            np.testing.assert_allclose(got, values, rtol=1e-12, err_msg=name)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBStore]:
    with DuckDBStore(tmp_path_factory.mktemp("levels") / "metrics.duckdb", SHORT) as store:
        yield store


INTERVALS_S = (20.0, 20.0, 20.0, 7.0, 60.0, 90.0, 100.0, 300.0, 0.5)
STEPS_S = (None, 0.5, 20.0, 60.0, 100.0, 180.0, 300.0, 900.0, 3600.0, 7200.0)
_TIMES = st.integers(0, 9 * 180).map(lambda n: 20 * n)  # within nine hours
_WRITE = st.tuples(
    st.just("write"), _TIMES, st.sampled_from(INTERVALS_S), st.sampled_from([0.0, 0.0, 0.0, 0.25]),
    st.integers(1, 200), st.sampled_from([("a",), ("a", "b"), ("a", "b", "c"), ("c",)]),
)  # fmt: skip
_ACTS = st.lists(
    st.one_of(
        _WRITE, _WRITE, _WRITE.map(lambda act: ("amend", *act[1:])),
        st.tuples(st.just("maintain"), st.sampled_from([0, 3, 6, 100])),
        st.tuples(st.just("rewrite")),
        st.tuples(st.just("read"), st.sampled_from(STEPS_S), st.none() | _TIMES, st.none() | _TIMES),
        st.tuples(st.just("read"), st.sampled_from(STEPS_S), st.none(), st.none()),
    ),
    min_size=4, max_size=14,
)  # fmt: skip
_NUMBERS = itertools.count()


def filled(network: str, act: tuple[object, ...], rng: np.random.Generator) -> MetricBatch:
    _, first_s, interval_s, phase, count, vms = act
    assert isinstance(first_s, int)
    assert isinstance(interval_s, float)
    first = math.floor(first_s / interval_s) * interval_s + phase * interval_s  # type: ignore[operator]
    chosen = np.flatnonzero(rng.random(count) < 0.9)  # type: ignore[call-overload]
    whole = make_batch([first + interval_s * n for n in chosen], vms, network=network, interval_s=interval_s)  # type: ignore[arg-type]
    shape = whole.one_sided.shape
    columns = {
        "rx_bytes": rng.integers(0, 1000, shape), "peers": rng.integers(0, 50, shape),
        "cpu_utilization": np.where(rng.random(shape) < 0.2, np.nan, rng.random(shape)),
        "storage_bytes": np.where(rng.random(shape) < 0.2, np.nan, rng.random(shape)),
    }  # fmt: skip
    return replace(whole, columns=columns, one_sided=rng.random(shape) < 0.3)


@settings(
    max_examples=tries(25, thorough=60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(acts=_ACTS, seed=st.integers(0, 2**32 - 1))
@example(  # raw is gone, then written late, over a part of a cell
    acts=[
        ("write", 0, 20.0, 0.0, 200, ("a", "b")), ("write", 4 * HOUR_S, 20.0, 0.0, 200, ("a", "b")), ("maintain", 100),
        ("read", 60.0, None, None), ("read", 300.0, None, None), ("write", 600, 20.0, 0.0, 2, ("a",)),
        ("read", 3600.0, None, None), ("read", None, None, 2 * HOUR_S), ("write", 8 * HOUR_S, 20.0, 0.0, 200, ("a", "b")),
        ("maintain", 100), ("read", 300.0, None, None),
    ],
    seed=1,
)  # fmt: skip
def test_any_read_is_what_the_rows_that_stand_roll_up_to(
    shared: DuckDBStore, acts: list[tuple[object, ...]], seed: int
) -> None:
    network, rng, model = f"n{next(_NUMBERS)}", np.random.default_rng(seed), Model()
    try:
        for act in acts:
            if act[0] in {"write", "amend"}:
                batch = filled(network, act, rng)
                interval_ns = round(batch.interval_s * NANOSECONDS)
                if act[0] == "write":
                    assert shared.write(batch) == model.write(batch, interval_ns)
                else:
                    only = {"cpu_utilization": batch.columns["cpu_utilization"]}
                    assert shared.amend(replace(batch, columns=only)) == model.amend(batch, interval_ns)
            elif act[0] == "maintain":
                now_ns = at_ns(act[1] * HOUR_S)  # type: ignore[operator]
                shared.maintain(now_ns)
                model.forget(now_ns)
            elif act[0] == "rewrite":
                assert shared._rewrite() is not None
            else:
                _, step_s, from_s, to_s = act
                bounds = [None if s is None else at_ns(s) for s in (from_s, to_s)]  # type: ignore[arg-type]
                model.check(shared, SeriesQuery(network, COLUMNS, (), *bounds, step_s))  # type: ignore[arg-type]
        for step_s in (None, 60.0, 300.0, 3600.0):
            model.check(shared, SeriesQuery(network, COLUMNS, step_s=step_s))
        assert shared.vms(network) == tuple(sorted({vm for vm, _ in model.rows}))
        reach = [(start, start + row.length_ns) for (_, start), row in model.rows.items()]
        assert shared.span(network) == ((min(s for s, _ in reach), max(e for _, e in reach)) if reach else None)
    finally:
        assert shared.delete_network(network) == len(model.rows)
