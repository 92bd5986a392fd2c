"""A small network and its sizes, as if they had been learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adumbra.schema.sizing import Confidence, Estimate, NetworkProfile, VmProfile
from adumbra.schema.state import NetworkState
from adumbra.service import networks
from adumbra.service.workspace import Workspace

SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets: [{name: a, cidr: 10.9.1.0/24}]
links: [{between: [a, internet], rtt: 20ms, bandwidth: 1Gbps}]
vms: [{name: web, count: 2, subnet: a, type: m7i.large, ports: [80]}]
"""


def profiled(vms: tuple[str, ...] = ("web-1", "web-2"), type: str = "m7i.large") -> NetworkProfile:
    estimate = {name: Estimate(1, 2, 3) for name in ("cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb")}
    sized = [VmProfile(vm, 2, 4.0, 100, 20, type, 0.1, estimate, Confidence.LOW, ("a reason",)) for vm in vms]
    return NetworkProfile("lab", 604_800.0, 0.01, 900.0, "seasonal naive", tuple(sized))


@contextmanager
def opened_lab(home: Path, clock: Iterator[int]) -> Iterator[Workspace]:
    """A workspace with that network and a profile of it."""
    with Workspace(home) as opened:
        networks.create(opened, SPEC, "lab.yaml", next(clock))
        opened.state.save_profile("lab", profiled().to_dict(), next(clock))
        yield opened


def state_of(workspace: Workspace) -> NetworkState:
    return workspace.state.network("lab").state
