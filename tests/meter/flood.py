"""Floods a meter with SYNs of ever new clients, and prints what became of them and the memory it took, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from adumbra.decode.packets import empty_packets
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.meter.summary import Summary
from adumbra.schema.records import Packets

BATCH = 8192


def peak_mb() -> float:
    """The peak of this process' own memory; getrusage would also tell of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def syns(first: int, count: int, per_second: int) -> Packets:
    packets = empty_packets(count)
    number = np.arange(first, first + count)
    packets.time_ns[:] = 1_700_000_000_000_000_000 + number * (1_000_000_000 // per_second)
    packets.version[:], packets.protocol[:], packets.flags[:] = 4, 6, 2
    packets.src_lo[:], packets.dst_lo[:] = 0xC6120000 + number, 0x0A14010A
    packets.src_port[:], packets.dst_port[:] = number % 60_000, 80
    packets.seq[:] = number % 2**32
    packets.ip_bytes[:], packets.payload_bytes[:] = 40, 0
    packets.src_vm[:], packets.dst_vm[:] = -1, 0
    return packets


def main(total: int, per_second: int, most: int) -> None:
    meter = Meter(1, 1_000_000_000, MeterSettings(max_connections=most))
    list(meter.add(syns(-1000, 1000, per_second)))
    summary, before = Summary(1), peak_mb()
    sums = dict.fromkeys(("rx_packets", "connections_attempted", "connections_failed", "missed_packets", "peers"), 0)
    for first in range(0, total, BATCH):
        for closed in map(summary.intervals, meter.add(syns(first, min(BATCH, total - first), per_second))):
            for name in sums:
                sums[name] += int(closed.columns[name].sum())
    for closed in map(summary.intervals, meter.finish()):
        for name in sums:
            sums[name] += int(closed.columns[name].sum())
    accounts = meter.accounts()
    told = {
        name: getattr(accounts, name)
        for name in ("offered", "attributed", "untracked", "late", "uncounted", "evicted_attempts")
    }
    print(json.dumps({**sums, **told, "more_mb": peak_mb() - before}))  # noqa: T201


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
