"""Line protocol: exact text for a table of batches, and what an independent reader makes of whatever there may be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.conftest import at_ns, make_batch
from tests.store.line_protocol import Point, read_lines

from adumbra.schema.metrics import BY_NAME, METRICS, NAMES, provenance
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin
from adumbra.store import lines

NAN = math.nan
T0 = at_ns(0)


def small(**changes: object) -> MetricBatch:
    columns = {
        "rx_bytes": np.array([[7, 0]]), "requests": np.array([[3, 4]]), "rtt_ms_p50": np.array([[0.25, NAN]]),
        "cpu_utilization": np.array([[0.1, NAN]]),
    }  # fmt: skip
    plain = MetricBatch(
        "shop", 1.0, ("web-1", "db"), np.array([T0]), columns, np.array([[False, True]]), "pcap:shop.pcap",
        subnets=("front", ""), roles=("web", "postgresql"),
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_batch_as_text() -> None:
    web = "adumbra_vm,interval=1s,network=shop,origin=shadow,provenance=%s,role=web,subnet=front,vm=web-1 %s"
    db = "adumbra_vm,interval=1s,network=shop,origin=shadow,provenance=%s,role=postgresql,vm=db %s"
    assert b"".join(lines.blocks(small())).decode().splitlines() == [
        web % ("observed", f'rx_bytes=7i,rtt_ms_p50=0.25,one_sided=0,source="pcap:shop.pcap" {T0}'),
        web % ("inferred", f"requests=3i {T0}"),
        web % ("simulated", f"cpu_utilization=0.1 {T0}"),
        db % ("observed", f'rx_bytes=0i,one_sided=1,source="pcap:shop.pcap" {T0}'),
        db % ("inferred", f"requests=4i {T0}"),
    ]


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"columns": {}}, {"observed": ["one_sided", "source"]}),
        ({"one_sided": np.array([[True, True]])}, {"simulated": ["cpu_utilization", "rtt_ms_p50"]}),
        ({"origin": Origin.LIVE}, {"observed": ["cpu_utilization", "one_sided", "rtt_ms_p50", "rx_bytes", "source"]}),
        ({"origin": Origin.LIVE}, {"inferred": ["requests"]}),
        ({"columns": {"rx_packets": np.array([[2.0, NAN]])}}, {"observed": ["one_sided", "rx_packets", "source"]}),
        ({"columns": {"memory_bytes": np.array([[math.inf, 1.0]])}}, {"observed": ["one_sided", "source"]}),
    ],
)
def test_values_stand_on_the_line_of_their_provenance(changes: dict[str, object], want: dict[str, list[str]]) -> None:
    points = [p for p in read_lines(b"".join(lines.blocks(small(**changes)))) if ("vm", "web-1") in p.tags]
    told = {dict(point.tags)["provenance"]: sorted(point.fields) for point in points}
    assert {name: told[name] for name in want} == want


def test_only_cells_that_are_asked_for_are_told_and_not_as_rows() -> None:
    batch = make_batch([1, 2, 3])
    cells = np.array([[False, True], [False, False], [True, False]])
    points = read_lines(b"".join(lines.blocks(batch, cells)))
    assert {(dict(p.tags)["vm"], p.time_ns) for p in points} == {("db", at_ns(1)), ("web-1", at_ns(3))}
    assert not any({"one_sided", "source"} & set(p.fields) for p in points)
    assert {name for p in points for name in p.fields} == set(NAMES)


def test_blocks_are_bounded_and_keep_a_vms_intervals_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_BLOCK_VALUES", 1000)
    batch = make_batch([float(second) for second in range(10)], tuple(f"v{number}" for number in range(8)))
    blocks = list(lines.blocks(batch))
    assert len(blocks) > 8
    assert max(map(len, blocks)) < 50_000
    points = [point for block in blocks for point in read_lines(block)]
    assert len(points) == 3 * 10 * 8
    marked = [dict(point.tags)["vm"] for point in points if "one_sided" in point.fields]
    assert marked == [f"v{number}" for number in range(8) for _ in range(10)]


_HOSTILE = st.text(st.one_of(st.sampled_from(list("a,= \\\"'\n\r\t%é世;-")), st.characters()), min_size=1, max_size=8)
_NUMBERS = st.floats() | st.integers(-(2**62), 2**62).map(float)


@st.composite
def _batches(draw: st.DrawFn) -> MetricBatch:
    names = st.lists(_HOSTILE, min_size=1, max_size=3, unique=True)
    vms, network, source = tuple(draw(names)), draw(_HOSTILE), draw(_HOSTILE)
    rows = draw(st.integers(1, 3))
    shape = (rows, len(vms))
    chosen = draw(st.lists(st.sampled_from(NAMES), max_size=6, unique=True))
    cells = st.lists(_NUMBERS, min_size=rows * len(vms), max_size=rows * len(vms))
    columns = {name: np.array(draw(cells)).reshape(shape) for name in chosen}
    starts = T0 + np.arange(rows) * 250_000_000
    sided = np.array(draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))).reshape(shape)
    labels = draw(st.sampled_from(["", "data", network])), draw(_HOSTILE)
    origin = draw(st.sampled_from(Origin))
    return MetricBatch(
        network, 0.25, vms, starts, columns, sided, source, origin, (labels[0],) * len(vms), (labels[1],) * len(vms)
    )


@settings(max_examples=150, deadline=None)
@given(_batches())
def test_whatever_there_is_is_read_as_it_was(batch: MetricBatch) -> None:
    want: dict[tuple[str, str, int], dict[str, float | int]] = {}
    for (row, place), sided in np.ndenumerate(batch.one_sided):
        vm, time_ns = batch.vms[place], int(batch.start_ns[row])
        want[vm, "observed", time_ns] = {"one_sided": float(sided)}
        for name, values in batch.columns.items():
            value = float(values[row, place])
            if math.isfinite(value):
                told = provenance(name, one_sided=bool(sided), live=batch.origin is Origin.LIVE).value
                whole = int(np.clip(round(value), -(2**63), 2**63 - 1024)) if BY_NAME[name].whole else value
                want.setdefault((vm, told, time_ns), {})[name] = whole
    points = read_lines(b"".join(lines.blocks(batch)))
    assert len(points) == len(want)
    for point in points:
        tags = {name: lines.untag(value) for name, value in point.tags}
        rest = {"interval": "0.25s", "network": batch.network, "origin": batch.origin.value, "role": batch.roles[0]}
        assert {name: tags[name] for name in rest} == rest
        assert tags.get("subnet", "") == batch.subnets[0]
        fields = want.pop((tags["vm"], tags["provenance"], point.time_ns))
        assert {name: value for name, value in point.fields.items() if name != "source"} == fields
        assert all(isinstance(point.fields[name], int) == BY_NAME[name].whole for name in fields if name in BY_NAME)
    assert not want


@given(st.text())
def test_tags_can_be_read_back(text: str) -> None:
    value = lines.tag(text)
    assert lines.untag(value) == text
    assert not set(value) & {"\n", "\r", "\\", "\0"}
    assert value.encode().decode() == value


@given(st.integers(1, 10**18))
def test_lengths_of_intervals_can_be_read_back(length_ns: int) -> None:
    assert lines.interval_ns(lines.interval_tag(length_ns)) == length_ns


@pytest.mark.parametrize(
    ("length_ns", "want"), [(NANOSECONDS, "1s"), (NANOSECONDS // 4, "0.25s"), (300 * NANOSECONDS, "300s"), (1, "0.000000001s")]
)
def test_lengths_of_intervals_are_seconds(length_ns: int, want: str) -> None:
    assert lines.interval_tag(length_ns) == want


@pytest.mark.parametrize("text", ["", "s", "1", "1m", "-1s", "1e3s", "1.s", "1s\n", "99999999999s", "\u0661s"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no interval"):
        lines.interval_ns(text)


def test_one_line_of_plain_values() -> None:
    tags = {"vm": "a b", "role": "", "network": "x=1"}
    written = lines.line(tags, {"rx_bytes": 7.0, "cpu_seconds": 2, "source": 'a"b\\c'}, T0)
    (point,) = read_lines(written)
    want = {"rx_bytes": 7, "cpu_seconds": 2.0, "source": 'a"b\\c'}
    assert point == Point("adumbra_vm", (("network", "x=1"), ("vm", "a b")), want, T0)
    assert isinstance(point.fields["cpu_seconds"], float)


def test_every_column_has_a_name_that_needs_no_quoting() -> None:
    assert all(metric.name.replace("_", "").isalnum() and metric.name.isascii() for metric in METRICS)
