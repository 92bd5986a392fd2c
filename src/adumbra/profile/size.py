"""Turns what each VM will need into whole sizes, the cheapest instance type that gives them, and the reasons in words.

Pure: no clock, no files; needs come calibrated from the forecast stage and are only ever rounded up here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adumbra.profile.catalog import DEFAULT_ARCH, Catalog, Choices, capacity, shortages
from adumbra.schema.errors import InputError
from adumbra.schema.sizing import RESOURCES, Demand, InstanceType, NetworkProfile, SizingPolicy, VmProfile


@dataclass(frozen=True, slots=True)
class SizingContext:
    """What a profile says of its making: the network, the seconds that were learned from, and the model that served."""

    network: str
    learned_s: float
    model: str


@dataclass(frozen=True, slots=True)
class Rounding:
    """How a resource becomes a size: never below `minimum`, then up to a multiple of the step for its magnitude.

    steps: (up to this amount, the step), ascending; the last reaches infinity. noun: the resource in a sentence.
    """

    minimum: float
    steps: tuple[tuple[float, float], ...]
    noun: str
    unit: str
    whole: bool = True


ROUNDING: Mapping[str, Rounding] = {
    "cpu_cores": Rounding(1, ((math.inf, 1),), "CPU", "cores"),
    # Half a GB is a tenth of a small VM and types come in such steps there; beyond 8 GB a whole one is within 12 %.
    "memory_gb": Rounding(0.5, ((8, 0.5), (math.inf, 1)), "memory", "GB", whole=False),
    "bandwidth_mbps": Rounding(1, ((100, 1), (1000, 5), (math.inf, 10)), "bandwidth", "Mbps"),
    # A cloud image of Debian unpacks to a root disk of 8 GB; no VM boots from less.
    "storage_gb": Rounding(8, ((math.inf, 1),), "storage", "GB"),
}


def round_up(resource: str, need: float) -> float:
    """The size for a need of a resource, in its unit: at least the need and the resource's minimum, in whole steps.

    Raises InputError for a need that is negative or not a finite number.
    """
    if not (math.isfinite(need) and need >= 0):
        raise InputError(f"a need of {need} {resource} can't be sized", "train the network again on what it has observed")
    rule = ROUNDING[resource]
    amount = max(float(need), rule.minimum)
    step = next(step for limit, step in rule.steps if amount <= limit)
    size = math.ceil(amount / step) * step
    while size < amount:  # the division may have rounded down to a whole number
        size += step
    return int(size) if rule.whole else float(size)


def size(demands: Sequence[Demand], policy: SizingPolicy, catalog: Catalog, context: SizingContext) -> NetworkProfile:
    """The resource profile of a network (DESIGN.md section 6): one entry a demand, in their order.

    The type is the cheapest that gives every size, of policy.arch, else of the declared type's architecture, else x86_64.
    Where none does, type and price are None and a reason says which resource breaks it and what to do.
    Raises InputError for a need that is no number, or a type that the catalogue doesn't have.
    """
    choices: dict[str | None, Choices] = {}
    vms = []
    for demand in demands:
        declared = catalog.type(demand.declared_type) if demand.declared_type is not None else None
        arch = policy.arch
        if arch is None and not policy.allowed_types:
            arch = declared.arch if declared is not None else DEFAULT_ARCH
        if arch not in choices:
            choices[arch] = catalog.choices(dataclasses.replace(policy, arch=arch))
        vms.append(_size_vm(demand, declared, choices[arch]))
    return NetworkProfile(
        context.network, policy.horizon_s, policy.shortfall, context.learned_s, context.model, tuple(vms), policy.risk
    )


def _size_vm(demand: Demand, declared: InstanceType | None, choices: Choices) -> VmProfile:
    missing = [name for name in RESOURCES if name not in demand.need]
    if missing:
        raise InputError(f"{demand.vm} has no need of {', '.join(missing)}", "train the network again; each resource has one")
    sizes = {name: round_up(name, demand.need[name]) for name in RESOURCES}
    pick = choices.cheapest(sizes)
    reasons = [*demand.reasons, _why(pick, choices, sizes) if pick is not None else _why_none(choices, sizes)]
    if declared is not None:
        reasons.append(_compare(pick, declared, choices, sizes))
    given: dict[str, Any] = sizes
    return VmProfile(
        vm=demand.vm,
        **given,
        type=pick.name if pick is not None else None,
        price_per_hour=pick.price_per_hour if pick is not None else None,
        estimate={name: demand.estimate[name] for name in RESOURCES if name in demand.estimate},
        confidence=demand.confidence,
        reasons=tuple(reasons),
    )


def _why(pick: InstanceType, choices: Choices, sizes: Mapping[str, float]) -> str:
    """Which resources make the type as large as it is: those without which a cheaper one would do."""
    deciding = []
    for name in RESOURCES:
        rest = {other: amount for other, amount in sizes.items() if other != name}
        without = choices.cheapest(rest)
        if without is not None and without.name != pick.name:
            deciding.append(f"{ROUNDING[name].noun} (else {without.name} would do)")
    return f"{pick.name} is the cheapest type that fits" + (f"; decided by {' and '.join(deciding)}" if deciding else "")


def _why_none(choices: Choices, sizes: Mapping[str, float]) -> str:
    """Why nothing fits, and what to do."""
    if not choices.types:
        return "no type fits: none that may be chosen has a known price; allow others, or another architecture"
    for name in RESOURCES:
        largest = max(choices.types, key=lambda choice: (capacity(choice, name), choice.name))
        if sizes[name] > capacity(largest, name):
            return (
                f"no type fits: {_amount(name, sizes[name])} of {ROUNDING[name].noun} are more than any type that may be "
                f"chosen has ({_most(largest, name)}); spread the load over more VMs, or allow larger types"
            )
    nearest = min(choices.types, key=lambda choice: len(shortages(choice, sizes)))
    lacking = ", ".join(f"{ROUNDING[name].noun} ({_most(nearest, name)})" for name in shortages(nearest, sizes))
    return (
        f"no type fits: none that may be chosen has all of it at once; {nearest.name} comes nearest and is short of "
        f"{lacking}; spread the load over more VMs, or allow more types"
    )


def _compare(pick: InstanceType | None, declared: InstanceType, choices: Choices, sizes: Mapping[str, float]) -> str:
    """How the pick stands to the type that the user declared."""
    said = f"the declared {declared.name}"
    if pick is not None and pick.name == declared.name:
        return f"{said} is right"
    short = shortages(declared, sizes)
    if short:
        lacking = ", ".join(
            f"{ROUNDING[name].noun} ({_most(declared, name)} of {_amount(name, sizes[name])})" for name in short
        )
        tail = f"; {pick.name} costs {_against(pick, declared)}" if pick is not None else ""
        return f"{said} would be short of {lacking}{tail}"
    if declared not in choices.types:
        return f"{said} {_why_barred(declared)}{f'; {pick.name} costs {_against(pick, declared)}' if pick is not None else ''}"
    return f"{pick.name} costs {_against(pick, declared)}, which would do too" if pick is not None else f"{said} would do"


def _why_barred(declared: InstanceType) -> str:
    """Why a type that would fit may not be chosen."""
    if declared.price_per_hour is None:
        return "is not chosen, as its price is not known"
    if declared.burstable:
        return "gives only a share of its cores, which breaks the promise of the dial; name it in the allowed types to use it"
    return "is not among the types that may be chosen"


def _against(pick: InstanceType, declared: InstanceType) -> str:
    """The price of the pick in words, in per cent of the declared type's."""
    if declared.price_per_hour is None or pick.price_per_hour is None:
        return f"{pick.price_per_hour or math.nan:.4g} USD an hour, and what the declared {declared.name} costs is not known"
    percent = 100 * (pick.price_per_hour / declared.price_per_hour - 1)
    if abs(percent) < 0.5:
        return f"as much as the declared {declared.name}"
    return f"{abs(percent):.0f} % {'less' if percent < 0 else 'more'} than the declared {declared.name}"


def _amount(resource: str, amount: float) -> str:
    return f"{math.ceil(amount * 10) / 10:g} {ROUNDING[resource].unit}"


def _most(type: InstanceType, resource: str) -> str:
    return f"{math.floor(capacity(type, resource) * 10) / 10:g} {ROUNDING[resource].unit}"
