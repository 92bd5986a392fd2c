#!/usr/bin/env python3
"""Reads what the kernel accounted for each VM, once a second, into a CSV.

usage: usage.py CONFIG.json START SECONDS OUT.csv
A row's time is a whole second; its rates are for [time, time + 1), its levels
(memory, storage) were read at time + 1. A second whose ends were read more than
LATE seconds late is left out.
CPU: cpuacct.usage (ns) or cpu.stat usage_usec. Memory: anonymous + shared +
kernel memory of the control group, without the page cache. Network: counters of
eth0 in the VM's namespace. Disk: read_bytes and write_bytes of /proc/PID/io over
the VM's processes (a parent's counters include its children that ended).
"""

import csv
import json
import os
import sys
import time

LATE = 0.050
COLUMNS = [
    "vm",
    "time",
    "cpu_cores",
    "memory_bytes",
    "rx_bytes_per_s",
    "tx_bytes_per_s",
    "storage_bytes",
    "read_bytes_per_s",
    "write_bytes_per_s",
    "cpu_cores_provisioned",
    "memory_bytes_provisioned",
]


def read(path):
    with open(path) as f:
        return f.read()


def fields(text):
    return {k: int(v) for k, v in (line.split()[:2] for line in text.splitlines())}


def pids(vm):
    return [int(p) for p in read(vm["cpu"] + "/cgroup.procs").split()]


def folder_bytes(path):
    total, stack = 0, [path]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for e in entries:
                    try:
                        if e.is_dir(follow_symlinks=False):
                            stack.append(e.path)
                        else:
                            total += e.stat(follow_symlinks=False).st_blocks * 512
                    except FileNotFoundError:
                        pass
        except FileNotFoundError:
            pass
    return total


def cpu_seconds(vm):
    if vm["kind"] == 1:
        return int(read(vm["cpu"] + "/cpuacct.usage")) / 1e9
    return fields(read(vm["cpu"] + "/cpu.stat"))["usage_usec"] / 1e6


def memory_bytes(vm):
    stat = fields(read(vm["mem"] + "/memory.stat"))
    if vm["kind"] == 1:
        return stat["rss"] + stat["shmem"] + int(read(vm["mem"] + "/memory.kmem.usage_in_bytes"))
    return stat["anon"] + stat["shmem"] + stat["kernel"]


def network(vm):
    if "net" not in vm:
        vm["net"] = open(f"/proc/{min(pids(vm))}/net/dev")
    vm["net"].seek(0)
    for line in vm["net"].read().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "eth0":
            v = rest.split()
            return int(v[0]), int(v[8])
    raise OSError("no eth0")


def disk(vm):
    got = want = 0
    for pid in sorted(pids(vm), reverse=True):  # children before their parent
        try:
            f = dict(line.split(": ") for line in read(f"/proc/{pid}/io").splitlines())
        except (FileNotFoundError, ProcessLookupError):
            continue
        got += int(f["read_bytes"])
        want += int(f["write_bytes"])
    old = vm.get("disk", (0, 0))
    vm["disk"] = (max(old[0], got), max(old[1], want))
    return vm["disk"]


def counters(vms):
    first = [(time.time(), cpu_seconds(vm), *network(vm)) for vm in vms]
    return [(*f, *disk(vm), memory_bytes(vm), folder_bytes(vm["folder"])) for f, vm in zip(first, vms)]


def main():
    config, start, seconds, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    vms = json.loads(read(config))
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError:
        pass
    counters(vms)
    before = None
    with open(out, "w", newline="") as f:
        w = csv.writer(f, lineterminator="\n")
        w.writerow(COLUMNS)
        for n in range(seconds + 1):
            due = start + n
            while (wait := due - time.time()) > 0:
                time.sleep(wait)
            now = counters(vms)
            for i, vm in enumerate(vms):
                if before and max(before[i][0] - (due - 1), now[i][0] - due) < LATE:
                    b, a = before[i], now[i]
                    d = a[0] - b[0]
                    w.writerow(
                        [
                            vm["vm"],
                            due - 1,
                            f"{(a[1] - b[1]) / d:.6f}",
                            a[6],
                            *(round((a[k] - b[k]) / d) for k in (2, 3)),
                            a[7],
                            *(round((a[k] - b[k]) / d) for k in (4, 5)),
                            vm["cores"],
                            vm["memory"],
                        ]
                    )
            f.flush()
            before = now


if __name__ == "__main__":
    main()
