"""Repetitions, disorder, repeated acknowledgements and closed windows, told as stories; docs/decisions/0007 has the rules."""

from __future__ import annotations

import pytest
from tests.captures import ACK, FIN, PSH, RST, Frame
from tests.meter.stories import CLIENT, WEB, Talk, observe, segment

TO = (CLIENT, 40000, WEB, 80)
FROM = (WEB, 80, CLIENT, 40000)
MSS = 1000
COUNTED = ("retransmitted_packets", "out_of_order_packets", "duplicate_acks", "zero_windows")


def opened(rtt: float = 0.02) -> list[Frame]:
    frames: list[Frame] = []
    Talk(frames).opens(0, rtt).asks(0.05, 100)  # the client stands at 1101, the server at 9001
    return frames


def parts(*order: int, begin: float = 0.1, gap: float = 0.0005, first: int = 9001) -> list[Frame]:
    """The server's segments, by their places in its data."""
    return [segment(begin + k * gap, FROM, ACK, first + part * MSS, 1101, MSS) for k, part in enumerate(order)]


def told(frames: list[Frame]) -> dict[str, int]:
    seen = observe(frames)
    return {name: seen.total(name) for name in COUNTED if seen.total(name)}


@pytest.mark.parametrize(
    ("order", "want"),
    [
        ((0, 1, 2, 3), {}),
        ((0, 0), {"retransmitted_packets": 1}),
        ((0, 1, 2, 1), {"retransmitted_packets": 1}),
        ((0, 2, 1, 3), {"out_of_order_packets": 1}),
        ((0, 3, 1, 2, 4), {"out_of_order_packets": 2}),
        ((0, 3, 2, 1, 4), {"out_of_order_packets": 2}),
        ((0, 2, 4, 1, 3, 5), {"out_of_order_packets": 2}),
        ((0, 2, 1, 1, 3), {"out_of_order_packets": 1, "retransmitted_packets": 1}),
        ((0, 2, 2, 1, 3), {"out_of_order_packets": 1, "retransmitted_packets": 1}),
        ((0, 5, 1, 2, 3, 4, 6, 3), {"out_of_order_packets": 4, "retransmitted_packets": 1}),
    ],
)
def test_what_comes_late_was_overtaken_or_is_sent_again(order: tuple[int, ...], want: dict[str, int]) -> None:
    assert told([*opened(), *parts(*order)]) == want
    wrapped = [segment(0, FROM, ACK, 2**32 - 1500, 1), *parts(*order, first=2**32 - 1500)]
    assert told(wrapped) == want


def test_a_hole_filled_after_a_round_trip_was_lost_before_the_tap_and_sent_again() -> None:
    for after, name in ((0.0195, "out_of_order_packets"), (0.0205, "retransmitted_packets")):
        frames = [*opened(rtt=0.02), *parts(0, 2), segment(0.1005 + after, FROM, ACK, 9001 + MSS, 1101, MSS)]
        assert told(frames) == {name: 1}
    for after, name in ((0.0029, "out_of_order_packets"), (0.0031, "retransmitted_packets")):  # no round trip was seen
        assert told([*parts(0, 2), segment(0.1005 + after, FROM, ACK, 9001 + MSS, 1101, MSS)]) == {name: 1}


def test_what_was_acknowledged_already_was_not_overtaken() -> None:
    acknowledged = segment(0.105, TO, ACK, 1101, 9001 + 3 * MSS)
    assert told([*opened(), *parts(0, 2), acknowledged, *parts(1, begin=0.11)]) == {"retransmitted_packets": 1}


def test_an_overtaken_end_is_told_by_the_acknowledgement_behind_it() -> None:
    frames = [*opened(), segment(0.1, FROM, ACK, 9002, 1101), segment(0.101, FROM, FIN | ACK, 9001, 1101)]
    assert told(frames) == {"out_of_order_packets": 1}


def test_a_filled_hole_is_new_data_to_its_request_and_a_repetition_is_not() -> None:
    frames = [*opened(), *parts(0, begin=0.06)]
    frames += [segment(0.2, TO, ACK | PSH, 1201, 10001, 100), segment(0.21, TO, ACK | PSH, 1101, 10001, 100)]
    frames += parts(1, begin=0.31)
    seen = observe(frames)
    assert seen.total("requests") == 2
    assert seen.of("response_ms_p99")[0] == pytest.approx(100 - 0.01 * 90, abs=1)  # from the byte that came last


@pytest.mark.parametrize(
    ("again", "want"),
    [
        ({}, 1),
        ({"window": 100}, 0),  # an update of the window
        ({"size": 10}, 0),
        ({"ack": 9001 + 2 * MSS}, 0),
        ({"seq": 1102}, 0),
        ({"flags": RST | ACK}, 0),
    ],
)
def test_an_acknowledgement_that_says_nothing_new(again: dict[str, int], want: int) -> None:
    said = {"flags": ACK, "seq": 1101, "ack": 9001 + MSS, "size": 0, "window": 500}
    second = {**said, **again}
    frames = [*opened(), *parts(0)]
    for when, each in ((0.2, said), (0.21, second)):
        ends, size, window = TO, each["size"], each["window"]
        frames.append(segment(when, ends, each["flags"], each["seq"], each["ack"], size, window=window))
    assert observe(frames).total("duplicate_acks") == want


def test_the_answer_to_a_keep_alive_is_no_duplicate() -> None:
    frames = [*opened(), *parts(0), segment(0.2, TO, ACK, 1101, 9001 + MSS)]
    for second in (10, 20, 30):
        frames.append(segment(second, FROM, ACK, 9000 + MSS, 1101, 1))
        frames.append(segment(second + 0.01, TO, ACK, 1101, 9001 + MSS))
    assert told(frames) == {}


def test_windows_that_are_closed_and_probed() -> None:
    frames = [*opened(), *parts(0), segment(0.2, TO, ACK, 1101, 9001 + MSS, window=0)]
    for second in (1, 2, 4):  # a byte that has no place, sent until it has
        frames.append(segment(second, FROM, ACK, 9001 + MSS, 1101, 1))
        frames.append(segment(second + 0.01, TO, ACK, 1101, 9001 + MSS, window=0))
    frames.append(segment(5, TO, ACK, 1101, 9001 + MSS, window=9000))
    frames += parts(1, begin=5.1)
    seen = observe(frames)
    assert told(frames) == {}
    assert seen.total("zero_windows") == 0  # it is the client's window: not the VM's
    frames.append(segment(6, FROM, ACK, 9001 + 2 * MSS, 1101, window=0))
    frames.append(segment(7, FROM, RST | ACK, 9001 + 2 * MSS, 1101, window=0))
    assert told(frames) == {"zero_windows": 1}


def test_both_ends_that_are_vms_count_order_once_each_and_windows_at_the_sender() -> None:
    frames: list[Frame] = []
    talk = Talk(frames, client=WEB, server="10.20.2.10", service=5432).opens(0).asks(0.1).replies(0.2, 100)
    talk.repeats(0.3, 100, 100, by_client=False)
    frames.append(segment(0.4, (WEB, 40000, "10.20.2.10", 5432), ACK, talk.next_client, talk.next_server, window=0))
    seen = observe(frames)
    assert seen.total("retransmitted_packets", "web") == seen.total("retransmitted_packets", "db") == 1
    assert (seen.total("zero_windows", "web"), seen.total("zero_windows", "db")) == (1, 0)
