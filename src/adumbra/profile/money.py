"""What sizes cost: prices of a core and of a GB fitted to a catalogue of instance types, and dollars a month for scored sizes.

Arithmetic only; decides nothing, and reads no file but by way of the catalogue it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from adumbra.profile.catalog import DEFAULT_ARCH, Catalog
from adumbra.profile.frontier import Point
from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats

HOURS_PER_MONTH = 730.0
"""A twelfth of a year, as clouds reckon a month."""


@dataclass(frozen=True, slots=True)
class UnitPrices:
    """Dollars an hour for a unit of each resource (core, GB), and how well they tell the types' prices.

    source: what they were taken from, in words; types: of how many; median_error: in the middle, the price of a type made of
    these is off by this share of it; 0 for prices that were given.
    """

    per_hour: Mapping[str, float]
    source: str
    types: int = 0
    median_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """One rule's sizes of one resource in dollars a month, over all VMs that were scored.

    provisioned: what was provisioned would cost; short_vm_hours: hours a month in which a VM is short where a larger size had
    done, summed over VMs; short: what these cost, None where they have no price; total: allocated and short.
    """

    resource: str
    rule: str
    vms: int
    provisioned: float
    allocated: float
    saved: float
    short_vm_hours: float
    short: float | None
    total: float


def fit_prices(catalog: Catalog, arch: str = DEFAULT_ARCH) -> UnitPrices:
    """Prices of a core and a GB of memory, from the types of one architecture whose cores are whole and whose price is known.

    Non-negative least squares of the relative error, (price - core x cores - GB x memory) / price, so that large types don't
    outweigh small ones. What types have beside (local disks, fast networks) is in their price and so, a little, in these.
    Raises InputError where fewer than two such types are there, or all have the same memory for each core.
    """
    types = [each for each in catalog.by_price if not each.burstable and each.arch == arch and each.price_per_hour]
    amounts = np.array([[each.cpu_cores, each.memory_gb] for each in types], dtype=np.float64).reshape(-1, 2)
    price = np.array([each.price_per_hour for each in types], dtype=np.float64)
    scaled = amounts / price[:, None]
    if np.linalg.matrix_rank(scaled) < 2:
        raise InputError(f"{len(types)} {arch} types of {catalog.provider} don't tell cores from memory", "give prices of both")
    core, gb = _least_squares(scaled, np.ones(len(price)))
    error = np.abs(1 - scaled @ np.array([core, gb]))
    return UnitPrices(
        per_hour=MappingProxyType({"cpu_cores": core, "memory_gb": gb}),
        source=f"fitted to the prices of {len(types)} {arch} types of {catalog.provider}, on demand",
        types=len(types),
        median_error=float(np.median(error)),
    )


def cost(point: Point, prices: UnitPrices, short_vm_hour: float | None = None) -> Cost:
    """Dollars a month for a rule's sizes of one resource. short_vm_hour: dollars for an hour in which one VM is short.

    Of each VM the mean over its windows is taken. Raises InputError for a resource without a price, and for one below 0.
    """
    if point.resource not in prices.per_hour:
        raise InputError(f"{point.resource} has no price", f"there are prices of {', '.join(prices.per_hour)}")
    if short_vm_hour is not None and not short_vm_hour >= 0:
        raise InputError(f"{short_vm_hour} is no price for an hour of being short", "give dollars, 0 or more")
    sums = point.per_vm.only(point.per_vm.counted)
    monthly = prices.per_hour[point.resource] * HOURS_PER_MONTH
    provisioned = monthly * float((sums.capacity / sums.windows).sum())
    allocated = monthly * float((sums.allocated / sums.windows).sum())
    hours = HOURS_PER_MONTH * float((sums.short / sums.measured).sum())
    short = None if short_vm_hour is None else hours * short_vm_hour
    return Cost(
        resource=point.resource,
        rule=point.rule,
        vms=len(sums.vms),
        provisioned=provisioned,
        allocated=allocated,
        saved=provisioned - allocated,
        short_vm_hours=hours,
        short=short,
        total=allocated + (short or 0.0),
    )


def _least_squares(columns: Floats, wanted: Floats) -> tuple[float, float]:
    """Non-negative least squares for two columns: where one weight comes out below 0, it is 0, and the other fits alone."""
    found = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    if (found >= 0).all():
        return float(found[0]), float(found[1])
    alone = np.maximum(columns.T @ wanted / (columns**2).sum(axis=0), 0.0)
    errors = [((wanted - columns[:, i] * alone[i]) ** 2).sum() for i in (0, 1)]
    return (float(alone[0]), 0.0) if errors[0] <= errors[1] else (0.0, float(alone[1]))
