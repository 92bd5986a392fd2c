"""What the stores' tests share: batches whose values say where they belong, and a run of a script in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin

Spawn = Callable[..., subprocess.Popen[str]]


def make_batch(
    starts_s: list[float],
    vms: tuple[str, ...] = ("web-1", "db"),
    *,
    network: str = "shop",
    interval_s: float = 1.0,
    value: float = 1.0,
    origin: Origin = Origin.SHADOW,
) -> MetricBatch:
    """A batch in which every metric of VM number v has the value `value` + v in every interval."""
    shape = (len(starts_s), len(vms))
    starts_ns = np.array([round(s * NANOSECONDS) for s in starts_s], np.int64)
    one_row = value + np.arange(len(vms))
    columns = {
        metric.name: np.broadcast_to(one_row, shape).astype(np.int64 if metric.whole else np.float64) for metric in METRICS
    }
    sided = np.zeros(shape, np.bool_)
    return MetricBatch(network, interval_s, vms, starts_ns, columns, sided, "pcap:test.pcap", origin)


@pytest.fixture
def batch() -> Callable[..., MetricBatch]:
    return make_batch


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts `another_process.py` with arguments; whatever still runs when the test ends is killed."""
    script = Path(__file__).with_name("another_process.py")
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
