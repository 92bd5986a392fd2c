"""Totals made of counts, and the bytes in which they wait: the counts can always be had back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.conftest import at_ns, make_batch

from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.store.accumulate import COUNTED, Accumulator
from adumbra.store.prepared import Gone, Prepared, dump, load

NAN = np.nan


def counted(batch: MetricBatch, values: list[list[float]]) -> MetricBatch:
    return replace(batch, columns={"rx_bytes": np.array(values)})


def test_totals_go_on_and_tell_where_they_begin() -> None:
    totals = Accumulator()
    first = totals.add(counted(make_batch([0, 1], ("a",)), [[5.0], [2.0]]))
    second = totals.add(counted(make_batch([2, 4], ("a",)), [[1.0], [3.0]]))
    assert first.batch.columns["rx_bytes"].tolist() == [[5], [7]]
    assert first.bases["rx_bytes"].tolist()[0] == [0.0]
    assert np.isnan(first.bases["rx_bytes"][1])
    assert second.batch.columns["rx_bytes"].tolist() == [[8], [3]]
    np.testing.assert_array_equal(second.bases["rx_bytes"], [[NAN], [0.0]])  # after a gap


@pytest.mark.parametrize("change", [{"source": "pcap:another.pcap"}, {"start_ns": np.array([at_ns(1)])}])
def test_another_source_or_earlier_time_begins_anew(change: dict[str, object]) -> None:
    totals = Accumulator()
    totals.add(counted(make_batch([0, 1], ("a",)), [[5.0], [2.0]]))
    again = totals.add(replace(counted(make_batch([2], ("a",)), [[4.0]]), **change))  # type: ignore[arg-type]
    assert (again.batch.columns["rx_bytes"].tolist(), again.bases["rx_bytes"].tolist()) == ([[4]], [[0]])


def test_vms_that_go_are_told_and_those_that_stay_go_on() -> None:
    totals = Accumulator()
    totals.add(make_batch([0], ("web-1", "db"), value=2))
    later = totals.add(make_batch([1], ("new", "web-1"), value=2))
    assert later.gone == (Gone("db", "data", "db", at_ns(1)),)
    assert later.batch.columns["requests"].tolist() == [[2, 5]]
    assert later.bases["requests"][0, 0] == 0.0
    assert np.isnan(later.bases["requests"][0, 1])
    (ended,) = totals.forget("shop")
    assert ({gone.vm for gone in ended.gone}, len(ended.batch), ended.batch.vms) == ({"new", "web-1"}, 0, ())
    assert load(dump(ended)).gone == ended.gone
    assert totals.forget("shop") == ()


def test_a_vm_of_another_role_begins_anew_and_ends_as_what_it_was() -> None:
    totals = Accumulator()
    totals.add(make_batch([0], ("web-1",), value=2))
    later = totals.add(replace(make_batch([1], ("web-1",), value=2), roles=("proxy",)))
    assert later.gone == (Gone("web-1", "data", "web", at_ns(1)),)
    assert (later.batch.columns["requests"].tolist(), later.bases["requests"].tolist()) == ([[2]], [[0]])


cells = st.lists(st.one_of(st.integers(0, 2**40).map(float), st.just(NAN)), min_size=6, max_size=6)


@given(rows=st.lists(st.tuples(st.integers(1, 3), cells), max_size=12), cuts=st.sets(st.integers(1, 11)))
def test_differences_are_the_counts_whatever_the_gaps_and_batches(rows: list[tuple[int, list[float]]], cuts: set[int]) -> None:
    if not rows:
        return
    starts = np.cumsum([step for step, _ in rows])
    counts = np.array([values for _, values in rows])
    whole = counted(make_batch([float(s) for s in starts], tuple("abcdef")), counts.tolist())
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    totals, held = Accumulator(), np.full(6, NAN)
    for begin, end in pairwise(edges):
        part = slice(begin, end)
        columns = {"rx_bytes": whole.columns["rx_bytes"][part]}
        one = replace(whole, start_ns=whole.start_ns[part], columns=columns, one_sided=whole.one_sided[part])
        ready = load(dump(totals.add(one)))
        base = ready.bases.get("rx_bytes", np.full((end - begin, 6), NAN))
        for row in range(end - begin):
            held = np.where(np.isnan(base[row]), held, base[row])
            now = np.asarray(ready.batch.columns["rx_bytes"][row])
            np.testing.assert_array_equal(now - held, counts[begin + row])
            held = np.where(np.isnan(now), held, now)


def test_bytes_and_back() -> None:
    batch = make_batch([0, 1, 5], ("web-1", "db"), interval_s=0.5)
    prepared = replace(Accumulator().add(batch), gone=(Gone("x", "s", "r", 7),))
    back = load(dump(prepared))
    assert (back.batch.network, back.batch.vms, back.batch.interval_s, back.gone) == ("shop", batch.vms, 0.5, prepared.gone)
    assert (back.batch.subnets, back.batch.roles, back.batch.source) == (batch.subnets, batch.roles, batch.source)
    assert back.batch.start_ns.tolist() == batch.start_ns.tolist()
    assert set(back.bases) == set(COUNTED)
    for name, values in prepared.batch.columns.items():
        np.testing.assert_array_equal(back.batch.columns[name], values)
    assert load(dump(Prepared(batch))).batch.columns["rx_bytes"].dtype == np.int64
    assert back.batch.start_ns[0] % NANOSECONDS == 0


@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 255))
def test_other_bytes_are_refused(noise: bytes, place: int, value: int) -> None:
    good = dump(Accumulator().add(make_batch([0, 1])))
    bad = bytearray(good)
    bad[place % len(bad)] = value
    for raw in (noise, good[: place % len(good)], bytes(bad)):
        if raw == good:
            continue
        try:
            load(raw)
        except ValueError:
            continue
        assert raw == bytes(bad)  # a flipped byte may still be a batch: the spool's checksum is what tells
