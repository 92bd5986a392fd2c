"""What a live tap misses on a veth pair at tcpreplay's top rate, beside tcpdump, in one run; its memory; where it gives up.

Usage, as root: python benchmarks/live.py [--seconds N] [--capture FILE]. Needs tcpreplay, tcpdump, iproute2 and taskset.
The sender has the first core, the readers share the last. Our worker is a process of its own without privileges that does all
the way: ring, decoding, attribution, metering. Packets travel within two namespaces, which are removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from multiprocessing.connection import Connection
from pathlib import Path

from adumbra.tap import privileges
from adumbra.tap.packet_socket import LiveSettings, PacketSocket, open_packet_sockets

PREFIX = "10.20.0.0/16"
SPEC = """\
name: bench
cidrs: [10.20.0.0/16]
subnets: [{name: web, cidr: 10.20.1.0/24}]
vms: [{name: web, count: 16, subnet: web, addresses: 10.20.1.10-10.20.1.25, ports: [80]}]
"""
STEPS_PPS = (50_000, 100_000, 200_000, 300_000, 400_000, 600_000, 800_000, 1_000_000)
SLOWER = (2, 4, 8)
SENDING, READING = f"adumbra-bench-{os.getpid()}-a", f"adumbra-bench-{os.getpid()}-b"
CORES = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Seen:
    """One reader's run: packets it got, packets the kernel dropped before it, CPU seconds, resident MB on the way."""

    packets: int
    dropped: int
    cpu_s: float = 0.0
    resident_mb: tuple[float, ...] = ()


def work(given: PacketSocket, told: Connection, slower: int) -> None:
    """Our worker: all stages up to closed intervals, `slower` times over (1: as it is)."""
    privileges.drop_all()
    os.sched_setaffinity(0, {CORES[-1]})
    from adumbra.metering import PacketMetering, Watch
    from adumbra.schema.spec import expand_vms, parse_spec
    from adumbra.tap.live import LiveTap

    spec = parse_spec(SPEC)
    with LiveTap(given, time.time_ns, should_stop=told.poll) as tap:
        metering = PacketMetering(Watch(spec, tuple(expand_vms(spec))), tap)
        metering.warm_up()
        began_s = burnt_s = 0.0
        for _ in metering.batches():
            if not began_s:  # the first batch is empty: the ring takes packets from now on
                told.send("ready")
                began_s = burnt_s = time.process_time()
            burnt_s = _burn(burnt_s, slower)
        accounts = metering.accounts()
        told.recv()
        told.send((accounts.offered, accounts.losses.dropped, time.process_time() - began_s, accounts.attributed))


def _burn(since_s: float, slower: int) -> float:
    """Uses as much CPU time again as was used since, `slower` - 1 times over; gives the CPU time now."""
    until_s = time.process_time() + (slower - 1) * (time.process_time() - since_s)
    while time.process_time() < until_s:
        pass
    return time.process_time()


@contextmanager
def ours(slower: int = 1) -> Iterator[list[Seen]]:
    """Our worker, ready, until the block ends; then what it saw stands in the list."""
    os.environ.update(privileges.SINGLE_THREADED)
    spawn = multiprocessing.get_context("spawn")
    with inside(READING):
        (opened,) = open_packet_sockets("b0", [ip_network(PREFIX)], LiveSettings())
    here, there = spawn.Pipe()
    worker = spawn.Process(target=work, args=(opened, there, slower))
    worker.start()
    opened.close()
    result: list[Seen] = []
    if not here.poll(120):
        raise SystemExit("the worker doesn't start")
    here.recv()
    sampler = Sampler(int(worker.pid or 0))
    with sampler:
        yield result
    time.sleep(0.5)
    here.send("end")
    offered, dropped, cpu_s, attributed = here.recv()
    assert attributed == offered, "all packets are the network's"
    worker.join()
    result.append(Seen(offered, dropped, cpu_s, sampler.summary()))


class Sampler:
    """A process's resident memory, every half second."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._mb: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Sampler:
        self._mb.append(self._now())
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def summary(self) -> tuple[float, ...]:
        """At the start, after a tenth of the time, in the middle, and at the end."""
        last = len(self._mb) - 1
        return self._mb[0], self._mb[max(1, last // 10)], self._mb[last // 2], self._mb[last]

    def _now(self) -> float:
        line = next(line for line in self._status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def _watch(self) -> None:
        while not self._end.wait(0.5):
            self._mb.append(self._now())
        self._mb.append(self._now())


@contextmanager
def tcpdump() -> Iterator[list[Seen]]:
    """The same for tcpdump, with the same filter, snap length and buffer."""
    settings = LiveSettings()
    size = ["-B", str(settings.ring_bytes >> 10), "-s", str(settings.snap_bytes)]
    command = ["taskset", "-c", str(CORES[-1]), "tcpdump", "-i", "b0", "-n", *size, "-w", "/dev/null", "net", PREFIX]
    running = subprocess.Popen(in_space(READING, *command), stderr=subprocess.PIPE, text=True)
    time.sleep(2)
    result: list[Seen] = []
    yield result
    time.sleep(0.5)
    cpu_s = _cpu_s(running.pid)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) packets (captured|dropped by kernel)", said)}
    result.append(Seen(counts["captured"], counts["dropped by kernel"], cpu_s))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- the cable -----------------------------------------------------------------------------------------------------------


def in_space(space: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", space, *command]


@contextmanager
def inside(space: str) -> Iterator[None]:
    """Sockets that this thread opens meanwhile are in the namespace."""
    libc = ctypes.CDLL(None)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{space}") as there:
        assert libc.setns(there.fileno(), 0) == 0
        try:
            yield
        finally:
            libc.setns(home.fileno(), 0)


@contextmanager
def cable() -> Iterator[None]:
    """Two namespaces and a veth pair between them: a0 sends, b0 receives; silent but for us."""
    try:
        for space in (SENDING, READING):
            subprocess.run(["ip", "netns", "add", space], check=True)
            quiet = ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]
            subprocess.run(in_space(space, "sysctl", "-qw", *quiet), check=True)
        ends = ["type", "veth", "peer", "name", "b0", "netns", READING]
        subprocess.run(["ip", "link", "add", "a0", "netns", SENDING, *ends], check=True)
        for space, interface in ((SENDING, "a0"), (READING, "b0")):
            subprocess.run(in_space(space, "ip", "link", "set", interface, "up", "arp", "off"), check=True)
        yield
    finally:
        for space in (SENDING, READING):
            subprocess.run(["ip", "netns", "delete", space], check=False)


def send(capture: Path, seconds: float, pps: int | None) -> tuple[int, float]:
    """Plays the capture over and over for that long; gives packets that arrived at the other end, and the rate."""
    rate = ["--topspeed"] if pps is None else [f"--pps={pps}", f"--pps-multi={max(1, pps // 1000)}"]
    command = ["tcpreplay", "-q", "-K", "--loop=0", f"--duration={seconds:.0f}", *rate, "-i", "a0", str(capture)]
    before, began = _arrived(), time.monotonic()
    done = subprocess.run(
        ["taskset", "-c", str(CORES[0]), *in_space(SENDING, *command)], capture_output=True, text=True, check=False
    )
    took = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"tcpreplay failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    told = re.search(r"Rated:.*?([\d.]+) pps", done.stdout)
    sent = _arrived() - before
    return sent, float(told[1]) if told else sent / took


def _arrived() -> int:
    counter = in_space(READING, "cat", "/sys/class/net/b0/statistics/rx_packets")
    return int(subprocess.run(counter, capture_output=True, text=True, check=True).stdout)


# ---- the runs ------------------------------------------------------------------------------------------------------------


def top_rate(capture: Path, seconds: float) -> None:
    """Prints what each reader got at tcpreplay's top rate, alone, and both at once."""
    print(
        f"\n{'at top rate':22} {'sent':>12} {'sent/s':>10} {'got':>12} {'dropped':>10} {'missed':>10} {'CPU s':>7}", flush=True
    )
    for name, readers in {"tcpdump": [tcpdump], "adumbra": [ours], "both at once": [tcpdump, ours]}.items():
        with contextlib.ExitStack() as stack:
            results = [stack.enter_context(reader()) for reader in readers]
            sent, rate = send(capture, seconds, None)
        for reader, (seen,) in zip(readers, results, strict=True):
            label = name if len(readers) == 1 else f"{name}: {'tcpdump' if reader is tcpdump else 'adumbra'}"
            missed = sent - seen.packets
            print(
                f"{label:22} {sent:12,} {rate:10,.0f} {seen.packets:12,} {seen.dropped:10,} {missed:10,} {seen.cpu_s:7.2f}",
                flush=True,
            )
            if seen.resident_mb:
                start, early, middle, end = seen.resident_mb
                print(f"{'':22} resident MB: start {start:.0f}, after a tenth {early:.0f}, middle {middle:.0f}, end {end:.0f}")
                print(f"{'':22} {seen.packets / max(seen.cpu_s, 1e-9):,.0f} packets in a second of the worker's CPU time")


def first_miss(capture: Path, seconds: float) -> None:
    """Steps the rate up until our worker misses a packet; where it never does, slows it down and steps again."""
    for slower in (1, *SLOWER):
        print(f"\nour worker{'' if slower == 1 else f', {slower} times slower'}: rate asked, rate sent, missed", flush=True)
        for pps in (*STEPS_PPS, None):
            with ours(slower) as result:
                sent, rate = send(capture, seconds, pps)
            missed = sent - result[0].packets
            print(f"{f'{pps:,}' if pps else 'top':>12} {rate:12,.0f} {missed:10,}", flush=True)
            if missed:
                print(f"the first packet is missed at {rate:,.0f} packets a second for {seconds:.0f} s")
                return
            if pps and rate < 0.8 * pps:
                break  # tcpreplay can't send faster
        print(f"nothing was missed at tcpreplay's top rate here, {rate:,.0f} packets a second")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--capture", type=Path, help="a capture of traffic of 10.20.0.0/16 to send instead of one made here")
    arguments.add_argument("--packets", type=int, default=500_000)
    arguments.add_argument("--connections", type=int, default=10_000)
    arguments.add_argument("--seconds", type=float, default=30.0, help="of each run at top rate")
    arguments.add_argument("--step-seconds", type=float, default=8.0, help="of each step of the rate")
    given = arguments.parse_args()
    missing = [tool for tool in ("tcpreplay", "tcpdump", "ip", "taskset") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        sys.exit(
            f"needs root and {', '.join(missing or ['nothing else'])}: apt-get install tcpreplay tcpdump iproute2 util-linux"
        )
    with tempfile.TemporaryDirectory() as folder, cable():
        capture = given.capture
        if capture is None:
            from traffic import write_capture

            capture = Path(folder) / "traffic.pcap"
            print(f"writing a capture of {given.packets:,} packets in {given.connections:,} connections", flush=True)
            write_capture(capture, given.packets, given.connections, 60.0)
        top_rate(capture, given.seconds)
        first_miss(capture, given.step_seconds)


if __name__ == "__main__":
    main()
