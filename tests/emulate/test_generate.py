"""Generated traffic: conversations that any TCP would have, an account that the meter confirms, the model they came of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.emulate import conversation_reader as reader
from tests.emulate import traffic_lab
from tests.thorough import tries

from adumbra.emulate.traffic import conversation_kernels, conversation_layout, frame_kernels, segment_kernels
from adumbra.emulate.traffic import model as traffic
from adumbra.emulate.traffic.conversation_layout import Book
from adumbra.emulate.traffic.generate import FILE_HEADER, LEAD_S, Wanted
from adumbra.schema.errors import InputError

START_NS = traffic_lab.START_NS
ROOM = 1 << 17


# ---- one conversation, of any sizes --------------------------------------------------------------------------------------


def hosts_of(version: int) -> Any:
    hosts = np.zeros(2, frame_kernels.HOST)
    hosts["version"], hosts["vm"], hosts["place"] = version, [-1, 0], [-1, 0]
    hosts["lo"], hosts["mac"], hosts["router"] = [0x0A000001, 0x0A000002], [0x020000000001, 0x020000000002], 0x020100000001
    hosts["hi"] = 0 if version == 4 else 0x20010DB8 << 32
    return hosts


def book_of(version: int, mss: int, chance: int) -> Book:
    """What a client and a server need."""
    state = np.zeros(conversation_layout.STATE_WORDS, np.int64)
    state[conversation_layout.CHANCE], state[conversation_layout.FREE_LIST] = chance, -1
    asked = np.zeros(conversation_layout.ASKED_WORDS, np.int64)
    asked[conversation_layout.MSS_4] = asked[conversation_layout.MSS_6] = mss
    asked[conversation_layout.EPOCH_NS] = START_NS
    connections = np.zeros(2, conversation_layout.CONNECTION)
    conversation_kernels.free_connections(connections, state, 0)
    servers = np.zeros(1, conversation_layout.SERVER)
    servers["ports"] = 1
    none = np.zeros(1, np.int64)
    return Book(
        state, asked, np.zeros(ROOM, conversation_layout.PACKET), np.zeros(4, conversation_layout.EVENT), connections, servers,
        np.zeros(1, conversation_layout.CALL), none, np.ones(1), np.array([8080]), none - 1, none, np.zeros(2, np.int64),
        np.array([version, version]), np.array([-1, -1]), np.array([-1, 0]), np.zeros(8),
    )  # fmt: skip


def capture_of(book: Book, version: int) -> bytes:
    """The packets so far, as a capture."""
    hosts = hosts_of(version)
    packets = book.packets[: int(book.state[conversation_layout.PACKETS])]
    order = np.argsort(packets["time_ns"], kind="stable")
    data = np.full(int(frame_kernels.total_bytes(packets, hosts)), 0xAA, np.uint8)
    size = frame_kernels.write_frames(packets, order, hosts, np.zeros(2, np.int64), data)
    assert size == len(data)
    return FILE_HEADER + data.tobytes()


SHARES = st.floats(0.0, 1.0)


@settings(deadline=None, max_examples=tries(50, thorough=120))
@given(
    version=st.sampled_from([4, 6]),
    mss=st.one_of(st.integers(1, 64), st.integers(500, 1460), st.just(8948)),
    rtt_ns=st.integers(2_000, 400_000_000),
    segment_ns=st.integers(100, 200_000),
    exchanges=st.lists(
        st.tuples(
            st.one_of(st.integers(1, 300), st.integers(1, 20_000)),
            st.one_of(st.just(0), st.integers(1, 300), st.integers(1, 60_000)),
            st.integers(0, 4), st.integers(0, 4),
        ),
        max_size=5,
    ),
    acks=st.tuples(SHARES, SHARES),
    ending=st.sampled_from(["close", "client resets"]),
    chance=st.integers(0, 2**62),
)  # fmt: skip
def test_any_conversation_is_one_that_tcp_would_have(
    version: int, mss: int, rtt_ns: int, segment_ns: int, exchanges: list[tuple[int, int, int, int]],
    acks: tuple[float, float], ending: str, chance: int,
) -> None:  # fmt: skip
    book = book_of(version, mss, chance)
    at = conversation_kernels.new_connection(book, START_NS, 0, 1, 0, rtt_ns)
    time_ns = segment_kernels.shake_hands(book, at, START_NS, True)
    told = []
    for request, response, more, further in exchanges:
        request, response = min(request, 2000 * mss), min(response, 3000 * mss)
        time_ns = segment_kernels.send(book, at, True, time_ns, request, more, acks[0], False, segment_ns, True)
        told.append(("client", request))
        time_ns = segment_kernels.send(book, at, False, time_ns, response, further, acks[1], False, segment_ns, True)
        told.append(("server", response))
    if ending == "close":
        segment_kernels.say_goodbye(book, at, time_ns + 1_000, True)
    else:
        segment_kernels.abort(book, at, time_ns + 1_000, True)
    ((conversation,),) = reader.reassemble(capture_of(book, version)).values()
    assert conversation.reset == ("" if ending == "close" else "client")
    want: list[tuple[str, int]] = []
    for who, size in told:
        if size and want and want[-1][0] == who:
            want[-1] = (who, want[-1][1] + size)
        elif size:
            want.append((who, size))
    assert conversation.turns == want
    requests = (book.packets["marks"][: int(book.state[conversation_layout.PACKETS])] & conversation_layout.REQUEST) > 0
    assert int(requests.sum()) == sum(1 for who, _ in want if who == "client")


def test_a_refused_connection_is_a_syn_and_a_reset() -> None:
    book = book_of(4, 1448, 7)
    segment_kernels.refuse(book, conversation_kernels.new_connection(book, START_NS, 0, 1, 0, 20_000_000), START_NS, True)
    ((conversation,),) = reader.reassemble(capture_of(book, 4)).values()
    assert (conversation.segments, conversation.reset, conversation.turns) == (2, "server", [])


@pytest.mark.parametrize(
    ("size", "extra", "mss", "want"),
    [
        (0, 3, 1448, 0),
        (1, 0, 1448, 1),
        (1, 3, 1448, 1),
        (1448, 0, 1448, 1),
        (1449, 0, 1448, 2),
        (1449, 2, 1448, 4),
        (5, 9, 1, 5),
    ],
)
def test_a_message_takes_so_many_segments(size: int, extra: int, mss: int, want: int) -> None:
    assert segment_kernels.segments_of(size, extra, mss) == want


# ---- whole captures ------------------------------------------------------------------------------------------------------

WANTED = Wanted(START_NS, 20.0, 3)
COUNTED = frame_kernels.COUNTS
CLEAN = ("retransmitted_packets", "out_of_order_packets", "duplicate_acks", "zero_windows", "connections_scanned")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


def lab_model(**figures: float) -> traffic.TrafficModel:
    return traffic_lab.model(traffic_lab.lab()[2], **figures)


@pytest.mark.parametrize("cut", [False, True])
def test_every_conversation_of_a_capture_is_one_that_tcp_would_have(folder: Path, cut: bool) -> None:
    path = folder / f"lab-{cut}.pcap"
    _, account = traffic_lab.generated(path, lab_model(), replace(WANTED, cut=cut))
    capture = path.read_bytes()
    found = reader.reassemble(capture, whole=not cut)
    assert account.packets == sum(1 for _ in reader.records(capture))
    assert account.bytes == len(capture) - len(FILE_HEADER)
    slack_ns = 0 if cut else LEAD_S * 1e9
    assert START_NS - slack_ns <= account.first_ns
    assert account.last_ns <= WANTED.end_ns + slack_ns + 5e9
    versions = {":" in str(client) for client, _ in found}
    assert versions == {True, False}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("failed", [0.0, 0.2])
def test_the_meter_reads_exactly_what_the_account_says(folder: Path, cut: bool, failed: float) -> None:
    path = folder / f"account-{cut}-{failed}.pcap"
    wanted = replace(WANTED, cut=cut)
    _, account = traffic_lab.generated(path, lab_model(failed_share=failed), wanted)
    series = traffic_lab.observed(path)
    assert traffic_lab.sums(series, COUNTED) == account.counts
    assert traffic_lab.sums(traffic_lab.within(series, wanted), COUNTED) == account.within
    assert not any(any(counts.values()) for counts in traffic_lab.sums(series, CLEAN).values())
    if failed:
        tried = account.within["web-1"]["connections_attempted"] - account.within["web-1"]["connections_initiated"]
        assert account.within["web-1"]["connections_failed"] == pytest.approx(failed * tried, rel=0.4)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path) -> None:
    paths = [folder / f"seed-{number}.pcap" for number in range(3)]
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        traffic_lab.generated(path, lab_model(), Wanted(START_NS, 5.0, seed))
    one, again, other = (path.read_bytes() for path in paths)
    assert one == again
    assert one != other


def test_twice_the_traffic_is_twice_the_connections(folder: Path) -> None:
    counts = []
    for factor in (1.0, 2.0):
        _, account = traffic_lab.generated(folder / "factor.pcap", lab_model(), replace(WANTED, factor=factor))
        counts.append(sum(each["requests"] for each in account.within.values()))
    assert counts[1] == pytest.approx(2 * counts[0], rel=0.1)


def test_a_call_lies_within_the_response_time_of_the_request_that_causes_it(folder: Path) -> None:
    path = folder / "calls.pcap"
    traffic_lab.generated(path, lab_model(rate=2.0), Wanted(START_NS, 30.0, 2))
    open_at: dict[str, list[tuple[int, int]]] = defaultdict(list)
    asked: dict[tuple[object, object], int] = {}
    called: list[tuple[str, int]] = []
    for time_ns, frame in reader.records(path.read_bytes()):
        segment = reader.parse(time_ns, frame)
        if not segment.payload:
            continue
        if segment.target[1] in {80, 443}:
            asked[segment.source, segment.target] = time_ns
        elif segment.source[1] in {80, 443} and (begin := asked.pop((segment.target, segment.source), None)) is not None:
            open_at[segment.source[0]].append((begin, time_ns))
        elif segment.target[1] in {5432, 6379}:
            called.append((segment.source[0], time_ns))
    inside = sum(any(low <= time_ns <= high for low, high in open_at[who]) for who, time_ns in called)
    assert len(called) > 300
    assert inside >= 0.97 * len(called)  # one that opens a connection, or stands at an edge of the capture, may not
    busy_ns = sum(high - low for spans in open_at.values() for low, high in spans)
    assert busy_ns < 0.7 * 2 * 30e9  # else any time would have done


def test_callers_keep_connections_open_and_use_them_again(folder: Path) -> None:
    path = folder / "pools.pcap"
    _, account = traffic_lab.generated(path, lab_model(), WANTED)
    found = reader.reassemble(path.read_bytes())
    to_cache = [each for (_, server), all_of in found.items() if server[1] == 6379 for each in all_of]  # type: ignore[index]
    calls = sum(1 for each in to_cache for who, _ in each.turns if who == "client")
    assert calls == account.counts["cache"]["requests"]
    assert calls / len(to_cache) > 30
    assert account.within["cache"]["requests"] == pytest.approx(2.0 * _requests(account.within, "web-1", "web-2"), rel=0.1)
    assert account.within["db"]["requests"] == pytest.approx(0.5 * _requests(account.within, "web-1", "web-2"), rel=0.1)


def _requests(counts: dict[str, dict[str, int]], *vms: str) -> int:
    return sum(counts[vm]["requests"] for vm in vms)


def test_addresses_are_of_the_spec_and_of_ranges_for_tests(folder: Path) -> None:
    path = folder / "addresses.pcap"
    traffic_lab.generated(path, lab_model(), Wanted(START_NS, 3.0, 2))
    own = {"10.9.1.10", "10.9.1.11", "10.9.2.10", "10.9.2.11", "2001:db8:9:1::a"}
    macs = defaultdict(set)
    for time_ns, frame in reader.records(path.read_bytes()):
        segment = reader.parse(time_ns, frame)
        ends = {segment.source[0], segment.target[0]}
        assert ends & own
        assert all(end in own or end.startswith(("198.18.", "198.19.", "2001:2:")) for end in ends)
        macs[segment.macs[1]].add(segment.source[0])
        assert not any(mac[0] & 1 for mac in segment.macs)
    of_vms = [addresses for mac, addresses in macs.items() if mac.startswith(b"\x02\x00")]
    assert of_vms
    assert all(len(addresses) == 1 for addresses in of_vms)


def test_memory_does_not_grow_with_the_length(folder: Path) -> None:
    sizes = []
    for duration_s in (10.0, 80.0):
        generator, _ = traffic_lab.generated(folder / "long.pcap", lab_model(rate=60.0), Wanted(START_NS, duration_s, 2))
        sizes.append([len(part) for part in (generator._book.packets, generator._book.heap, generator._book.connections)])
    assert sizes[0] == sizes[1]


def test_large_messages_find_room(folder: Path) -> None:
    model = lab_model(rate=0.5, response_bytes=4e6, response_cv=0.5, requests_per_connection=1.0)
    _, account = traffic_lab.generated(folder / "large.pcap", model, Wanted(START_NS, 5.0, 2))
    reader.reassemble((folder / "large.pcap").read_bytes())
    assert account.counts["web-1"]["tx_bytes"] > 2e6


@pytest.mark.parametrize("wrong", [{"duration_s": 0.0}, {"factor": 0.0}])
def test_nothing_to_generate_is_refused(folder: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="above 0"):
        traffic_lab.generated(folder / "none.pcap", lab_model(), replace(WANTED, **wrong))


# ---- what is fitted to the generated is what it was generated from -------------------------------------------------------


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory: pytest.TempPathFactory) -> tuple[traffic.TrafficModel, traffic.TrafficModel]:
    """A model, and what is fitted to ten minutes of its traffic."""
    _, _, ground, priors = traffic_lab.lab()
    began = traffic_lab.model(ground, cluster=1.6, modulation=0.2, modulation_s=2.0)
    path = tmp_path_factory.mktemp("round") / "round.pcap"
    wanted = Wanted(START_NS, 600.0, 11)
    traffic_lab.generated(path, began, wanted)
    series = traffic_lab.within(traffic_lab.observed(path), wanted)
    return began, traffic.fit(traffic_lab.history(series), ground, priors, "lab")


FIGURES = {  # how far off a figure may be, relative to itself
    "connections_per_s": 0.15,
    "requests_per_connection": 0.1,
    "request_bytes": 0.15,
    "response_bytes": 0.15,
    "response_s": 0.3,
    "rtt_s": 0.1,
    "client_acks": 0.25,
}


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_come_back(round_trip: tuple[traffic.TrafficModel, traffic.TrafficModel], figure: str) -> None:
    began, fitted = round_trip
    for had, found in zip(began.vms, fitted.vms, strict=True):
        pooled = had.vm in {"db", "cache"} and figure == "requests_per_connection"
        want = pytest.approx(getattr(had, figure), rel=0.4 if pooled else FIGURES[figure], abs=1e-9)
        assert getattr(found, figure) == want, had.vm


def test_calls_come_back(round_trip: tuple[traffic.TrafficModel, traffic.TrafficModel]) -> None:
    began, fitted = round_trip
    had = {(call.caller, call.callee): call.per_request for call in began.calls}
    found = {(call.caller, call.callee): call.per_request for call in fitted.calls}
    assert set(found) == set(had)
    for pair, per_request in had.items():
        assert found[pair] == pytest.approx(per_request, rel=0.1)


def test_bursts_come_back(round_trip: tuple[traffic.TrafficModel, traffic.TrafficModel]) -> None:
    """The index of dispersion at 1 s and at 8 s, whichever way it is split between clusters and modulation."""
    began, fitted = round_trip
    for which in (0, 1, 4):
        for time_s in (1.0, 8.0):
            want, got = (_dispersion(each.vms[which], time_s) for each in (began, fitted))
            assert got == pytest.approx(want, rel=0.4), (began.vms[which].vm, time_s)


def _dispersion(vm: traffic.VmTraffic, time_s: float) -> float:
    m = vm.modulation_s
    slow = vm.connections_per_s * vm.modulation * 2 * m * (1 - (1 - np.exp(-time_s / m)) * m / time_s)
    return float(1 + 2 * (vm.cluster - 1) + slow)
