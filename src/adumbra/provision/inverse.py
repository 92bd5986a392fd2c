"""Makes, of a plan that ended half-way, the plan that takes what was done back. Pure: knows no cloud, touches nothing.

What can't be taken back, such as a disk that was destroyed, is left as it stands, and said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adumbra.provision.plan import Key, check_plan, deletion, in_order, needs
from adumbra.provision.protocol import Effect, Rules
from adumbra.schema.addresses import parse_block
from adumbra.schema.errors import ProvisionError
from adumbra.schema.plans import Act, Actual, Item, Kind, Plan, Step


@dataclass(slots=True)
class _Undoing:
    """What stands while steps are taken back, the steps so far, and what is left out, by the thing's name. needed: key -> the
    keys of what stands and needs it."""

    rules: Rules
    standing: dict[Key, Item]
    steps: list[Step] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)
    needed: dict[Key, set[Key]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in self.standing.values():
            self._need(item)

    def _need(self, item: Item) -> None:
        for need in needs(item):
            self.needed.setdefault(need, set()).add(item.key)

    def leave(self, item: Item, why: str) -> None:
        self.left.setdefault(item.name, []).append(f"{item.kind.value} {item.name}: {why}")

    def add(self, step: Step) -> None:
        self.steps.append(step)
        if step.before is not None:
            for need in needs(step.before):
                self.needed[need].discard(step.item.key)
        if step.act is Act.DELETE:
            del self.standing[step.item.key]
        else:
            self.standing[step.item.key] = step.item
            self._need(step.item)

    def same(self, one: Item | None, other: Item | None) -> bool:
        """Whether two items of one key are the same thing, as far as the provider cares."""
        if one is None or other is None:
            return one is other
        return dict(one.settings) == dict(other.settings) or self.rules.change(one, other).effect is Effect.NOTHING


def inverse(plan: Plan, begun: int, actual: Actual, rules: Rules) -> Plan:
    """The plan that takes back what a plan has done, in the opposite order; its notes say what is left as it is, and why.

    begun: how many of its steps were begun: of the last of them it isn't known whether it was done. What stands (`actual`)
    tells, so that a step which wasn't done, or is undone already, makes no step: again on the result gives an empty plan. What
    somebody changed since is left alone. Raises ProvisionError for a plan of another network or provider.
    """
    if (plan.network, plan.provider) != (actual.network, rules.provider):
        raise ProvisionError(
            f"undoing a plan of {plan.network} by {plan.provider} where {actual.network} by {rules.provider} stands",
            "undo it where it was carried out",
        )
    undoing = _Undoing(rules, {item.key: item for item in actual.items})
    lost = _lost(plan, begun, undoing)
    alone = lost.keys() | _restored(plan, begun, undoing)
    for step in reversed(plan.steps[:begun]):
        if step.item.key not in alone:
            _undo(step, undoing)
    for key in sorted(lost):
        undoing.leave(lost[key], "its disk was destroyed, and what was on it can't be brought back")
    notes = {name: tuple(said) for name, said in sorted(undoing.left.items())}
    back = Plan(plan.network, plan.provider, tuple(undoing.steps), None, notes=notes)
    check_plan(back, actual)
    return back


def _lost(plan: Plan, begun: int, undoing: _Undoing) -> Mapping[Key, Item]:
    """The machines whose disks the plan destroyed: what stands of them stays, and what doesn't is not made as an empty one."""
    lost: dict[Key, Item] = {}
    for step in plan.steps[:begun]:
        if step.item.kind is not Kind.MACHINE or step.before is None:
            continue
        there = undoing.standing.get(step.item.key)
        replaced = step.act is Act.REPLACE and not undoing.same(there, step.before)
        if replaced or (step.act is Act.DELETE and (there is None or not undoing.same(there, step.before))):
            lost[step.item.key] = step.before
    return lost


def _restored(plan: Plan, begun: int, undoing: _Undoing) -> frozenset[Key]:
    """What the plan deleted and made anew, and stands as before all the same: an earlier attempt took it back already."""
    begins = {step.item.key: step.before for step in plan.steps[:begun] if step.act is Act.DELETE and step.before is not None}
    made = {step.item.key for step in plan.steps[:begun] if step.act is Act.CREATE}
    rebuilt = {key: before for key, before in begins.items() if key in made}
    restored: set[Key] = set()
    for item in in_order(undoing.standing.values()):
        before = rebuilt.get(item.key)
        if before is not None and not _differs(item, before) and all(n not in rebuilt or n in restored for n in needs(item)):
            restored.add(item.key)
    return frozenset(restored)


def _undo(step: Step, undoing: _Undoing) -> None:
    """Takes one step back, if it was done."""
    there = undoing.standing.get(step.item.key)
    match step.act:
        case Act.CREATE if there is not None:
            _unmake(step.item, there, undoing)
        case Act.DELETE if there is None and step.before is not None:
            _make_again(step.before, undoing)
        case Act.UPDATE | Act.REPLACE if step.before is not None and _differs(there, step.before):
            _change_back(step.item, step.before, there, undoing)


def _differs(there: Item | None, before: Item) -> bool:
    return there is None or dict(there.settings) != dict(before.settings)


def _unmake(made: Item, there: Item, undoing: _Undoing) -> None:
    if not undoing.same(there, made):
        undoing.leave(made, "somebody changed it since, so it stays")
        return
    needing = undoing.needed.get(made.key)
    if needing:
        undoing.leave(made, f"{min(needing)[1]} needs it, so it stays")
        return
    undoing.add(deletion(there))


def _make_again(item: Item, undoing: _Undoing) -> None:
    missing = _missing(item, undoing) or _misplaced(item, undoing)
    if missing:
        undoing.leave(item, f"it can't be made again: {missing}")
    else:
        undoing.add(Step(Act.CREATE, item))


def _change_back(after: Item, before: Item, there: Item | None, undoing: _Undoing) -> None:
    if there is None or not undoing.same(there, after):
        if there is None or not undoing.same(there, before):  # else it was never changed
            undoing.leave(after, "somebody changed it since, so it stays as it is")
        return
    change = undoing.rules.change(there, before)
    if change.effect is Effect.REPLACE:
        undoing.leave(after, "taking it back would destroy it and make it anew, so it stays as it is")
        return
    missing = _missing(change.item, undoing) or _misplaced(change.item, undoing)
    if missing:
        undoing.leave(after, f"it can't be as it was: {missing}")
        return
    changed = {name for name, value in after.settings.items() if before.settings.get(name) != value}
    kept = sorted(name for name in changed if change.item.settings.get(name) == after.settings[name])
    if kept:
        undoing.leave(after, f"{', '.join(kept)} can't be taken back and stays")
    if change.effect is not Effect.NOTHING:
        undoing.add(Step(Act.UPDATE, change.item, there, change.interrupts))


def _missing(item: Item, undoing: _Undoing) -> str:
    """Which of the things that an item needs doesn't stand, in words; "" where all do."""
    lacking = next((" ".join(need) for need in needs(item) if need not in undoing.standing), "")
    return f"{lacking}, which it needs, doesn't stand" if lacking else ""


def _misplaced(item: Item, undoing: _Undoing) -> str:
    """What of the address space an item would clash with, because something was left; "" for nothing."""
    if item.kind not in {Kind.NETWORK, Kind.SUBNET}:
        return ""
    network_key = item.key if item.kind is Kind.NETWORK else needs(item)[0]
    there = (undoing.standing[key] for key in sorted(undoing.needed.get(network_key, ())))
    subnets = [each for each in there if each.kind is Kind.SUBNET and each.key != item.key]
    if item.kind is Kind.NETWORK:
        outside = [each.name for each in subnets if not _holds(item, each)]
        return f"the subnet {outside[0]} lies outside of what it was" if outside else ""
    network = undoing.standing[network_key]
    if not _holds(network, item):
        return f"its addresses lie outside of {network.name}, as that is now"
    block = parse_block(item.settings["cidr"])
    taken = [each.name for each in subnets if parse_block(each.settings["cidr"]).overlaps(block)]
    return f"the subnet {taken[0]} has its addresses" if taken else ""


def _holds(network: Item, subnet: Item) -> bool:
    block = parse_block(subnet.settings["cidr"])
    return any(parse_block(cidr).contains(block) for cidr in network.settings["cidrs"])
