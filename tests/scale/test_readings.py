"""Counters of real machines, as intervals: they add up, gaps stay gaps, and nothing that goes backwards makes a spike."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.scale.readings import COLUMNS, LINK_HEADER_BYTES, Followed, Follower
from adumbra.schema.live import MachineReading
from adumbra.schema.metrics import BY_NAME, provenance
from adumbra.schema.records import MetricBatch, Origin
from adumbra.store.batches import check_batch

S = 10**9
T0 = 1_700_000_000 * S
BEGAN = MachineReading("web", T0, "1", cpu_time_ns=0, cpu_cores=2.0, rx_bytes=0, rx_packets=0)


def follower(interval_s: float = 1.0, vms: tuple[str, ...] = ("web", "db"), longest_s: float = 60.0) -> Follower:
    return Follower(Followed("lab", round(interval_s * S), dict.fromkeys(vms, ("a", "nginx")), "libvirt", longest_s))


def follow(*readings: MachineReading, interval_s: float = 1.0) -> dict[int, dict[str, float]]:
    """The rows of web that its readings close, by the second in which they begin, since T0."""
    one, rows = follower(interval_s), {}
    for reading in readings:
        for batch in one.add([reading]):
            rows |= rows_of(batch)
    return rows


def rows_of(batch: MetricBatch, vm: str = "web") -> dict[int, dict[str, float]]:
    check_batch(batch)
    column = batch.vms.index(vm)
    return {
        (int(start) - T0) / S: {
            name: float(values[row, column]) for name, values in batch.columns.items() if np.isfinite(values[row, column])
        }
        for row, start in enumerate(batch.start_ns)
    }


def at(seconds: float, **told: object) -> MachineReading:
    return replace(BEGAN, time_ns=T0 + round(seconds * S), **told)


def test_a_counter_lies_on_the_line_between_two_readings() -> None:
    rows = follow(at(0.5, cpu_time_ns=0), at(2.5, cpu_time_ns=2 * S), at(3.5, cpu_time_ns=2 * S))
    assert {start: row["cpu_seconds"] for start, row in rows.items()} == {1.0: 1.0, 2.0: 0.5}
    assert {start: row["cpu_utilization"] for start, row in rows.items()} == {1.0: 0.5, 2.0: 0.25}


def test_rows_stand_where_those_of_the_shadow_do_and_say_whose_they_are() -> None:
    one = follower(interval_s=5.0)
    assert one.add([at(1)]) == ()
    (batch,) = one.add([at(12)])
    assert [int(start) % (5 * S) for start in batch.start_ns] == [0]
    assert (batch.origin, batch.source, batch.interval_s, batch.subnets, batch.roles) == (
        Origin.LIVE, "libvirt", 5.0, ("a",), ("nginx",),
    )  # fmt: skip
    assert set(batch.columns) <= set(COLUMNS) <= set(BY_NAME)
    assert {provenance(name, live=True).value for name in COLUMNS} == {"observed"}


def test_bytes_are_those_of_the_ip_layer() -> None:
    rows = follow(at(0), at(1, rx_bytes=1500 + 10 * LINK_HEADER_BYTES, rx_packets=10))
    assert rows[0.0]["rx_bytes"] == 1500
    rows = follow(at(0, rx_packets=None), at(1, rx_bytes=1640, rx_packets=None))
    assert rows[0.0]["rx_bytes"] == 1640, "nobody knows how many headers are in it"


def test_what_a_provider_does_not_tell_is_not_known() -> None:
    rows = follow(at(0, cpu_time_ns=None), at(1, cpu_time_ns=None), at(2, cpu_time_ns=S), at(3, cpu_time_ns=2 * S))
    assert [row.get("cpu_seconds") for row in rows.values()] == [None, None, 1.0]
    assert all(row["rx_bytes"] == 0 for row in rows.values()), "nothing came, which is known"
    assert not any({"memory_bytes", "tx_bytes", "dropped_ratio", "storage_ops"} & row.keys() for row in rows.values())


def test_gauges_are_the_last_that_was_read_in_an_interval() -> None:
    rows = follow(at(0.1, memory_bytes=1), at(1.2, memory_bytes=2), at(1.8, memory_bytes=3), at(3.1, memory_bytes=4))
    assert {start: row["memory_bytes"] for start, row in rows.items()} == {1.0: 3.0, 2.0: 3.0}


def test_drops_are_a_share_of_what_was_offered() -> None:
    still = {"rx_packets": 0, "tx_packets": 0, "rx_dropped": 0, "tx_dropped": 0}
    rows = follow(at(0, **still), at(1, **still), at(2, rx_packets=60, tx_packets=30, rx_dropped=10, tx_dropped=0))
    assert [row["dropped_ratio"] for row in rows.values()] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("what", "second"),
    [
        ("a new run", at(5, run="2", cpu_time_ns=1)),
        ("a long time without a word", at(100, cpu_time_ns=S)),
        ("a clock that was set back", at(-3600, cpu_time_ns=S)),
        ("a clock that was set ahead for good", at(10**7, cpu_time_ns=S)),
    ],
)  # fmt: skip
def test_what_breaks_the_thread_begins_anew(what: str, second: MachineReading) -> None:
    one = follower()
    one.add([at(0)])
    assert one.add([second]) == (), what
    assert one.tally.anew == 1
    third = replace(second, time_ns=second.time_ns + S, cpu_time_ns=(second.cpu_time_ns or 0) + S)
    (batch,) = one.add([third])
    assert batch.columns["cpu_seconds"].tolist() == [[1.0]], "nothing of before is in it"


def test_a_counter_that_goes_backwards_is_unknown_there_and_no_other_is() -> None:
    rows = follow(
        at(0, cpu_time_ns=9 * S, rx_bytes=0), at(1.2, cpu_time_ns=10 * S, rx_bytes=0), at(1.5, cpu_time_ns=0, rx_bytes=10),
        at(3, cpu_time_ns=S, rx_bytes=10), at(4, cpu_time_ns=2 * S, rx_bytes=10),
    )  # fmt: skip
    assert [row.get("cpu_seconds") for row in rows.values()] == [pytest.approx(5 / 6), None, pytest.approx(2 / 3), 1.0]
    assert sum(row["rx_bytes"] for row in rows.values()) == 10


def test_a_machine_that_is_missing_leaves_a_gap() -> None:
    one, rows = follower(), {}
    db = replace(BEGAN, vm="db")
    for second, there in ((0, True), (1, True), (2, False), (3, False), (4, True), (5, True)):
        moment = [replace(db, time_ns=T0 + second * S), *([at(second, cpu_time_ns=second * S)] if there else [])]
        for batch in one.add(moment):
            rows |= rows_of(batch) if "web" in batch.vms else {}
    assert list(rows) == [0.0, 4.0]
    assert one.tally.rows == 2 + 5


def test_machines_that_close_the_same_intervals_are_written_together() -> None:
    one = follower()
    db = replace(BEGAN, vm="db")
    one.add([at(0), db])
    (batch,) = one.add([at(2), replace(db, time_ns=T0 + 2 * S)])
    assert (batch.vms, len(batch)) == (("web", "db"), 2)
    assert len(one.add([at(4), replace(db, time_ns=T0 + 3 * S)])) == 2


def test_strangers_late_and_impossible_readings_are_counted_and_dropped() -> None:
    one = follower()
    one.add([at(0), replace(BEGAN, vm="nobody"), replace(BEGAN, vm="db", time_ns=-1)])
    one.add([at(0)])
    one.add([at(1, cpu_time_ns=-5, rx_bytes=2**70)])
    assert (one.tally.strangers, one.tally.late, one.tally.odd) == (1, 1, 3)
    one = follower()
    for number in range(10_000):
        one.add([replace(BEGAN, vm=f"vm-{number}")])
    assert len(one._machines) == 0


moments = st.lists(st.integers(1, 59_000), min_size=2, max_size=30)
counts = st.lists(st.integers(0, 10**12), min_size=30, max_size=30)


@settings(max_examples=200, deadline=None)
@given(distances_ms=moments, steps=counts, first_ms=st.integers(0, 10_000), interval_s=st.sampled_from([0.1, 1.0, 5.0, 60.0]))
def test_intervals_add_up_to_what_was_counted_whenever_it_was_read(
    distances_ms: list[int], steps: list[int], first_ms: int, interval_s: float
) -> None:
    """The oracle: the counter at the first and last edge, by the line between the readings around each."""
    one, interval_ns = follower(interval_s), round(interval_s * S)
    read = [(T0 + first_ms * 10**6, 0)]
    for distance_ms, step in zip(distances_ms, steps, strict=False):
        read.append((read[-1][0] + distance_ms * 10**6, read[-1][1] + step))
    batches = [
        batch
        for time_ns, count in read
        for batch in one.add([MachineReading("web", time_ns, "1", cpu_time_ns=count, rx_bytes=count)])
    ]
    edges = range(-(-read[0][0] // interval_ns) * interval_ns, read[-1][0] + 1, interval_ns)
    starts = [int(start) for batch in batches for start in batch.start_ns]
    assert starts == list(edges)[:-1]
    if not starts:
        return

    def counted(edge_ns: int) -> int:
        for (a_ns, a), (b_ns, b) in pairwise(read):
            if a_ns <= edge_ns <= b_ns:
                return a + (b - a) * (edge_ns - a_ns) // (b_ns - a_ns)
        raise AssertionError(edge_ns)

    want = counted(edges[-1]) - counted(edges[0])
    assert sum(int(batch.columns["rx_bytes"].sum()) for batch in batches) == want
    assert min(float(batch.columns["rx_bytes"].min()) for batch in batches) >= 0
    seconds = sum(float(batch.columns["cpu_seconds"].sum()) for batch in batches)
    assert seconds == pytest.approx(want / S, rel=1e-9, abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-200_000, 200_000), st.sampled_from("12"), st.one_of(st.none(), st.integers(-10, 2**64)),
            st.one_of(st.none(), st.floats(-1, 8)), st.booleans(),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_whatever_a_provider_tells_no_interval_is_negative_and_what_is_held_and_closed_is_bounded(
    told: list[tuple[int, str, int | None, float | None, bool]],
) -> None:
    one = follower(vms=("web",))
    for at_ms, run, count, cores, there in told:
        reading = MachineReading(
            "web", T0 + at_ms * 10**6, run, count, cores, count, None, count, count, count, count, 0, count
        )  # fmt: skip
        batches = one.add([reading] if there else [])
        assert sum(map(len, batches)) <= 61, "what one reading closes is bounded"
        for batch in batches:
            check_batch(batch)
            for values in batch.columns.values():
                assert (values[np.isfinite(values)] >= 0).all()
        assert len(one._machines) <= 1
