"""What emulating many VMs costs: time a second of traffic on one core and memory a VM, with and without sampled intervals.

Usage: python benchmarks/shadow.py [--vms N...] [--sets S...] [--rate R]. VMs of all bundled roles, 2 cores each, 1 s
intervals, R requests a second each on the mean, with the bytes, packets and connections that go with them. Each line is a
process of its own, on one core; time is the median of some intervals behind a first one, memory the growth of the peak over
that of one VM, with the traffic that goes in and the columns that come out. The emulator alone, without metering and storing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

VMS, SETS, RATE, INTERVALS = (100, 1_000, 10_000, 100_000), (0, 8, 64), 20.0, 7
TIME_AIM, MEMORY_AIM_KB = 0.25, 20.0
MOST_STATES = 7_000_000  # VMs x sets: beyond it takes more memory than this is worth
SECOND = 1_000_000_000
START_NS = 1_790_000_000 * SECOND


def measure(vms: int, sets: int, rate: float) -> dict[str, float]:
    """Seconds to build the network, seconds an interval, kB a VM."""
    from adumbra.emulate.paths import NetworkPath
    from adumbra.emulate.roles import bundled_priors
    from adumbra.emulate.vm import EmulatedNetwork, EmulatedVm
    from adumbra.schema.records import Intervals, Requests
    from adumbra.schema.sizing import Machine

    rng, priors = np.random.default_rng(1), bundled_priors()
    roles = sorted(priors.roles)

    def network(count: int) -> EmulatedNetwork:
        machine, path = Machine(2, 8, 1000, 50), NetworkPath(0.001)
        return EmulatedNetwork(
            [EmulatedVm(f"vm-{i}", priors.prior(roles[i % len(roles)]), machine, path) for i in range(count)], 1, sets
        )

    def traffic(count: int, number: int) -> Intervals:
        came = rng.poisson(rate, count)
        start_ns, vm = START_NS + number * SECOND, np.repeat(np.arange(count, dtype=np.int32), came)
        time_ns = start_ns + rng.integers(0, SECOND, len(vm))
        order, each = np.lexsort((time_ns, vm)), came[np.newaxis]
        columns = {
            "rx_bytes": 600 * each, "tx_bytes": 8000 * each, "rx_packets": 4 * each, "tx_packets": 8 * each,
            "connections_attempted": each // 5, "connections_initiated": 0 * each, "connections_active": 0 * each + 30,
            "requests": each, "peers": 0 * each + 20,
        }  # fmt: skip
        requests = Requests(time_ns[order], vm, np.zeros(len(vm), np.bool_))
        return Intervals(SECOND, np.array([start_ns]), columns, np.zeros((1, count), np.bool_), requests)

    one = network(1)
    for number in range(3):
        one.emulate(traffic(1, number))  # loads the compiled kernels
    before_kb, began = _peak_kb(), time.perf_counter()
    many = network(vms)
    built_s, took_s = time.perf_counter() - began, []
    for number in range(INTERVALS):
        intervals = traffic(vms, number)
        began = time.process_time()
        many.emulate(intervals)
        took_s.append(time.process_time() - began)
    return {"built_s": built_s, "interval_s": statistics.median(took_s[1:]), "vm_kb": (_peak_kb() - before_kb) / vms}


def _peak_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--vms", type=int, nargs="+", default=VMS)
    arguments.add_argument("--sets", type=int, nargs="+", default=SETS)
    arguments.add_argument("--rate", type=float, default=RATE)
    arguments.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(measure(given.vms[0], given.sets[0], given.rate)))
        return
    if shutil.which("taskset") is None:
        sys.exit("taskset is missing: apt-get install util-linux")
    core = str(max(os.sched_getaffinity(0)))
    print(f"{given.rate:g} requests/s a VM, intervals of 1 s; CPU time of one core a second of traffic")
    print(f"{'VMs':>8} {'sets':>5} {'core':>8} {'us a VM':>9} {'ns a request':>13} {'kB a VM':>9} {'built s':>8}")
    for sets in given.sets:
        for vms in given.vms:
            if vms * (1 + sets) > MOST_STATES:
                continue
            command = ["taskset", "-c", core, sys.executable, __file__, "--one", "--vms", str(vms), "--sets", str(sets)]
            run = subprocess.run([*command, "--rate", str(given.rate)], capture_output=True, text=True, check=True)
            told = json.loads(run.stdout.splitlines()[-1])
            took_s = told["interval_s"]
            line = f"{vms:8,} {sets:5} {took_s:8.2%} {took_s / vms * 1e6:9.2f} {took_s / vms / given.rate * 1e9:13.0f}"
            print(f"{line} {told['vm_kb']:9.1f} {told['built_s']:8.2f}", flush=True)
            if (vms, sets, given.rate) == (10_000, 0, RATE):
                time_met, memory_met = took_s < TIME_AIM, told["vm_kb"] < MEMORY_AIM_KB
                print(f"{'':14} aim below {TIME_AIM:.0%} of a core: {'met' if time_met else 'NOT met'}; ", end="")
                print(f"below {MEMORY_AIM_KB:g} kB a VM: {'met' if memory_met else 'NOT met'}")


if __name__ == "__main__":
    main()
