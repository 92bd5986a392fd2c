"""Measured use made up for tests of back-tests: ten VMs of every kind, seasons, bursts and defects. A function of a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adumbra.schema.backtests import MeasuredUse, Usages
from adumbra.schema.records import NANOSECONDS, Floats, Panel

START_NS = 1_704_067_200 * NANOSECONDS
"""2024-01-01T00:00:00Z."""
VMS = ("web-1", "web-2", "batch", "db", "gaps", "constant", "zero", "spike", "late", "growing")


def use_of(days: int = 20, step_s: float = 3600.0, seed: int = 7) -> Floats:
    """Cores that the VMs use, float64[10, T]."""
    rng = np.random.default_rng(seed)
    steps = round(days * 86_400 / step_s)
    hour = np.arange(steps) * step_s / 3600
    day = 0.5 - 0.5 * np.cos(2 * np.pi * (hour % 24 - 3) / 24)
    noise = rng.gamma(8.0, 1 / 8.0, (len(VMS), steps))
    shapes: list[Floats] = [
        0.4 + 1.2 * day, 0.3 + 0.9 * day, 0.1 + 3.0 * (rng.random(steps) < 0.04), 1.0 + 0.5 * day, 0.2 + day,
        np.full(steps, 0.7), np.zeros(steps), np.full(steps, 0.3), 0.5 + 0.5 * day, 0.2 + 0.08 * hour / 24,
    ]  # fmt: skip
    use = np.array(shapes) * noise
    use[VMS.index("constant")] = 0.7
    use[VMS.index("gaps"), rng.random(steps) < 0.5] = np.nan
    use[VMS.index("spike"), round(steps * 0.85)] = 6.0
    use[VMS.index("late"), : steps // 2] = np.nan
    return use


def usages(days: int = 20, step_s: float = 3600.0, seed: int = 7, vms: Sequence[str] = VMS) -> Usages:
    """CPU and memory of the VMs, each of 4 cores and 16 GB; of CPU, the one named batch has been given less than it uses."""
    cores = use_of(days, step_s, seed)
    provisioned = np.full(len(VMS), 4.0)
    provisioned[VMS.index("batch")] = 3.0
    memory = 2.0 + np.fmax.accumulate(cores, axis=1)
    told = {"cpu_cores": (cores, provisioned), "memory_gb": (memory, np.full(len(VMS), 16.0))}
    return Usages(
        "made-up.csv",
        {name: MeasuredUse(Panel(name, tuple(vms), START_NS, step_s, values), given) for name, (values, given) in told.items()},
        ("3 rows came twice; the later ones stand",),
    )


def as_csv(given: Usages) -> str:
    """The same as a usage file (DESIGN.md section 8): a row a VM and time, gaps left empty."""
    cpu, memory = given.resources["cpu_cores"], given.resources["memory_gb"]
    lines = ["vm,time,cpu_cores,memory_bytes,cpu_cores_provisioned,memory_bytes_provisioned"]
    for v, vm in enumerate(cpu.panel.vms):
        name = '"' + vm.replace('"', '""') + '"'
        for t in range(cpu.panel.values.shape[1]):
            at = cpu.panel.start_ns // NANOSECONDS + round(t * cpu.panel.step_s)
            cells = [
                cpu.panel.values[v, t],
                memory.panel.values[v, t] * 2**30,
                cpu.provisioned[v],
                memory.provisioned[v] * 2**30,
            ]
            lines.append(",".join([name, str(at), *("" if np.isnan(cell) else repr(float(cell)) for cell in cells)]))
    return "\n".join(lines) + "\n"
