"""Packets a second of the meter beside nfpcapd and nfstream, on the same capture in one run, one core each; and its memory.

Usage: python benchmarks/meter.py [--capture FILE] [--packets N] [--connections N]. Needs nfpcapd (Debian's nfdump) and
nfstream (pip); a peer that is missing is said to be. Times: ours and nfstream's without the interpreter's start (iterating over
the capture, kernels and libraries loaded), nfpcapd's of the whole process, whose start takes some 10 ms. Best of three.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from traffic import write_capture

REPEATS = 3
SPEC = """\
name: bench
cidrs: [10.20.0.0/16]
subnets: [{name: web, cidr: 10.20.1.0/24}]
vms: [{name: web, count: 16, subnet: web, addresses: 10.20.1.10-10.20.1.25, ports: [80]}]
"""
AIMS = {"nfpcapd": 4.0, "nfstream": 30.0}
MEMORY_AIM_MB = 400


@dataclass(frozen=True)
class Result:
    """One run: packets seen (0: not told), seconds by the wall, CPU seconds, peak resident memory in MB."""

    packets: int
    wall_s: float
    cpu_s: float
    peak_mb: float


def adumbra(capture: Path) -> Result:
    """Tap, decode, attribute and meter, all of it, in this process."""
    from adumbra.decode.packets import Decoder
    from adumbra.meter.attribute import Attribution
    from adumbra.meter.intervals import Meter
    from adumbra.meter.summary import Summary
    from adumbra.schema.sources import Layer
    from adumbra.schema.spec import expand_vms, parse_spec
    from adumbra.tap.replay import PcapReplay

    spec = parse_spec(SPEC)
    vms = expand_vms(spec)

    def replay(path: Path, most: int | None = None) -> Result:
        attribution, decoder, summary = Attribution(spec, vms), Decoder(), Summary(len(vms))
        meter = Meter(len(vms), spec.interval_ns, ports=[vm.ports for vm in vms])
        wall, cpu = time.perf_counter(), time.process_time()
        with PcapReplay(path) as source:
            for number, frames in enumerate(source):
                packets = attribution.assign(decoder.decode(frames))
                while decoder.unwrap(frames, packets, Layer.AUTO):
                    attribution.assign(packets)
                for tally in meter.add(packets):
                    summary.intervals(tally)
                if most is not None and number >= most:
                    break
            for tally in meter.finish():
                summary.intervals(tally)
        told = meter.accounts()
        assert sum(told.outcomes.values()) == told.offered
        return Result(told.offered, time.perf_counter() - wall, time.process_time() - cpu, _peak_mb())

    replay(capture, most=2)  # loads the compiled kernels
    return replay(capture)


def nfstream(capture: Path) -> Result:
    """nfstream's flows of the capture as it comes, with one meter."""
    return _nfstream(capture, {})


def nfstream_plain(capture: Path) -> Result:
    """The same without its guess at each flow's application, which ours doesn't make either."""
    return _nfstream(capture, {"n_dissections": 0})


def _nfstream(capture: Path, options: dict[str, int]) -> Result:
    from nfstream import NFStreamer

    wall, cpu = time.perf_counter(), _cpu_s()
    packets = sum(flow.bidirectional_packets for flow in NFStreamer(source=str(capture), n_meters=1, **options))
    return Result(packets, time.perf_counter() - wall, _cpu_s() - cpu, _peak_mb(children=True))


def nfpcapd(capture: Path) -> Result:
    """The whole nfpcapd process, writing its flows into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), _cpu_s()
        subprocess.run(["nfpcapd", "-r", str(capture), "-w", folder], check=True, capture_output=True)
        wall_s, cpu_s = time.perf_counter() - wall, _cpu_s() - cpu
    return Result(0, wall_s, cpu_s, _peak_mb(children=True))


def _cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak_mb(*, children: bool = False) -> float:
    """Peak resident memory of this process since it began (VmHWM), or of its largest child if that is more.

    getrusage would not do for this process: it counts what the parent had when it was forked.
    """
    status = Path("/proc/self/status").read_text()
    own_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return max(own_kb, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if children else 0) / 1024


RUNNERS = {"adumbra": adumbra, "nfpcapd": nfpcapd, "nfstream": nfstream, "nfstream-plain": nfstream_plain}


def pinned(name: str, capture: Path) -> Result | None:
    """The best of three runs in fresh processes on one core; None where it can't be run here."""
    best: Result | None = None
    core = str(max(os.sched_getaffinity(0)))
    for number in range(REPEATS):
        command = ["taskset", "-c", core, sys.executable, __file__, "--run", name, "--capture", str(capture)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            print(f"  {name} can't be run here: {(run.stderr.strip().splitlines() or ['no reason given'])[-1]}")
            return None
        result = Result(**json.loads(run.stdout.splitlines()[-1]))
        print(f"  {name} run {number + 1}: {result.wall_s:.2f} s, {result.cpu_s:.2f} s of CPU", flush=True)
        best = result if best is None or result.wall_s < best.wall_s else best
    return best


def compare(capture: Path, packets: int) -> None:
    """Prints the table of packets a second, and each ratio beside its aim."""
    results = {name: pinned(name, capture) for name in RUNNERS}
    print(f"\n{'':14} {'packets/s':>12} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
    for name, result in results.items():
        if result is not None:
            print(f"{name:14} {packets / result.wall_s:12,.0f} {result.wall_s:8.2f} {result.cpu_s:8.2f} {result.peak_mb:8.0f}")
    own = results["adumbra"]
    assert own is not None
    for name, peer in results.items():
        if peer is not None and name != "adumbra":
            ratio, aim = peer.wall_s / own.wall_s, AIMS.get(name)
            verdict = f" (aim {aim:g}: {'met' if ratio >= aim else 'NOT met'})" if aim else ""
            print(f"{ratio:.1f} times {name}{verdict}")


def memory(folder: Path, connections: int) -> None:
    """Prints the peak memory with that many connections open at once."""
    capture = folder / "many.pcap"
    print(f"writing a capture of {connections:,} connections that are open at once", flush=True)
    write_capture(capture, 11 * connections, connections, 60.0, overlap=True)
    result = pinned("adumbra", capture)
    assert result is not None
    verdict = "met" if result.peak_mb < MEMORY_AIM_MB else "NOT met"
    print(f"{connections:,} connections: peak {result.peak_mb:.0f} MB (aim below {MEMORY_AIM_MB}: {verdict})")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--capture", type=Path, help="a capture to use instead of one made for the purpose")
    arguments.add_argument("--packets", type=int, default=2_000_000)
    arguments.add_argument("--connections", type=int, default=30_000)
    arguments.add_argument("--run", choices=RUNNERS, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.run:
        print(json.dumps(RUNNERS[given.run](given.capture).__dict__))
        return
    if shutil.which("taskset") is None:
        sys.exit("taskset is missing: apt-get install util-linux")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        capture, packets = given.capture, 0
        if capture is None:
            capture = folder / "traffic.pcap"
            print(f"writing a capture of {given.packets:,} packets in {given.connections:,} connections", flush=True)
            write_capture(capture, given.packets, given.connections, 60.0)
        packets = adumbra(capture).packets
        print(f"{packets:,} packets, {capture.stat().st_size / 1e6:.0f} MB; each on one core, best of {REPEATS}", flush=True)
        compare(capture, packets)
        memory(folder, 500_000)


if __name__ == "__main__":
    main()
