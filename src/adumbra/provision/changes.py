"""A plan as a diff: what each step makes, changes or takes away, setting by setting. Pure; decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adumbra.schema.plans import Act, Plan, Step

_SIGNS = {Act.CREATE: "+", Act.UPDATE: "~", Act.REPLACE: "-/+", Act.DELETE: "-"}
_MISSING = object()


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that a step gives another value; None: it isn't there."""

    setting: str
    before: Any
    after: Any


def changes(step: Step) -> tuple[SettingChange, ...]:
    """The settings that differ after a step, by name."""
    before = dict(step.before.settings) if step.before is not None else {}
    after = {} if step.act is Act.DELETE else dict(step.item.settings)
    if step.act is Act.DELETE and not before:
        before = dict(step.item.settings)
    return tuple(
        SettingChange(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name, _MISSING) != after.get(name, _MISSING)
    )


def lines(plan: Plan) -> tuple[str, ...]:
    """The plan as lines of a diff: + makes, ~ changes, -/+ makes anew, - takes away; below, each setting that differs."""
    return tuple(line for step in plan.steps for line in _lines(step))


def _lines(step: Step) -> Iterator[str]:
    interrupts = f"  ({step.interrupts})" if step.interrupts else ""
    yield f"{_SIGNS[step.act]} {step.item.kind.value} {step.item.name}{interrupts}"
    for change in changes(step):
        if step.act in {Act.UPDATE, Act.REPLACE}:
            yield f"    ~ {change.setting}: {_told(change.before)} -> {_told(change.after)}"
        else:
            yield f"    {_SIGNS[step.act]} {change.setting}: {_told(change.before if step.act is Act.DELETE else change.after)}"


def _told(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
