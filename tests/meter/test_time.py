"""Intervals and their closing: late packets, silences, gaps, what the tap lost; and that batches make no difference."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import Frame, batch, ethernet, ip, tcp
from tests.meter.stories import (
    BEGIN_S,
    CLIENT,
    DB,
    FARM,
    SHOP,
    SIX,
    WEB,
    Seen,
    Talk,
    at,
    check_accounts,
    collect,
    datagram,
    observe,
    tick,
)

from adumbra.decode.packets import Decoder
from adumbra.meter.attribute import Attribution
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.meter.summary import Summary
from adumbra.meter.tally import Tally
from adumbra.schema.records import Intervals
from adumbra.schema.spec import expand_vms

BROKEN = ethernet(b"\x45" + bytes(30))  # a header with a total length of 0 in a frame too short for one: malformed


def hit(second: float, vm: str = WEB) -> Frame:
    return datagram(second, CLIENT, vm)


class Hand:
    """A meter that is fed by hand, to look at what it gives when."""

    def __init__(self, settings: MeterSettings | None = None, interval: str = "1s") -> None:
        self.spec = SHOP.model_copy(update={"interval": float(interval.rstrip("s"))})
        self.vms = expand_vms(self.spec)
        self.meter = Meter(len(self.vms), self.spec.interval_ns, settings)
        self.attribution, self.decoder = Attribution(self.spec, self.vms), Decoder()
        self.summary = Summary(len(self.vms))
        self.given: list[Intervals] = []

    def add(self, *frames: Frame) -> list[float]:
        """Feeds a batch; gives the seconds of the intervals that it closed."""
        closed = list(self._summed(self.meter.add(self.attribution.assign(self.decoder.decode(batch(frames))))))
        return self._note(closed)

    def finish(self) -> list[float]:
        return self._note(list(self._summed(self.meter.finish())))

    def _summed(self, tallies: Iterable[Tally]) -> Iterator[Intervals]:
        return map(self.summary.intervals, tallies)

    def _note(self, closed: list[Intervals]) -> list[float]:
        self.given += closed
        return [(start - at(0)) / 1e9 for one in closed for start in one.start_ns.tolist()]

    def seen(self) -> Seen:
        return collect(tuple(vm.name for vm in self.vms), self.given, self.meter.accounts())


def test_an_interval_closes_once_nothing_more_can_come_for_it() -> None:
    hand = Hand()
    assert hand.add(hit(0.5)) == []
    assert hand.add(hit(10.9)) == []
    assert hand.add(hit(11.0)) == [0]
    assert hand.add(hit(14.0), hit(13.0)) == [1, 2, 3]
    assert hand.finish() == list(range(4, 15))
    assert hand.finish() == []
    assert hand.seen().of("rx_packets") == {0: 1, 10: 1, 11: 1, 13: 1, 14: 1}


def test_nothing_at_all_closes_nothing() -> None:
    hand = Hand()
    assert hand.add() == []
    assert hand.finish() == []
    assert hand.meter.accounts().offered == 0


@pytest.mark.parametrize(
    ("interval", "lateness", "too_late"), [("1s", 10.0, 11.0), ("1s", 2.5, 4.0), ("60s", 10.0, 121.0), ("0.5s", 1.0, 1.5)]
)
def test_late_packets_are_counted_where_they_belong_or_as_missed(interval: str, lateness: float, too_late: float) -> None:
    hand = Hand(MeterSettings(lateness_s=lateness), interval)
    newest = 600.0
    hand.add(hit(newest - too_late), hit(newest))
    hand.add(hit(newest - 0.9 * lateness), hit(newest - too_late), hit(newest - 300, DB), tick(newest - 200))
    hand.finish()
    seen = hand.seen()
    assert seen.total("rx_packets") == 3
    assert seen.total("missed_packets") == seen.total("missed_packets", "db") == 1
    assert seen.accounts.late == 2
    assert seen.accounts.foreign == 1
    assert sum(seen.of("missed_packets").values()) == 1


def test_packets_before_the_first_are_taken_up_to_the_lateness() -> None:
    hand = Hand()
    hand.add(hit(20.5), hit(12.5), hit(9.5))
    assert hand.finish() == list(range(12, 21))
    seen = hand.seen()
    assert seen.of("rx_packets") == {12: 1, 20: 1}
    assert seen.of("missed_packets") == {12: 1}
    assert seen.accounts.late == 1


def test_what_is_too_late_at_the_very_beginning_is_missed_then_and_not_minutes_later() -> None:
    hand = Hand()
    hand.add(hit(100.5), hit(50.5))
    hand.add(*[hit(100.5 + k) for k in range(1, 900)])
    hand.finish()
    assert hand.seen().of("missed_packets") == {100: 1}


def test_what_comes_after_the_finish_for_closed_intervals_is_late() -> None:
    hand = Hand()
    hand.add(hit(5.2))
    assert hand.finish() == [5]
    hand.add(hit(5.3), hit(5.2), hit(3), hit(8.5))
    assert hand.finish() == [6, 7, 8]
    seen = hand.seen()
    assert seen.of("rx_packets") == {5: 1, 8: 1}
    assert seen.of("missed_packets") == {6: 3}
    assert seen.accounts.late == 3
    hand.add(hit(8.9))
    assert hand.finish() == [9]
    assert hand.seen().of("missed_packets") == {6: 3, 9: 1}


# ---- silences and gaps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silence", [1, 5, 12, 100, 253, 254, 255, 256, 300, 1000, 3000, 3600])
def test_a_short_silence_is_quiet(silence: int) -> None:
    seen = observe([hit(0), hit(silence + 1)])
    assert seen.seconds == list(range(silence + 2))
    assert seen.of("rx_packets") == {0: 1, silence + 1: 1}
    assert not seen.columns["rx_bytes"][1:-1].any()


@pytest.mark.parametrize("silence", [3601, 10_000, 10**6, 10**9])
def test_a_long_one_is_a_gap(silence: int) -> None:
    seen = observe([hit(0), hit(1), hit(silence + 2), hit(silence + 3)])
    assert seen.seconds == [0, 1, silence + 2, silence + 3]
    assert seen.of("rx_packets") == {0: 1, 1: 1, silence + 2: 1, silence + 3: 1}


def test_from_the_first_to_the_last_time_there_is() -> None:
    frames = [Frame(0, hit(0).data), Frame(1 << 62, hit(0).data)]
    hand = Hand()
    hand.add(*frames)
    hand.finish()
    assert [one.start_ns.tolist() for one in hand.given] == [[0], [(1 << 62) // 10**9 * 10**9]]


def test_late_packets_after_a_gap_go_no_further_back_than_the_gap() -> None:
    seen = observe([hit(0), hit(9000), hit(8995), hit(8989), hit(1)], in_order=False)
    assert seen.seconds == [0, *range(8995, 9001)]
    assert seen.of("rx_packets") == {0: 1, 8995: 1, 9000: 1}
    assert seen.of("missed_packets") == {8995: 2}


def test_what_happens_in_a_silence_is_counted_at_its_time() -> None:
    frames: list[Frame] = []
    Talk(frames).syn(0.5)
    Talk(frames, client=WEB, server=DB).opens(0.6)
    seen = observe([*frames, hit(2000)])
    assert seen.of("connections_failed") == {10: 1}
    assert seen.of("connections_active", "db") == dict.fromkeys(range(310 // 300 * 300 + 10), 1)
    seen = observe([*frames, hit(100_000)])
    assert seen.of("connections_failed") == {10: 1}
    assert seen.seconds == [*range(311), 100_000]
    assert seen.of("connections_active", "db") == dict.fromkeys(range(310), 1)


def test_filled_silences_are_bounded_by_what_happened() -> None:
    frames = [hit(second) for second in np.arange(0, 3500 * 400, 3500)]
    seen = observe(frames)
    assert seen.total("rx_packets") == 400
    assert len(seen.seconds) < 86_400 + 400 * 22


# ---- what the tap lost ---------------------------------------------------------------------------------------------------


def test_malformed_frames_may_have_been_any_vms() -> None:
    hand = Hand()
    broken, arp, strange = Frame(at(1), BROKEN[:20]), Frame(at(1), ethernet(bytes(28), 0x0806)), Frame(at(1), b"?", link=999)
    hand.add(broken, arp, hit(1.5), broken, broken, strange)
    hand.add(hit(3.5), Frame(at(2), ethernet(b"\x45\0")), Frame(at(2), b"\0"))
    hand.finish()
    seen = hand.seen()
    for vm in seen.vms:
        assert seen.of("missed_packets", vm) == {1: 3, 3: 2}
    assert seen.accounts.outcomes == {
        "parsed": 2, "not_ip": 1, "unknown_link": 1, "link_truncated": 1, "ip_truncated": 4, "ip_malformed": 0, "elsewhere": 0,
    }  # fmt: skip
    check_accounts(seen.accounts, 9)


def test_the_taps_own_losses_count_for_every_vm() -> None:
    hand = Hand()
    hand.meter.miss(3)
    hand.add(hit(1.5))
    hand.meter.miss(0)
    hand.meter.miss(4)
    hand.add(hit(2.5))
    hand.meter.miss(5)
    hand.finish()
    assert hand.seen().of("missed_packets", "farm") == {1: 7, 2: 5}
    hand.meter.miss(0)
    assert hand.finish() == []
    hand.meter.miss(6)
    hand.finish()
    assert hand.seen().of("missed_packets", "farm") == {1: 7, 2: 5, 3: 6}


def test_a_tcp_header_that_is_cut_off_still_has_its_bytes() -> None:
    frames: list[Frame] = []
    Talk(frames).opens(0).asks(0.1, 500)
    seen = observe([frame.cut(14 + 20 + 12) for frame in frames])
    assert seen.of("rx_bytes") == {0: 40 + 40 + 540}
    assert seen.accounts.transport_unread == 4
    assert seen.total("connections_attempted") == seen.total("missed_packets") == 0
    seen = observe([frame.cut(14 + 20 + 20) for frame in frames])
    assert seen.total("connections_established") == seen.total("requests") == 1


# ---- batches -------------------------------------------------------------------------------------------------------------


def busy(seed: int, connections: int, *, jumps: bool, ports: int = 40) -> list[Frame]:
    """Connections with all that befalls them, datagrams, strangers and noise; slightly out of order; with silences."""
    chance = random.Random(seed)
    frames: list[Frame] = []
    ends = [
        (CLIENT, WEB),
        (CLIENT, FARM),
        ("198.18.0.7", DB),
        (WEB, DB),
        ("2001:db8:ffff::1", SIX),
        ("198.18.0.8", "192.168.7.11"),
    ]
    began = 0.0
    for number in range(connections):
        began += chance.expovariate(2.0)
        if jumps and chance.random() < 0.15:
            began += chance.choice([20, 70, 260, 500, 3000, 4000, 100_000])
        client, server = chance.choice(ends)
        port = 30_000 + (chance.randrange(ports) if ports < connections else number)
        isns = chance.randrange(2**32), chance.randrange(2**32)
        talk = Talk(frames, client, server, port, chance.choice([80, 5432]), *isns)
        second = began
        talk.syn(second)
        for _ in range(chance.choice([0, 0, 0, 1, 2, 5])):
            second += chance.choice([0.2, 1.0, 3.0, 16.0])
            talk.syn_again(second)
        fate = chance.choice(["unanswered", "refused", "halfway", "talks", "talks", "talks", "talks"])
        if fate == "refused":
            talk.rst(second + 0.01, by_client=False)
        if fate in {"unanswered", "refused"}:
            continue
        talk.answer(second + 0.01)
        if fate == "halfway":
            continue
        talk.ack(second + 0.02)
        second += 0.03
        for _ in range(chance.randrange(6)):
            second += chance.choice([0.01, 0.3, 2.0, 15.0])
            act = chance.choice(["asks", "asks", "replies", "replies", "again"])
            if act == "again":
                talk.repeats(second, 50, 50, by_client=chance.random() < 0.5)
            else:
                getattr(talk, act)(second, chance.randrange(1, 1400))
        end = chance.choice(["closes", "rst", "stays"])
        if end == "closes":
            talk.closes(second + 0.1)
        elif end == "rst":
            talk.rst(second + 0.1, by_client=chance.random() < 0.5)
    frames += [
        datagram(chance.uniform(0, began), *chance.choice(ends[:4]), sport=chance.randrange(9000, 9020))
        for _ in range(connections)
    ]
    frames += [tick(chance.uniform(0, began)) for _ in range(connections // 4)]
    frames += [Frame(at(chance.uniform(0, began)), chance.choice([BROKEN[:20], b"", ethernet(b"", 0x0806)])) for _ in range(5)]
    # A tap with several queues gives packets up to seconds out of order, some of them too late.
    return sorted(frames, key=lambda frame: frame.time_ns + chance.choice([0, 0, 0, 0, int(2e9), int(13e9)]))


def test_a_quantile_is_the_same_wherever_its_cell_stands() -> None:
    frames = busy(0, 25, jumps=False)
    assert observe(frames, cuts=[85], in_order=False).same_as(observe(frames, in_order=False))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 60), st.booleans(), st.data())
def test_any_cut_into_batches_gives_the_same(seed: int, connections: int, jumps: bool, data: st.DataObject) -> None:
    frames = busy(seed, connections, jumps=jumps)
    whole = observe(frames, in_order=False)
    cuts = data.draw(st.lists(st.integers(0, len(frames)), max_size=12))
    assert observe(frames, cuts=cuts, in_order=False).same_as(whole)
    single = observe(frames, cuts=range(len(frames)), in_order=False)
    assert single.same_as(whole)
    assert single.accounts == whole.accounts


@pytest.mark.parametrize("seed", range(4))
def test_the_budget_for_quiet_is_spent_alike_however_batches_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    second, frames = 0.0, []
    for _ in range(400):
        second += chance.choice([1, 60, 200, 250, 262, 300, 900, 3500])
        frames.append(hit(second))
    whole = observe(frames)
    assert len(whole.seconds) < second, "there are gaps"
    for cuts in (range(len(frames)), range(0, len(frames), 7), range(0, len(frames), 100)):
        assert observe(frames, cuts=cuts).same_as(whole)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_columns_sum_to_what_was_offered(seed: int, jumps: bool) -> None:
    frames = busy(seed, 40, jumps=jumps)
    seen = observe(frames, in_order=False)
    vms = expand_vms(SHOP)
    decoder, attribution = Decoder(), Attribution(SHOP, vms)
    packets = attribution.assign(decoder.decode(batch(frames)))
    late = seen.accounts.late
    for column, owner, what in (
        ("rx_packets", packets.dst_vm, np.ones(len(packets), np.int64)),
        ("tx_packets", packets.src_vm, np.ones(len(packets), np.int64)),
        ("rx_bytes", packets.dst_vm, packets.ip_bytes),
        ("tx_bytes", packets.src_vm, packets.ip_bytes),
    ):
        totals = [int(what[owner == row].sum()) for row in range(len(vms))]
        given_totals = [seen.total(column, vm.name) for vm in vms]
        short = sum(totals) - sum(given_totals)
        assert 0 <= short <= late * (1 if "packets" in column else 1500)
        if not late:
            assert given_totals == totals
    active = seen.columns["connections_active"]
    assert (active >= 0).all()
    attempted, established, failed = (
        seen.columns[f"connections_{name}"].sum() for name in ("attempted", "established", "failed")
    )
    assert established <= attempted
    assert failed <= attempted
    assert (seen.columns["connections_initiated"] <= seen.columns["connections_attempted"]).all()
    loss = seen.columns["loss_ratio"]
    assert ((loss >= 0) & (loss <= 1) | np.isnan(loss)).all()
    assert len(seen.requests) == seen.columns["requests"].sum()


@pytest.mark.parametrize("interval", ["0.1s", "0.25s", "60s", "3600s"])
def test_other_interval_lengths(interval: str) -> None:
    length = float(interval.rstrip("s"))
    hand = Hand(interval=interval)
    frames: list[Frame] = []
    talk = Talk(frames).opens(0.05, 0.02)
    for k in range(40):
        talk.asks(0.1 + k * length / 3).replies(0.11 + k * length / 3)
    hand.add(*frames[:50])
    hand.add(*frames[50:])
    hand.finish()
    starts = [start for one in hand.given for start in one.start_ns.tolist()]
    assert all(start % round(length * 1e9) == 0 for start in starts)
    assert starts[0] == BEGIN_S * 10**9 // round(length * 1e9) * round(length * 1e9)
    seen = hand.seen()
    assert seen.total("requests") == 40
    assert seen.total("rx_packets") + seen.total("tx_packets") == len(frames)
    assert set(seen.of("peers").values()) == {1}


def test_peers_are_kept_apart_by_interval_when_their_table_is_made_anew() -> None:
    """With intervals of 100 ms their numbers pass 2^31; and the table is made anew as it fills."""
    hand = Hand(interval="0.1s")
    wave = [
        Frame(at(0.01 * k / 1000), ethernet(ip(f"198.{19 + k // 65536}.{k // 256 % 256}.{k % 256}", WEB, 6, tcp(1, 2, 16))))
        for k in range(20_000)
    ]
    for part in range(0, len(wave), 2000):
        hand.add(*wave[part : part + 2000])
        hand.add(*wave[part : part + 2000])  # the same again: nobody new
    hand.add(hit(30))
    hand.finish()
    assert list(hand.seen().of("peers").items())[:2] == [(0.0, 10_000), (0.1, 10_000)]


def test_more_vms_than_a_ring_has_rows_for() -> None:
    meter = Meter(60_000, 10**9, MeterSettings(lateness_s=2))
    spec = SHOP
    vms = expand_vms(spec)
    attribution, decoder = Attribution(spec, vms), Decoder()
    rows = 0
    for second in (0, 1, 2, 40, 41):
        for one in meter.add(attribution.assign(decoder.decode(batch([hit(second)])))):
            rows += len(one)
            assert one.column("rx_packets").shape == (len(one), 60_000)
    rows += sum(len(one) for one in meter.finish())
    assert rows == 42
