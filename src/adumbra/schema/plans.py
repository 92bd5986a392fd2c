"""What stands, what should stand, and the ordered steps between: a plan is complete and immutable. Nouns only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

PROVIDERS = ("terraform", "libvirt")
"""Who makes networks real, by the names that plans carry and `--provider` takes."""


class Kind(StrEnum):
    """The kinds of things a provider makes, in the order in which they can be made."""

    NETWORK = "network"
    SUBNET = "subnet"
    GATEWAY = "gateway"
    ROUTING = "routing"
    FIREWALL = "firewall"
    MACHINE = "machine"


class Act(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of a network. `settings` are plain JSON data, complete: no name or size is chosen after planning."""

    kind: Kind
    name: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return (self.kind.value, self.name)


@dataclass(frozen=True, slots=True)
class Desired:
    """What should stand for a network: items with unique keys, in an order in which they can be made."""

    network: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Actual:
    """What stands of a network, ours by tag, as the provider reports it."""

    network: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One act on one item. `before` is what stood, `interrupts` what stops while it is carried out ("" for nothing)."""

    act: Act
    item: Item
    before: Item | None = None
    interrupts: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered steps that turn `Actual` into `Desired`, and what the machines then cost in US dollars an hour.

    price_before_per_hour: what they cost before, None: not known; approval: why somebody must approve it, "" for nobody must;
    notes: VM or other thing -> sentences on what the policy made of it, or what can't be done for it.
    """

    network: str
    provider: str
    steps: tuple[Step, ...]
    price_per_hour: float | None
    price_before_per_hour: float | None = None
    approval: str = ""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not self.steps

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` gave, now or in an earlier version. Raises KeyError or ValueError for anything else."""
        steps = tuple(
            Step(Act(s["act"]), _item(s["item"]), _item(s["before"]) if s["before"] else None, s["interrupts"])
            for s in plain["steps"]
        )
        notes = {str(name): tuple(map(str, said)) for name, said in plain.get("notes", {}).items()}
        return cls(
            plain["network"], plain["provider"], steps, plain["price_per_hour"],
            plain.get("price_before_per_hour"), plain.get("approval", ""), notes,
        )  # fmt: skip


def _item(plain: Mapping[str, Any]) -> Item:
    return Item(Kind(plain["kind"]), plain["name"], plain["settings"])


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of one attempt at one step: whether the item now stands as the step says, and a word about it."""

    done: bool
    detail: str = ""
