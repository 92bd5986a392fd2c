"""A small network's sizes, as if it had been learned."""

from __future__ import annotations

from adumbra.schema.sizing import Confidence, Estimate, NetworkProfile, VmProfile


def profiled(vms: tuple[str, ...] = ("web-1", "web-2"), type: str = "m7i.large") -> NetworkProfile:
    estimate = {name: Estimate(1, 2, 3) for name in ("cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb")}
    sized = [VmProfile(vm, 2, 4.0, 100, 20, type, 0.1, estimate, Confidence.LOW, ("a reason",)) for vm in vms]
    return NetworkProfile("lab", 604_800.0, 0.01, 900.0, "seasonal naive", tuple(sized))
