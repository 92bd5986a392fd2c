"""The nouns of a back-test of sizes: measured use with what was provisioned, when sizes are set, what rules gave. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adumbra.schema.records import Floats, Ints, Panel
from adumbra.schema.sizing import Risk

__all__ = ["Allocations", "MeasuredUse", "Risk", "Schedule", "Usages"]


@dataclass(frozen=True, slots=True)
class MeasuredUse:
    """One resource's measured use, and what each VM had of it.

    panel: float64[V, T] in the resource's unit (cores, GB, Mbps), gaps NaN; provisioned float64[V], the largest that was told,
    in the same unit, NaN where nothing was told.
    """

    panel: Panel
    provisioned: Floats


@dataclass(frozen=True, slots=True)
class Usages:
    """Measured use of many VMs, a resource at a time, all on one grid. notes: in words, what was mended or left out."""

    source: str
    resources: Mapping[str, MeasuredUse]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """When sizes are set, and for how long they are held.

    origins int64[O], increasing: how many steps are known when a size is set; whoever sets it sees values[:, :origin] and
    nothing after. It is held for the steps [origin, origin + held_steps). lead_in_steps: how far back rules look.
    """

    origins: Ints
    held_steps: int
    lead_in_steps: int


@dataclass(frozen=True, slots=True)
class Allocations:
    """What one rule gave for one resource: amounts float64[O, V] in the resource's unit, NaN where it gave no size.

    rule: its short name ("aws-compute-optimizer", "adumbra"); title: as people read it; dial: the share of time that a VM may
    be short, where the rule has such a dial.
    """

    rule: str
    title: str
    amounts: Floats
    dial: float | None = None
    risk: Risk | None = None
