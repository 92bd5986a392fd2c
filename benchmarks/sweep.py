"""Every type of the catalogue for every VM, over an hour of shop-like traffic: seconds, and the ratio to trying each alone.

Usage: python benchmarks/sweep.py [--vms 100]. The hour is the shop's recording, four times over, for 25 shops of four VMs.
The peer is the same simulation without what a sweep shares: each type tried anew, on the VMs of one shop, and scaled up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from adumbra.emulate.trial import Trial
from adumbra.profile.catalog import load_catalog
from adumbra.schema.metrics import METRICS, Rollup
from adumbra.schema.records import NANOSECONDS, MetricBatch, SeriesQuery
from adumbra.service import networks, observations, replays, whatif
from adumbra.service.workspace import Workspace

SHOP = Path(__file__).parents[1] / "examples" / "shop"
HOUR_S = 3600
AIM_S = 60.0
SPEC = """\
name: shops
cidrs: [10.20.0.0/16]
subnets: [{{name: web, cidr: 10.20.0.0/18}}, {{name: data, cidr: 10.20.64.0/18}}]
links: [{{between: [web, data], rtt: 200us, bandwidth: 10Gbps}}, {{between: [web, internet], rtt: 20ms, bandwidth: 1Gbps}}]
vms:
  - {{name: web, count: {webs}, subnet: web, role: app, type: m7i.large, ports: [80]}}
  - {{name: db, count: {shops}, subnet: data, role: postgresql, type: m7i.xlarge, ports: [5432]}}
  - {{name: cache, count: {shops}, subnet: data, role: redis, type: m7i.large, ports: [6379]}}
targets: {{shortfall: 1%, latency_p99: 50ms, loss: 0.1%}}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--vms", type=int, default=100)
    shops = max(2, arguments.parse_args().vms // 4)
    with tempfile.TemporaryDirectory() as folder, Workspace(Path(folder)) as workspace:
        _prepare(workspace, shops)
        whatif.what_if(workspace, "shops", whatif.Question(vms=("db-1",), every_type=True))  # loads the kernels
        began = time.perf_counter()
        answers = whatif.what_if(workspace, "shops", whatif.Question(every_type=True)).vms
        took_s = time.perf_counter() - began
        types = len(answers[0].choices)
        met = "met" if took_s < AIM_S else "NOT met"
        print(f"{len(answers)} VMs x {types} types x 1 h: {took_s:.1f} s (aim {AIM_S:g}: {met})")
        alone_s = _each_by_itself(workspace, ("web-1", "web-2", "db-1", "cache-1")) * shops
        print(f"each type by itself, from 4 VMs: {alone_s:.0f} s; a sweep is {alone_s / took_s:.1f} times as fast")
        fitting = [sum(choice.fits for choice in answer.choices) for answer in answers]
        print(f"types that fit a VM: {min(fitting)} to {max(fitting)}; {sum(map(bool, fitting))} VMs have one")


def _prepare(workspace: Workspace, shops: int) -> None:
    """A network of so many shops, with the hour in its metric store."""
    clock = time.time_ns
    networks.create(workspace, (SHOP / "shop.yaml").read_text(), "shop.yaml", clock())
    observations.observe(workspace, "shop", f"pcap:{SHOP / 'shop.pcap.zst'}", clock)
    names = tuple(metric.name for metric in METRICS)
    shop = workspace.metrics.read(SeriesQuery("shop", names))
    spec = SPEC.format(webs=2 * shops, shops=shops)
    network = networks.create(workspace, spec, "shops.yaml", clock())
    like = {"web": 0, "db": 2, "cache": 3}
    rows = [like[vm.group] + (like[vm.group] == 0 and number % 2) for number, vm in enumerate(network.vms)]
    times = np.arange(HOUR_S) % shop.steps
    columns = {}
    for metric in METRICS:
        values = shop.values[metric.name][np.ix_(rows, times)].T
        if metric.rollup is Rollup.SUM and metric.whole:
            values = np.nan_to_num(values)
        columns[metric.name] = values.astype(np.int64) if metric.whole else np.ascontiguousarray(values)
    start_ns = 1_790_000_000 * NANOSECONDS + np.arange(HOUR_S, dtype=np.int64) * NANOSECONDS
    one_sided = np.zeros((HOUR_S, len(rows)), np.bool_)
    vms = tuple(vm.name for vm in network.vms)
    workspace.metrics.write(MetricBatch("shops", 1.0, vms, start_ns, columns, one_sided, "benchmark"))


def _each_by_itself(workspace: Workspace, vms: tuple[str, ...]) -> float:
    """Seconds for every type on these VMs, nothing shared between types but the traffic's draws."""
    network = networks.get(workspace, "shops")
    emulated = {vm.name: vm for vm in observations.emulated_vms(network)}
    began = time.perf_counter()
    for name in vms:
        parts = list(replays.replay(workspace, "shops", [name], replays.span(workspace, "shops")))
        traffic = whatif.traffic_of(emulated[name], whatif.joined(parts))
        for each in load_catalog().by_price:
            Trial(traffic).of(whatif.candidate_of(each, whatif.machine_of_type(each, 20.0)))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
