"""The contract of every metric store. A new store joins by a line in conftest.STORES.

Marked `replaces`: what only stores promise that put what is written last in place of what was there (Abilities.replaces).
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.conftest import Apart, at_ns
from tests.thorough import tries

from adumbra.schema.errors import InputError
from adumbra.schema.metrics import BY_NAME, METRICS, NAMES, Rollup
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin, SeriesQuery
from adumbra.store.protocol import MetricStore

MakeBatch = Callable[..., MetricBatch]
EXACT = 1e-12  # what differences of long sums may be off by, as a share


def one_column(store: MetricStore, column: str, **query: object) -> list[list[float]]:
    series = store.read(SeriesQuery(**{"network": "shop", "columns": (column,), **query}))  # type: ignore[arg-type]
    assert series.values[column].shape == (len(series.vms), series.steps) == series.one_sided.shape
    return series.values[column].tolist()


def same(got: list[list[float]], want: list[list[float]]) -> bool:
    got_, want_ = np.array(got, np.float64), np.array(want, np.float64)
    return got_.shape == want_.shape and np.allclose(got_, want_, rtol=EXACT, atol=0.0, equal_nan=True)


NAN = math.nan


class TestWrite:
    def test_every_column_comes_back_as_it_was_written(self, store: Apart) -> None:
        rng = np.random.default_rng(7)
        columns = {
            m.name: rng.integers(0, 2**50, (5, 3)) if m.whole else rng.exponential(1e3, (5, 3)) for m in METRICS
        }  # fmt: skip
        columns["rtt_ms_p50"][2, 1] = NAN
        sided = rng.random((5, 3)) < 0.5
        starts = at_ns(0) + np.arange(5) * NANOSECONDS
        store.write(MetricBatch("shop", 1.0, ("web-2", "web-10", "db"), starts, columns, sided, "pcap:shop.pcap"))
        series = store.read(SeriesQuery("shop", NAMES, vms=("web-2", "web-10", "db")))
        assert (series.start_ns, series.step_s, series.steps) == (at_ns(0), 1.0, 5)
        for name in NAMES:
            np.testing.assert_allclose(series.values[name], columns[name].T, store.exact, err_msg=name)
        np.testing.assert_array_equal(series.one_sided, sided.T)

    def test_writing_the_same_again_changes_nothing(self, opened: Callable[[], MetricStore], batch: MakeBatch) -> None:
        for _ in range(2):
            with opened() as store:
                store.write(batch([10, 11, 12]))
        with opened() as store:
            assert one_column(store, "rx_bytes", vms=("web-1",)) == [[1, 1, 1]]
            assert one_column(store, "rx_bytes", vms=("web-1",), step_s=30.0) == [[3]]  # a sum would show a row stored twice

    def test_gaps_are_filled_in_any_order(self, store: MetricStore, batch: MakeBatch) -> None:
        for starts in ([20, 24], [22], [10], [21, 23], [30]):
            store.write(batch(starts))
        assert one_column(store, "rx_bytes", vms=("web-1",), start_ns=at_ns(20), end_ns=at_ns(25)) == [[1] * 5]
        assert one_column(store, "rx_bytes", vms=("web-1",), step_s=15.0) == [[1, 5, 1]]

    def test_it_lasts(self, opened: Callable[[], MetricStore], batch: MakeBatch) -> None:
        with opened() as store:
            assert store.write(batch([10, 11])) == 0
        with opened() as store:
            assert one_column(store, "rx_bytes") == [[2, 2], [1, 1]]

    @pytest.mark.replaces
    def test_writing_again_changes_nothing_and_is_told(self, store: MetricStore, batch: MakeBatch) -> None:
        assert store.write(batch([10, 11, 12])) == 0
        assert store.write(batch([10, 11, 12])) == 6
        assert one_column(store, "rx_bytes", vms=("web-1",)) == [[1, 1, 1]]
        assert one_column(store, "rx_bytes", vms=("web-1",), step_s=30.0) == [[3]]  # a sum would show a row stored twice

    @pytest.mark.replaces
    def test_what_overlaps_in_part_is_replaced_and_counted(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([10, 11, 12]))
        assert store.write(batch([12, 13], ("web-1", "new"), value=5)) == 1
        assert store.vms("shop") == ("db", "new", "web-1")
        assert same(one_column(store, "rx_bytes"), [[2, 2, 2, NAN], [NAN, NAN, 6, 6], [1, 1, 5, 5]])

    @pytest.mark.replaces
    def test_what_lies_in_a_gap_or_before_is_added(self, store: MetricStore, batch: MakeBatch) -> None:
        assert [store.write(batch(starts)) for starts in ([20, 24], [22], [10], [21, 23], [22, 30])] == [0, 0, 0, 0, 2]
        assert one_column(store, "rx_bytes", vms=("web-1",), start_ns=at_ns(20), end_ns=at_ns(25)) == [[1] * 5]

    @pytest.mark.replaces
    def test_what_was_written_late_does_not_hide_what_lies_after_it(self, store: MetricStore, batch: MakeBatch) -> None:
        assert [store.write(batch([start])) for start in (10, 1, 10)] == [0, 0, 2]
        assert one_column(store, "rx_bytes", vms=("web-1",), step_s=20.0) == [[2]]

    def test_networks_and_origins_are_apart(self, store: MetricStore, batch: MakeBatch) -> None:
        writes = [batch([1]), batch([1], network="other", value=3), batch([1], origin=Origin.LIVE, value=7)]
        assert [store.write(b) for b in writes] == [0, 0, 0]
        assert one_column(store, "rx_bytes", vms=("web-1",)) == [[1]]
        assert one_column(store, "rx_bytes", vms=("web-1",), network="other") == [[3]]
        assert one_column(store, "rx_bytes", vms=("web-1",), origin=Origin.LIVE) == [[7]]

    def test_nothing_to_write_is_no_trouble(self, store: MetricStore, batch: MakeBatch) -> None:
        assert store.write(batch([])) == 0
        assert store.write(batch([1], ())) == 0
        assert store.vms("shop") == ()

    def test_columns_that_are_not_known_are_gaps(self, store: MetricStore, batch: MakeBatch) -> None:
        whole = batch([1, 2])
        cpu = np.array([[0.5, 0.25], [NAN, 1.0]])
        packets = np.array([[3.0, NAN], [4.0, 5.0]])  # a live machine's readings may lack a count
        store.write(replace(whole, columns={"cpu_utilization": cpu, "rx_packets": packets}))
        assert same(one_column(store, "cpu_utilization", vms=("web-1", "db")), cpu.T.tolist())
        assert same(one_column(store, "rx_packets", vms=("web-1", "db")), packets.T.tolist())
        assert same(one_column(store, "rx_bytes"), [[NAN, NAN]] * 2)

    def test_a_large_batch_goes_in_whole(self, store: MetricStore, batch: MakeBatch) -> None:
        vms = tuple(f"v{i}" for i in range(6_000))
        whole = batch(list(range(100)), vms)  # more rows than go in at once
        assert store.write(replace(whole, columns={"rx_packets": whole.columns["rx_packets"]})) == 0
        assert one_column(store, "rx_packets", vms=("v0", "v5999"), step_s=100.0) == [[100], [600_000]]

    @pytest.mark.parametrize(
        ("broken", "said"),
        [
            ({"interval_s": 0.0}, "intervals of 0.0 s"),
            ({"vms": ("web-1", "web-1")}, "twice"),
            ({"vms": ("web-1",)}, "not"),
            ({"start_ns": at_ns(0) + np.array([0, 1], np.int64)}, "overlap"),
            ({"columns": {"rx_byte": np.zeros((2, 2))}}, "rx_byte"),
            ({"one_sided": np.zeros((2, 1), np.bool_)}, "one_sided"),
        ],
    )
    def test_a_batch_that_does_not_hang_together_is_refused(
        self, store: MetricStore, batch: MakeBatch, broken: dict[str, object], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            store.write(replace(batch([1, 2]), **broken))
        assert store.vms("shop") == ()

    def test_threads_take_turns(self, store: MetricStore, batch: MakeBatch) -> None:
        def write(first: int) -> None:
            for start in range(first, first + 10):
                store.write(batch([start]))

        threads = [threading.Thread(target=write, args=(10 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one_column(store, "rx_packets", vms=("web-1",)) == [[1] * 40]


@pytest.mark.replaces
class TestAmend:
    def test_the_given_columns_are_replaced_and_nothing_else(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([100, 101, 102]))
        new = batch([101, 102], ("db",))
        chosen = {"cpu_seconds": np.array([[0.25], [NAN]]), "latency_ms_p50": np.array([[7.0], [8.0]])}
        assert store.amend(replace(new, columns=chosen, source="another")) == 2
        assert same(one_column(store, "cpu_seconds"), [[2, 0.25, NAN], [1, 1, 1]])
        assert same(one_column(store, "latency_ms_p50"), [[2, 7, 8], [1, 1, 1]])
        assert one_column(store, "requests") == [[2, 2, 2], [1, 1, 1]]

    def test_rows_that_are_not_there_are_not_made(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([100]))
        chosen = {"cpu_seconds": np.full((2, 2), 0.5)}
        other = [
            (batch([200, 201]), 0), (batch([100, 101], network="other"), 0), (batch([100, 101], origin=Origin.LIVE), 0),
            (batch([100, 102], interval_s=2.0), 0), (batch([100, 101], ("db", "web-9")), 1),
        ]  # fmt: skip
        for each, amended in other:
            assert store.amend(replace(each, columns=chosen)) == amended
        assert one_column(store, "cpu_seconds") == [[0.5], [1]]
        assert store.span("shop") == (at_ns(100), at_ns(101))

    def test_nothing_is_amended_by_a_batch_that_does_not_hang_together(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([100]))
        with pytest.raises(ValueError, match="cpu_seconds"):
            store.amend(replace(batch([100]), columns={"cpu_seconds": np.zeros((3, 3))}))


class TestRead:
    def test_gaps_are_not_numbers(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([10, 13]))
        series = store.read(SeriesQuery("shop", ("rx_bytes",)))
        assert same(series.values["rx_bytes"].tolist(), [[2, NAN, NAN, 2], [1, NAN, NAN, 1]])
        assert same(series.one_sided.tolist(), [[0, NAN, NAN, 0]] * 2)

    def test_each_kind_of_metric_rolls_up_in_its_way(self, store: MetricStore) -> None:
        of_kind = {Rollup.SUM: "rx_bytes", Rollup.MEAN: "cpu_utilization", Rollup.MAX: "peers", Rollup.LAST: "storage_bytes"}
        assert all(BY_NAME[name].rollup is kind for kind, name in of_kind.items())
        columns = {
            "rx_bytes": [5, 1, 2, 4, 9, 1], "peers": [3, 8, 1, 0, 0, 1],
            "cpu_utilization": [0.25, 0.75, NAN, NAN, NAN, 1.0], "storage_bytes": [7.0, 5.0, NAN, NAN, NAN, 2.0],
        }  # fmt: skip
        starts = at_ns(0) + np.array([0, 1, 2, 3, 4, 8]) * NANOSECONDS
        sided = np.array([[True], [False], [True], [False], [False], [True]])
        batch = MetricBatch("shop", 1.0, ("db",), starts, {n: np.array([v]).T for n, v in columns.items()}, sided, "pcap:x")
        store.write(batch)
        series = store.read(SeriesQuery("shop", tuple(of_kind.values()), step_s=4.0))
        want = {
            "rx_bytes": [12, 9, 1], "peers": [8, 0, 1], "cpu_utilization": [0.5, NAN, 1.0], "storage_bytes": [5.0, NAN, 2.0],
        }  # fmt: skip
        for name, values in want.items():
            assert same(series.values[name].tolist(), [values]), name
        assert series.one_sided.tolist() == [[0.5, 0.0, 1.0]]

    def test_every_metric_can_be_rolled_up(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([0, 1, 2, 3], value=2))
        series = store.read(SeriesQuery("shop", NAMES, vms=("web-1",), step_s=4.0))
        for metric in METRICS:
            assert series.values[metric.name].tolist() == [[8.0 if metric.rollup is Rollup.SUM else 2.0]], metric.name

    @pytest.mark.parametrize(
        ("start_s", "end_s", "want_start_s", "want"),
        [
            (None, None, 10, [1, 1, 1, 1]),
            (11, None, 11, [1, 1, 1]),
            (None, 13, 10, [1, 1, 1]),
            (10.5, 13, 11, [1, 1]),  # an interval belongs to where it begins
            (0, 1000, 10, [1, 1, 1, 1]),  # the grid never reaches beyond what is stored
            (13, 13, 13, []),
            (14, 10, 14, []),
            (50, None, 50, []),
        ],
    )
    def test_a_range_is_half_open(
        self,
        store: MetricStore,
        batch: MakeBatch,
        start_s: float | None,
        end_s: float | None,
        want_start_s: float,
        want: list[float],
    ) -> None:
        store.write(batch([10, 11, 12, 13]))
        to_ns = {s: None if s is None else at_ns(s) for s in (start_s, end_s, want_start_s)}
        series = store.read(SeriesQuery("shop", ("rx_bytes",), ("web-1",), to_ns[start_s], to_ns[end_s]))
        assert (series.start_ns, series.values["rx_bytes"].tolist()) == (to_ns[want_start_s], [want])

    def test_vms_come_in_the_order_asked_for_or_in_natural_order(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([1], ("web-10", "web-9", "db")))
        assert store.read(SeriesQuery("shop", ())).vms == store.vms("shop") == ("db", "web-9", "web-10")
        assert one_column(store, "rx_bytes", vms=("web-9", "web-10", "web-9")) == [[2], [1]]

    def test_an_unknown_network_is_an_empty_series(self, store: MetricStore) -> None:
        series = store.read(SeriesQuery("nowhere", ("rx_bytes", "peers"), ("web-1",), step_s=60.0))
        assert (series.steps, series.vms, series.step_s) == (0, ("web-1",), 60.0)
        assert series.values["peers"].shape == (1, 0)
        assert store.read(SeriesQuery("nowhere", ("rx_bytes",))).vms == ()

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            (SeriesQuery("shop", ("rx_byte",)), "did you mean 'rx_bytes'"),
            (SeriesQuery("shop", ("rx_bytes",), ("web1",)), "did you mean 'web-1'"),
            (SeriesQuery("shop", ("rx_bytes",), step_s=1.5), "give a multiple of 1 s"),
            (SeriesQuery("shop", ("rx_bytes",), step_s=-1.0), "not possible"),
        ],
    )
    def test_a_wrong_question_is_refused(self, store: MetricStore, batch: MakeBatch, query: SeriesQuery, said: str) -> None:
        store.write(batch([1]))
        with pytest.raises(InputError, match=said):
            store.read(query)
        assert one_column(store, "rx_bytes", vms=("web-1",)) == [[1]]

    def test_a_grid_too_large_to_hold_is_refused(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([0, 50_000_000]))
        with pytest.raises(InputError, match="ask for a step of"):
            store.read(SeriesQuery("shop", ("rx_bytes",)))
        assert one_column(store, "rx_bytes", vms=("web-1",), step_s=86_400.0)[0][0] == 1


class TestChangedInterval:
    def test_the_newest_interval_is_the_stored_one_and_finer_rows_roll_up(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], value=1))
        store.write(batch([10, 15], interval_s=5.0, value=50))
        series = store.read(SeriesQuery("shop", ("rx_bytes", "rtt_ms_p50"), ("web-1",)))
        assert series.step_s == 5.0
        assert series.values["rx_bytes"].tolist() == [[5, 5, 50, 50]]
        assert series.values["rtt_ms_p50"].tolist() == [[1, 1, 50, 50]]

    def test_means_over_intervals_of_two_lengths_weigh_them(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([0, 1], value=1))
        store.write(batch([2], interval_s=2.0, value=4))
        assert one_column(store, "cpu_utilization", vms=("web-1",), step_s=4.0) == [[2.5]]

    def test_rows_that_the_step_cannot_hold_are_gaps(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([0, 5], interval_s=5.0))
        store.write(batch([12, 13]))
        assert one_column(store, "rx_bytes", vms=("web-1",)) == [[1, 1]]
        assert one_column(store, "rx_bytes", vms=("web-1",), step_s=10.0) == [[2, 2]]

    @pytest.mark.replaces
    def test_observing_again_in_other_intervals_doubles_nothing(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], value=1))
        assert store.write(batch([0, 5], interval_s=5.0, value=5)) == 4
        assert one_column(store, "rx_bytes", vms=("web-1",), step_s=10.0) == [[10]]
        assert store.write(batch([5, 6, 7, 8, 9], value=1)) == 10
        assert one_column(store, "rx_bytes", vms=("web-1",), step_s=10.0) == [[10]]
        assert store.write(batch([2, 3], value=1)) == 4  # within a longer interval, which began before them and goes
        assert one_column(store, "rx_bytes", vms=("web-1",), step_s=10.0) == [[7]]


class TestSpanAndDelete:
    def test_a_span_reaches_to_the_end_of_the_last_interval(self, store: MetricStore, batch: MakeBatch) -> None:
        assert store.span("shop") is None
        store.write(batch([20, 30]))
        store.write(batch([10]))
        assert store.span("shop") == (at_ns(10), at_ns(31))
        assert store.span("shop", Origin.LIVE) is None

    @pytest.mark.own_server  # Prometheus deletes only what came in order: on a server that others write to, it may not have
    def test_a_deleted_network_leaves_nothing_and_can_begin_again(self, store: MetricStore, batch: MakeBatch) -> None:
        store.write(batch([1, 2]))
        store.write(batch([1], origin=Origin.LIVE))
        store.write(batch([1], network="other"))
        assert store.delete_network("shop") == 6
        assert store.delete_network("shop") == 0
        assert (store.vms("shop"), store.span("shop"), store.vms("other")) == ((), None, ("db", "web-1"))
        assert store.write(batch([1])) == 0


_NETWORKS = itertools.count()
_ACTS = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),  # interval_s
        st.sets(st.integers(0, 11), max_size=6),  # which intervals of 12 seconds, by number
        st.lists(st.sampled_from(["a", "b", "c"]), unique=True),
        st.integers(1, 9),  # the value
    ),
    max_size=6,
)


@pytest.mark.replaces
@settings(max_examples=tries(30, thorough=60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=_ACTS)
def test_any_writes_leave_what_a_plain_dict_would_hold(
    store: MetricStore, batch: MakeBatch, acts: list[tuple[int, set[int], list[str], int]]
) -> None:
    network = f"n{next(_NETWORKS)}"
    held: dict[tuple[str, int], tuple[int, int]] = {}  # (vm, start) -> (interval, value): what is written last holds
    for interval, numbers, vms, value in acts:
        starts = sorted(number * interval for number in numbers if number * interval < 12)
        met, removed = set(), set()
        for vm, start in itertools.product(vms, starts):
            for (other, begun), (length, _) in held.items():
                if other == vm and begun < start + interval and begun + length > start:
                    met.add((vm, start))
                    removed.add((other, begun))
        held = {key: row for key, row in held.items() if key not in removed}
        held |= {(vm, start): (interval, value + number) for number, vm in enumerate(vms) for start in starts}
        got = store.write(
            batch([float(s) for s in starts], tuple(vms), network=network, interval_s=float(interval), value=value)
        )
        assert got == len(met)
    assert store.vms(network) == tuple(sorted({vm for vm, _ in held}))
    if not held:
        assert store.span(network) is None
        return
    assert store.span(network) == (
        at_ns(min(s for _, s in held)), at_ns(max(s + length for (_, s), (length, _) in held.items())),
    )  # fmt: skip
    series = store.read(SeriesQuery(network, ("rx_bytes",), step_s=2.0))
    first = (series.start_ns - at_ns(0)) // NANOSECONDS
    want = np.full((len(series.vms), series.steps), NAN)
    for (vm, start), (_, value) in held.items():
        place = series.vms.index(vm), (start - first) // 2
        want[place] = np.nansum([want[place], value])
    np.testing.assert_array_equal(series.values["rx_bytes"], want)
