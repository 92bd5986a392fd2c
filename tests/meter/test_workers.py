"""Several meters that share the same traffic come to what one does; and a live tap's clock closes what is over."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import Frame, batch
from tests.meter.stories import SHOP, WEB, Seen, Talk, at, collect, datagram, observe, tick
from tests.meter.test_scans import mixture
from tests.meter.test_time import busy

from adumbra.decode.packets import Decoder
from adumbra.meter.attribute import Attribution
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.meter.summary import Sides, Summary
from adumbra.meter.tally import Tally, merge, merge_accounts
from adumbra.schema.records import Outcome, Packets
from adumbra.schema.spec import expand_vms

VMS = expand_vms(SHOP)
NAMES = tuple(vm.name for vm in VMS)


def share(packets: Packets, worker: int, workers: int) -> None:
    """Leaves a worker its share: by the address that is no VM's, or by both where both are."""
    remote = np.where(packets.src_vm < 0, packets.src_lo ^ packets.src_hi, packets.dst_lo ^ packets.dst_hi)
    both = packets.src_lo ^ packets.src_hi ^ packets.dst_lo ^ packets.dst_hi
    of = np.where((packets.src_vm < 0) == (packets.dst_vm < 0), both, remote) % np.uint64(7) % np.uint64(workers)
    unread = packets.outcome != Outcome.PARSED
    elsewhere = np.where(unread, worker != 0, of != worker)
    packets.outcome[elsewhere] = Outcome.ELSEWHERE


def shared(frames: list[Frame], workers: int, cuts: list[int], meter_settings: MeterSettings | None = None) -> Seen:
    tallies: list[Tally] = []
    told = []
    for worker in range(workers):
        meter = Meter(len(VMS), SHOP.interval_ns, meter_settings, seed=worker, ports=[vm.ports for vm in VMS])
        attribution, decoder = Attribution(SHOP, VMS), Decoder()
        for begin, end in pairwise([0, *sorted(cuts), len(frames)]):
            packets = attribution.assign(decoder.decode(batch(frames[begin:end])))
            share(packets, worker, workers)
            tallies += meter.add(packets)
        tallies += meter.finish()
        told.append(meter.accounts())
    given_ = [Summary(len(VMS)).intervals(merge(tallies))] if tallies else []
    return collect(NAMES, given_, merge_accounts(told))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.lists(st.integers(0, 500), max_size=6), st.booleans())
def test_workers_come_to_what_one_does(number: int, workers: int, cuts: list[int], scans: bool) -> None:
    rng = random.Random(number)
    frames = mixture(rng) if scans else busy(number, 300, jumps=False, ports=200)
    frames.sort(key=lambda frame: frame.time_ns)
    one, several = observe(frames), shared(frames, workers, [min(cut, len(frames)) for cut in cuts])
    assert several.same_as(one)
    assert several.accounts == one.accounts


def test_merging_takes_intervals_that_some_have_not() -> None:
    one, other = (
        Tally(10**9, np.array(starts) * 10**9, np.full((len(starts), 2, 19), k + 1), np.array([k] * len(starts)), notes)
        for k, (starts, notes) in enumerate([([3, 4], _notes([1, 2])), ([4, 7], _notes([3]))])
    )
    both = merge([one, other])
    assert both.start_ns.tolist() == [3 * 10**9, 4 * 10**9, 7 * 10**9]
    assert both.counts[:, 0, 0].tolist() == [1, 3, 2]
    assert both.missed.tolist() == [0, 1, 1]
    assert both.notes[0].cells.tolist() == [1, 2, 5]


def _notes(cells: list[int]) -> tuple:
    from adumbra.meter.tally import Notes

    return tuple(Notes(np.array(cells), np.array(cells) * 100) for _ in range(4))


def test_nothing_and_strangers_are_not_merged() -> None:
    with pytest.raises(ValueError, match="one network"):
        merge([])
    strange = [
        Tally(10**9, np.zeros(0, np.int64), np.zeros((0, vms, 19), np.int64), np.zeros(0, np.int64), ()) for vms in (1, 2)
    ]
    with pytest.raises(ValueError, match="one network"):
        merge(strange)


# ---- a live tap's clock --------------------------------------------------------------------------------------------------


class Live:
    """A meter that is told the time."""

    def __init__(self) -> None:
        self.meter, self.summary = Meter(len(VMS), SHOP.interval_ns), Summary(len(VMS))
        self.attribution, self.decoder = Attribution(SHOP, VMS), Decoder()
        self.given = []

    def add(self, *frames: Frame) -> list[float]:
        return self._note(self.meter.add(self.attribution.assign(self.decoder.decode(batch(frames)))))

    def advance(self, second: float) -> list[float]:
        return self._note(self.meter.advance(at(second)))

    def finish(self) -> Seen:
        self._note(self.meter.finish())
        return collect(NAMES, self.given, self.meter.accounts())

    def _note(self, tallies) -> list[float]:
        closed = [self.summary.intervals(tally) for tally in tallies]
        self.given += closed
        return [(start - at(0)) / 1e9 for one in closed for start in one.start_ns.tolist()]


def test_time_alone_closes_and_expires() -> None:
    live = Live()
    frames: list[Frame] = []
    Talk(frames).syn(0.5)
    assert live.add(*frames) == []
    assert live.advance(10.4) == []
    assert live.advance(10.6) == []
    assert live.advance(12.5) == [0, 1]
    assert live.meter.closed_to_ns == at(2)
    assert live.advance(3) == []  # it does not go back
    seen = live.finish()
    assert seen.of("connections_failed") == {10: 1}
    assert seen.accounts.offered == 1


def test_a_tap_that_hears_nothing_says_so() -> None:
    live = Live()
    assert live.meter.closed_to_ns is None
    closed = [second for now in range(0, 9000, 500) for second in live.advance(now)]
    assert closed == list(range(8490))  # quiet, however long: the tap watched
    assert live.add(datagram(8600, "198.18.0.1", WEB)) == list(range(8490, 8590))
    assert live.finish().of("rx_packets") == {8600: 1}


def test_advancing_changes_no_figures() -> None:
    frames = sorted(busy(5, 300, jumps=False, ports=100), key=lambda frame: frame.time_ns)
    live = Live()
    for k in range(0, len(frames), 50):
        live.add(*frames[k : k + 50])
        live.advance((frames[min(k + 49, len(frames) - 1)].time_ns - at(0)) / 1e9)
    assert live.finish().same_as(observe(frames))


# ---- which sides were seen -----------------------------------------------------------------------------------------------


def test_which_directions_were_seen() -> None:
    live = Live()
    frames = [datagram(0.1, "198.18.0.1", WEB), datagram(0.2, "10.20.3.7", "198.18.0.2"), tick(0.3)]
    frames += [datagram(0.4, "198.18.0.1", "10.20.2.10"), datagram(30, "10.20.2.10", "198.18.0.1")]
    live.add(*frames)
    live.finish()
    assert dict(zip(NAMES, live.summary.sides(), strict=True)) == {
        "web": Sides.ONLY_TO, "farm": Sides.ONLY_FROM, "db": Sides.BOTH, "six": Sides.NONE,
    }  # fmt: skip
