"""Compares what should stand with what stands, and orders the steps between. Pure: knows no cloud, touches nothing.

A plan is complete and checked; carrying it out and planning again gives an empty one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from adumbra.provision.protocol import Change, Effect, Rules
from adumbra.schema.addresses import AddressBlock, parse_block
from adumbra.schema.errors import ProvisionError
from adumbra.schema.plans import Act, Actual, Desired, Item, Kind, Plan, Step

Key = tuple[str, str]
Standing = dict[Key, Item]

_ORDER = {kind: rank for rank, kind in enumerate(Kind)}
_HELD_UNTIL_EMPTY = frozenset({Kind.NETWORK.value, Kind.SUBNET.value})
"""Kinds whose address space is held as long as they stand: what lives in them goes first, never by a change in place."""


def needs(item: Item) -> tuple[Key, ...]:
    """The keys of the items that must stand for this one to stand: those that its settings name."""
    named = [(kind.value, item.settings.get(kind.value)) for kind in Kind if kind is not item.kind]
    return tuple((kind, str(name)) for kind, name in named if name is not None)


def network_of(item: Item) -> str:
    """The network that an item belongs to."""
    return item.name if item.kind is Kind.NETWORK else str(item.settings[Kind.NETWORK.value])


def in_order(items: Iterable[Item]) -> tuple[Item, ...]:
    """Items in the one order in which they can be made: by kind, then by name."""
    return tuple(sorted(items, key=lambda item: (_ORDER[item.kind], item.name)))


def describe(step: Step) -> str:
    """A step in words: "create machine web-1"."""
    return f"{step.act.value} {step.item.kind.value} {step.item.name}"


def deletion(item: Item) -> Step:
    """The step that takes an item away, and what ends with it."""
    ends = {
        Kind.MACHINE: f"{item.name} is destroyed, with its disk",
        Kind.GATEWAY: "the way to the outside is closed",
    }
    return Step(Act.DELETE, item, item, ends.get(item.kind, ""))


def make_plan(desired: Desired, actual: Actual, rules: Rules, prices: Mapping[str, float] | None = None) -> Plan:
    """The steps from `actual` to `desired`, in an order in which each can be carried out.

    Deletes first, dependants before what they need; then creates and changes, in the order of `desired`; last the deletes
    of what a change lets go of. What needs something that is made anew is made anew too. `prices`: machine -> US dollars
    an hour; the plan's price is their sum, None where one is missing. A plan for nothing desired takes everything away.
    Raises InputError where the provider can't hold what is desired, ProvisionError for two different networks.
    """
    if desired.network != actual.network:
        raise ProvisionError(f"planning {desired.network} where {actual.network} stands", "choose another place for it")
    rules.check(desired)
    desired = rules.settle(desired)
    comparison = _compare(desired, actual, rules)
    steps = (*_first_deletes(comparison), *_creates_and_changes(comparison), *_last_deletes(comparison))
    plan = Plan(desired.network, rules.provider, steps, _price(desired, prices or {}))
    check_plan(plan, actual)
    return plan


def check_plan(plan: Plan, actual: Actual | None = None) -> None:
    """Goes through a plan without touching anything, and raises ProvisionError for what could not be carried out.

    Each key once, or deleted and then created; each step fits what stands then; needs are there before use; nothing is
    deleted that something standing needs. Without `actual` only what the plan itself touches is known to stand.
    """
    acts: dict[Key, list[Act]] = {}
    for step in plan.steps:
        acts.setdefault(step.item.key, []).append(step.act)
    for key, seen in acts.items():
        if len(seen) > 1 and seen != [Act.DELETE, Act.CREATE]:
            raise _broken(plan, f"{' '.join(key)} is touched {len(seen)} times")
    firsts = {step.item.key: step.before for step in reversed(plan.steps)}
    known = actual.items if actual is not None else tuple(item for item in firsts.values() if item is not None)
    standing = {item.key: item for item in known}
    needed: dict[Key, set[Key]] = {}
    for item in standing.values():
        _need(needed, item)
    for step in plan.steps:
        _check_step(plan, step, standing, needed, None if actual is not None else acts.keys() | standing.keys())


def apply_step(items: Sequence[Item], step: Step) -> tuple[Item, ...]:
    """What stands once a step is carried out, in order. Doing it again changes nothing.

    Raises ProvisionError where what stands is neither what the step expects nor what it leaves.
    """
    standing = {item.key: item for item in items}
    there = standing.get(step.item.key)
    after = None if step.act is Act.DELETE else step.item
    if there == after:
        return in_order(items)
    if there != step.before:
        found = "does not stand any more" if there is None else "stands with other settings than when this was planned"
        raise ProvisionError(f"{' '.join(step.item.key)} {found}", "plan again: run the same command anew")
    if after is None:
        del standing[step.item.key]
    else:
        standing[after.key] = after
    return in_order(standing.values())


@dataclass(frozen=True, slots=True)
class _Comparison:
    """What is to become of each key. `rebuilt`: deleted first and created later; `replaced`: in one step."""

    desired: tuple[Item, ...]
    standing: Standing
    gone: frozenset[Key]
    rebuilt: frozenset[Key]
    replaced: Mapping[Key, Change]
    updated: Mapping[Key, Change]


def _compare(desired: Desired, actual: Actual, rules: Rules) -> _Comparison:
    standing = {item.key: item for item in in_order(actual.items)}
    wanted = {item.key: item for item in desired.items}
    changes = {
        key: rules.change(before, wanted[key])
        for key, before in standing.items()
        if key in wanted and before.settings != wanted[key].settings
    }
    gone = frozenset(standing.keys() - wanted.keys())
    anew = {key: change for key, change in changes.items() if change.effect is Effect.REPLACE}
    crowded = _crowded(standing, wanted)
    rebuilt: set[Key] = set()
    for key, item in standing.items():  # in the order of making, so that what an item needs is decided before it
        if key in gone:
            continue
        lost = [need for need in needs(item) if need in gone or need in rebuilt]
        held = any(need in rebuilt or need[0] in _HELD_UNTIL_EMPTY for need in lost)
        leaf = item.kind is Kind.MACHINE and key not in crowded
        if held or (key in anew and not leaf):
            rebuilt.add(key)
    return _Comparison(
        desired=desired.items,
        standing=standing,
        gone=gone,
        rebuilt=frozenset(rebuilt),
        replaced={key: change for key, change in anew.items() if key not in rebuilt},
        updated={
            key: change
            for key, change in changes.items()
            if change.effect in {Effect.LIVE, Effect.RESTART} and key not in rebuilt
        },
    )


def _first_deletes(comparison: _Comparison) -> Iterator[Step]:
    late = _let_go(comparison)
    for key, item in reversed(comparison.standing.items()):
        if (key in comparison.gone and key not in late) or key in comparison.rebuilt:
            yield deletion(item)


def _creates_and_changes(comparison: _Comparison) -> Iterator[Step]:
    for item in comparison.desired:
        before = comparison.standing.get(item.key)
        if before is None or item.key in comparison.rebuilt:
            yield Step(Act.CREATE, item)
        elif item.key in comparison.replaced:
            change = comparison.replaced[item.key]
            yield Step(Act.REPLACE, change.item, before, change.interrupts)
        elif item.key in comparison.updated:
            change = comparison.updated[item.key]
            yield Step(Act.UPDATE, change.item, before, change.interrupts)


def _last_deletes(comparison: _Comparison) -> Iterator[Step]:
    late = _let_go(comparison)
    for key, item in reversed(comparison.standing.items()):
        if key in late:
            yield deletion(item)


def _let_go(comparison: _Comparison) -> frozenset[Key]:
    """What goes only after a change in place has stopped needing it, such as a firewall that a machine leaves."""
    touched = comparison.updated.keys() | comparison.replaced.keys()
    return frozenset(need for key in touched for need in needs(comparison.standing[key]) if need in comparison.gone)


def _price(desired: Desired, prices: Mapping[str, float]) -> float | None:
    machines = [item.name for item in desired.items if item.kind is Kind.MACHINE]
    if any(name not in prices for name in machines):
        return None
    return round(math.fsum(prices[name] for name in machines), 6)


def _crowded(standing: Standing, wanted: Standing) -> set[Key]:
    """Machines whose present address another one wants, or whose wanted address another one has: both can't be at once."""
    crowded: set[Key] = set()
    held, sought = _claims(standing.values()), _claims(wanted.values())
    starts = [(block.version, block.first) for block, _ in held]
    for block, key in sought:
        at = max(bisect_right(starts, (block.version, block.first)) - 1, 0)
        while at < len(held) and starts[at] <= (block.version, block.last):
            if held[at][0].overlaps(block) and held[at][1] != key:
                crowded |= {key, held[at][1]}
            at += 1
    return crowded


def _claims(items: Iterable[Item]) -> list[tuple[AddressBlock, Key]]:
    claims = [
        (parse_block(text), item.key) for item in items if item.kind is Kind.MACHINE for text in item.settings["addresses"]
    ]
    return sorted(claims, key=lambda claim: (claim[0].version, claim[0].first, claim[1]))


def _check_step(plan: Plan, step: Step, standing: Standing, needed: dict[Key, set[Key]], sure: set[Key] | None) -> None:
    """One step of check_plan: `needed` is key -> who needs it; `sure` are the keys whose standing is known, None for all."""
    key = step.item.key
    there = standing.get(key)
    if step.before != there or (step.act is Act.CREATE) != (step.before is None):
        raise _broken(plan, f"{describe(step)} does not fit what stands then")
    if step.before is not None and step.before.key != key:
        raise _broken(plan, f"{describe(step)} begins from {' '.join(step.before.key)}")
    if there is not None:
        for need in needs(there):
            needed.get(need, set()).discard(key)
    if step.act is Act.DELETE:
        if needed.get(key):
            raise _broken(plan, f"{describe(step)} takes away what {' '.join(min(needed[key]))} needs")
        del standing[key]
        return
    for need in needs(step.item):
        if need not in standing and (sure is None or need in sure):
            raise _broken(plan, f"{describe(step)} needs {' '.join(need)}, which does not stand then")
    standing[key] = step.item
    _need(needed, step.item)


def _need(needed: dict[Key, set[Key]], item: Item) -> None:
    for need in needs(item):
        needed.setdefault(need, set()).add(item.key)


def _broken(plan: Plan, what: str) -> ProvisionError:
    return ProvisionError(
        f"checking the plan for {plan.network}: {what}", "nothing was touched; plan again, and report this plan"
    )
