"""Datagrams by the batch: each as it was sent, with the kernel's time; what is cut, dropped or never sent is told."""

from __future__ import annotations

import itertools
import os
import re
import socket
import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.tap.sockets import Stop, free_port, sender

from adumbra.schema.errors import SourceError
from adumbra.tap.datagrams import COMPLETE_SLACK_NS, Receiver, Room, open_gre, open_udp

AMPLE = Room()


def listening(port: int, stop: Stop, room: Room = AMPLE, address: str = "127.0.0.1") -> Receiver:
    return Receiver(open_udp(address, port, f"udp:{port}"), room, time.time_ns, stop)


def read_all(
    receiver: Receiver, stop: Stop, want: int, between: Callable[[], None] = lambda: None
) -> tuple[list[bytes], list[int], list[int]]:
    """Payloads as captured, lengths as sent, times, until `want` have come; calls `between` after each batch."""
    payloads: list[bytes] = []
    lengths: list[int] = []
    times: list[int] = []
    for batch in receiver.batches():
        for at, size in zip(batch.offset.tolist(), batch.captured.tolist(), strict=True):
            payloads.append(batch.data[at : at + size].tobytes())
        lengths += batch.length.tolist()
        times += batch.time_ns.tolist()
        if len(payloads) >= want:
            stop.press()
        between()
    return payloads, lengths, times


def test_each_datagram_comes_once_whole_in_order_and_with_its_time() -> None:
    port, stop = free_port(), Stop()
    sent = [bytes([n % 256]) * (n % 1400) for n in range(3000)]
    receiver = listening(port, stop, Room(datagrams=64))
    before_ns = time.time_ns()
    waiting = iter(sent)
    with sender() as out:

        def send_some() -> None:  # no more at a time than the smallest receive buffer holds
            for payload in itertools.islice(waiting, 100):
                out.sendto(payload, ("127.0.0.1", port))

        payloads, lengths, times = read_all(receiver, stop, len(sent), send_some)
    receiver.close()
    assert payloads == sent
    assert lengths == [len(payload) for payload in sent]
    assert times == sorted(times)
    assert before_ns <= times[0]
    assert times[-1] <= time.time_ns()
    assert receiver.dropped() == 0


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1472, 9000, 65_507])
def test_what_is_longer_than_its_room_is_cut_and_its_length_kept(size: int) -> None:
    port, stop = free_port(), Stop()
    receiver = listening(port, stop, Room(datagrams=4, each_bytes=100))
    payload = bytes(n % 251 for n in range(size))
    with sender() as out:
        out.sendto(payload, ("127.0.0.1", port))
        out.sendto(b"next", ("127.0.0.1", port))
    payloads, lengths, _ = read_all(receiver, stop, 2)
    receiver.close()
    assert payloads == [payload[:100], b"next"]
    assert lengths == [size, 4]


def test_what_overflows_is_counted_also_when_nothing_follows_it() -> None:
    port, stop = free_port(), Stop()
    receiver = listening(port, stop, Room(datagrams=16, receive_buffer_bytes=8192))
    with sender() as out:
        for _ in range(2000):
            out.sendto(b"x" * 200, ("127.0.0.1", port))
    payloads, _, _ = read_all(receiver, stop, 1)
    assert 0 < len(payloads) < 200
    assert receiver.dropped() == 2000 - len(payloads)
    receiver.close()
    assert receiver.dropped() == 2000 - len(payloads), "known after it is closed"


def test_silence_gives_empty_batches_that_say_up_to_when_all_has_come() -> None:
    stop = Stop()
    receiver = listening(free_port(), stop)
    came: list[tuple[float, int]] = []
    for batch in receiver.batches():
        assert len(batch) == 0
        came.append((time.monotonic(), batch.complete_to_ns))
        assert time.time_ns() - 400_000_000 - COMPLETE_SLACK_NS < batch.complete_to_ns < time.time_ns() - COMPLETE_SLACK_NS
        if len(came) == 4:
            stop.press()
    receiver.close()
    assert np.diff([when for when, _ in came]).max() < 0.4
    assert [ns for _, ns in came] == sorted(ns for _, ns in came)


def test_what_was_sent_before_the_stop_is_still_given() -> None:
    port, stop = free_port(), Stop()
    receiver = listening(port, stop, Room(datagrams=8))
    with sender() as out:
        for n in range(100):
            out.sendto(bytes([n]), ("127.0.0.1", port))
    stop.press()
    payloads, _, _ = read_all(receiver, stop, 100)
    receiver.close()
    assert payloads == [bytes([n]) for n in range(100)]


def test_a_flood_that_goes_on_does_not_put_off_the_end() -> None:
    port, stop = free_port(), Stop()
    receiver = listening(port, stop, Room(datagrams=4))
    given = 0
    with sender() as out:
        out.sendto(b"x", ("127.0.0.1", port))
        stop.press()
        for batch in receiver.batches():
            given += len(batch)
            for _ in range(8):  # twice what is read
                out.sendto(b"x", ("127.0.0.1", port))
            assert given < 100
    receiver.close()
    assert given >= 1


def test_no_frame_comes_with_a_time_before_what_was_said_complete() -> None:
    port, stop = free_port(), Stop()
    receiver = listening(port, stop, Room(datagrams=32))
    complete_ns = given = sent = 0
    with sender() as out:
        for batch in receiver.batches():
            given += len(batch)
            assert not len(batch) or batch.time_ns.min() >= complete_ns
            complete_ns = max(complete_ns, batch.complete_to_ns)
            if sent == 5000:
                if given == sent:
                    stop.press()
                continue
            for _ in range(100):
                out.sendto(b"payload", ("127.0.0.1", port))
            sent += 100
    receiver.close()
    assert given == sent


def test_without_an_address_both_ip_versions_are_heard() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    port, stop = free_port(), Stop()
    receiver = listening(port, stop, address="")
    with sender() as four, sender(socket.AF_INET6) as six:
        four.sendto(b"four", ("127.0.0.1", port))
        try:
            six.sendto(b"six", ("::1", port))
        except OSError:
            receiver.close()
            pytest.skip("this host has no IPv6 loopback")
    payloads, _, _ = read_all(receiver, stop, 2)
    receiver.close()
    assert payloads == [b"four", b"six"]


def test_a_taken_port_says_what_may_hold_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(SourceError, match=rf"vxlan:{port} can't be listened to: UDP port {port} is taken, .*`ip -d link`"):
            open_udp("127.0.0.1", port, f"vxlan:{port}")
        with pytest.raises(SourceError, match="is taken"):
            open_udp("", port, f"vxlan:{port}")


def test_an_address_of_another_host_is_refused() -> None:
    with pytest.raises(SourceError, match=r"192\.0\.2\.1 is no address of this host; see `ip address`"):
        open_udp("192.0.2.1", free_port(), "netflow")


def test_raw_sockets_need_a_privilege_that_the_message_names() -> None:
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_534)  # which takes the effective capabilities away, until it is taken back
    try:
        with pytest.raises(SourceError) as caught:
            open_gre("0.0.0.0", "gre:")
    finally:
        os.seteuid(before)
    said = "gre: can't be listened to: this needs the privilege CAP_NET_RAW; run it as root, or allow it once: sudo setcap "
    assert re.fullmatch(re.escape(said) + r"cap_net_raw\+ep /\S+", str(caught.value))
