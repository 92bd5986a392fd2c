"""Holds sizes to a network's policy: floors, caps, types, use, budget, and whether a plan must be approved. Pure.

Knows no catalogue and no cloud: who picks a type for a size is given. What can't be satisfied is refused, never bent.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from adumbra.schema.errors import ConflictError, InputError
from adumbra.schema.plans import Plan
from adumbra.schema.policy import ALL, GRAINS, Merged, ProvisionPolicy, bounds_of
from adumbra.schema.sizing import RESOURCE_UNITS, RESOURCES
from adumbra.schema.units import format_price_per_hour

Use = Mapping[str, Mapping[str, float]]
"""VM -> resource -> what is used of it, in the resource's unit."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A VM's sizes (resource -> amount in its unit), the type that gives them, and its price in US dollars an hour."""

    vm: str
    group: str
    sizes: Mapping[str, float]
    type: str | None
    price_per_hour: float | None


@dataclass(frozen=True, slots=True)
class Offer:
    """A type that gives what was asked for, and its price in US dollars an hour."""

    type: str
    price_per_hour: float | None


Choose = Callable[[Sized, tuple[str, ...]], Offer | None]
"""The cheapest type that gives a VM's sizes, of those that the patterns allow (none: of those that may be chosen at all)."""


@dataclass(frozen=True, slots=True)
class Held:
    """The VMs as the policy lets them be, in the order given; and of those that it changed, why, in sentences."""

    vms: tuple[Sized, ...]
    notes: Mapping[str, tuple[str, ...]]


def hold(vms: Sequence[Sized], policy: ProvisionPolicy, use: Use, choose: Choose) -> Held:
    """The sizes within the policy's floors and caps and above what is used, types chosen again where they don't do any more.

    Holding the result to the same policy again changes nothing. Raises InputError for a selector that names no VM, and
    ConflictError where the policy can't be satisfied: it names the VM and what to change.
    """
    _check_selectors(vms, policy)
    held, notes = [], {}
    for each in vms:
        sized, said = _hold_one(each, policy, use.get(each.vm, {}), choose)
        held.append(sized)
        if said:
            notes[each.vm] = tuple(said)
    _check_budget(held, policy)
    return Held(tuple(held), notes)


def needs_approval(policy: ProvisionPolicy, before: float | None, after: float | None) -> str:
    """Why a plan must be approved, from what the machines cost before and after it (US dollars an hour, None: not known).

    "" where it need not: also where it costs no more than what stands.
    """
    limits = policy.approval
    if limits.above is None and limits.increase is None:
        return ""
    if after is None:
        return "what the machines will cost isn't known"
    if before is not None and after <= before:
        return ""
    if limits.above is not None and after > limits.above:
        return f"the machines will cost {_price(after)}, and more than {_price(limits.above)} needs approval"
    if limits.increase is None:
        return ""
    if before is None:
        return "what the machines cost now isn't known, so neither is the increase"
    if after - before > limits.increase:
        return f"the machines will cost {_price(after - before)} more, and more than {_price(limits.increase)} needs approval"
    return ""


def with_policy(
    plan: Plan, before: float | None, policy: ProvisionPolicy, notes: Mapping[str, tuple[str, ...]] | None = None
) -> Plan:
    """A plan that says what the machines cost before it, what the policy changed, and whether it must be approved."""
    approval = "" if plan.empty else needs_approval(policy, before, plan.price_per_hour)
    return replace(plan, price_before_per_hour=before, approval=approval, notes=notes or {})


def allowed(type_name: str, patterns: Iterable[str]) -> bool:
    """Whether a type is one that names or globs allow."""
    return any(fnmatchcase(type_name, pattern) for pattern in patterns)


def _check_selectors(vms: Sequence[Sized], policy: ProvisionPolicy) -> None:
    known = {ALL, *(each.vm for each in vms), *(each.group for each in vms)}
    for selector in policy.vms:
        if selector not in known:
            close = difflib.get_close_matches(selector, known, n=1)
            raise InputError(
                f"the policy speaks of {selector[:63]!r}, and there is no such VM or VM group",
                f"did you mean {close[0]!r}?" if close else "change it with `adumbra policy set`",
            )


def _hold_one(
    each: Sized, policy: ProvisionPolicy, used: Mapping[str, float], choose: Choose
) -> tuple[Sized, list[str]]:  # fmt: skip
    bounds, said = bounds_of(policy, each.vm, each.group), []  # type: Merged, list[str]
    sizes = {}
    for name in RESOURCES:
        least = used[name] * (1 + policy.use_margin) if policy.keep_above_use and used.get(name, 0.0) > 0 else 0.0
        sizes[name], why = _hold_resource(each.vm, name, each.sizes[name], bounds, least)
        if why:
            said.append(why)
    barred = bool(bounds.types) and (each.type is None or not allowed(each.type, bounds.types))
    if not barred and sizes == dict(each.sizes):
        return each, said
    held = replace(each, sizes=sizes)
    offer = choose(held, bounds.types)
    if offer is None and bounds.types:
        wanted = ", ".join(_amount(name, sizes[name]) for name in RESOURCES)
        raise ConflictError(
            f"no type that the policy allows {_of(bounds.types_of, each.vm)} ({', '.join(bounds.types[:4])}) gives {each.vm} "
            f"{wanted}",
            "allow larger types, or lower its floors",
        )
    if offer is None:
        said.append("no type gives these sizes")
        return replace(held, type=None, price_per_hour=None), said
    if offer.type != each.type:
        why = "is the cheapest that the policy allows" if bounds.types else "is the cheapest that gives these sizes"
        said.append(f"{offer.type} {why}{f', in place of {each.type}' if each.type else ''}")
    return replace(held, type=offer.type, price_per_hour=offer.price_per_hour), said


def _hold_resource(vm: str, name: str, size: float, bounds: Merged, least_by_use: float) -> tuple[float, str]:
    """A size within its bounds, and why it isn't what it was ("" where it is)."""
    floor, floor_of = bounds.floors.get(name, (0.0, ""))
    cap, cap_of = bounds.caps.get(name, (math.inf, ""))
    grain = GRAINS[name]
    low = math.ceil(max(floor, least_by_use) / grain) * grain
    high = cap if math.isinf(cap) else math.floor(cap / grain) * grain
    if low > high:
        raise _impossible(vm, name, bounds, least_by_use)
    held = min(max(size, low), high)
    if held == size:
        return size, ""
    change = f"{_noun(name)} {_amount(name, held)} in place of {_amount(name, size)}"
    if held < size:
        return held, f"{change}: the cap {_of(cap_of, vm)}"
    return (
        held,
        f"{change}: {'what is used of it, with the margin' if least_by_use > floor else f'the floor {_of(floor_of, vm)}'}",
    )


def _impossible(vm: str, name: str, bounds: Merged, least_by_use: float) -> ConflictError:
    """Why no size of a resource is within its bounds, and what to change."""
    floor, floor_of = bounds.floors.get(name, (0.0, ""))
    cap, cap_of = bounds.caps[name]
    by_use = least_by_use > floor
    least = (
        f"what it uses, with the margin, {_amount(name, least_by_use)}," if by_use else f"its floor of {_amount(name, floor)}"
    )
    above = max(floor, least_by_use) > cap
    what = f"{least} is above its cap of {_amount(name, cap)}" if above else (
        f"no whole size lies between {least} and its cap of {_amount(name, cap)}"
    )  # fmt: skip
    mend = f"lower the floor {_of(floor_of, vm)} or raise the cap {_of(cap_of, vm)}"
    if by_use:
        mend = f"raise the cap {_of(cap_of, vm)}, or let it shrink below use (`keep_above_use: false`)"
    return ConflictError(f"the policy can't hold for {vm}: {what}", mend)


def _check_budget(vms: Sequence[Sized], policy: ProvisionPolicy) -> None:
    if policy.budget is None:
        return
    unknown = [each.vm for each in vms if each.price_per_hour is None]
    if unknown:
        raise ConflictError(
            f"the budget of {_price(policy.budget)} can't be held: what {', '.join(unknown[:5])} will cost isn't known",
            "allow types whose price is known, or leave the budget out of the policy",
        )
    total = price_of(each.price_per_hour for each in vms)
    if total is not None and total > policy.budget:
        dearest = max(vms, key=lambda each: (each.price_per_hour or 0.0, each.vm))
        raise ConflictError(
            f"the VMs would cost {_price(total)}, which is over the budget of {_price(policy.budget)}; {dearest.vm} costs the "
            f"most, {_price(dearest.price_per_hour or 0.0)} as {dearest.type}",
            "raise the budget, cap the sizes, allow cheaper types, or accept a larger shortfall",
        )


def price_of(prices: Iterable[float | None]) -> float | None:
    """The sum of prices; None where one isn't known."""
    known = list(prices)
    return None if None in known else round(math.fsum(price for price in known if price is not None), 6)


def _noun(name: str) -> str:
    return {"cpu_cores": "CPU"}.get(name, name.partition("_")[0])


def _amount(name: str, amount: float) -> str:
    return f"{round(amount, 2):g} {RESOURCE_UNITS[name]}"


def _of(selector: str, vm: str) -> str:
    return "of all VMs" if selector == ALL else f"of {selector or vm}"


def _price(price: float) -> str:
    return format_price_per_hour(price)
