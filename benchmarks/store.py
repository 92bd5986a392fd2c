"""Metric stores beside peers on the same samples in one run: samples a second, and CPU of our side per million samples.

Usage: python benchmarks/store.py [--vms N] [--intervals N] [--only NAME ...]. Starts the servers itself (prometheus and
victoria-metrics from Debian), each contender on a fresh one. Of a peer that isn't installed there is no line. What a peer is
given is made ready before, in the form that it takes; ours begins with the batch as the shadow makes it. Each interval of all
VMs is a batch, as when they are live.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adumbra.http_asking import HttpAccess
from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.store.accumulate import Accumulator
from adumbra.store.prometheus import PrometheusConfig, PrometheusStore
from adumbra.store.remote_write import encode, plan, tables_of

AIM = 5.0
BEGIN_S = 1_700_006_400
WARM = 2  # batches that go before, and aren't timed


def servers() -> Any:
    """The tests' own way to start real servers."""
    spec = importlib.util.spec_from_file_location("servers", Path(__file__).parents[1] / "tests" / "servers.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["servers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Write = Callable[[Any], int]


@dataclass(frozen=True)
class Contender:
    """One way to store batches. ready: what it is given, made of all batches, untimed; open: from the server's address, what
    stores one of these and returns how many samples that were; peer_of: whose it is to be beside, "" for ours."""

    name: str
    server: str
    ready: Callable[[Sequence[MetricBatch]], Sequence[Any]]
    open: Callable[[str], AbstractContextManager[Write]]
    needs: str = ""
    peer_of: str = ""


@dataclass(frozen=True)
class Took:
    samples: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.samples / self.wall_s

    @property
    def cpu_per_million_s(self) -> float:
        return self.cpu_s / self.samples * 1e6


def batches(vms: int, intervals: int) -> list[MetricBatch]:
    """Live-like: an interval of all VMs each, every column of the catalogue."""
    rng = np.random.default_rng(1)
    names = tuple(f"web-{number}" for number in range(vms))
    labels = {"subnets": ("web",) * vms, "roles": ("nginx",) * vms}
    made = []
    for number in range(intervals):
        columns = {
            m.name: rng.integers(0, 10**6, (1, vms)) if m.whole else rng.exponential(10.0, (1, vms)).round(3) for m in METRICS
        }  # fmt: skip
        starts = np.array([(BEGIN_S + number) * NANOSECONDS])
        made.append(MetricBatch("shop", 1.0, names, starts, columns, np.zeros((1, vms), np.bool_), "live:eth0", **labels))
    return made


@contextmanager
def ours_prometheus(url: str) -> Iterator[Write]:
    with PrometheusStore(PrometheusConfig(HttpAccess(url))) as store:

        def write(batch: MetricBatch) -> int:
            before = store.counters()
            store.write(batch)
            after = store.counters()
            assert not after.dropped, after
            return after.samples - before.samples

        yield write


def items(made: Sequence[MetricBatch]) -> list[list[dict[str, Any]]]:
    """The same samples as prometheus-remote-writer takes them."""
    import cramjam
    from prometheus_remote_writer.proto.remote_pb2 import WriteRequest

    totals, every = Accumulator(), []
    for batch in made:
        listed = []
        for step in plan(tables_of(totals.add(batch)), 10_000):
            for request in step:
                message = WriteRequest.FromString(bytes(cramjam.snappy.decompress_raw(encode(request).body)))
                listed += [
                    {
                        "metric": {label.name: label.value for label in series.labels},
                        "values": [sample.value for sample in series.samples],
                        "timestamps": [sample.timestamp for sample in series.samples],
                    }
                    for series in message.timeseries
                ]
        every.append(listed)
    return every


@contextmanager
def peer_remote_writer(url: str) -> Iterator[Write]:
    from prometheus_remote_writer import RemoteWriter

    with RemoteWriter(f"{url}/api/v1/write", max_series_per_request=10_000) as writer:
        yield lambda listed: int(writer.send(listed).samples_sent)


CONTENDERS: tuple[Contender, ...] = (
    Contender("prometheus", "prometheus", list, ours_prometheus),
    Contender("prometheus-remote-writer to prometheus", "prometheus", items, peer_remote_writer, "prometheus_remote_writer",
              "prometheus"),
    Contender("victoriametrics", "victoriametrics", list, ours_prometheus),
    Contender("prometheus-remote-writer to victoriametrics", "victoriametrics", items, peer_remote_writer,
              "prometheus_remote_writer", "victoriametrics"),
)  # fmt: skip


def run(contender: Contender, made: Sequence[MetricBatch], start: Any) -> Took:
    ready = contender.ready(made)
    with ExitStack() as stack:
        folder = stack.enter_context(start.folder_of(contender.server))
        server = stack.enter_context(start.running(getattr(start, contender.server)(folder)))
        write = stack.enter_context(contender.open(server.url))
        for one in ready[:WARM]:
            write(one)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        samples = sum(write(one) for one in ready[WARM:])
        return Took(samples, time.perf_counter() - wall_s, time.process_time() - cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vms", type=int, default=500)
    parser.add_argument("--intervals", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=[])
    asked = parser.parse_args()
    start, made = servers(), batches(asked.vms, asked.intervals + WARM)
    took: dict[str, Took] = {}
    for contender in CONTENDERS:
        if asked.only and contender.name not in asked.only and contender.peer_of not in asked.only:
            continue
        if contender.needs and importlib.util.find_spec(contender.needs) is None:
            print(f"{contender.name}: not installed")
            continue
        got = took[contender.name] = run(contender, made, start)
        line = f"{contender.name:<46} {got.samples:>9,} samples {got.per_s:>11,.0f}/s"
        line += f"   CPU {got.cpu_per_million_s:6.2f} s a million"
        if beside := took.get(contender.peer_of):
            rate, cpu = beside.per_s / got.per_s, got.cpu_per_million_s / beside.cpu_per_million_s
            line += f"   ours: {rate:.1f} times the samples a second, {cpu:.1f} times less CPU (aim {AIM:g})"
        print(line, flush=True)


if __name__ == "__main__":
    main()
