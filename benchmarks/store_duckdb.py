"""What the embedded store bears: reading one VM's week at steps of a minute while 10,000 VMs write their intervals of a second.

Usage: python benchmarks/store_duckdb.py [--folder F] [--vms V] [--week-vms W] [--seconds S] [--flat-out]

The store is filled first with a week of W of the VMs, as it stands after upkeep: their cells of minutes and coarser ones, in
the order of a rewritten file, without raw intervals. (A week of all 10,000 takes 40 GB; of it a read touches what is one VM's,
which lies together.) Filling writes cells straight into the tables, so it proves nothing of writing. Then, for S seconds, one
thread writes batches of V rows, every column, one a second (or as fast as it goes), one maintains every minute, and this one
reads a random VM's week: 4 columns and all columns in turn. Said are the reads' p50, p99 and largest time, idle and under load;
rows written a second and how long a write takes; what upkeep takes; the file's size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from adumbra.schema.metrics import METRICS, NAMES, Rollup
from adumbra.schema.records import NANOSECONDS, MetricBatch, SeriesQuery
from adumbra.store.duckdb import DuckDBStore, Rewriting
from adumbra.store.levels import ROLLED, Level
from adumbra.store.rollups import columns_of

BEGIN_S = 1_790_000_000 // 3600 * 3600
FEW = ("rx_bytes", "tx_bytes", "cpu_utilization", "memory_bytes")
ROWS_A_FILL = 500_000
NEVER_REWRITE = Rewriting(least_bytes=2**62)


def value_sql(name: str, whole: bool) -> str:
    """Values of a VM that is more or less busy, of four to five digits; histograms are mostly small counts."""
    seed = abs(hash(name)) % 1000
    noise = f"(hash(vm * 7919 + start_ns // 1000000000 + {seed}) % 1000)"
    level = f"(1 + vm % 50) * {seed % 40 + 1}"
    return f"CAST({level} * {noise} // 500 AS BIGINT)" if whole else f"round({level} * {noise} / 7, 3)"


def fill(store: DuckDBStore, vms: int, first_s: int, end_s: int) -> None:
    """Cells of all levels for all VMs, in the order of a rewritten file."""
    connection = store._opened()  # noqa: SLF001 (filling is faster than writing a week, and proves nothing of it)
    for level in ROLLED:
        length_s = level.length_ns // NANOSECONDS
        steps = (end_s - first_s) // length_s
        vms_at_once = max(1, ROWS_A_FILL // steps)
        for vm in range(0, vms, vms_at_once):
            most = min(vms, vm + vms_at_once)
            connection.execute(
                f"INSERT INTO {level.table} SELECT {cell_sql(level)} FROM (SELECT {vm} + i // {steps} AS vm, "
                f"({first_s} + (i % {steps}) * {length_s}) * {NANOSECONDS} AS start_ns "
                f"FROM range({(most - vm) * steps}) AS r(i))"
            )
        print(f"filled {level.name}: {steps * vms:,} cells", flush=True)


def cell_sql(level: Level) -> str:
    beside = {f"{m.name}_ns": str(level.length_ns) for m in METRICS if m.rollup is Rollup.MEAN}
    beside |= {f"{m.name}_at": f"start_ns + {level.length_ns - NANOSECONDS}" for m in METRICS if m.rollup is Rollup.LAST}
    keys = {
        "network": "0",
        "vm": "vm",
        "start_ns": "start_ns",
        "rows_in": str(level.length_ns // NANOSECONDS),
        "one_sided": "0",
    }
    values = {m.name: value_sql(m.name, m.whole) for m in METRICS}
    return ", ".join(f"{(keys | beside | values)[name]} AS {name}" for name in columns_of(level))


def batch(rng: np.random.Generator, names: tuple[str, ...], second: int) -> MetricBatch:
    shape = (1, len(names))
    busy = rng.random(shape) * 50
    columns: dict[str, Any] = {
        m.name: rng.poisson(busy * 20) if m.whole else np.round(busy * rng.random(shape), 3) for m in METRICS
    }
    starts = np.array([second * NANOSECONDS], np.int64)
    return MetricBatch("shop", 1.0, names, starts, columns, np.zeros(shape, np.bool_), "live:bench")


def read_times(
    store: DuckDBStore, names: tuple[str, ...], end_s: int, seconds: float, pause_s: float
) -> dict[str, list[tuple[float, float]]]:
    """How long reads of a week took, and the process' processor time meanwhile, in s, of few and of all columns in turn."""
    rng, took = np.random.default_rng(5), {"4 columns": [], "all columns": []}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for what, columns in (("4 columns", FEW), ("all columns", NAMES)):
            vm = names[int(rng.integers(len(names)))]
            query = SeriesQuery("shop", columns, (vm,), (end_s - 7 * 86_400) * NANOSECONDS, None, 60.0)
            began, used = time.perf_counter(), time.process_time()
            series = store.read(query)
            took[what].append((time.perf_counter() - began, time.process_time() - used))
            assert series.steps > 0
            assert not np.isnan(series.values["rx_bytes"][0, : series.steps - 2]).any()
        time.sleep(pause_s)
    return took


def told(times: list[tuple[float, float]]) -> dict[str, float]:
    took_ms, used_ms = np.array(times).T * 1e3
    figures = {"p50_ms": np.median(took_ms), "p99_ms": np.percentile(took_ms, 99), "max_ms": took_ms.max()}
    return (
        {"reads": len(times)}
        | {name: round(float(value), 1) for name, value in figures.items()}
        | {"processor_p50_ms": round(float(np.median(used_ms)), 1)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--vms", type=int, default=10_000)
    parser.add_argument("--week-vms", type=int, default=250)
    parser.add_argument("--days", type=float, default=7.0)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between reads")
    parser.add_argument("--flat-out", action="store_true", help="write as fast as it goes, not one second of data a second")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        print(json.dumps(run(arguments, folder / "bench.duckdb"), indent=1))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


def run(arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    names = tuple(f"vm-{number:05d}" for number in range(arguments.vms))
    begin_s = BEGIN_S
    now_s = begin_s + int(arguments.days * 86_400) // 3600 * 3600
    rng = np.random.default_rng(1)
    result: dict[str, Any] = {
        "cores": os.cpu_count(),
        "vms": len(names),
        "week_vms": arguments.week_vms,
        "columns": len(NAMES),
        "days": arguments.days,
    }
    if not path.exists():
        with DuckDBStore(path, rewriting=NEVER_REWRITE) as store:
            store.write(batch(rng, names, now_s - 1))  # makes the network and its VMs
            store.delete_network("nobody")
            began = time.monotonic()
            fill(store, arguments.week_vms, begin_s, now_s)
            store._opened().execute(  # noqa: SLF001
                f"UPDATE runs SET first_ns = {begin_s * NANOSECONDS}; DELETE FROM due; DELETE FROM intervals; CHECKPOINT"
            )
            result["filling_s"] = round(time.monotonic() - began, 1)
    result["file_gb"] = round(path.stat().st_size / 1e9, 3)
    result["file_mb_per_vm_and_day_rolled_up"] = round(path.stat().st_size / 1e6 / arguments.week_vms / arguments.days, 4)
    with DuckDBStore(path, rewriting=NEVER_REWRITE) as store:
        idle = read_times(store, names[: arguments.week_vms], now_s, arguments.idle_seconds, arguments.pause)
        result["idle"] = {what: told(times) for what, times in idle.items()}
        result["load"] = under_load(arguments, store, names, now_s)
    result["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    return result


def under_load(arguments: argparse.Namespace, store: DuckDBStore, names: tuple[str, ...], now_s: int) -> dict[str, Any]:
    over, took, upkeep, behind = threading.Event(), [], [], [0.0]

    def write() -> None:
        rng, began, number = np.random.default_rng(2), time.monotonic(), 0
        waiting = [batch(rng, names, 0) for _ in range(10)]
        while not over.is_set():
            if not arguments.flat_out:
                due = began + number - time.monotonic()
                behind[0] = max(behind[0], -due)
                over.wait(max(0.0, due))
            each, start = waiting[number % len(waiting)], np.array([(now_s + number) * NANOSECONDS], np.int64)
            now, used = time.perf_counter(), time.thread_time()
            store.write(MetricBatch(each.network, 1.0, each.vms, start, each.columns, each.one_sided, each.source))
            took.append((time.perf_counter() - now, time.thread_time() - used))
            number += 1

    def maintain() -> None:
        while not over.wait(60.0):
            now = time.perf_counter()
            done = store.maintain(2**62)
            upkeep.append((round(time.perf_counter() - now, 2), done.rolled_up))

    before, began = time.process_time(), time.monotonic()
    threads = [threading.Thread(target=act) for act in (write, maintain)]
    for thread in threads:
        thread.start()
    reads = read_times(store, names[: arguments.week_vms], now_s, arguments.seconds, arguments.pause)
    over.set()
    for thread in threads:
        thread.join()
    lasted, used = time.monotonic() - began, time.process_time() - before
    writes = np.array(took)[:, 0]
    return {
        **{what: told(times) for what, times in reads.items()},
        "rows_written_per_s": round(len(took) * len(names) / lasted),
        "rows_per_s_while_writing": round(len(names) / writes.mean()),
        "write_ms": {"p50": round(np.median(writes) * 1e3), "p99": round(np.percentile(writes, 99) * 1e3)},
        "most_behind_s": round(behind[0], 2),
        "processor_share_of_one_core": round(used / lasted, 2),
        "upkeep_s_and_cells": upkeep,
    }


if __name__ == "__main__":
    main()
