"""Samples a second into InfluxDB, and CPU time for a million, beside influxdb-client: the same data and server in one run.

Usage: python benchmarks/store_influx.py --url http://127.0.0.1:8086 [--vms N] [--intervals N] [--per-batch N]. A sample is a
value that is known. Both write the same lines of the same points, uncompressed, to a database of their own; best of three.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.http_asking import HttpAccess
from adumbra.schema.metrics import METRICS, provenance
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin
from adumbra.store import lines
from adumbra.store.influx import InfluxStore
from adumbra.store.influx_client import InfluxConfig

REPEATS, AIM = 3, 5.0
POINTS_AT_ONCE = 5_000  # what InfluxData recommends
START_S = 1_700_006_400


@dataclass(frozen=True)
class Result:
    """One run: what did it, samples, seconds by the wall, CPU seconds of this process."""

    name: str
    samples: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        return self.samples / self.wall_s

    @property
    def cpu_s_per_million(self) -> float:
        return self.cpu_s / self.samples * 1e6


def make_batches(vms: int, intervals: int, per_batch: int, idle: float = 0.2) -> list[MetricBatch]:
    """Batches of all columns as a shadow gives them: counts, and times that are not known in a share of idle intervals."""
    rng = np.random.default_rng(1)
    names = tuple(f"web-{number}" for number in range(vms))
    batches = []
    for first in range(0, intervals, per_batch):
        shape = (min(per_batch, intervals - first), vms)
        unknown = rng.random(shape) < idle
        columns = {}
        for metric in METRICS:
            values = rng.integers(0, 10**6, shape) if metric.whole else rng.exponential(50.0, shape)
            columns[metric.name] = np.where(unknown, np.nan, values) if metric.unit in {"ms", "ratio"} else values
        starts = (START_S + first + np.arange(shape[0])) * NANOSECONDS
        labels = ("front",) * vms, ("web",) * vms
        sided = rng.random(shape) < 0.1
        batches.append(MetricBatch("shop", 1.0, names, starts, columns, sided, "pcap:shop.pcap", Origin.SHADOW, *labels))
    return batches


def samples_of(batches: Sequence[MetricBatch]) -> int:
    return sum(int(np.isfinite(values).sum()) for batch in batches for values in batch.columns.values())


def write_ours(url: str, database: str, batches: Sequence[MetricBatch]) -> None:
    with InfluxStore(InfluxConfig(HttpAccess(url), database)) as store:
        for batch in batches:
            store.write(batch)
        assert not store.counters().dropped


def write_theirs(url: str, database: str, batches: Sequence[MetricBatch]) -> None:
    """As influxdb-client's documentation writes points: a list at a time, synchronously."""
    from influxdb_client import InfluxDBClient
    from influxdb_client.client.write_api import SYNCHRONOUS

    with InfluxDBClient(url, token="-", org="-") as client, client.write_api(write_options=SYNCHRONOUS) as api:
        rest = client.api_client.rest_client
        post = rest.POST
        # It knows the v2 path only, which InfluxDB has from 1.8 on; here 1.6 is given the same request at its own path.
        rest.POST = lambda url, **kwargs: post(
            url.replace("/api/v2/write", "/write"), **{**kwargs, "query_params": [("db", database), ("precision", "ns")]}
        )
        waiting = []
        for point in _points(batches):
            waiting.append(point)
            if len(waiting) == POINTS_AT_ONCE:
                api.write(database, record=waiting)
                waiting = []
        api.write(database, record=waiting)


def encode_ours(batches: Sequence[MetricBatch]) -> int:
    return sum(len(block) for batch in batches for block in lines.blocks(batch))


def encode_theirs(batches: Sequence[MetricBatch]) -> int:
    return sum(len(point.to_line_protocol()) + 1 for point in _points(batches))


def _points(batches: Sequence[MetricBatch]) -> Iterator[object]:
    from influxdb_client import Point

    for batch in batches:
        columns = {name: values.tolist() for name, values in batch.columns.items()}
        for row, start_ns in enumerate(batch.start_ns.tolist()):
            for place, vm in enumerate(batch.vms):
                one_sided, by_provenance = bool(batch.one_sided[row, place]), dict[str, list[str]]()
                for name, values in columns.items():
                    if values[row][place] == values[row][place]:
                        by_provenance.setdefault(provenance(name, one_sided=one_sided).value, []).append(name)
                for told, names in by_provenance.items():
                    point = Point("adumbra_vm").tag("interval", "1s").tag("network", batch.network).tag("origin", "shadow")
                    point.tag("provenance", told).tag("role", batch.roles[place]).tag("subnet", batch.subnets[place])
                    point.tag("vm", vm)
                    for name in names:
                        point.field(name, columns[name][row][place])
                    if told == "observed":
                        point.field("one_sided", float(one_sided)).field("source", batch.source)
                    yield point.time(start_ns)


def timed(name: str, samples: int, act: Callable[[], object]) -> Result:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    act()
    return Result(name, samples, time.perf_counter() - wall_s, time.process_time() - cpu_s)


def contend(url: str, batches: Sequence[MetricBatch]) -> list[Result]:
    """The best of three runs each, of writing and of making lines alone, one after the other in turns."""
    samples, runs = samples_of(batches), list[Result]()
    for turn in range(REPEATS):
        for name, write in (("adumbra", write_ours), ("influxdb-client", write_theirs)):
            database = f"bench_{name.replace('-', '_')}_{turn}_{time.time_ns()}"
            make_database(url, database)
            runs.append(timed(name, samples, lambda write=write, database=database: write(url, database, batches)))
        runs.append(timed("adumbra, lines only", samples, lambda: encode_ours(batches)))
        runs.append(timed("influxdb-client, lines only", samples, lambda: encode_theirs(batches)))
    best = dict[str, Result]()
    for run in runs:
        best[run.name] = min(run, best.get(run.name, run), key=lambda each: each.wall_s)
    return list(best.values())


def make_database(url: str, database: str) -> None:
    import httpx

    httpx.post(f"{url}/query", data={"q": f'CREATE DATABASE "{database}"'}).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--vms", type=int, default=100)
    parser.add_argument("--intervals", type=int, default=60)
    parser.add_argument("--per-batch", type=int, default=60)
    given = parser.parse_args()
    batches = make_batches(given.vms, given.intervals, given.per_batch)
    results = {result.name: result for result in contend(given.url, batches)}
    for result in results.values():
        print(f"{result.name:28} {result.per_s:12,.0f} samples/s   {result.cpu_s_per_million:6.2f} CPU s per million samples")
    for ours, theirs in (("adumbra", "influxdb-client"), ("adumbra, lines only", "influxdb-client, lines only")):
        faster = results[ours].per_s / results[theirs].per_s
        leaner = results[theirs].cpu_s_per_million / results[ours].cpu_s_per_million
        print(f"{ours}: {faster:.1f} x the samples a second, 1/{leaner:.1f} of the CPU time (aim {AIM:g})")


if __name__ == "__main__":
    main()
