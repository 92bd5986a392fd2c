"""The API with many networks: how long reading takes, requests a second beside an empty FastAPI route, and the server's memory.

Usage: python benchmarks/api.py [--networks N] [--vms N] [--intervals N] [--requests N] [--home DIR]. Each server is a process
of its own, with the same uvicorn settings; what asks keeps its connections, and asks each time of another network, by chance.
With --home what was made is kept, and used again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

AIM_P99_MS = 100.0
BEGIN_S = 1_700_006_400
TOKEN_FILE = "token"


@dataclass(frozen=True)
class Size:
    """How much there is."""

    networks: int
    vms: int
    intervals: int


def spec_of(name: str, vms: int) -> str:
    groups = "\n".join(
        f"  - {{name: app{k}, subnet: web, addresses: [10.20.{k // 200}.{k % 200 + 10}], role: web, type: m7i.large}}"
        for k in range(vms)
    )
    return f"name: {name}\ncidrs: [10.20.0.0/16]\nsubnets: [{{name: web, cidr: 10.20.0.0/20}}]\nvms:\n{groups}\ninterval: 60s\n"


def make(home: Path, size: Size) -> None:
    """A workspace with so many networks, each observed and sized, and a token."""
    from adumbra.schema.access import NewToken, Role
    from adumbra.schema.metrics import METRICS
    from adumbra.schema.records import NANOSECONDS, MetricBatch
    from adumbra.schema.sizing import RESOURCES, Confidence, Estimate, NetworkProfile, VmProfile
    from adumbra.service import access, networks
    from adumbra.service.workspace import Workspace

    vms = tuple(f"app{k}" for k in range(size.vms))
    shape = (size.intervals, size.vms)
    rng = np.random.default_rng(1)
    columns = {metric.name: rng.poisson(100, shape) if metric.whole else rng.gamma(2.0, 1.0, shape) for metric in METRICS}
    starts = (BEGIN_S + 60 * np.arange(size.intervals)) * NANOSECONDS
    estimate = dict.fromkeys(RESOURCES, Estimate(0.71234, 1.11234, 1.61234))
    reasons = tuple(
        f"reason {k}: learned from an hour; the horizon is a week; it can't show the pattern of a day" for k in range(6)
    )
    sized = tuple(VmProfile(vm, 2, 8.0, 150, 20, "m7i.large", 0.1008, estimate, Confidence.LOW, reasons) for vm in vms)
    with Workspace(home) as workspace:
        for number in range(size.networks):
            name = f"net-{number:05}"
            networks.create(workspace, spec_of(name, size.vms), "spec", time.time_ns())
            batch = MetricBatch(name, 60.0, vms, starts, columns, np.zeros(shape, np.bool_), "pcap:made.pcap")
            workspace.metrics.write(batch)
            workspace.state.save_profile(
                name, NetworkProfile(name, 604_800.0, 0.01, 3_600.0, "seasonal naive", sized).to_dict(), time.time_ns()
            )
            if number % 100 == 99:
                print(f"  made {number + 1:,} networks", file=sys.stderr, flush=True)
        (home / TOKEN_FILE).write_text(access.issue(workspace, NewToken("bench", Role.VIEWER), time.time_ns()).secret)


def serve(what: str, home: Path, port: int) -> None:
    """The process of a server."""
    import uvicorn
    from fastapi import FastAPI

    settings = {"host": "127.0.0.1", "port": port, "log_level": "warning", "access_log": False, "ws": "none", "lifespan": "off"}
    if what == "empty":
        app = FastAPI(docs_url=None, redoc_url=None)

        @app.get("/")
        def nothing() -> dict[str, str]:
            return {}

        uvicorn.run(app, **settings)
        return
    from adumbra.api.app import make_app
    from adumbra.api.context import Care, Server
    from adumbra.service.workspace import Workspace

    with Workspace(home) as workspace:
        care = Care(requests_per_s=1e6, burst=10**6)  # one client asks here for many
        uvicorn.run(make_app(Server(workspace, time.time_ns, care)), **settings)


@contextmanager
def server(what: str, home: Path) -> Iterator[tuple[int, int]]:
    """A server in a process of its own: its port and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    child = subprocess.Popen([sys.executable, __file__, "--serve", what, "--home", str(home), "--port", str(port)])
    try:
        until = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if child.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the server did not start")
            time.sleep(0.05)
        yield port, child.pid
    finally:
        child.terminate()
        child.wait(20)


def memory_mb(process: int) -> float:
    """How much memory a process has now."""
    told = Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1].split()[0]
    return int(told) / 1024


def cpu_s(process: int) -> float:
    """How much CPU a process has used, with its threads. Unlike a wait, it hardly follows what else the machine does."""
    told = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


async def _asked(port: int, token: str, paths: Sequence[str], waits_s: list[float], bytes_read: list[int]) -> None:
    """Asks one after the other over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    for path in paths:
        began = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        status, length = int(head[9:12]), int(head.lower().split(b"content-length:")[1].split()[0])
        await reader.readexactly(length)
        if status != 200:
            raise RuntimeError(f"{path} was answered {status}")
        waits_s.append(time.perf_counter() - began)
        bytes_read.append(length)
    writer.close()


@dataclass(frozen=True)
class Answered:
    """How long each request took, how many a second there were, how large an answer is, and the server's CPU for one."""

    waits_s: list[float]
    rate: float
    size: int
    cpu_ms: float


def ask(at: tuple[int, int], token: str, paths: Sequence[str], at_once: int) -> Answered:
    """Asks the server at a port and of a process for all of them."""
    port, process = at

    async def all_of_them() -> Answered:
        waits: list[float] = []
        sizes: list[int] = []
        began, used = time.perf_counter(), cpu_s(process)
        await asyncio.gather(*(_asked(port, token, paths[k::at_once], waits, sizes) for k in range(at_once)))
        rate, cpu_ms = len(paths) / (time.perf_counter() - began), (cpu_s(process) - used) / len(paths) * 1e3
        return Answered(waits, rate, sum(sizes) // len(sizes), cpu_ms)

    return asyncio.run(all_of_them())


def told(what: str, answered: Answered, empty: float | None) -> None:
    waits_s, rate, size = answered.waits_s, answered.rate, answered.size
    p50, p99 = (float(np.quantile(waits_s, q)) * 1e3 for q in (0.5, 0.99))
    beside = f", {rate / empty:5.3f} of the empty route" if empty else ""
    cpu = f"  {answered.cpu_ms:6.2f} ms of CPU each"
    print(f"{what:<44} p50 {p50:7.1f} ms  p99 {p99:7.1f} ms{cpu}  {rate:7.0f} /s{beside}  {size:,} bytes", flush=True)


def compare(home: Path, size: Size, requests: int) -> bool:
    """Asks both servers; whether p99 of the two that matter is within the aim."""
    chance = random.Random(1)
    token = (home / TOKEN_FILE).read_text()

    def some(path: str, count: int) -> list[str]:
        return [path.format(f"net-{chance.randrange(size.networks):05}") for _ in range(count)]

    with server("empty", home) as at:
        ask(at, token, ["/"] * 200, 4)
        told("an empty FastAPI route, alone", ask(at, token, ["/"] * requests, 1), None)
        beside = ask(at, token, ["/"] * requests, 8)
    told("an empty FastAPI route, 8 at once", beside, None)
    routes: dict[str, tuple[Callable[[int], list[str]], int]] = {
        "health": (lambda n: ["/healthz"] * n, requests),
        "a profile": (lambda n: some("/v1/networks/{}/profile", n), requests),
        "a network's page of metrics": (lambda n: some("/v1/networks/{}/metrics", n), requests // 4),
        "the newest interval of a network": (lambda n: some("/v1/networks/{}/metrics/latest", n), requests // 4),
        "a network": (lambda n: some("/v1/networks/{}", n), requests // 2),
        "a page of 100 networks": (lambda n: ["/v1/networks?limit=100&after=net-00100"] * n, requests // 10),
    }
    good = True
    with server("adumbra", home) as at:
        print(f"{'memory at the start':<44} {memory_mb(at[1]):.0f} MB")
        cold = ask(at, token, ["/v1/networks?limit=100&after=net-00100"], 1).waits_s[0]
        print(f"{'the first page of 100 networks (none read yet)':<44} {cold * 1e3:.0f} ms")
        for what, (paths, count) in routes.items():
            ask(at, token, paths(max(count // 10, 4)), 4)
            alone = ask(at, token, paths(count), 1)
            told(f"{what}, alone", alone, None)
            if what in {"a profile", "a network's page of metrics"}:
                good &= float(np.quantile(alone.waits_s, 0.99)) * 1e3 <= AIM_P99_MS
            told(f"{what}, 8 at once", ask(at, token, paths(count), 8), beside.rate)
        print(f"{'memory at the end':<44} {memory_mb(at[1]):.0f} MB")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=1_000)
    parser.add_argument("--vms", type=int, default=20, help="of each network")
    parser.add_argument("--intervals", type=int, default=60, help="of each VM, a minute each")
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--serve", choices=("adumbra", "empty"))
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.home, given.port)
        return 0
    size = Size(given.networks, given.vms, given.intervals)
    with tempfile.TemporaryDirectory() as made:
        home = given.home or Path(made) / "home"
        if not (home / TOKEN_FILE).exists():
            began = time.perf_counter()
            make(home, size)
            print(f"made {size.networks:,} networks of {size.vms} VMs in {time.perf_counter() - began:.0f} s", flush=True)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        good = compare(home, size, given.requests)
    print(f"p99 of a profile and of a page of metrics, alone: {'within' if good else 'beyond'} {AIM_P99_MS:.0f} ms")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
