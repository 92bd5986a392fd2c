"""Whatever an exporter sends: no crash, nothing unaccounted for, nothing that grows, and the same rows however it is cut."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.captures import ethernet, ip, tcp
from tests.decode.exports import (
    EXPORT_NS,
    FLOW,
    SECOND,
    Row,
    balanced,
    datagrams,
    flow,
    flow_sample,
    ipfix,
    options_ipfix,
    options_v9,
    raw_header,
    record,
    rows,
    set_of,
    sflow,
    templates,
    v5,
    v5_record,
    v9,
    xdr,
)

from adumbra.decode.exporters import Limits
from adumbra.decode.flow_exports import FlowDecoder
from adumbra.decode.templates import MAX_FIELDS, VARIABLE

STRINGS = ((8, 4), (82, VARIABLE), (12, 4), (1, 4), (2, 4, 29305), (371, VARIABLE), (4, 1))
NAMED = record(STRINGS, "10.0.0.1", b"eth0", "10.0.0.2", 77, 3, b"", 17)
SAMPLES = (flow_sample(raw_header(ethernet(ip("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, 2)))), expanded=True), xdr(2, b"\0" * 12))
VALID = (
    v5(v5_record(), v5_record(), sampling=10),
    v9(templates({256: FLOW}), set_of(256, flow() * 3)),
    v9(options_v9(400, ((1, 4),), ((48, 1), (50, 4))), set_of(400, struct.pack(">IBI", 1, 1, 10))),
    ipfix(templates({256: STRINGS}, 2), set_of(256, NAMED + NAMED)),
    ipfix(options_ipfix(300, ((302, 8),), ((305, 4), (306, 4))), set_of(300, struct.pack(">QII", 1, 1, 9))),
    sflow(*SAMPLES, flow_sample(xdr(3, b"\1" * 32))),
)


def taken(payloads: Sequence[bytes]) -> None:
    decoder = FlowDecoder()
    got = rows(decoder.decode(datagrams(payloads)))
    assert balanced(decoder.accounts(), len(got))


VERSIONS = st.sampled_from([b"", b"\0\5", b"\0\x09", b"\0\x0a", b"\0\0\0\5"])


@given(st.lists(st.builds(bytes.__add__, VERSIONS, st.binary(max_size=300))))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_counted(payloads: list[bytes]) -> None:
    taken(payloads)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_datagrams_are_counted(data: st.DataObject) -> None:
    payloads = []
    for payload in data.draw(st.lists(st.sampled_from(VALID), min_size=1, max_size=6)):
        mutated = bytearray(payload)
        for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(mutated) - 1), st.integers(0, 255)), max_size=4)):
            mutated[at] = value
        cut = data.draw(st.sampled_from([0, 0, 0, 1, 7, 20]))
        payloads.append(bytes(mutated[: len(mutated) - cut]))
    taken(payloads)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0, 1, 2, 4, 8, 16, 255, VARIABLE])), min_size=1, max_size=12),
    st.binary(max_size=200),
    st.booleans(),
)
@example([(0, VARIABLE)], b"\0", False)
@settings(max_examples=300, deadline=None)
def test_any_template_reads_any_data(fields: list[tuple[int, int]], body: bytes, is_ipfix: bool) -> None:
    if is_ipfix:
        taken([ipfix(templates({256: fields}, 2), set_of(256, body))])
        taken([ipfix(options_ipfix(256, fields[:1], fields[1:]), set_of(256, body))])
    else:
        taken([v9(templates({256: fields}), set_of(256, body))])
        taken([v9(options_v9(256, fields[:1], fields[1:]), set_of(256, body))])


MIXED = [
    ("template", 256, v9(templates({256: FLOW}))),
    ("template", 257, v9(templates({257: (*FLOW, (89, 1))}))),
    *[("data", 256, v9(set_of(256, flow(bytes=i, flags=18) + flow(bytes=i + 1)))) for i in range(4)],
    *[("data", 257, v9(set_of(257, flow(bytes=100 + i) + b"\0", pad=1), set_of(256, flow(bytes=200 + i)))) for i in range(3)],
]


@given(st.permutations(MIXED), st.lists(st.integers(1, 5), min_size=9, max_size=9))
@settings(max_examples=100, deadline=None)
def test_templates_that_come_late_change_no_record(order: list[tuple[str, int, bytes]], sizes: list[int]) -> None:
    want = Counter(rows(FlowDecoder().decode(datagrams([payload for _, _, payload in MIXED]))))
    decoder = FlowDecoder()
    payloads = [payload for _, _, payload in order]
    got: list[Row] = []
    for size in sizes:
        got += rows(decoder.decode(datagrams(payloads[:size])))
        payloads = payloads[size:]
    assert Counter(got) == want
    assert sum(want.values()) == 14
    assert decoder.accounts()["sets_waiting"] == 0


@given(st.lists(st.sampled_from(VALID), max_size=12), st.lists(st.integers(0, 12), max_size=5))
@settings(max_examples=100, deadline=None)
def test_cutting_into_batches_changes_nothing(payloads: list[bytes], cuts: list[int]) -> None:
    together, pieces = FlowDecoder(), FlowDecoder()
    want = rows(together.decode(datagrams(payloads)))
    got, edges = [], sorted({0, len(payloads), *(min(cut, len(payloads)) for cut in cuts)})
    for begin, end in pairwise(edges):
        got += rows(pieces.decode(datagrams(payloads[begin:end])))
    assert got == want
    assert pieces.accounts() == together.accounts()


# ---- bounds --------------------------------------------------------------------------------------------------------------

DATA = v9(set_of(256, flow()))


def test_waiting_sets_are_bounded_for_each_exporter() -> None:
    decoder = FlowDecoder(Limits(waiting_sets_per_exporter=3))
    decoder.decode(datagrams([DATA] * 10, exporter="greedy"))
    decoder.decode(datagrams([DATA] * 2, exporter="modest"))
    assert (decoder.accounts()["sets_waiting"], decoder.accounts()["sets_dropped"]) == (5, 7)
    got = [len(decoder.decode(datagrams([v9(templates({256: FLOW}))], exporter=name))) for name in ("greedy", "modest")]
    assert got == [3, 2]


def test_waiting_bytes_are_bounded_for_each_and_in_all() -> None:
    large = v9(set_of(256, flow() * 100))
    decoder = FlowDecoder(Limits(waiting_bytes_per_exporter=10_000, waiting_bytes=15_000))
    for name in ("a", "b", "c"):
        decoder.decode(datagrams([large] * 5, exporter=name))
    assert decoder.accounts()["sets_waiting"] == 4
    assert decoder.accounts()["sets_dropped"] == 11
    got = [len(decoder.decode(datagrams([v9(templates({256: FLOW}))], exporter=name))) for name in ("a", "b", "c")]
    assert sorted(got) == [100, 100, 200]  # none starved another


def test_what_waits_too_long_is_dropped() -> None:
    decoder = FlowDecoder(Limits(waiting_ns=60 * SECOND))
    decoder.decode(datagrams([DATA]))
    decoder.decode(datagrams([DATA], EXPORT_NS + 50 * SECOND))
    decoder.decode(datagrams([v5()], EXPORT_NS + 70 * SECOND, exporter="another"))
    assert (decoder.accounts()["sets_waiting"], decoder.accounts()["sets_dropped"]) == (1, 1)
    assert len(decoder.decode(datagrams([v9(templates({256: FLOW}))], EXPORT_NS + 80 * SECOND))) == 1


def test_templates_are_bounded_and_the_least_used_goes() -> None:
    decoder = FlowDecoder(Limits(templates_per_exporter=2))
    define = {number: v9(templates({number: FLOW})) for number in (256, 257, 258)}
    use = {number: v9(set_of(number, flow())) for number in define}
    got = rows(decoder.decode(datagrams([define[256], define[257], use[256], define[258], use[256], use[257], use[258]])))
    assert len(got) == 3
    assert decoder.accounts()["templates_forgotten"] == 1
    assert decoder.accounts()["sets_waiting"] == 1


def test_the_exporter_with_the_most_templates_pays_for_too_many() -> None:
    decoder = FlowDecoder(Limits(templates=10))
    decoder.decode(datagrams([v9(templates({256: FLOW}))], exporter="modest"))
    decoder.decode(datagrams([v9(templates(dict.fromkeys(range(256, 300), FLOW)))], exporter="greedy"))
    assert len(decoder.decode(datagrams([DATA], exporter="modest"))) == 1
    assert decoder.accounts()["templates_forgotten"] == 35


def test_exporters_and_domains_are_bounded() -> None:
    decoder = FlowDecoder(Limits(exporters=2, domains_per_exporter=2))
    for name in ("a", "b", "a", "c"):
        decoder.decode(datagrams([v9(templates({256: FLOW}))], exporter=name))
    assert [len(decoder.decode(datagrams([DATA], exporter=name))) for name in ("a", "c", "b")] == [1, 1, 0]
    decoder.decode(datagrams([v9(source=source) for source in range(5)], exporter="b"))
    assert (decoder.accounts()["exporters_forgotten"], decoder.accounts()["domains_forgotten"]) == (2, 4)


def test_samplers_are_bounded_and_the_newest_stay() -> None:
    named = (*FLOW, (48, 2))
    told = b"".join(struct.pack(">IHI", 1, number, 10 + number) for number in range(1, 2001))
    decoder = FlowDecoder(Limits(samplers_per_domain=8))
    head = [v9(templates({256: named}), options_v9(400, ((1, 4),), ((48, 2), (50, 4))), set_of(400, told, pad=1))]
    decoder.decode(datagrams(head))
    got = rows(decoder.decode(datagrams([v9(set_of(256, flow() + struct.pack(">H", n))) for n in (1, 1992, 1993, 2000)])))
    assert [row.rate for row in got] == [1, 1, 2003, 2010]


def hostile() -> list[list[bytes]]:
    """Datagrams that would cost memory or time: of one kind each."""
    many = [(n % 60 + 1, VARIABLE) for n in range(MAX_FIELDS)]
    ones = b"\0" * 65_000
    return [
        [v9(templates({256 + i % 60_000: [(8, 4), (12, 4), (1000 + i % 30_000, 4)]}), source=i) for i in range(3000)],
        [ipfix(templates({256 + i: [*many[1:], (300 + i, VARIABLE)]}, 2)) for i in range(300)],
        [v9(set_of(256 + i % 60_000, ones[:20_000]), source=i) for i in range(3000)],
        [v9(set_of(256, b"")) for _ in range(3000)],
        [v9(templates({256: [(61, 1)]}), set_of(256, ones)) for _ in range(20)],
        [ipfix(templates({256: [(61, VARIABLE)]}, 2), set_of(256, ones)) for _ in range(10)],
        [ipfix(options_ipfix(256, [(302, 1)], [(34, 1)]), set_of(256, bytes(range(1, 255)) * 250)) for _ in range(20)],
        [
            ipfix(options_ipfix(256, [(302, 2)], [(34, 1)]), set_of(256, struct.pack(">HB", i, 1)), domain=i)
            for i in range(3000)
        ],
        [ipfix(templates({256: [(8, 4), (12, 4), (1, 1)]}, 2), set_of(256, b"\1" * 65_000)) for _ in range(10)],
        [ipfix() * 4000 for _ in range(3)],
        [v9(b"\0\1\0\4" * 16_000) for _ in range(3)],
        [sflow(flow_sample(source=i), sub_agent=i) for i in range(3000)],
        [sflow(*[xdr(1, b"")] * 8000) for _ in range(5)],
        [sflow(xdr(1, struct.pack(">8I", 1, 1, 1, 1, 0, 1, 2, 2**32 - 1) + b"\0" * 60_000)) for _ in range(10)],
        [v5(*[v5_record()] * 1300, count=1300) for _ in range(10)],
    ]


@pytest.mark.parametrize("kind", range(len(hostile())))
def test_nothing_hostile_costs_memory_or_time(kind: int) -> None:
    payloads = hostile()[kind]
    decoder = FlowDecoder()
    rows_given = 0
    began, size = time.process_time(), sum(map(len, payloads))
    for i, payload in enumerate(payloads):
        rows_given += len(decoder.decode(datagrams([payload], exporter=str(i % 600))))
    spent_s = time.process_time() - began
    assert balanced(decoder.accounts(), rows_given)
    # Ten times what the slowest machine seen takes: a busy one passes, what grows faster than its input does not.
    assert spent_s < 0.02 * len(payloads) + 1e-5 * size


def test_what_is_kept_of_a_flood_is_bounded() -> None:
    decoder = FlowDecoder(Limits(exporters=20, waiting_bytes=1 << 20, templates=500))
    flood = [payload for payloads in hostile()[:4] for payload in payloads[:600]]
    tracemalloc.start()
    try:
        for turn in range(2):
            for i, payload in enumerate(flood):
                decoder.decode(datagrams([payload], exporter=str((i + turn) % 100)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 30e6
    assert decoder.accounts()["exporters_forgotten"] > 1000
