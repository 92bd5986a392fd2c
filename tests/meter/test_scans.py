"""Scanners and background radiation told apart from clients, as stories: they are counted, and they are no demand."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import Frame
from tests.meter.stories import CLIENT, FARM, WEB, Seen, Talk, datagram, observe, tick

from adumbra.meter.intervals import MeterSettings
from adumbra.schema.spec import parse_spec

SCANNER = "203.0.113.66"
DECLARED = parse_spec(
    """
name: shop
cidrs: [10.20.0.0/16]
subnets:
  - {name: web, cidr: 10.20.1.0/24}
  - {name: data, cidr: 10.20.2.0/24}
vms:
  - {name: web, subnet: web, addresses: [10.20.1.10, 10.20.1.11], ports: [80, 443]}
  - {name: db, subnet: data, addresses: [10.20.2.10]}
"""
)


def scan(ports: range, begin: float = 0.0, gap: float = 0.01, *, source: str = SCANNER, answered: bool = False) -> list[Frame]:
    """One SYN to each port; with `answered`, the VM resets each."""
    frames: list[Frame] = []
    for k, port in enumerate(ports):
        talk = Talk(frames, client=source, service=port, port=50_000, isn=7 * port).syn(begin + k * gap)
        if answered:
            talk.rst(begin + k * gap + 0.001, by_client=False)
    return frames


def clients(count: int, begin: float = 0.0) -> list[Frame]:
    frames: list[Frame] = []
    for k in range(count):
        when = begin + k * 0.05
        Talk(frames, port=20_000 + k, isn=k * 9000).opens(when).asks(when + 0.1).replies(when + 0.2).closes(when + 0.3)
    return frames


def own(seen: Seen) -> dict[str, object]:
    """What stands for demand."""
    names = ("requests", "response_ms_p50", "connections_established", "connections_active", "rtt_ms_p50")
    return {**{name: seen.of(name) for name in names}, "given": seen.requests}


@pytest.mark.parametrize("answered", [False, True])
def test_a_port_scan_is_counted_and_told_apart_from_its_first_syn_on(answered: bool) -> None:
    frames = scan(range(1, 501), answered=answered)
    seen = observe([*frames, *clients(10, 0.5), tick(30)])
    assert seen.total("connections_attempted") == 510
    assert seen.total("connections_scanned") == 500
    assert seen.total("scan_bytes") == 500 * 40
    assert seen.accounts.scanners == 1
    assert seen.accounts.scanned_attempts == 500
    assert own(seen) == own(observe([*clients(10, 0.5), tick(30)]))
    attempted, scanned = seen.columns["connections_attempted"], seen.columns["connections_scanned"]
    assert (scanned <= attempted).all()


def test_a_sweep_over_many_addresses_is_a_scan_too() -> None:
    frames: list[Frame] = []
    for host in range(1, 200):
        Talk(frames, client=SCANNER, server=f"10.20.3.{host}", service=22, isn=host).syn(host / 100)
    seen = observe([*frames, tick(30)])
    # Several addresses of one VM are one target: what a VM answers counts, wherever.
    assert seen.total("connections_attempted", "farm") == 199
    assert seen.accounts.scanners == 0
    many = parse_spec(
        "name: n\ncidrs: [10.20.0.0/16]\nsubnets: [{name: s, cidr: 10.20.3.0/24}]\n"
        "vms: [{name: v, count: 199, subnet: s, addresses: 10.20.3.1-10.20.3.199}]\n"
    )
    swept = observe([*frames, tick(30)], many)
    assert swept.accounts.scanners == 1
    assert sum(swept.total("connections_scanned", vm) for vm in swept.vms) == 199


def test_a_slow_scan_is_told_from_where_it_is_known_and_what_is_still_open() -> None:
    frames = scan(range(1, 101), gap=1.0)
    seen = observe([*frames, tick(150)])
    assert seen.accounts.scanners == 1
    leaked = seen.total("connections_attempted") - seen.total("connections_scanned")
    assert 0 < leaked <= 20
    assert observe([*scan(range(1, 101), gap=601.0)]).accounts.scanners == 0  # forgotten each time


def test_busy_clients_are_no_scanners() -> None:
    frames = clients(400)
    for host in range(1, 100):  # one client of many addresses and ports, all of which answer
        talk = Talk(frames, client="203.0.113.5", server=f"10.20.3.{host}", service=1000 + host, isn=host)
        talk.opens(host / 50).asks(host / 50 + 0.1)
    seen = observe(frames)
    assert seen.accounts.scanners == seen.accounts.scanned_attempts == 0
    assert seen.total("connections_scanned") == seen.total("connections_scanned", "farm") == 0


def test_a_client_that_opens_many_at_once_is_cleared_once_they_answer() -> None:
    def burst(count: int) -> list[Frame]:
        frames: list[Frame] = []
        for port in range(count):
            talk = Talk(frames, server=FARM, service=1000 + port, isn=port * 9000).opens(0.2 + port / 10_000, rtt=0.2)
            talk.asks(0.5 + port / 10_000).replies(0.6 + port / 10_000)
        return frames

    seen = observe(burst(200))
    assert seen.total("connections_scanned", "farm") <= 1  # answered while it still passed for a scanner
    assert seen.total("requests", "farm") >= 199
    assert seen.total("connections_attempted", "farm") == 200


def test_nobody_answers_in_the_telescope_but_clients_retry_the_same() -> None:
    frames: list[Frame] = []
    for client in range(50):
        talk = Talk(frames, client=f"198.18.5.{client}", port=30_000 + client, isn=client * 1000).syn(client / 10)
        for after in (1, 3, 7):
            talk.syn_again(client / 10 + after)
    for k in range(300):  # one that tries again from ever new ports
        Talk(frames, client="198.18.6.1", port=10_000 + k, isn=k * 1000).syn(k / 10)
    seen = observe([*frames, *scan(range(1, 60), 2.0), tick(60)])
    assert seen.accounts.scanners == 1
    assert seen.total("connections_attempted") == 50 + 300 + 59
    assert seen.total("connections_scanned") == 59


def test_a_scanners_requests_are_none() -> None:
    """Also those on the few ports that answer."""
    frames = scan(range(1, 80), answered=True)
    found = Talk(frames, client=SCANNER, port=51_000, isn=5).opens(2).asks(2.1).replies(2.2)
    seen = observe([*frames, tick(20)])
    assert seen.total("requests") == 0
    assert seen.requests == []
    assert seen.total("connections_established") == 1
    assert seen.total("scan_bytes") == 79 * 40 + 40 + 40 + 140
    assert found.next_server > found.server_isn


def test_datagrams_to_many_ports_are_a_scan_unless_they_are_answers() -> None:
    probes = [datagram(k / 100, SCANNER, WEB, 60_000, 1 + k) for k in range(100)]
    seen = observe([*probes, tick(20)])
    assert seen.accounts.scanners == 1
    assert seen.total("connections_scanned") == 0
    assert seen.total("scan_bytes") == 100 * 58
    assert seen.total("requests") <= 20  # those before it was known
    answers = [datagram(k / 100, "198.18.0.53", WEB, 53, 20_000 + k) for k in range(100)]
    assert observe([*answers, tick(20)]).accounts.scanners == 0
    served = [frame for k in range(100) for frame in (
        datagram(k / 100, CLIENT, WEB, 60_000, 1 + k), datagram(k / 100 + 0.001, WEB, CLIENT, 1 + k, 60_000))]  # fmt: skip
    assert observe([*served, tick(20)]).accounts.scanners == 0


# ---- background radiation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("server", "service", "want"), [(WEB, 445, 1), (WEB, 80, 0), (WEB, 443, 0), ("10.20.2.10", 445, 0)])
def test_a_single_syn_to_a_port_that_is_not_declared(server: str, service: int, want: int) -> None:
    frames: list[Frame] = []
    Talk(frames, server=server, service=service).syn(0.5)
    seen = observe([*frames, tick(60)], DECLARED)
    vm = "web" if server == WEB else "db"
    assert seen.total("connections_scanned", vm) == seen.accounts.scanned_attempts == want
    assert seen.total("scan_bytes", vm) == 40 * want
    assert seen.total("connections_attempted", vm) == seen.total("connections_failed", vm) == 1


def test_one_that_is_repeated_or_answered_is_none() -> None:
    for act in ("again", "answer"):
        frames: list[Frame] = []
        talk = Talk(frames, service=8080).syn(0.5)
        if act == "again":
            talk.syn_again(1.5)
        else:
            talk.answer(0.6).ack(0.7).asks(0.8)
        seen = observe([*frames, tick(60)], DECLARED)
        assert seen.total("connections_scanned") == seen.total("scan_bytes") == 0
        assert seen.total("requests") == (act == "answer")


def test_a_reset_leaves_it_radiation() -> None:
    frames: list[Frame] = []
    Talk(frames, service=8080).syn(0.5).rst(0.51, by_client=False)
    assert observe([*frames, tick(60)], DECLARED).total("connections_scanned") == 1


# ---- bounds, and what makes no difference --------------------------------------------------------------------------------


def test_scanners_outlast_a_flood_of_sources() -> None:
    small = MeterSettings(max_sources=1024)
    frames = scan(range(1, 100), 0)
    for k in range(20_000):
        Talk(frames, client=f"198.19.{k >> 8}.{k & 255}", isn=k).syn(1 + k / 10_000)
    frames += scan(range(100, 200), 4)
    seen = observe([*frames, tick(60)], settings=small)
    assert seen.accounts.scanners == 1
    assert seen.total("connections_scanned") == 199
    assert seen.accounts.evicted_sources > 15_000


@pytest.mark.parametrize("targets", [3, 129, 0])
def test_thresholds_that_can_not_be_held_are_refused(targets: int) -> None:
    with pytest.raises(ValueError, match="from 4 to 128"):
        observe([tick(0)], settings=MeterSettings(scan_targets=targets))


def mixture(rng: random.Random) -> list[Frame]:
    frames: list[Frame] = []
    for source in range(6):
        targets = rng.choice([2, 15, 40])
        answering = rng.choice([0.0, 0.05, 0.3])
        for k in range(rng.randrange(10, 60)):
            when, address = rng.uniform(0, 30), rng.choice([WEB, FARM, "10.20.2.10", "10.20.1.11"])
            talk = Talk(frames, client=f"203.0.113.{source}", server=address, service=rng.randrange(targets), port=1000 + k)
            talk.isn = talk.next_client = rng.randrange(2**32)
            talk.syn(when)
            if rng.random() < answering:
                talk.answer(when + 0.1).ack(when + 0.2).asks(when + 0.3).replies(when + 0.4)
            elif rng.random() < 0.2:
                talk.syn_again(when + 1)
    return frames


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 600), max_size=8))
def test_batches_and_seeds_make_no_difference(number: int, cuts: list[int]) -> None:
    frames = mixture(random.Random(number))
    whole = observe(frames, DECLARED)
    assert whole.same_as(observe(frames, DECLARED, cuts=[min(cut, len(frames)) for cut in cuts], seed=number))
    assert (whole.columns["connections_scanned"] >= 0).all()
    assert (whole.columns["connections_scanned"] <= whole.columns["connections_attempted"]).all()
    assert whole.accounts.scanned_attempts == sum(whole.total("connections_scanned", vm) for vm in whole.vms)
