"""What grows is bounded, and what falls over a bound is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.captures import Frame
from tests.meter.stories import CLIENT, WEB, Talk, datagram, observe, tick

from adumbra.meter.intervals import MeterSettings

FLOOD = Path(__file__).with_name("flood.py")
SMALL = MeterSettings(max_connections=16_384)


@pytest.mark.parametrize(("per_second", "most_mb"), [(100_000, 260), (1_000_000, 260)])
def test_a_flood_of_two_million_clients_stays_in_bounds(per_second: int, most_mb: int) -> None:
    command = [sys.executable, str(FLOOD), "2000000", str(per_second), "65536"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    assert told["offered"] == told["attributed"] == told["rx_packets"] == 2_001_000
    assert told["untracked"] == told["missed_packets"]
    assert told["connections_attempted"] == 2_001_000
    assert told["untracked"] == 0
    assert told["evicted_attempts"] >= 2_001_000 - 65_536 - 1_100_000  # what isn't answered in 10 s fails without
    assert told["connections_failed"] <= told["connections_attempted"]
    assert told["late"] == 0
    assert told["peers"] + told["uncounted"] == 2_001_000
    assert told["more_mb"] < most_mb


def many(count: int, second: float) -> list[Frame]:
    frames: list[Frame] = []
    for k in range(count):
        Talk(frames, client=f"198.18.{k >> 8}.{k & 255}", port=round(second), isn=k).syn(second + k / count)
    return frames


def test_connections_beyond_the_table_are_missed_but_their_bytes_are_not() -> None:
    frames: list[Frame] = []
    for k in range(20_000):  # seen from their middle: open, and not to be given up for others
        Talk(frames, client=f"198.18.{k >> 8}.{k & 255}", isn=k).asks(k / 20_000, 100)
    seen = observe([*frames, tick(40)], settings=SMALL)
    assert seen.total("rx_packets") == 20_000
    assert seen.total("rx_bytes") == 20_000 * 140
    assert max(seen.of("connections_active").values()) == 16_384
    assert seen.total("missed_packets") == seen.accounts.untracked == 20_000 - 16_384
    assert seen.accounts.evicted_attempts == 0
    assert seen.of("peers") == {0: 20_000}


def test_the_oldest_unanswered_attempt_gives_way_where_the_table_is_full() -> None:
    frames = many(20_000, 0)
    seen = observe([*frames, tick(40)], settings=SMALL)
    assert seen.total("connections_attempted") == seen.total("connections_failed") == 20_000
    assert seen.accounts.evicted_attempts == 20_000 - 16_384
    assert seen.accounts.untracked == seen.total("missed_packets") == 0
    early = sum(count for second, count in seen.of("connections_failed").items() if second < 10)
    assert early == 20_000 - 16_384


def test_datagrams_of_ever_new_clients_give_way_too_but_not_those_that_are_answered() -> None:
    frames = [datagram(0.1, CLIENT, WEB, 7), datagram(0.2, WEB, CLIENT, 53, 7)]
    frames += [datagram(0.5 + k / 20_000, f"198.18.{k >> 8}.{k & 255}", WEB) for k in range(20_000)]
    frames += [datagram(3, CLIENT, WEB, 7), datagram(3.25, WEB, CLIENT, 53, 7)]
    seen = observe(frames, settings=SMALL)
    assert seen.accounts.evicted_attempts == 20_001 - 16_384
    assert seen.accounts.untracked == 0
    assert [opens for second, _, opens in seen.requests if second >= 3] == [False]


@pytest.mark.parametrize("answered", [False, True])
def test_real_connections_are_counted_exactly_in_the_midst_of_a_flood(answered: bool) -> None:
    """Also where the server answers the flood, so that every attempt is half open."""
    flood: list[Frame] = []
    for k in range(60_000):
        talk = Talk(flood, client=f"198.{18 + (k >> 15)}.{k >> 7 & 255}.{k & 127}", port=9, isn=k).syn(k / 10_000)
        if answered:
            talk.answer(k / 10_000 + 0.0002)
    frames: list[Frame] = []
    for k in range(20):
        begin = k * 0.29
        talk = Talk(frames, client="203.0.113.7", port=1000 + k, isn=k * 5000).opens(begin, rtt=0.2).asks(begin + 0.3)
        talk.replies(begin + 0.4).closes(6 + k / 100)
    alone = observe([*frames, tick(70)])
    both = observe([*frames, *flood, tick(70)], settings=SMALL)
    for name in ("connections_established", "connections_active", "requests", "rtt_ms_p50", "response_ms_p50"):
        assert both.of(name) == alone.of(name), name
    assert both.total("connections_attempted") == 60_020
    assert both.accounts.untracked == 0
    assert both.accounts.evicted_attempts > 40_000


def test_the_table_grows_with_what_it_holds() -> None:
    frames: list[Frame] = []
    for k in range(3000):
        Talk(frames, client=f"198.18.{k >> 8}.{k & 255}", isn=k).opens(k / 1000).asks(3 + k / 1000).replies(3.5 + k / 1000)
    one = observe(frames, cuts=range(0, len(frames), 100))
    assert one.same_as(observe(frames))
    more = observe([*frames, *many(40_000, 8)], settings=MeterSettings(max_connections=50_000), cuts=range(0, 55_000, 5000))
    assert more.accounts.untracked == 0
    assert more.total("connections_attempted") == 43_000
    assert more.total("connections_established") == more.total("requests") == 3000
    assert set(more.of("connections_active").values()) >= {3000}


def test_times_and_requests_beyond_their_bound_are_counted() -> None:
    flows = 40_000
    frames = [datagram(k / flows, "198.18.0.1", WEB, sport=k) for k in range(flows)]
    frames += [datagram(1 + k / flows, WEB, "198.18.0.1", 53, k) for k in range(flows)]
    cuts = range(0, 2 * flows, 2000)
    seen = observe(frames, settings=MeterSettings(max_notes=65_536), cuts=cuts)
    assert seen.total("requests") == flows
    assert len(seen.requests) == flows
    assert 2 * flows - 65_536 <= seen.accounts.uncounted <= 2 * flows - 65_536 + 2 * 128  # responses' times; chunks of 128
    assert seen.total("missed_packets") == 0
    assert observe(frames, cuts=cuts).accounts.uncounted == 0
