"""On what cores use was measured: those that a VM is declared with, or, where it was measured elsewhere, what the user says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adumbra.profile.catalog import load_catalog
from adumbra.schema.calibration import MeasuredOn, VmCalibration
from adumbra.schema.errors import InputError
from adumbra.schema.spec import Vm
from adumbra.service.networks import Network

LEAST_SPEED, MOST_SPEED = 0.01, 100.0
"""Of a core, in reference cores: what is beyond these is a slip."""


@dataclass(frozen=True, slots=True)
class Cores:
    """What each VM's use is taken to be measured on, and what is to be known of that, in words."""

    of: Mapping[str, MeasuredOn]
    notes: tuple[str, ...] = ()


def cores_of(network: Network, given: str | None, before: Iterable[VmCalibration] = ()) -> Cores:
    """What was `given` for all, as a type or a speed; else what was taken `before`; else the declared types.

    Raises InputError for a type that the catalogue doesn't have, or of which it doesn't know the speed, and for a speed that no
    core has.
    """
    if given is not None:
        chosen = parse(given)
        return Cores({vm.name: chosen for vm in network.vms})
    known = {vm.vm: vm.measured_on for vm in before if vm.measured_on is not None}
    taken = {vm.name: known.get(vm.name) or declared(vm) for vm in network.vms}
    matters = bool(network.spec.donors) and not known
    return Cores(taken, (_DONORS,) if matters else ())


_DONORS = (
    "the network has donors: if the use was measured there, on other cores than those declared, say on which by --measured-on, "
    "or all costs are wrong by the ratio of the two speeds"
)


def parse(text: str) -> MeasuredOn:
    """The cores of a type of the catalogue, or of a speed in reference cores. Raises InputError."""
    speed = _number(text)
    if speed is None:
        return _of_type(text)
    if not (math.isfinite(speed) and LEAST_SPEED <= speed <= MOST_SPEED):
        raise InputError(
            f"--measured-on: no core has a speed of {text}",
            f"give a type, or a number of reference cores from {LEAST_SPEED:g} to {MOST_SPEED:g}",
        )
    return MeasuredOn(speed, "cores of the given speed")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _of_type(name: str) -> MeasuredOn:
    try:
        speed = load_catalog().type(name).core_speed
    except InputError as error:
        raise InputError(f"--measured-on: {error.what}", f"{error.mend}, or give a core's speed, such as 0.8") from None
    if speed is None:
        raise InputError(f"--measured-on: how fast a core of {name} is isn't known", "give its speed, such as 0.8")
    return MeasuredOn(speed, name)


def declared(vm: Vm) -> MeasuredOn:
    """The cores that a VM is declared with; a reference core where it has no type, or the type's speed isn't known."""
    if vm.type is None:
        return MeasuredOn(1.0, "a reference core, as no type is declared")
    speed = load_catalog().type(vm.type).core_speed
    if speed is None:
        return MeasuredOn(1.0, f"a reference core, as the speed of the declared {vm.type} isn't known")
    return MeasuredOn(speed, f"{vm.type}, as declared")


def told(vms: Iterable[VmCalibration]) -> list[str]:
    """In words, what the VMs' use was taken to be measured on: a line for each kind of core."""
    kinds: dict[MeasuredOn, list[str]] = {}
    for vm in vms:
        if vm.measured_on is not None:
            kinds.setdefault(vm.measured_on, []).append(vm.vm)
    return [f"taken as measured on {on.what} (core speed {on.core_speed:g}): {_names(names)}" for on, names in kinds.items()]


_LISTED = 8


def _names(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
