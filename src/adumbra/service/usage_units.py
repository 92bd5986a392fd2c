"""Refuses measured use that no such machine can have had, and guesses what unit it is in. Mends nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats
from adumbra.schema.sizing import Machine
from adumbra.service.usage import Usage, UsageVm

ABOVE_PROVISIONED, ABOVE_DECLARED = 2.0, 8.0
"""How many times what a machine has its use may be: its own, or that of the declared machine, which may be a smaller one."""
_LEAST_MEMORY_BYTES = 1e6  # no system uses less
_USUAL = 0.95  # a few rows may be wrong: the fit heeds them little


def check_units(usage: Usage, machines: Mapping[str, Machine]) -> None:
    """Raises InputError for a VM whose use, but for a few rows, is beyond what it was measured on, or is declared to be."""
    for vm in usage.vms:
        machine = machines.get(vm.vm)
        if machine is None:
            continue
        _check_cores(usage.source, vm, machine)
        _check_memory(usage.source, vm, machine)


def _check_cores(source: str, vm: UsageVm, machine: Machine) -> None:
    used = _usual(vm.columns.get("cpu_cores"))
    most, has = _most(vm, "cpu_cores_provisioned", machine.cpu_cores)
    if used is None or used <= most:
        return
    guess = "percent" if used <= 100 * has else "millicores"
    raise InputError(
        f"{source}: {vm.vm} is said to use {used:,.4g} cores, it has {has:g}: is it in {guess}?",
        "give the mean number of cores in use, such as 0.25; or what the measured machine has, as cpu_cores_provisioned",
    )


def _check_memory(source: str, vm: UsageVm, machine: Machine) -> None:
    used = _usual(vm.columns.get("memory_bytes"))
    most, has = _most(vm, "memory_bytes_provisioned", machine.memory_gb * 2**30)
    if used is None or used == 0 or _LEAST_MEMORY_BYTES <= used <= most:
        return
    told = f"{source}: {vm.vm} is said to use {used:,.4g} bytes of memory"
    doubt = "is it in kB, MB or GB?" if used < _LEAST_MEMORY_BYTES else f"it has {has / 2**30:.3g} GB"
    raise InputError(f"{told}: {doubt}", "give bytes; or what the measured machine has, as memory_bytes_provisioned")


def _usual(values: Floats | None) -> float | None:
    """What all but a few rows are at most; None where nothing was measured."""
    if values is None or np.isnan(values).all():
        return None
    return float(np.nanquantile(values, _USUAL))


def _most(vm: UsageVm, column: str, declared: float) -> tuple[float, float]:
    """The most that is believed of a VM's use, and what it was provisioned with, or is declared with."""
    own = vm.columns.get(column)
    if own is not None and np.nanmax(own, initial=0.0) > 0:
        return ABOVE_PROVISIONED * float(np.nanmax(own)), float(np.nanmax(own))
    return ABOVE_DECLARED * declared, declared
