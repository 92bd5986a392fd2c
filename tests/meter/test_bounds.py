"""What grows is bounded, and what falls over a bound is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.captures import Frame
from tests.meter.stories import WEB, Talk, datagram, observe, tick

from adumbra.meter.intervals import MeterSettings

FLOOD = Path(__file__).with_name("flood.py")
SMALL = MeterSettings(max_connections=16_384)


@pytest.mark.parametrize(("per_second", "most_mb"), [(100_000, 260), (1_000_000, 260)])
def test_a_flood_of_two_million_clients_stays_in_bounds(per_second: int, most_mb: int) -> None:
    command = [sys.executable, str(FLOOD), "2000000", str(per_second), "65536"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)
    assert told["offered"] == told["attributed"] == told["rx_packets"] == 2_001_000
    assert told["untracked"] == told["missed_packets"]
    assert told["connections_attempted"] + told["untracked"] == 2_001_000
    assert told["connections_attempted"] >= 65_536
    assert told["late"] == 0
    assert told["peers"] + told["uncounted"] == 2_001_000
    assert told["more_mb"] < most_mb


def many(count: int, second: float) -> list[Frame]:
    frames: list[Frame] = []
    for k in range(count):
        Talk(frames, client=f"198.18.{k >> 8}.{k & 255}", port=round(second), isn=k).syn(second + k / count)
    return frames


def test_connections_beyond_the_table_are_missed_but_their_bytes_are_not() -> None:
    frames = many(20_000, 0)
    seen = observe([*frames, tick(40)], settings=SMALL)
    assert seen.total("rx_packets") == 20_000
    assert seen.total("rx_bytes") == 20_000 * 40
    assert seen.total("connections_attempted") == 16_384
    assert seen.total("missed_packets") == seen.accounts.untracked == 20_000 - 16_384
    assert seen.total("connections_failed") == 16_384
    assert seen.of("peers") == {0: 20_000}


def test_there_is_room_again_once_old_ones_are_gone() -> None:
    seen = observe([*many(20_000, 0), *many(20_000, 30), tick(70)], settings=SMALL)
    # Half of the table keeps attempts that failed for a minute, in case that their SYNs are sent again.
    assert seen.total("connections_attempted") >= 16_384 + 8_192
    assert seen.total("connections_attempted") + seen.accounts.untracked + 8_192 >= 40_000
    assert seen.total("missed_packets") == seen.accounts.untracked


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
    assert seen.accounts.uncounted == 2 * flows - 65_536  # responses' times
    assert seen.total("missed_packets") == 0
    assert observe(frames, cuts=cuts).accounts.uncounted == 0
