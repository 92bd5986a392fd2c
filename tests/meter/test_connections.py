"""Connections told as stories: what each packet of them changes, in which second, at which VM."""

from __future__ import annotations

import pytest
from tests.captures import ACK, FIN, SYN, Frame, ethernet, ip, tcp
from tests.meter.stories import CLIENT, CLIENT6, DB, FARM, SIX, WEB, Talk, at, observe, tick

from adumbra.meter.intervals import MeterSettings
from adumbra.schema.metrics import BY_NAME


def story(**ends: object) -> tuple[list[Frame], Talk]:
    frames: list[Frame] = []
    return frames, Talk(frames, **ends)  # type: ignore[arg-type]


def test_a_handshake_and_its_round_trip() -> None:
    frames, talk = story()
    talk.syn(0.5).answer(0.51).ack(1.525)
    seen = observe(frames)
    assert seen.of("connections_attempted") == {0: 1}
    assert seen.of("connections_established") == {1: 1}
    assert seen.of("connections_active") == {1: 1}
    assert seen.of("rtt_ms_p50") == seen.of("rtt_ms_p99") == {1: pytest.approx(1025.0)}
    assert seen.of("connections_initiated") == seen.of("connections_failed") == {}
    assert seen.of("rx_packets") == {0: 1, 1: 1}
    assert seen.of("tx_packets") == {0: 1}
    assert seen.of("rx_bytes") == {0: 40, 1: 40}
    assert seen.of("requests") == seen.of("response_ms_p50") == {}


def test_both_ends_count_it_and_only_one_opened_it() -> None:
    frames, talk = story(client=WEB, server=DB)
    talk.opens(0)
    seen = observe(frames)
    for vm, initiated in (("web", {0: 1}), ("db", {})):
        assert seen.of("connections_attempted", vm) == seen.of("connections_established", vm) == {0: 1}
        assert seen.of("connections_active", vm) == {0: 1}
        assert seen.of("connections_initiated", vm) == initiated
        assert seen.of("rtt_ms_p50", vm) == {0: pytest.approx(20.0)}
        assert seen.of("peers", vm) == {0: 1}


def test_a_vm_that_talks_to_itself_counts_once() -> None:
    frames, talk = story(client="10.20.1.11", server=WEB)
    talk.opens(0).asks(0.1)
    seen = observe(frames)
    for name in ("connections_attempted", "connections_initiated", "connections_established", "connections_active", "requests"):
        assert seen.of(name) == {0: 1}, name
    assert seen.of("rx_packets") == seen.of("tx_packets") == {0: 4}
    assert seen.of("peers") == {0: 2}


@pytest.mark.parametrize("again", [[1.0], [1.0, 3.0], [0.2, 0.4, 0.6]])
def test_a_syn_sent_again_counts_once_and_the_round_trip_is_from_the_last(again: list[float]) -> None:
    frames, talk = story()
    talk.syn(0)
    for second in again:
        talk.syn_again(second)
    talk.answer(again[-1] + 0.03).ack(again[-1] + 0.05)
    seen = observe(frames)
    assert seen.total("connections_attempted") == seen.total("connections_established") == 1
    assert list(seen.of("rtt_ms_p50").values()) == [pytest.approx(50.0)]
    assert seen.total("retransmitted_packets") == len(again)


def test_a_syn_sent_again_after_its_answer_begins_the_round_trip_anew() -> None:
    frames, talk = story()
    talk.syn(0).answer(0.1).syn_again(0.15)
    talk._send(0.18, False, SYN | ACK, 0, seq=talk.server_isn)
    talk.ack(0.25)
    seen = observe(frames)
    assert seen.total("connections_attempted") == seen.total("connections_established") == 1
    assert seen.of("rtt_ms_p50") == {0: pytest.approx(100.0)}


def test_an_answer_to_another_syn_is_none() -> None:
    frames, talk = story()
    talk.syn(0)
    talk.next_client = 77
    talk.answer(0.1).ack(0.2)
    assert observe(frames).total("connections_established") == 0


def test_an_acknowledgement_of_nothing_new_completes_nothing() -> None:
    frames, talk = story()
    talk.syn(0).answer(0.1)
    frames.append(Frame(at(0.2), ethernet(ip(CLIENT, WEB, 6, tcp(40000, 80, ACK, 1001, 9000)))))
    assert observe(frames).total("connections_established") == 0
    talk.ack(0.3)
    assert observe(frames).of("rtt_ms_p50") == {0: pytest.approx(300.0)}


@pytest.mark.parametrize("isn", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_sequence_numbers_wrap(isn: int) -> None:
    frames, talk = story(isn=isn, server_isn=isn)
    talk.opens(0).asks(0.1, 1000).replies(0.2, 1460).replies(0.21, 1460).asks(0.3, 1000).closes(0.4)
    seen = observe(frames)
    assert seen.total("connections_established") == 1
    assert seen.total("retransmitted_packets") == 0
    assert seen.total("requests") == 2
    assert seen.of("connections_active") == {}


# ---- failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("by_client", [False, True])
def test_a_reset_before_it_is_open_fails_it(answered: bool, by_client: bool) -> None:
    frames, talk = story()
    talk.syn(0.9)
    if answered:
        talk.answer(0.95)
    talk.rst(2.1, by_client=by_client)
    seen = observe([*frames, tick(60)])
    assert seen.of("connections_failed") == {2: 1}
    assert seen.total("connections_established") == 0
    assert seen.of("connections_active") == {}


def test_a_refused_client_that_tries_the_same_again_failed_once() -> None:
    frames, talk = story()
    talk.syn(0).rst(0.001, by_client=False).syn_again(0.5).rst(0.501, by_client=False).syn_again(1).rst(1.001, by_client=False)
    seen = observe([*frames, tick(200)])
    assert seen.total("connections_attempted") == 1
    assert seen.of("connections_failed") == {0: 1}


def test_a_reset_that_only_cleared_the_way_does_not_prevent_the_handshake() -> None:
    frames, talk = story()
    talk.syn(0)
    frames.append(Frame(at(0.01), ethernet(ip(WEB, CLIENT, 6, tcp(80, 40000, ACK, 5, 6)))))  # of the connection before
    talk.rst(0.02).syn_again(1).answer(1.01).ack(1.02)
    seen = observe(frames)
    assert seen.of("connections_failed") == {0: 1}
    assert seen.of("connections_established") == {1: 1}
    assert seen.of("rtt_ms_p50") == {1: pytest.approx(20.0)}
    assert seen.of("connections_active") == {1: 1}


def test_an_attempt_that_nobody_answers_fails_ten_seconds_after_its_syn() -> None:
    frames, talk = story()
    talk.syn(0.5)
    assert observe([*frames, tick(10.4)]).of("connections_failed") == {}
    assert observe([*frames, tick(10.6)]).of("connections_failed") == {10: 1}
    assert observe([*frames, tick(400)]).of("connections_failed") == {10: 1}
    assert observe([*frames, tick(400)], settings=MeterSettings(answer_s=3)).of("connections_failed") == {3: 1}


def test_linux_retries_for_two_minutes_and_failed_once() -> None:
    frames, talk = story()
    talk.syn(0)
    for second in (1, 3, 7, 15, 31, 63):
        talk.syn_again(second)
    seen = observe([*frames, tick(700)])
    assert seen.of("connections_attempted") == {0: 1}
    assert list(seen.of("connections_failed").values()) == [1]
    assert 17 <= next(iter(seen.of("connections_failed"))) <= 73
    assert seen.accounts.untracked == 0


def test_a_late_answer_still_opens_it() -> None:
    frames, talk = story()
    talk.syn(0).syn_again(1).syn_again(3).syn_again(7).syn_again(15).syn_again(31).answer(31.01).ack(31.02)
    seen = observe([*frames, tick(100)])
    assert seen.of("connections_established") == {31: 1}
    assert seen.of("rtt_ms_p50") == {31: pytest.approx(20.0)}
    assert seen.of("connections_active")[31] == 1
    assert seen.total("connections_failed") == 1  # at 30 s it looked so


def test_each_of_many_unanswered_attempts_fails_at_its_time() -> None:
    frames: list[Frame] = []
    for k in range(50):
        Talk(frames, client=f"198.18.1.{k}", port=1000 + k).syn(k * 0.5)
    seen = observe([*frames, tick(120)])
    assert seen.of("connections_failed") == {10 + second: 2 for second in range(25)}


def test_a_new_attempt_in_place_of_an_unanswered_one_fails_that() -> None:
    frames, talk = story()
    talk.syn(0)
    Talk(frames, isn=5_000_000).syn(2).answer(2.1).ack(2.2)
    seen = observe([*frames, tick(30)])
    assert seen.of("connections_attempted") == {0: 1, 2: 1}
    assert seen.of("connections_failed") == {2: 1}
    assert seen.of("connections_established") == {2: 1}


# ---- endings -------------------------------------------------------------------------------------------------------------


def active(frames: list[Frame], until: float, **settings: float) -> dict[float, float]:
    return observe([*frames, tick(until)], settings=MeterSettings(**settings)).of("connections_active")  # type: ignore[arg-type]


def test_it_is_active_until_both_ends_are_closed() -> None:
    frames, talk = story()
    talk.opens(0.1).asks(1).fin(2.5)
    assert active(frames, 6) == dict.fromkeys(range(7), 1)
    talk.replies(3).fin(4.5, by_client=False).ack(4.6)
    assert active(frames, 6) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_the_server_may_close_first() -> None:
    frames, talk = story()
    talk.opens(0.1).fin(1.5, by_client=False).fin(2.5)
    assert active(frames, 6) == {0: 1, 1: 1}


@pytest.mark.parametrize("by_client", [False, True])
def test_a_reset_ends_it_at_once_and_is_no_failure(by_client: bool) -> None:
    frames, talk = story()
    talk.opens(0.1).asks(1).rst(2.5, by_client=by_client)
    assert active(frames, 6) == {0: 1, 1: 1}
    assert observe(frames).total("connections_failed") == 0


def test_what_comes_after_the_end_opens_nothing() -> None:
    frames, talk = story()
    talk.opens(0.1).closes(1)
    talk.ack(2, by_client=False).rst(2.1)
    frames.append(Frame(at(2.2), ethernet(ip(WEB, CLIENT, 6, tcp(80, 40000, FIN | ACK, 9001, 1002)))))
    seen = observe([*frames, tick(30)])
    assert seen.of("connections_active") == {0: 1}
    assert seen.total("connections_attempted") == seen.total("connections_established") == 1
    assert seen.total("connections_failed") == 0


def test_a_silent_connection_is_forgotten_and_found_again() -> None:
    frames, talk = story()
    talk.opens(0.1).asks(200)
    held = active(frames, 1500, idle_stream_s=300)
    assert list(held) == list(range(len(held)))
    assert 500 <= len(held) <= 800  # looked at each 300 s
    talk.asks(1200)
    seen = observe([*frames, tick(1201)])
    assert seen.of("connections_active")[1200] == 1
    assert seen.total("connections_attempted") == 1


def test_a_port_used_again_is_another_connection() -> None:
    frames, talk = story()
    talk.opens(0.1).asks(0.5).closes(1)
    again = Talk(frames, isn=777_000, server_isn=555_000)
    again.opens(20).asks(20.5).closes(21)
    lost_end = Talk(frames, isn=999_000, server_isn=111_000)
    lost_end.opens(40)
    Talk(frames, isn=123_000, server_isn=321_000).opens(42)
    seen = observe(frames)
    assert seen.of("connections_attempted") == seen.of("connections_established") == {0: 1, 20: 1, 40: 1, 42: 1}
    assert seen.of("connections_active") == {0: 1, 20: 1, 40: 1, 41: 1, 42: 1}
    assert [opens for _, _, opens in seen.requests] == [True, True]


def test_an_attempt_on_a_port_that_was_used_before_fails_at_its_time_too() -> None:
    frames, talk = story()
    talk.opens(0).asks(15).closes(16)
    Talk(frames, isn=777_000).syn(20.5)
    assert observe([*frames, tick(400)]).of("connections_failed") == {30: 1}


def test_one_that_began_before_the_capture_is_active_but_not_attempted() -> None:
    frames, talk = story()
    talk.asks(0.2).replies(0.3).asks(1.2).replies(1.3)
    seen = observe(frames)
    assert seen.of("connections_active") == {0: 1, 1: 1}
    assert seen.total("connections_attempted") == seen.total("connections_established") == 0
    assert seen.requests == [(0.2, "web", True), (1.2, "web", False)]
    talk.closes(2)
    assert observe(frames).of("connections_active") == {0: 1, 1: 1}


@pytest.mark.parametrize("first_by_client", [False, True])
def test_from_its_middle_on_the_higher_port_is_the_clients(first_by_client: bool) -> None:
    frames, talk = story()
    for second in (0.1, 0.2):
        (talk.asks if first_by_client else talk.replies)(second)
        (talk.replies if first_by_client else talk.asks)(second + 0.05)
    seen = observe(frames)
    assert seen.total("requests") == 2
    assert seen.total("connections_active") == 1


def test_an_answer_without_its_syn_opens_it_from_the_other_side() -> None:
    frames, talk = story(port=80, service=40000)  # so that ports would mislead
    talk.answer(0.1).ack(0.2).asks(0.3).replies(0.4)
    seen = observe(frames)
    assert seen.of("connections_active") == {0: 1}
    assert seen.total("connections_attempted") == seen.total("connections_established") == 0
    assert seen.requests == [(0.3, "web", True)]


def test_a_reset_of_nothing_known_is_nothing() -> None:
    frames, talk = story()
    talk.rst(0.1).rst(0.2, by_client=False)
    seen = observe(frames)
    assert seen.total("rx_packets") == seen.total("tx_packets") == 1
    assert seen.total("connections_active") == seen.total("connections_failed") == 0


# ---- one-sided -----------------------------------------------------------------------------------------------------------


def only_to(frames: list[Frame], server: str = WEB) -> list[Frame]:
    octets = bytes(int(part) for part in server.split("."))
    return [frame for frame in frames if frame.data[30:34] == octets]


def test_nobody_answers_in_the_telescope() -> None:
    frames, talk = story()
    talk.syn(0).syn_again(1).syn_again(3)
    seen = observe([*frames, tick(40)])
    assert seen.of("connections_attempted") == {0: 1}
    assert seen.total("connections_failed") == 1
    assert seen.one_sided[:, 0].tolist()[:4] == [True, True, False, True]
    assert seen.of("rtt_ms_p50") == {}


def test_where_only_clients_are_seen_an_answered_connection_is_not_called_failed() -> None:
    frames, talk = story()
    talk.opens(0).asks(0.5).replies(0.6).asks(1.5).replies(1.6).closes(2)
    seen = observe([*only_to(frames), tick(60)])
    assert seen.of("connections_attempted") == {0: 1}
    assert seen.total("connections_failed") == 0
    assert seen.of("connections_active") == {0: 1, 1: 1}
    assert seen.of("rtt_ms_p50") == {}
    assert seen.one_sided[:3, 0].all()


def test_an_answer_that_comes_out_of_order_completes_it_all_the_same() -> None:
    frames, talk = story()
    talk.syn(0).answer(0.01).ack(0.02).asks(0.03).replies(0.05).closes(0.2)
    order = [0, 2, 1, *range(3, len(frames))]
    seen = observe([frames[k] for k in order], in_order=False)
    assert seen.total("connections_attempted") == seen.total("connections_established") == 1
    assert seen.total("connections_active") == seen.total("connections_failed") == 0


def test_a_vm_is_one_sided_until_its_other_side_is_seen() -> None:
    frames, talk = story()
    talk.syn(0).syn_again(1.5).answer(3).ack(3.1).asks(4)
    seen = observe(frames)
    assert seen.one_sided[:, 0].tolist() == [True, True, False, False, False]
    assert not seen.one_sided[:, 1:].any()


# ---- whose it is ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "server", "vm"),
    [
        (CLIENT, WEB, "web"),
        (CLIENT, "10.20.1.11", "web"),
        (CLIENT, FARM, "farm"),
        (CLIENT, "10.20.3.0", "farm"),
        (CLIENT, "10.20.3.255", "farm"),
        (CLIENT6, SIX, "six"),
        (CLIENT6, "2001:db8:20:0:8000::1", "six"),
        (CLIENT6, "2001:db8:20:0:ffff:ffff:ffff:ffff", "six"),
        (CLIENT, "192.168.7.10", "web"),
        (CLIENT6, "fd00::10", "six"),
        (CLIENT6, "fd00::8000:0:0:5", "six"),
    ],
)
def test_every_address_of_a_vm_and_of_its_donor(client: str, server: str, vm: str) -> None:
    frames, talk = story(client=client, server=server)
    talk.opens(0).asks(0.1, 100).replies(0.2, 200).closes(0.5)
    seen = observe(frames)
    header = 40 if ":" not in server else 60
    assert seen.total("connections_established", vm) == seen.total("requests", vm) == 1
    assert seen.total("rx_bytes", vm) == 5 * header + 100
    assert seen.total("tx_bytes", vm) == 3 * header + 200
    assert seen.accounts.attributed == len(frames)
    others = [name for name in seen.vms if name != vm]
    assert all(seen.total("rx_packets", name) == 0 for name in others)


@pytest.mark.parametrize(
    ("server", "unclaimed"),
    [("10.20.1.12", 3), ("10.20.9.1", 3), ("10.21.1.10", 0), ("192.168.7.11", -1), ("192.168.7.12", 3), ("192.168.8.10", 0),
     ("2001:db8:20::11", 3), ("2001:db8:21::10", 0), ("fd00::11", 3), ("fd00:0:0:1::10", 0)],
)  # fmt: skip
def test_addresses_of_the_network_that_no_vm_has_are_told_apart(server: str, unclaimed: int) -> None:
    frames, talk = story(client=CLIENT6 if ":" in server else CLIENT, server=server)
    talk.opens(0)
    accounts = observe(frames).accounts
    wanted = {"attributed": 3 if unclaimed < 0 else 0, "unclaimed": max(unclaimed, 0), "foreign": 3 if unclaimed == 0 else 0}
    assert {name: getattr(accounts, name) for name in wanted} == wanted


def test_an_ipv6_address_of_all_ones_is_not_an_ipv4_one() -> None:
    number = int.from_bytes(bytes([10, 20, 1, 10]), "big")
    frames, talk = story(client=CLIENT6, server=f"ffff:ffff:ffff:ffff:0:0:{number >> 16:x}:{number & 0xFFFF:x}")
    talk.opens(0)
    assert observe(frames).accounts.foreign == 3


def test_ipv4_and_ipv6_connections_with_the_same_numbers_are_two() -> None:
    frames: list[Frame] = []
    Talk(frames, client="198.18.0.1", server=WEB).opens(0)
    Talk(frames, client="2001:db8:ffff::c612:1", server=SIX).opens(0.1)
    Talk(frames, client="2001:db8:ffff::c612:1", server="2001:db8:20:0:8000::10").opens(0.2)
    Talk(frames, client="2001:db8:fffe::c612:1", server=SIX).opens(0.3)
    seen = observe(frames)
    assert seen.total("connections_established", "web") == 1
    assert seen.total("connections_established", "six") == 3


def test_every_column_that_is_observed_or_inferred_is_given() -> None:
    frames, talk = story()
    talk.opens(0).asks(0.1).replies(0.2).closes(0.3)
    seen = observe(frames)
    declared = {name for name, metric in BY_NAME.items() if metric.provenance.value != "simulated"}
    assert set(seen.columns) == declared
    for name, values in seen.columns.items():
        assert values.shape == (1, 4)
        assert (values.dtype.kind == "i") == BY_NAME[name].whole, name
