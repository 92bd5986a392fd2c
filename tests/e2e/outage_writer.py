"""Run as a process of its own by test_outage.py: writes numbered intervals to a store steadily, until it is told to end.

Says `N` once interval N was acknowledged by the store's outbox, and at the end, after a line on its input, what still waits.
"""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

import numpy as np

from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import NANOSECONDS, Floats, MetricBatch
from adumbra.service.workspace import Storage, Workspace
from adumbra.store.urls import parse_stores
from adumbra.telemetry import set_up_log

NETWORK, SOURCE = "outage", "live:eth0"
EPOCH_S = 1_700_006_400
VMS = tuple(f"web-{number}" for number in range(1, 11))
COLUMNS = ("rx_bytes", "requests", "cpu_seconds", "cpu_utilization", "memory_bytes", "latency_ms_p99")
A_SECOND = 40


def value(column: str, number: int) -> Floats:
    """What was measured in interval `number`, float64[V]: no two alike, and exact in binary so that sums are."""
    place, vms = COLUMNS.index(column), np.arange(len(VMS))
    found = 1 + number * 7 + place * 1000 + vms * 13
    return found.astype(np.float64) if BY_NAME[column].whole else found / 1024


def batch(number: int) -> MetricBatch:
    kinds = {column: np.int64 if BY_NAME[column].whole else np.float64 for column in COLUMNS}
    columns = {column: value(column, number)[np.newaxis].astype(kind) for column, kind in kinds.items()}
    start_ns = np.array([(EPOCH_S + number) * NANOSECONDS])
    sided = np.zeros((1, len(VMS)), np.bool_)
    return MetricBatch(NETWORK, 1.0, VMS, start_ns, columns, sided, SOURCE, subnets=("s",) * len(VMS), roles=("r",) * len(VMS))


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    sys.stderr.write(text + "\n")


def main(home: Path, url: str, first: int) -> None:
    set_up_log()
    with Workspace(home, Storage(parse_stores(url), drain_s=60.0), say=complain) as opened:
        number, began = first, time.monotonic()
        while not select.select([sys.stdin], [], [], 0)[0]:
            opened.metrics.write(batch(number))
            say(number)
            number += 1
            time.sleep(max(0.0, began + (number - first) / A_SECOND - time.monotonic()))
        say("left", *opened.drain())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
