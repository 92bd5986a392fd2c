"""Measures what each role costs, one server after the other, and writes measured.json, of which fit.py makes the priors.

usage: measure.py [--quick] [--role R]... [--workload W]... [--out DIR] [--seconds S] [--no-install]    (root; see README.md)
Wires the other modules: servers in their place, load beside them, the kernel's accounts before and after.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import plan
from harness import NICE, SERVER, Group, MeasureError, Net, Place, check_machine, cores
from load import Job
from plan import Role, Workload

import servers

HERE = Path(__file__).parent
LATE_MS = 25.0  # a run whose requests were sent later than this (99th percentile) is repeated: the machine was busy
TRIES = 3
POOL = 4  # connections kept
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Effort:
    """How long to look: seconds a run, seconds at rest, and whether the middle rates are run too."""

    seconds: float = 3.0
    rest_s: float = 6.0
    quick: bool = False


@dataclass
class Bench:
    """One role's server as it runs, and what is needed to ask it and to read its accounts."""

    role: Role
    net: Net
    group: Group
    made: servers.Running
    effort: Effort
    seed: int = 0

    def job(self, workload: Workload, rate: float, keep: bool) -> Job:
        self.seed += 1
        return Job(
            SERVER, workload.port or self.role.port, self.role.dialect, dict(workload.weights), rate, self.effort.seconds,
            self.seed, POOL if keep else 0, self.role.tls,
        )  # fmt: skip

    @contextlib.contextmanager
    def client(self, job: Job) -> Iterator[subprocess.Popen[str]]:
        """A load process that says it is ready."""
        words = [*self.net.inside("load"), "nice", "-n", str(NICE), PYTHON, str(HERE / "load.py")]
        core = cores()[1]
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - no threads
        ) as process:
            _say(process, json.dumps(asdict(job)))
            if _hear(process) != "ready":
                process.kill()
                raise MeasureError(f"{self.role.name}: the load could not connect; see what it said above")
            yield process

    def accounts(self) -> dict[str, float]:
        """What the kernel has counted up to now."""
        return {"at": time.monotonic(), "cpu_s": self.group.cpu_s(), **self.net.counters(), **self.group.storage()}


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was counted between two readings; `seconds` between them."""
    found = {name: after[name] - before[name] for name in before}
    return {"seconds": round(found.pop("at"), 4), **{name: round(value, 7) for name, value in found.items()}}


def one_run(bench: Bench, workload: Workload, rate: float, keep: bool) -> dict[str, Any]:
    """One run: a workload at a rate, over kept connections or with one for each request."""
    with bench.client(bench.job(workload, rate, keep)) as process:
        time.sleep(0.15)
        size = servers.folder_bytes(bench.made)
        before = bench.accounts()
        _say(process, "go")
        seen = json.loads(_hear(process) or "{}")
        time.sleep(0.1)
        counted = difference(before, bench.accounts())
    if not seen:
        raise MeasureError(f"{bench.role.name} {workload.name}: the load failed; see what it said above")
    time.sleep(0.1)
    return {
        "workload": workload.name, "mode": "keep" if keep else "new", "rate": rate, **counted, **seen,
        "grown_bytes": servers.folder_bytes(bench.made) - size, "memory_own": bench.group.memory()["own"],
    }  # fmt: skip


def good_run(bench: Bench, workload: Workload, rate: float, keep: bool) -> dict[str, Any]:
    """A run, made again where the machine was too busy for it; of several, the one of median CPU a request."""
    runs = []
    for _ in range(TRIES):
        run = one_run(bench, workload, rate, keep)
        runs.append(run)
        if len(runs) == 1 and not noisy(run):
            break
    middle = sorted(runs, key=lambda r: r["cpu_s"] / max(r["answered"], 1))[len(runs) // 2]
    return {**middle, "tries": len(runs)}


def noisy(run: dict[str, Any]) -> bool:
    """Whether a run says more of the machine than of the server."""
    late = run["late_ms_p99"]
    return late is None or late > LATE_MS or run["answered"] < 0.98 * run["offered"]


def rates(bench: Bench, first: dict[str, Any], idle_cores: float, most: float) -> list[float]:
    """Further rates of a workload, after its first run: so high that they take plan.FOUND and plan.PRESENT of a core."""
    cost_s = max(first["cpu_s"] - idle_cores * first["seconds"], 1e-6) / max(first["answered"], 1)
    shares = (plan.PRESENT,) if bench.effort.quick or first["mode"] == "new" else (plan.FOUND, plan.PRESENT)
    wanted = [min(share / cost_s, most) for share in shares]
    return sorted({_rounded(rate) for rate in wanted if rate > 1.3 * first["rate"]})


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def grid(bench: Bench, idle_cores: float) -> list[dict[str, Any]]:
    """All runs of a role's workloads."""
    runs = []
    for workload in bench.role.workloads:
        for keep, most in zip((True, False), bench.role.most):
            first = good_run(bench, workload, plan.LOWEST, keep)
            runs.append(first)
            further = rates(bench, first, idle_cores, min(most, workload.most or math.inf))
            runs.extend(good_run(bench, workload, rate, keep) for rate in further)
        _tell(bench.role, f"{workload.name}: {runs[-1]['cpu_s'] / max(runs[-1]['answered'], 1) * 1e6:.0f} us a request")
    return runs


def kinds(bench: Bench) -> list[dict[str, Any]]:
    """Each kind by itself, at one rate: how unlike the work of requests is."""
    singly = [Workload(kind, {kind: 1.0}, port) for kind, port in plan.kinds_of(bench.role)]
    return [good_run(bench, workload, 2 * plan.LOWEST, True) for workload in singly]


def at_rest(bench: Bench) -> dict[str, float]:
    before = bench.accounts()
    time.sleep(bench.effort.rest_s)
    return difference(before, bench.accounts())


def held(bench: Bench) -> list[dict[str, int]]:
    """Memory while so many connections are held, each of which asked once."""
    points = []
    for count in bench.role.holds[:: len(bench.role.holds) - 1 if bench.effort.quick else 1]:
        job = bench.job(bench.role.workloads[0], 1.0, True)
        with bench.client(Job(**{**asdict(job), "hold": count, "seconds": 1.0})) as process:
            time.sleep(0.3)
            points.append({"connections": count, "own": bench.group.memory()["own"]})
            _say(process, "go")
            _hear(process)
        time.sleep(0.3)
    return points


def prepared(bench: Bench) -> dict[str, float]:
    """Makes the server's data over the network, and tells what it grew by."""
    before, first = bench.group.memory()["own"], bench.accounts()
    job = bench.job(bench.role.workloads[0], 1.0, True)
    with bench.client(Job(**{**asdict(job), "prepare": True})) as process:
        _say(process, "go")
        _hear(process)
    time.sleep(0.5)
    counted = difference(first, bench.accounts())
    return {"bytes_in": counted["bytes_in"], "grown": bench.group.memory()["own"] - before}


@contextlib.contextmanager
def bench_of(role: Role, effort: Effort, threaded: bool = True) -> Iterator[Bench]:
    """A role's servers in namespaces and a group of their own, gone at the end."""
    name = f"roles{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    folder.chmod(0o755)
    try:
        with Group(name) as group, Group(f"{name}b") as behind, Net(name, threaded) as net:
            places = []
            for where, member, core in (("server", group, cores()[0]), ("backend", behind, cores()[1])):
                (folder / where).mkdir()
                places.append(Place(net, member, folder / where, core, where))
            if (receiver := net.receiver_pid()) is not None:
                group.add(receiver)
                os.sched_setaffinity(receiver, {cores()[0]})
            with servers.running(role, *places) as made:
                time.sleep(1.0)
                yield Bench(role, net, group, made, effort)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(role: Role, effort: Effort) -> dict[str, Any]:
    """All that is measured of one role."""
    with bench_of(role, effort) as bench:
        started = bench.group.memory()
        size = servers.folder_bytes(bench.made)
        data = prepared(bench)
        time.sleep(min(effort.rest_s, 2.0))
        idle = at_rest(bench)
        idle_cores = idle["cpu_s"] / idle["seconds"]
        _tell(role, f"at rest: {idle_cores:.5f} cores, {started['own'] / 1e6:.1f} MB")
        found: dict[str, Any] = {
            "idle": {**idle, "cores": round(idle_cores, 7)},
            "memory": {"started": started, "prepared": data},
            "storage": {"installed_bytes": servers.installed_bytes(list(role.sized or role.packages)), "data_bytes": size},
            "workloads": {each.name: dict(each.weights) for each in role.workloads},
            "runs": grid(bench, idle_cores),
            "kinds": kinds(bench),
        }
        found["memory"]["held"] = held(bench)
        return found


def receiving(effort: Effort) -> list[dict[str, Any]]:
    """The same runs with received packets worked on in the server's own thread, and in their senders': what it is worth."""
    found = []
    for name, mix, keep, rate in (("nginx", "site", True, 800), ("nginx", "site", False, 300), ("redis", "small", True, 2000)):
        role = plan.role_named(name)
        workload = next(each for each in role.workloads if each.name == mix)
        cost = {}
        for threaded in (True, False):
            with bench_of(role, effort, threaded) as bench:
                prepared(bench)
                runs = [one_run(bench, workload, rate, keep) for _ in range(3)]
                cost[threaded] = statistics.median(run["cpu_s"] / run["answered"] for run in runs)
        found.append({
            "role": name, "workload": mix, "mode": "keep" if keep else "new", "rate": rate, "own_thread_s": cost[True],
            "sender_s": cost[False],
        })  # fmt: skip
        print(f"receiving: {found[-1]}", file=sys.stderr, flush=True)
    return found


def appended(effort: Effort) -> list[dict[str, Any]]:
    """Redis with its append-only file: the write-heavy mix once more."""
    role = plan.role_named("redis")
    servers.STARTS["redis"], usual = (lambda place, _: servers.start_redis(place, append=True)), servers.STARTS["redis"]
    try:
        with bench_of(role, effort) as bench:
            prepared(bench)
            mix = next(each for each in role.workloads if each.name == "sessions")
            return [good_run(bench, mix, rate, True) for rate in (100.0, 1000.0)]
    finally:
        servers.STARTS["redis"] = usual


def machine(roles: list[Role]) -> dict[str, Any]:
    """What it ran on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    mhz = re.search(r"cpu MHz\s*: (.*)", Path("/proc/cpuinfo").read_text())
    packages = sorted({name for role in roles for name in role.sized or role.packages})
    return {
        "cpu_model": cpu.group(1) if cpu else platform.processor(),
        "cpu_mhz": float(mhz.group(1)) if mhz else None,
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "kernel": "Linux " + platform.release().split("-")[0],
        "system": _os_name(),
        "network": "veth pairs on a bridge, MTU 1500, no segmentation or checksum offload, receive merging (GRO) in threads",
        "pinned": "server on one core, load and the rest on the other" if len(set(cores())) == 2 else "all on one core",
        "packages": servers.versions(packages),
    }


def _os_name() -> str:
    found = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    return found.group(1) if found else "unknown"


def _tell(role: Role, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {role.name}: {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures what each role costs (root; about 20 minutes, --quick about 3).")
    parser.add_argument("--quick", action="store_true", help="short runs, fewer rates: a trial, not a measurement")
    parser.add_argument(
        "--role", action="append", choices=[role.name for role in plan.ROLES], help="only this one (repeatable)"
    )
    parser.add_argument("--workload", action="append", help="only this workload of each role (repeatable)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for measured.json (default: beside this program)")
    parser.add_argument("--seconds", type=float, help="length of a run (default 3; quick 0.6)")
    parser.add_argument("--no-install", action="store_true", help="install no packages")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    effort = Effort(0.6, 1.0, True) if given.quick else Effort()
    if given.seconds:
        effort = Effort(given.seconds, effort.rest_s, effort.quick)
    chosen = [role for role in plan.ROLES if not given.role or role.name in given.role]
    if given.workload:
        chosen = [
            replace(r, workloads=w) for r in chosen if (w := tuple(each for each in r.workloads if each.name in given.workload))
        ]
    if not chosen:
        sys.exit(f"error: no role has a workload {' or '.join(given.workload)}; give one of plan.py's")
    check_machine()
    if not given.no_install:
        servers.install(sorted({name for role in chosen for name in role.packages}))
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "measured.json"
    document = json.loads(file.read_text()) if file.exists() else {"roles": {}}
    document.setdefault("roles", {})
    for role in chosen:
        document["roles"][role.name] = measure(role, effort)
        document["machine"] = machine([each for each in plan.ROLES if each.name in document["roles"]])
        write(file, document)
    if {"nginx", "redis"} <= {role.name for role in chosen} and not given.workload and not given.quick:
        document["receiving"], document["appended"] = receiving(effort), appended(effort)
    document["effort"] = asdict(effort)
    write(file, document)


def write(file: Path, document: dict[str, Any]) -> None:
    """Writes the document, one run a line."""
    text = json.dumps(document, indent=1)
    text = re.sub(r"\n {4,}", " ", text)
    file.write_text(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except MeasureError as error:
        sys.exit(f"error: {error}")
