"""What tshark says of a capture: the oracle of the meter's tests. Computed from its fields by the definitions of DESIGN.md."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed: apt-get install tshark")

FIELDS = (
    "frame.time_epoch",
    "ip.src",
    "ip.dst",
    "ip.len",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.plen",
    "tcp.stream",
    "tcp.flags.syn",
    "tcp.flags.ack",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.analysis.initial_rtt",
)


@dataclass
class Cell:
    """One VM's second as tshark has it."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    connections_attempted: int = 0
    connections_initiated: int = 0
    connections_established: int = 0
    rtt_ms: list[float] = field(default_factory=list)


def cells(capture: Path, vm_of: dict[str, str], interval_s: int = 1) -> dict[tuple[str, int], Cell]:
    """Per VM and interval start (epoch seconds): bytes, packets, SYNs, completed handshakes and their round trips."""
    command = ["tshark", "-n", "-r", str(capture), "-o", "tcp.relative_sequence_numbers:FALSE", "-Y", "ip or ipv6"]
    command += ["-T", "fields", "-E", "occurrence=f"]  # an ICMP error holds a second header: the first is the packet's own
    command += [part for name in FIELDS for part in ("-e", name)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[tuple[str, int], Cell] = defaultdict(Cell)
    streams: dict[str, dict[str, int]] = {}
    for line in run.stdout.splitlines():
        time, src, dst, length, src6, dst6, payload, stream, syn, ack, seq, acked, rtt = line.split("\t")
        if not src:
            src, dst, length = src6, dst6, str(int(payload) + 40)
        second = int(time.split(".")[0]) // interval_s * interval_s
        ends = {vm_of[address] for address in (src, dst) if address in vm_of}
        if src in vm_of:
            cell = found[vm_of[src], second]
            cell.tx_bytes, cell.tx_packets = cell.tx_bytes + int(length), cell.tx_packets + 1
        if dst in vm_of:
            cell = found[vm_of[dst], second]
            cell.rx_bytes, cell.rx_packets = cell.rx_bytes + int(length), cell.rx_packets + 1
        if not stream:
            continue
        is_syn, is_ack = syn in {"1", "True"}, ack in {"1", "True"}
        known = streams.get(stream)
        if is_syn and not is_ack and known is None:
            streams[stream] = {"isn": int(seq)}
            for vm in ends:
                found[vm, second].connections_attempted += 1
            if src in vm_of:
                found[vm_of[src], second].connections_initiated += 1
        elif is_syn and is_ack and known is not None:
            known["answer"] = int(seq)
        elif is_ack and not is_syn and known is not None and "answer" in known and "done" not in known:
            if int(acked) != (known["answer"] + 1) % 2**32:
                continue
            known["done"] = 1
            for vm in ends:
                found[vm, second].connections_established += 1
                if rtt:
                    found[vm, second].rtt_ms.append(float(rtt) * 1000)
    return found
