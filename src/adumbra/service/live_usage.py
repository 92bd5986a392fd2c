"""Live readings as measured use: what the real machines used, in the table that calibrations take. Fills no gap."""

from __future__ import annotations

import numpy as np

from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import NANOSECONDS, Origin
from adumbra.schema.units import format_duration
from adumbra.service.live_series import Steps, Wanted, complete
from adumbra.service.networks import Network
from adumbra.service.usage import Usage, usage_of
from adumbra.service.usage_table import UsageTable
from adumbra.service.workspace import Workspace

LIVE = "live:"
"""What names the live readings where a usage file, or a Prometheus URL, may stand."""
CALLED = "live readings"
LEAST_ROWS = 30
"""Fewer rows of every VM are no use to learn from."""


def is_live(source: str) -> bool:
    return source.strip() == LIVE


def read_live(workspace: Workspace, network: Network, since_ns: int | None = None) -> Usage:
    """What the real machines of a network used since a time (None: all that is stored), a row a step of 10 s or more. Raises
    TooLittleDataError where that is nothing, or too little to learn from.
    """
    name = network.name
    span = workspace.metrics.span(name, Origin.LIVE)
    if span is None:
        raise TooLittleDataError(*nothing_measured(name))
    steps = Steps.within(max(span[0], since_ns or 0), span[1], network.spec.interval_ns)
    stored = set(workspace.metrics.vms(name))
    vms = [vm.name for vm in network.vms if vm.name in stored]
    times = steps.start_ns + np.arange(steps.count) * steps.step_ns
    wanted = Wanted(name, vms, ("cpu_seconds", "memory_bytes"), Origin.LIVE)
    most = 0
    with UsageTable(CALLED) as table:
        for vm, columns in complete(workspace, wanted, steps):
            used = {
                "cpu_cores": columns["cpu_seconds"] / (steps.step_ns / NANOSECONDS),
                "memory_bytes": columns["memory_bytes"],
            }
            known = np.isfinite(used["cpu_cores"]) | np.isfinite(used["memory_bytes"])
            rows = int(known.sum())
            most = max(most, rows)
            table.add_rows([vm] * rows, times[known], {each: values[known] for each, values in used.items()}, CALLED)
        step = format_duration(steps.step_ns / NANOSECONDS)
        if most < LEAST_ROWS:
            later = " that nothing was learned from yet" if since_ns else ""
            raise TooLittleDataError(
                f"{name} has {most} live readings of {step} each{later}: too little to learn from",
                f"wait until there are {LEAST_ROWS}, which takes {format_duration(LEAST_ROWS * steps.step_ns / NANOSECONDS)}",
            )
        usage = usage_of(table, {vm.name: vm.name for vm in network.vms})
    note = f"from live readings of the network's real machines: what they used in steps of {step}, as their provider counted it"
    return Usage(CALLED, usage.vms, (note, *usage.notes))


def nothing_measured(name: str) -> tuple[str, str]:
    """What is wrong where no live reading is stored, and what to do."""
    return (
        f"nothing was measured of {name}: no reading of a real machine is stored",
        f"activate it with --provider libvirt, then let `adumbra serve` watch it, or run `adumbra live {name} --read 30s`",
    )
