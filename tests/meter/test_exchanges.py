"""Requests, responses, retransmissions and peers: what is inferred from the data of connections and datagrams."""

from __future__ import annotations

import numpy as np
import pytest
from tests.captures import Frame
from tests.meter.stories import CLIENT, DB, SIX, WEB, Talk, datagram, observe

from adumbra.meter.summary import cell_quantiles
from adumbra.schema.metrics import BUCKETS_MS, HISTOGRAMS


def opened() -> tuple[list[Frame], Talk]:
    frames: list[Frame] = []
    return frames, Talk(frames).opens(0)


def test_a_request_is_a_clients_data_after_the_servers() -> None:
    frames, talk = opened()
    talk.asks(0.1).replies(0.2)
    talk.asks(1.1).asks(1.2).replies(1.5).replies(1.6)
    talk.asks(3.0)
    seen = observe(frames)
    assert seen.requests == [(0.1, "web", True), (1.1, "web", False), (3.0, "web", False)]
    assert seen.of("requests") == {0: 1, 1: 1, 3: 1}
    assert seen.of("response_ms_p50") == {0: pytest.approx(100.0), 1: pytest.approx(300.0)}  # from the last byte to the first


def test_times_are_counted_up_to_each_bound() -> None:
    frames, talk = opened()
    talk.asks(0.1).replies(0.2).asks(0.3).replies(0.305).asks(0.4).replies(0.4301).asks(0.5).replies(0.53)
    seen = observe(frames)
    want = {ms: sum(took <= ms for took in (5.0, 30.0, 30.1, 100.0)) for ms in BUCKETS_MS}
    *buckets, total = HISTOGRAMS["response"]
    assert [seen.of(name).get(0, 0) for name in buckets] == list(want.values())
    assert seen.of(total) == {0: pytest.approx(165.1)}


def test_pipelined_requests_are_one() -> None:
    frames, talk = opened()
    talk.asks(0.1).asks(0.11).asks(0.12).replies(0.3).replies(0.31).replies(0.32)
    seen = observe(frames)
    assert seen.of("requests") == {0: 1}
    assert seen.of("response_ms_p50") == {0: pytest.approx(180.0)}


def test_bare_acknowledgements_ask_nothing() -> None:
    frames, talk = opened()
    talk.asks(0.1).ack(0.12, by_client=False).replies(0.3).ack(0.35).ack(0.36)
    seen = observe(frames)
    assert seen.of("requests") == {0: 1}
    assert seen.of("response_ms_p50") == {0: pytest.approx(200.0)}


def test_a_server_that_speaks_first_was_not_asked() -> None:
    frames, talk = opened()
    talk.replies(0.1).asks(0.2).replies(0.5)
    seen = observe(frames)
    assert seen.requests == [(0.2, "web", False)]
    assert seen.of("response_ms_p50") == {0: pytest.approx(300.0)}


def test_data_with_the_closing_ack_and_in_the_syn() -> None:
    frames: list[Frame] = []
    talk = Talk(frames).syn(0).answer(0.1).asks(0.2).replies(0.5)
    seen = observe(frames)
    assert seen.total("connections_established") == 1
    assert seen.of("rtt_ms_p50") == {0: pytest.approx(200.0)}
    assert seen.of("response_ms_p50") == {0: pytest.approx(300.0)}
    assert talk.next_client == 1101


@pytest.mark.parametrize("by_client", [True, False])
def test_a_retransmission_counts_and_asks_nothing_again(by_client: bool) -> None:
    frames, talk = opened()
    talk.asks(0.1, 100).replies(0.2, 1000)
    talk.repeats(0.3, 100 if by_client else 1000, 100 if by_client else 1000, by_client=by_client)
    seen = observe(frames)
    assert seen.of("retransmitted_packets") == {0: 1}
    assert seen.total("requests") == 1
    # SYN, SYN with ACK and three with data: five segments that take sequence numbers
    assert seen.of("loss_ratio") == {0: pytest.approx(1 / 5)}
    assert list(seen.of("response_ms_p50").values()) == [pytest.approx(100.0)]


def test_what_overlaps_but_goes_further_is_new() -> None:
    frames, talk = opened()
    talk.asks(0.1, 100).replies(0.15).repeats(0.2, 150, 50, by_client=True)
    seen = observe(frames)
    assert seen.total("retransmitted_packets") == 1  # a part of it had been seen, as tshark has it too
    assert seen.total("requests") == 2


@pytest.mark.parametrize(("size", "back"), [(0, 1), (1, 1)])
def test_a_keep_alive_probe_is_neither_request_nor_retransmission(size: int, back: int) -> None:
    frames, talk = opened()
    talk.asks(0.1, 100).replies(0.2, 500)
    for second in (10, 20, 30):
        talk.repeats(second, size, back, by_client=True).ack(second + 0.01, by_client=False)
    seen = observe(frames)
    assert seen.total("retransmitted_packets") == 0
    assert seen.total("requests") == 1
    assert seen.of("loss_ratio") == {}


def test_a_byte_at_a_time_is_no_probe() -> None:
    frames, talk = opened()
    for k in range(10):
        talk.asks(0.1 + k / 100, 1)
    seen = observe(frames)
    assert seen.total("retransmitted_packets") == 0
    assert seen.total("requests") == 1


def test_datagrams_ask_and_answer() -> None:
    frames = [
        datagram(0.1, CLIENT, WEB),
        datagram(0.15, WEB, CLIENT, 53, 5000),
        datagram(0.2, CLIENT, WEB),
        datagram(0.3, WEB, CLIENT, 53, 5000),
    ]
    frames += [datagram(1.0 + k / 10, CLIENT, WEB, sport=6000) for k in range(5)]
    seen = observe(frames)
    assert seen.requests == [(0.1, "web", True), (0.2, "web", False), (1.0, "web", True)]
    assert seen.of("response_ms_p50") == {0: pytest.approx(75.0)}
    assert seen.of("response_ms_p99") == {0: pytest.approx(99.5)}
    assert seen.of("connections_active") == seen.of("connections_attempted") == {}
    assert seen.of("rx_bytes") == {0: 2 * 58, 1: 5 * 58}


def test_a_vm_that_asks_another() -> None:
    frames: list[Frame] = []
    Talk(frames, client=WEB, server=DB, service=5432).opens(0).asks(0.1).replies(0.4)
    seen = observe(frames)
    assert seen.of("requests", "db") == {0: 1}
    assert seen.of("requests", "web") == {}
    assert seen.of("response_ms_p50", "db") == {0: pytest.approx(300.0)}
    assert seen.of("response_ms_p50", "web") == {}
    assert seen.requests == [(0.1, "db", True)]


def test_a_datagram_flow_that_pauses_begins_anew() -> None:
    frames = [datagram(second, CLIENT, WEB) for second in (0, 50, 100, 250)]
    assert [opens for _, _, opens in observe(frames).requests] == [True, True]


def test_peers_are_distinct_addresses_in_each_second() -> None:
    frames = [datagram(k / 100, f"198.18.0.{k % 7}", WEB, sport=k) for k in range(50)]
    frames += [datagram(1.5, "198.18.0.1", WEB), datagram(1.6, "198.18.0.1", "10.20.1.11"), datagram(1.7, WEB, "198.18.0.2")]
    frames += [datagram(2.5, DB, WEB), datagram(3.5, "2001:db8::9", SIX), datagram(3.6, "2001:db8::a", SIX)]
    seen = observe(frames)
    assert seen.of("peers") == {0: 7, 1: 2, 2: 1}
    assert seen.of("peers", "db") == {2: 1}
    assert seen.of("peers", "six") == {3: 2}


def test_peers_of_late_packets_count_in_their_own_second() -> None:
    frames = [
        datagram(0.5, "198.18.0.1", WEB), datagram(3.5, "198.18.0.1", WEB), datagram(3.6, "198.18.0.2", WEB),
        datagram(1.5, "198.18.0.1", WEB), datagram(0.6, "198.18.0.1", WEB), datagram(0.7, "198.18.0.2", WEB),
        datagram(1.6, "198.18.0.1", WEB, sport=9),
    ]  # fmt: skip
    seen = observe(frames, in_order=False)
    assert seen.of("peers") == {0: 2, 1: 1, 3: 2}


def test_other_protocols_have_peers_and_bytes_too() -> None:
    from tests.captures import ethernet, ip
    from tests.meter.stories import at

    frames = [Frame(at(0.1 * k), ethernet(ip(f"198.18.0.{k % 2}", WEB, 1, bytes(8)))) for k in range(6)]
    seen = observe(frames)
    assert seen.of("rx_packets") == {0: 6}
    assert seen.of("rx_bytes") == {0: 6 * 28}
    assert seen.of("peers") == {0: 2}


def test_quantiles_are_interpolated_as_numpy_does() -> None:
    rng = np.random.default_rng(5)
    cells = rng.integers(0, 40, 3000)
    cells = cells[cells != 7]
    values = rng.exponential(10.0, len(cells))
    levels = (0.0, 0.5, 0.95, 0.99, 1.0)
    got = cell_quantiles(cells, values, levels, 41)
    for cell in range(41):
        if cell in {7, 40}:
            assert np.isnan(got[:, cell]).all()
        else:
            np.testing.assert_allclose(got[:, cell], np.quantile(values[cells == cell], levels), rtol=1e-12)
