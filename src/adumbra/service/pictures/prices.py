"""What a network costs as it was declared, and as its profile sizes it. Looks up prices; decides no size."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from adumbra.profile.catalog import load_catalog
from adumbra.profile.money import HOURS_PER_MONTH
from adumbra.schema.errors import InputError
from adumbra.schema.sizing import NetworkProfile, SizingPolicy
from adumbra.schema.spec import Vm


@dataclass(frozen=True, slots=True)
class Declared:
    """What stands in the spec for a VM, an hour. type: what is priced; chosen: the spec names no type, so that the cheapest
    that holds the declared resources stands for it. price_per_hour: None where nothing is declared, or it has no price."""

    type: str | None
    price_per_hour: float | None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Costs:
    """Dollars a month of 730 hours; None where a VM has no price. estimated: of so many VMs a type was chosen for the price."""

    declared: float | None
    proposed: float | None
    estimated: int = 0

    @property
    def saved(self) -> float | None:
        return None if self.declared is None or self.proposed is None else self.declared - self.proposed


def declared_price(vm: Vm) -> Declared:
    """What a VM costs as its spec declares it."""
    resources = None if vm.resources is None else vm.resources.model_dump_json(exclude_none=True)
    return _declared(vm.type, resources)


@functools.lru_cache(maxsize=4_096)
def _declared(type: str | None, resources: str | None) -> Declared:
    import json

    catalog = load_catalog()
    if resources is not None:
        need = {name: float(value) for name, value in json.loads(resources).items()}
        fits = catalog.cheapest(need, SizingPolicy())
        return Declared(fits.name if fits else None, fits.price_per_hour if fits else None, chosen=True)
    if type is None:
        return Declared(None, None)
    try:
        return Declared(type, catalog.type(type).price_per_hour)
    except InputError:
        return Declared(type, None)


def costs(vms: Sequence[Vm], profile: NetworkProfile | None) -> Costs:
    """Of all VMs together."""
    each = [declared_price(vm) for vm in vms]
    declared = _sum([one.price_per_hour for one in each])
    proposed = _sum([vm.price_per_hour for vm in profile.vms]) if profile is not None else None
    return Costs(declared, proposed, sum(one.chosen for one in each))


def _sum(prices: Sequence[float | None]) -> float | None:
    return None if not prices or any(price is None for price in prices) else sum(p or 0.0 for p in prices) * HOURS_PER_MONTH
