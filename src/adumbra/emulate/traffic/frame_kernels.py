"""Compiled: segments to the bytes of a capture, with Ethernet, IP and TCP headers and checksums; and what they come to.

Payloads are zeros.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.emulate.compiled import compiled

_SYN, _RST = 0x02, 0x04
_REQUEST, _ESTABLISHED, _FROM_CLIENT = 1, 2, 4
_RECORD_BYTES, _ETHERNET_BYTES, _TCP_BYTES = 16, 14, 20
_SYN_OPTIONS, _OPTIONS = 20, 12
_WINDOW, _WINDOW_SCALE, _FIRST_WINDOW = 8192, 7, 64240  # 1 MiB, scaled; a SYN's is not

HOST = np.dtype(
    [("hi", np.uint64), ("lo", np.uint64), ("mac", np.uint64), ("router", np.uint64), ("version", np.int64),
     ("place", np.int64), ("hops", np.int64), ("vm", np.int64)],
    align=True,
)  # fmt: skip
"""An end of connections: its address (IPv4 in lo), its own MAC address and its router's (hosts of another place are reached
through it), IP version, place (subnet, or outside), how many routers away it is from others' places, and its VM's row or -1."""

COUNTS: tuple[str, ...] = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_initiated",
    "connections_established", "connections_failed", "requests",
)  # fmt: skip
"""What is told of each VM, as the metric catalogue has it."""
_RX_BYTES, _TX_BYTES, _RX_PACKETS, _TX_PACKETS, _ATTEMPTED, _INITIATED, _ESTABLISHED_COUNT, _FAILED, _REQUESTS = range(9)


@compiled
def _options_bytes(flags):
    if flags & _RST:
        return 0
    return _SYN_OPTIONS if flags & _SYN else _OPTIONS


@compiled
def _ip_bytes(version, flags, payload):
    return (20 if version == 4 else 40) + _TCP_BYTES + _options_bytes(flags) + payload


@compiled
def total_bytes(packets, hosts):
    """What these segments take in a capture."""
    total = 0
    for i in range(len(packets)):
        version = hosts[packets[i].source].version
        total += _RECORD_BYTES + _ETHERNET_BYTES + _ip_bytes(version, packets[i].flags, packets[i].payload)
    return total


@compiled
def _put16(data, at, value):
    data[at], data[at + 1] = (value >> 8) & 0xFF, value & 0xFF


@compiled
def _put32(data, at, value):
    _put16(data, at, (value >> 16) & 0xFFFF)
    _put16(data, at + 2, value & 0xFFFF)


@compiled
def _little32(data, at, value):
    data[at], data[at + 1] = value & 0xFF, (value >> 8) & 0xFF
    data[at + 2], data[at + 3] = (value >> 16) & 0xFF, (value >> 24) & 0xFF


@compiled
def _sum_of(data, begin, end):
    """The sum of the 16-bit words, of an even number of bytes."""
    total = np.int64(0)
    for at in range(begin, end, 2):
        total += (np.int64(data[at]) << 8) | np.int64(data[at + 1])
    return total


@compiled
def _folded(total):
    """The Internet checksum of a sum of words (RFC 1071)."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@compiled
def _put_address(data, at, host):
    if host.version == 4:
        _put32(data, at, np.int64(host.lo))
        return
    for word, offset in ((host.hi, 0), (host.lo, 8)):
        _put32(data, at + offset, np.int64(word >> np.uint64(32)))
        _put32(data, at + offset + 4, np.int64(word & np.uint64(0xFFFFFFFF)))


@compiled
def _put_mac(data, at, mac):
    _put16(data, at, np.int64(mac >> np.uint64(32)))
    _put32(data, at + 2, np.int64(mac & np.uint64(0xFFFFFFFF)))


@compiled
def write_frames(packets, order, hosts, identity, data):
    """Writes records of a pcap in nanoseconds, little-endian, into `data`; gives how many bytes.

    packets: conversation_layout.PACKET[n], in this order (int64[m]); hosts: HOST[h]; identity: int64[h], each host's next
    IP identification, carried on; data: uint8, at least total_bytes.
    """
    at = 0
    for k in range(len(order)):
        packet = packets[order[k]]
        source, target = hosts[packet.source], hosts[packet.target]
        version, flags = source.version, np.int64(packet.flags)
        length = _ip_bytes(version, flags, packet.payload)
        whole = _ETHERNET_BYTES + length
        data[at : at + _RECORD_BYTES + whole] = 0
        _little32(data, at, packet.time_ns // 1_000_000_000)
        _little32(data, at + 4, packet.time_ns % 1_000_000_000)
        _little32(data, at + 8, whole)
        _little32(data, at + 12, whole)
        at += _RECORD_BYTES
        # The tap stands beside the server: what comes from another place comes from the router there.
        near = target if packet.marks & _FROM_CLIENT else source
        same = source.place == target.place
        far_mac = near.router if not same else (source.mac if packet.marks & _FROM_CLIENT else target.mac)
        _put_mac(data, at, near.mac if packet.marks & _FROM_CLIENT else far_mac)
        _put_mac(data, at + 6, far_mac if packet.marks & _FROM_CLIENT else near.mac)
        at += _ETHERNET_BYTES
        hops = 0 if same or not packet.marks & _FROM_CLIENT else source.hops
        tcp = _write_ip(data, at, source, target, length, 64 - hops, identity, packet.source)
        _put16(data, at - 2, 0x0800 if version == 4 else 0x86DD)
        _write_tcp(data, tcp, packet, flags, source.version, length - (tcp - at))
        at += length
    return at


@compiled
def _write_ip(data, at, source, target, length, hops, identity, who):
    """An IP header; gives where what it carries begins."""
    if source.version == 4:
        data[at] = 0x45
        _put16(data, at + 2, length)
        _put16(data, at + 4, identity[who] & 0xFFFF)
        identity[who] += 1
        _put16(data, at + 6, 0x4000)  # don't fragment
        data[at + 8], data[at + 9] = hops, 6
        _put_address(data, at + 12, source)
        _put_address(data, at + 16, target)
        _put16(data, at + 10, _folded(_sum_of(data, at, at + 20)))
        return at + 20
    data[at] = 0x60
    _put16(data, at + 4, length - 40)
    data[at + 6], data[at + 7] = 6, hops
    _put_address(data, at + 8, source)
    _put_address(data, at + 24, target)
    return at + 40


@compiled
def _write_tcp(data, at, packet, flags, version, size):
    """A TCP header with its options and checksum. size: of header and payload; payload is zeros."""
    options = _options_bytes(flags)
    _put16(data, at, np.int64(packet.source_port))
    _put16(data, at + 2, np.int64(packet.target_port))
    _put32(data, at + 4, np.int64(packet.seq))
    _put32(data, at + 8, np.int64(packet.ack))
    data[at + 12], data[at + 13] = ((_TCP_BYTES + options) // 4) << 4, flags
    _put16(data, at + 14, 0 if flags & _RST else _FIRST_WINDOW if flags & _SYN else _WINDOW)
    option = at + _TCP_BYTES
    if flags & _SYN:
        data[option], data[option + 1] = 2, 4
        _put16(data, option + 2, np.int64(packet.mss))
        data[option + 4], data[option + 5] = 4, 2
        _timestamps(data, option + 6, packet)
        data[option + 16], data[option + 17], data[option + 18], data[option + 19] = 1, 3, 3, _WINDOW_SCALE
    elif options:
        data[option], data[option + 1] = 1, 1
        _timestamps(data, option + 2, packet)
    width = 4 if version == 4 else 16
    addresses = at - 2 * width  # they stand at the end of the IP header in both versions
    total = _sum_of(data, addresses, at) + 6 + size + _sum_of(data, at, at + _TCP_BYTES + options)
    _put16(data, at + 16, _folded(total))


@compiled
def _timestamps(data, at, packet):
    data[at], data[at + 1] = 8, 10
    _put32(data, at + 2, np.int64(packet.ts_value))
    _put32(data, at + 6, np.int64(packet.ts_echo))


@compiled
def account(packets, order, hosts, from_ns, until_ns, counts):
    """Adds what these segments come to, to int64[2, V, COUNTS]: all of them, and those within a time."""
    for k in range(len(order)):
        packet = packets[order[k]]
        source, target = hosts[packet.source], hosts[packet.target]
        length = _ip_bytes(source.version, packet.flags, packet.payload)
        from_client = packet.marks & _FROM_CLIENT
        for part in range(2 if from_ns <= packet.time_ns < until_ns else 1):
            if source.vm >= 0:
                counts[part, source.vm, _TX_BYTES] += length
                counts[part, source.vm, _TX_PACKETS] += 1
            if target.vm >= 0:
                counts[part, target.vm, _RX_BYTES] += length
                counts[part, target.vm, _RX_PACKETS] += 1
                if packet.marks & _REQUEST:
                    counts[part, target.vm, _REQUESTS] += 1
            opens = packet.flags & _SYN and from_client
            refused = packet.flags & _RST and not from_client
            for vm in (source.vm, target.vm):
                if vm >= 0:
                    counts[part, vm, _ATTEMPTED] += 1 if opens else 0
                    counts[part, vm, _FAILED] += 1 if refused else 0
                    counts[part, vm, _ESTABLISHED_COUNT] += 1 if packet.marks & _ESTABLISHED else 0
            if opens and source.vm >= 0:
                counts[part, source.vm, _INITIATED] += 1
