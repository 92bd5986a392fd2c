"""The bytes of remote write: what a decoder of the tests' own finds in them is what the batch says, however it is cut."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import replace

import cramjam
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.conftest import at_ns, make_batch
from tests.store.fakes import written

from adumbra.schema.metrics import BY_NAME, NAMES, provenance
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin
from adumbra.store.accumulate import COUNTED, Accumulator
from adumbra.store.prepared import Gone, Prepared
from adumbra.store.remote_write import Tables, encode, halves, plan, tables_of
from adumbra.store.series import STALE_BITS, interval_label, interval_of, matcher, quoted

Found = dict[tuple[tuple[str, str], ...], list[tuple[int, bytes]]]


def labels(name: str, **told: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"__name__": name, **told}.items()))


def wanted(prepared: Prepared) -> Found:
    """The samples, one after the other, by the rules of docs/stores.md."""
    batch, found = prepared.batch, defaultdict[tuple[tuple[str, str], ...], list[tuple[int, bytes]]](list)
    beside = {"network": batch.network, "origin": batch.origin.value}
    nothing = ("",) * len(batch.vms)
    for row, start_ns in enumerate(batch.start_ns.tolist()):
        end_ms = (start_ns + round(batch.interval_s * NANOSECONDS)) // 1_000_000
        length = f"{round(batch.interval_s * 1000)}ms" if batch.interval_s % 1 else f"{round(batch.interval_s)}s"
        if batch.vms:
            told = labels("adumbra_network_interval_end_seconds", interval=length, **beside)
            found[told].append((end_ms, struct.pack("<d", end_ms / 1000)))
        for place, (vm, subnet, role) in enumerate(
            zip(batch.vms, batch.subnets or nothing, batch.roles or nothing, strict=True)
        ):
            own = beside | {n: v for n, v in (("vm", vm), ("subnet", subnet), ("role", role)) if v}
            sided = bool(batch.one_sided[row, place])
            found[labels("adumbra_vm_one_sided_ratio", **own)].append((end_ms, struct.pack("<d", sided)))
            for name, values in batch.columns.items():
                metric = BY_NAME[name]
                how = provenance(name, one_sided=sided, live=batch.origin is Origin.LIVE).value
                all_told = [
                    own | {"provenance": how} | ({"le": metric.le} if metric.le else {}) | {"__name__": metric.prometheus}
                ]
                if metric.le == "+Inf":
                    all_told.append(own | {"provenance": how, "__name__": metric.family + "_count"})
                base = prepared.bases.get(name, np.full(values.shape, np.nan))[row, place]
                for one in all_told:
                    series = found[tuple(sorted(one.items()))]
                    if not np.isnan(base):
                        series.append((start_ns // 1_000_000 + 1, struct.pack("<d", base * metric.scale)))
                    if not np.isnan(float(values[row, place])):
                        series.append((end_ms, struct.pack("<d", float(values[row, place]) * metric.scale)))
    return {told: samples for told, samples in found.items() if samples}


def decoded(tables: Tables, at_once: int) -> tuple[Found, int]:
    found: Found = defaultdict(list)
    told = 0
    for step in plan(tables, at_once):
        for request in step:
            encoded = encode(request)
            told += encoded.samples
            for one, samples in written(bytes(cramjam.snappy.decompress_raw(encoded.body))).items():
                found[one] += samples
    assert all(samples == sorted(samples, key=lambda s: s[0]) for samples in found.values())  # also from piece to piece
    return dict(found), told


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)


@st.composite
def prepared_batches(draw: st.DrawFn) -> Prepared:
    vms = tuple(draw(st.lists(texts.filter(bool), min_size=1, max_size=4, unique=True)))
    rows = draw(st.integers(1, 5))
    interval_ms = draw(st.sampled_from([100, 1000, 1500, 3_600_000]))
    begin = draw(st.integers(-(2**40), 2**43))
    steps = draw(st.lists(st.integers(1, 3), min_size=rows, max_size=rows))
    starts = (begin + np.cumsum(steps) * interval_ms) * 1_000_000
    values = st.one_of(st.floats(), st.integers(0, 2**53).map(float), st.just(np.nan)).filter(lambda v: not np.isinf(v))
    columns = {}
    for name in draw(st.sets(st.sampled_from(["rx_bytes", "rtt_ms_p50", "rtt_ms_p99", "rtt_le_inf", "rtt_le_1ms", "rtt_sum_ms",
                                              "cpu_utilization", "cpu_seconds"]))):  # fmt: skip
        cells = np.array(draw(st.lists(values, min_size=rows * len(vms), max_size=rows * len(vms)))).reshape(rows, len(vms))
        columns[name] = np.abs(cells) if name in COUNTED else cells
        if draw(st.booleans()) and not np.isnan(cells).any():
            columns[name] = np.abs(cells).clip(0, 2**52).astype(np.int64)
    sided = np.array(draw(st.lists(st.booleans(), min_size=rows * len(vms), max_size=rows * len(vms)))).reshape(rows, len(vms))
    some = draw(st.booleans())
    groups = tuple(draw(st.lists(texts, min_size=len(vms), max_size=len(vms)))) if some else ()
    origin = draw(st.sampled_from(Origin))
    network = draw(texts.filter(bool))
    batch = MetricBatch(network, interval_ms / 1000, vms, starts, columns, sided, "pcap:x", origin, groups, groups)
    return Accumulator().add(batch)


@settings(deadline=None)
@given(prepared_batches(), st.integers(1, 60))
def test_a_decoder_finds_what_the_batch_says(prepared: Prepared, at_once: int) -> None:
    found, told = decoded(tables_of(prepared), at_once)
    want = wanted(prepared)
    assert found == want
    assert told == sum(map(len, want.values()))


def test_every_column_of_the_catalogue_has_series_of_its_own() -> None:
    prepared = Accumulator().add(make_batch([0], ("db",)))
    found, _ = decoded(tables_of(prepared), 10_000)
    assert found == wanted(prepared)
    assert len(found) == len(NAMES) + 4 + 2  # four histograms' counts, and what stands beside them


def test_all_halves_together_are_the_request() -> None:
    prepared = Accumulator().add(make_batch([0, 1, 5], ("a", "b", "c")))
    steps = plan(tables_of(prepared), 100)
    request = tuple(piece for step in steps for request in step for piece in request)
    found: Found = defaultdict(list)
    waiting = [request]
    while waiting:
        part = waiting.pop()
        if parts := halves(part):
            waiting += reversed(parts)
            continue
        for told, samples in written(bytes(cramjam.snappy.decompress_raw(encode(part).body))).items():
            found[told] += samples
            assert len(samples) == 1
    assert dict(found) == wanted(prepared)


def test_vms_that_are_gone_are_told_to_have_ended() -> None:
    totals = Accumulator()
    totals.add(make_batch([0], ("web-1", "db")))
    prepared = totals.add(make_batch([1], ("web-1",)))
    ended, _ = decoded(replace(tables_of(prepared), vms=None, network=None), 10_000)
    names = {name for told in wanted(totals.add(make_batch([9], ("db",)))) for key, name in told if key == "__name__"}
    assert {dict(told)["__name__"] for told in ended} == names - {"adumbra_network_interval_end_seconds"}
    for told, samples in ended.items():
        assert (dict(told)["vm"], dict(told)["role"], dict(told)["subnet"]) == ("db", "db", "data")
        assert samples == [(at_ns(1) // 1_000_000 + 2, struct.pack("<Q", STALE_BITS))]


def test_ends_at_several_times_and_of_a_network_without_rows() -> None:
    gone = (Gone("a", "", "", at_ns(1)), Gone("b", "", "", at_ns(2)), Gone("c", "", "", at_ns(1)))
    batch = replace(make_batch([], ()), columns={"peers": np.zeros((0, 0))})
    found, told = decoded(tables_of(Prepared(batch, {}, gone)), 10)
    assert {(dict(one)["vm"], samples[0][0] - at_ns(0) // 1_000_000) for one, samples in found.items()} == {
        ("a", 1002), ("b", 2002), ("c", 1002),
    }  # fmt: skip
    assert told == 6


def test_no_request_is_of_much_time_and_all_vms_keep_step() -> None:
    batch = make_batch([3600.0 * hour for hour in range(3)] + [7201.0 + s for s in range(200)], ("a", "b", "c"))
    steps = plan(tables_of(Accumulator().add(replace(batch, columns={"peers": batch.columns["peers"]}))), 100)
    reached_ms = 0
    for step in steps:
        bodies = [bytes(cramjam.snappy.decompress_raw(encode(request).body)) for request in step]
        times = [ms for body in bodies for samples in written(body).values() for ms, _ in samples]
        assert max(times) - min(times) <= 1_800_000
        assert min(times) >= reached_ms - 100_000
        reached_ms = max(times)


@pytest.mark.parametrize(("ms", "label"), [(1000, "1s"), (250, "250ms"), (3_600_000, "3600s"), (3_599_999, "3599999ms")])
def test_lengths_of_intervals(ms: int, label: str) -> None:
    assert interval_label(ms) == label
    assert interval_of(label) == ms * 1_000_000
    assert (interval_of("1 fortnight"), interval_of("0s")) == (None, None)


def test_matchers() -> None:
    assert matcher("vm", ["web-1"]) == 'vm="web-1"'
    assert matcher("le", ["0.001", "+Inf"]) == 'le=~"0\\\\.001|\\\\+Inf"'
    assert quoted('a"b\\c\n\udcff') == '"a\\"b\\\\c\\U0000000a\\\\udcff"'
