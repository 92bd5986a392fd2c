"""Round trips from TCP timestamps: from a VM's data at the tap to the echo that acknowledges it, told as stories."""

from __future__ import annotations

import pytest
from tests.captures import ACK, FIN, RST, SYN, Frame
from tests.meter.stories import CLIENT, DB, WEB, observe, segment

TO = (CLIENT, 40000, WEB, 80)
FROM = (WEB, 80, CLIENT, 40000)


def data(second: float, value: int, seq: int = 9001, size: int = 100) -> Frame:
    return segment(second, FROM, ACK, seq, 1101, size, stamps=(value, 1))


def echo(second: float, value: int, ack: int = 9101) -> Frame:
    return segment(second, TO, ACK, 1101, ack, stamps=(1, value))


def times(*frames: Frame, vm: str = "web") -> dict[float, float]:
    return {second: round(ms, 3) for second, ms in observe(frames).of("ack_ms_p50", vm).items()}


@pytest.mark.parametrize(
    ("story", "want"),
    [
        ([data(0.1, 50), echo(0.13, 50)], {0: 30.0}),
        ([data(0.1, 50), echo(0.12, 49), echo(0.13, 50)], {0: 30.0}),  # an echo of something before
        ([data(0.1, 50), echo(0.12, 50, ack=9050), echo(0.13, 50)], {0: 30.0}),  # and an echo that doesn't cover it
        ([data(0.1, 50), data(0.2, 60, 9101), echo(0.25, 60, 9201)], {0: 150.0}),  # the first data; a later echo will do
        ([data(0.9, 50), echo(1.3, 50)], {1: 400.0}),
        ([data(0.1, 2**32 - 1), echo(0.13, 2**32 - 1)], {0: 30.0}),
        ([data(0.1, 2**32 - 1), data(0.11, 5, 9101), echo(0.13, 5, 9201)], {0: 30.0}),
        ([data(0.1, 50, seq=2**32 - 50), echo(0.13, 50, ack=50)], {0: 30.0}),
        ([data(0.1, 0), echo(0.13, 0)], {}),  # no timestamps
        ([data(0.1, 50)], {}),
        ([data(0.1, 50), echo(61, 50)], {}),
        ([data(0.1, 50), echo(60, 50)], {60: 59900.0}),
        ([data(0.1, 50), data(62, 90, 9101), echo(62.5, 90, 9201)], {62: 500.0}),
        ([data(0.1, 50), echo(0.12, 50), data(0.2, 60, 9101), echo(0.5, 60, 9201)], {0: 20.0}),  # one in an interval
        ([data(0.1, 50), echo(0.12, 50), data(1.2, 60, 9101), echo(1.25, 60, 9201)], {0: 20.0, 1: 50.0}),
        ([data(0.1, 50), data(1.1, 60), echo(1.2, 60)], {1: 1100.0}),  # repeated: from when it first passed
    ],
)
def test_from_a_vms_data_to_its_echo(story: list[Frame], want: dict[float, float]) -> None:
    assert times(*story) == want


def test_what_the_other_end_sends_is_not_timed() -> None:
    asked = segment(0.1, TO, ACK, 1101, 9001, 100, stamps=(70, 1))
    assert times(asked, segment(0.2, FROM, ACK, 9001, 1201, stamps=(1, 70))) == {}


def test_each_of_two_vms_has_its_own_times() -> None:
    to, back = (WEB, 40000, DB, 5432), (DB, 5432, WEB, 40000)
    frames = [
        segment(0.1, to, ACK, 1101, 9001, 100, stamps=(70, 1)),
        segment(0.105, back, ACK, 9001, 1201, 500, stamps=(900, 70)),
        segment(0.125, to, ACK, 1201, 9501, stamps=(95, 900)),
    ]
    assert times(*frames, vm="web") == {0: 5.0}
    assert times(*frames, vm="db") == {0: 20.0}


@pytest.mark.parametrize("flags", [FIN | ACK, ACK])
def test_an_end_may_be_the_acknowledgement_but_nothing_is_timed_after_it(flags: int) -> None:
    frames = [data(0.1, 50), segment(0.13, TO, flags, 1101, 9101, stamps=(1, 50))]
    assert times(*frames) == {0: 30.0}
    closed = [segment(0.05, TO, RST, 1101, 0), data(0.1, 50), echo(0.13, 50)]
    before = [segment(0.01, TO, SYN, 1100, 0), segment(0.02, FROM, SYN | ACK, 9000, 1101), segment(0.03, TO, ACK, 1101, 9001)]
    assert times(*before, *closed) == {}


def test_the_handshakes_round_trip_stays_its_own() -> None:
    frames = [
        segment(0, TO, SYN, 1100, 0, stamps=(10, 0)), segment(0.01, FROM, SYN | ACK, 9000, 1101, stamps=(40, 10)),
        segment(0.04, TO, ACK, 1101, 9001, stamps=(50, 40)), data(0.1, 130), echo(0.125, 130),
    ]  # fmt: skip
    seen = observe(frames)
    assert seen.of("rtt_ms_p50") == {0: pytest.approx(40.0)}
    assert seen.of("ack_ms_p50") == seen.of("ack_ms_p99") == {0: pytest.approx(25.0)}
