"""A capture metered by one process and by two that share it, in one run: packets a second, and the ratio.

Usage: python benchmarks/workers.py [--capture FILE] [--packets N]. Times run from the moment at which all processes have loaded
their kernels until the last interval is merged: starting an interpreter takes a second, whatever the capture. Best of three.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from pathlib import Path

from traffic import write_capture

REPEATS = 3
AIM = 1.7
SPEC = """\
name: bench
cidrs: [10.20.0.0/16]
subnets: [{name: web, cidr: 10.20.1.0/24}]
vms: [{name: web, count: 16, subnet: web, addresses: 10.20.1.10-10.20.1.25, ports: [80]}]
"""


def _meter(capture: Path, worker: int, workers: int, pipe: Connection, start: Barrier) -> None:
    """One worker: its share of the capture, each batch's tallies sent on as they close."""
    from adumbra.decode.share import Share
    from adumbra.metering import PacketMetering, Watch
    from adumbra.schema.spec import expand_vms, parse_spec
    from adumbra.service.source_metering import prefixes_of
    from adumbra.tap.replay import PcapReplay

    spec = parse_spec(SPEC)
    share = Share(worker, workers, prefixes_of(spec)) if workers > 1 else None
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[worker % os.cpu_count()]})
    with PcapReplay(capture) as source:
        metering = PacketMetering(Watch(spec, expand_vms(spec)), source, share)
        metering.warm_up()
        with PcapReplay(capture) as again:  # the walk's kernels too, and the file into the page cache
            for _ in again:
                pass
        start.wait()
        cpu = time.process_time()
        for tallies in metering.batches():
            for tally in tallies:
                pipe.send(tally)
        pipe.send((time.process_time() - cpu, metering.accounts().attributed))


def run(capture: Path, workers: int) -> tuple[float, float, int]:
    """Seconds by the wall, CPU seconds of all workers, packets attributed."""
    from adumbra.meter.summary import Summary
    from adumbra.meter.tally import Tally, merge

    context = multiprocessing.get_context("spawn")
    start = context.Barrier(workers + 1)
    pipes = []
    processes = []
    for worker in range(workers):
        ours, theirs = context.Pipe(duplex=False)
        processes.append(context.Process(target=_meter, args=(capture, worker, workers, theirs, start)))
        processes[-1].start()
        pipes.append(ours)
    start.wait()
    began = time.perf_counter()
    tallies: list[Tally] = []
    cpu_s, attributed, running = 0.0, 0, list(pipes)
    while running:
        for pipe in wait(running):
            told = pipe.recv()
            if isinstance(told, Tally):
                tallies.append(told)
            else:
                cpu_s, attributed = cpu_s + told[0], attributed + told[1]
                running.remove(pipe)
    summary = Summary(16)
    intervals = summary.intervals(merge(tallies))
    wall_s = time.perf_counter() - began
    assert len(intervals)
    for process in processes:
        process.join()
    return wall_s, cpu_s, attributed


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--capture", type=Path)
    arguments.add_argument("--packets", type=int, default=8_000_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        capture = given.capture
        if capture is None:
            capture = Path(name) / "traffic.pcap"
            print(f"writing a capture of {given.packets:,} packets in 100,000 connections", flush=True)
            write_capture(capture, given.packets, 100_000, 120.0)
        best: dict[int, float] = {}
        for number in range(REPEATS):
            for workers in (1, 2):
                wall_s, cpu_s, attributed = run(capture, workers)
                best[workers] = min(best.get(workers, wall_s), wall_s)
                print(
                    f"  run {number + 1}, {workers} processes: {wall_s:.2f} s, {cpu_s:.2f} s of CPU, {attributed:,} packets",
                    flush=True,
                )
        ratio = best[1] / best[2]
        print(f"two processes are {ratio:.2f} times as fast as one (aim {AIM}: {'met' if ratio >= AIM else 'NOT met'})")


if __name__ == "__main__":
    main()
