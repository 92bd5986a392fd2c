"""Flow collectors: datagrams as exporters sent them, with the exporter's name; floods of them and of senders are bounded."""

from __future__ import annotations

import socket
import struct
import time

import numpy as np
import pytest
from tests.tap.sockets import Stop, free_port, sender

from adumbra.schema.records import Losses
from adumbra.schema.sources import CollectorSource, Export, parse_source
from adumbra.tap.datagrams import Room
from adumbra.tap.flows import MAX_EXPORTERS, WHOLE_ROOM, ExporterNames, FlowCollector

V5 = struct.pack(">HHIIIIHH", 5, 1, 1000, 1_700_000_000, 0, 0, 0, 0) + bytes(48)
V9 = struct.pack(">HHIIII", 9, 1, 1000, 1_700_000_000, 0, 7) + struct.pack(">HHHH", 0, 8, 256, 0)
IPFIX = struct.pack(">HHIII", 10, 16, 1_700_000_000, 0, 7)
SFLOW = struct.pack(">IIIIIII", 5, 1, 0x7F000001, 0, 1, 1000, 0)


def collect(
    text: str, stop: Stop, send: list[tuple[str, bytes]], room: Room = WHOLE_ROOM
) -> tuple[list[tuple[bytes, str]], Losses]:
    """What is collected, (payload, exporter), of payloads sent from addresses of loopback."""
    spec = parse_source(text)
    assert isinstance(spec, CollectorSource)
    given: list[tuple[bytes, str]] = []
    with FlowCollector(spec, time.time_ns, stop, room) as source:
        assert source.name == text
        for address, payload in send:
            with sender(socket.AF_INET6 if ":" in address else socket.AF_INET) as out:
                out.bind((address, 0))
                out.sendto(payload, ("::1" if ":" in address else "127.0.0.1", spec.port))
        last_ns = 0
        for batch in source:
            rows = zip(batch.offset.tolist(), batch.size.tolist(), batch.exporter, strict=True)
            given += [(batch.data[at : at + size].tobytes(), name) for at, size, name in rows]
            assert (np.diff(batch.time_ns, prepend=last_ns) >= 0).all()
            last_ns = int(batch.time_ns[-1]) if len(batch) else last_ns
            if len(given) + source.losses().dropped >= len(send):
                stop.press()
    return given, source.losses()


def test_datagrams_come_whole_with_their_exporters_address() -> None:
    large = struct.pack(">HHIII", 10, 65_000, 1_700_000_000, 0, 7) + bytes(64_984)
    sent = [
        ("127.0.0.1", V5),
        ("127.0.0.2", V9),
        ("127.0.0.3", b""),
        ("127.0.0.1", V9),
        ("127.0.0.2", b"\0"),
        ("127.0.0.4", V5 * 20),
    ]
    given, losses = collect(f"netflow:127.0.0.1:{free_port()}", Stop(), sent)
    assert given == [(payload, address) for address, payload in sent]
    assert losses == Losses()
    ((payload, name),) = collect(f"netflow:127.0.0.1:{free_port()}", Stop(), [("127.0.0.1", large)])[0]
    assert payload == large
    assert name.startswith("127.0.0.1:")


def test_ipfix_exporters_on_one_address_are_told_apart_by_port_others_not() -> None:
    sent = [("127.0.0.1", payload) for payload in (IPFIX, IPFIX, V9, V9, V5)]
    given, _ = collect(f"netflow:127.0.0.1:{free_port()}", Stop(), sent)
    names = [name for _, name in given]
    assert names[2:] == ["127.0.0.1"] * 3
    assert len(set(names[:2])) == 2, "two sockets are two sessions"
    sflow, _ = collect(f"sflow:127.0.0.1:{free_port()}", Stop(), [("127.0.0.1", SFLOW), ("127.0.0.1", IPFIX)])
    assert [name for _, name in sflow] == ["127.0.0.1", "127.0.0.1"]


def test_one_exporter_has_one_name_whichever_ip_version_the_socket_has() -> None:
    sent = [("127.0.0.1", V9), ("::1", V9)]
    try:
        given, _ = collect(f"netflow:{free_port()}", Stop(), sent)
    except OSError:
        pytest.skip("this host has no IPv6 loopback")
    assert given == [(V9, "127.0.0.1"), (V9, "::1")]


def test_a_flood_is_counted_where_it_overflows() -> None:
    stop = Stop()
    sent = [("127.0.0.1", V5)] * 1500
    given, losses = collect(f"netflow:127.0.0.1:{free_port()}", stop, sent, Room(16, 65_535, receive_buffer_bytes=4096))
    assert 0 < len(given) < len(sent)
    assert len(given) + losses.dropped == len(sent)


def test_many_exporters_take_bounded_memory() -> None:
    names = ExporterNames()
    for n in range(MAX_EXPORTERS + 1000):
        assert names.name(n.to_bytes(4, "big"), 0, ipfix=False).count(".") == 3
        assert len(names) <= MAX_EXPORTERS
    assert names.name(bytes([10, 0, 0, 1]), 2055, ipfix=True) == "10.0.0.1:2055"


@pytest.mark.parametrize(
    ("address", "ipfix", "want"),
    [
        ("10.0.0.1", False, "10.0.0.1"), ("10.0.0.1", True, "10.0.0.1:99"), ("::ffff:10.0.0.1", False, "10.0.0.1"),
        ("2001:db8::1", False, "2001:db8::1"), ("2001:db8::1", True, "[2001:db8::1]:99"),
    ],
)  # fmt: skip
def test_names(address: str, ipfix: bool, want: str) -> None:
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    assert ExporterNames().name(packed, 99, ipfix=ipfix) == want


def test_a_collector_says_which_port_is_taken() -> None:
    port = free_port()
    with FlowCollector(CollectorSource(Export.SFLOW, "127.0.0.1", port), time.time_ns, Stop()) as first:
        assert first.progress() is None
        second = FlowCollector(CollectorSource(Export.SFLOW, "127.0.0.1", port), time.time_ns, Stop())
        with pytest.raises(Exception, match=f"UDP port {port} is taken"):
            second.__enter__()
