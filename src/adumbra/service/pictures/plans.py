"""A plan as a diff: what is made, changed and taken away, line by line, and what each interrupts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adumbra.schema.plans import Act, Item, Plan, Step
from adumbra.schema.units import format_count

MAX_STEPS, MAX_NOTES = 500, 50
_SIGNS = {Act.CREATE: "+", Act.UPDATE: "~", Act.REPLACE: "±", Act.DELETE: "−"}
_ORDER = (
    "type", "cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb", "subnet", "addresses", "cidr", "cidrs", "ingress",
    "egress", "public_address",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a thing. was: what stood, None where nothing did or it stays."""

    name: str
    value: str
    was: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """A step. sign, act: the same in a character and a word."""

    sign: str
    act: str
    kind: str
    name: str
    settings: tuple[Setting, ...]
    interrupts: str


@dataclass(frozen=True, slots=True)
class Diff:
    """A plan. price_per_hour: of its machines, price_before_per_hour: of those that stand; left_out: steps beyond MAX_STEPS;
    approval: why somebody must approve it; notes: what the policy made of VMs, a sentence each, of MAX_NOTES of them."""

    provider: str
    changes: tuple[Change, ...]
    summary: str
    price_per_hour: float | None
    left_out: int
    price_before_per_hour: float | None = None
    approval: str = ""
    notes: tuple[str, ...] = ()


def diff(plan: Plan) -> Diff:
    counts = {act: sum(step.act is act for step in plan.steps) for act in Act}
    words = {Act.CREATE: "to make", Act.UPDATE: "to change", Act.REPLACE: "to replace", Act.DELETE: "to take away"}
    told = ", ".join(f"{format_count(count, 'thing')} {words[act]}" for act, count in counts.items() if count)
    stopping = sum(bool(step.interrupts) for step in plan.steps)
    summary = told or "nothing to do: all stands as it should"
    if stopping:
        summary += f"; {format_count(stopping, 'step')} interrupt{'s' if stopping == 1 else ''} something"
    changes = tuple(_change(step) for step in plan.steps[:MAX_STEPS])
    notes = tuple(f"{name}: {'; '.join(said)}" for name, said in list(plan.notes.items())[:MAX_NOTES])
    return Diff(
        plan.provider, changes, summary, plan.price_per_hour, max(0, len(plan.steps) - MAX_STEPS),
        plan.price_before_per_hour, plan.approval, notes,
    )  # fmt: skip


def _change(step: Step) -> Change:
    settings = () if step.act is Act.DELETE else tuple(_settings(step.item, step.before))
    return Change(_SIGNS[step.act], step.act.value, step.item.kind.value, step.item.name, settings, step.interrupts)


def _settings(item: Item, before: Item | None) -> Iterator[Setting]:
    was: Mapping[str, Any] = before.settings if before is not None else {}
    for name in (*_ORDER, *(key for key in item.settings if key not in _ORDER)):
        value = item.settings.get(name)
        if name not in item.settings or value in (None, [], "", False) or name in {"network", "firewall", "gateway"}:
            continue
        changed = before is not None and was.get(name) != value
        if before is not None and not changed:
            continue
        yield Setting(name, _word(value), _word(was.get(name)) if changed else None)


def _word(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_word(each) for each in value) or "none"
    if isinstance(value, Mapping):
        if {"from_port", "to_port", "source"} <= value.keys():
            first, last = value["from_port"], value["to_port"]
            return f"{value.get('protocol', 'tcp')} {first if first == last else f'{first}-{last}'} from {value['source']}"
        return " ".join(f"{key} {_word(each)}" for key, each in value.items())
    return "yes" if value is True else "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
