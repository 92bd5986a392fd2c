"""What the planner and the executor ask of a provider: its rules, what stands, and one attempt at one step.

Contracts only. A later provider passes the same tests (tests/provision/test_provider_contract.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self, runtime_checkable

from adumbra.schema.live import LivePort, MachineReading
from adumbra.schema.plans import Actual, Desired, Item, Plan, Step, StepOutcome


class Effect(StrEnum):
    """What it takes to turn one item into another of the same key."""

    NOTHING = "nothing"  # what stands will do as it is
    LIVE = "live"  # changed while it runs
    RESTART = "restart"  # changed in place, but stopped for it
    REPLACE = "replace"  # destroyed and made anew


@dataclass(frozen=True, slots=True)
class Change:
    """How `before` becomes `after`, what that interrupts ("" for nothing), and the item that stands then.

    `item` is `after`, or `after` with what the provider keeps of `before`, such as a disk that can't shrink.
    """

    effect: Effect
    item: Item
    interrupts: str = ""


class Rules(Protocol):
    """What a provider can hold and what a change means there. Pure: the planner asks it, nothing is touched."""

    @property
    def provider(self) -> str:
        """The name that plans carry and that `--provider` takes."""
        ...

    def settle(self, desired: Desired) -> Desired:
        """The items that this provider makes of what is desired, with every name and size that is its own to choose.

        Settling the same again gives the same. What is desired has passed `check`.
        """
        ...

    def check(self, desired: Desired) -> None:
        """Refuses what the provider can't make. Raises InputError naming the item and what to do."""
        ...

    def change(self, before: Item, after: Item) -> Change:
        """What it takes to turn `before` into `after`, of the same key. Another subnet or address is always a REPLACE.

        Asking again with the given item as `before` answers NOTHING, or the planner would never come to rest.
        """
        ...


class Provider(Protocol):
    """Something that makes networks and machines. Constructing one touches nothing; it is opened by `with`."""

    @property
    def rules(self) -> Rules: ...

    @property
    def place(self) -> str:
        """Where its result is to be found: a file's path, a hypervisor's URI, a cloud's region. Holds no secret."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def actual(self, network: str) -> Actual:
        """What stands of a network, ours by tag, in an order in which it can be made. Raises ProvisionError."""
        ...

    def perform(self, step: Step) -> StepOutcome:
        """One attempt at one step; doing it again is harmless. Raises ProvisionError saying what to do next."""
        ...

    def usage(self, network: str) -> tuple[MachineReading, ...]:
        """The counters of the network's machines that run now; none where this provider can't tell. Raises ProvisionError."""
        ...

    def ports(self, network: str) -> tuple[LivePort, ...]:
        """Where the packets of the network's running machines pass, of those on this host. Raises ProvisionError."""
        ...


@runtime_checkable
class Finishing(Protocol):
    """A provider with a last act: its steps say what is to stand, and `finish` makes it so at once."""

    def finish(self, plan: Plan) -> StepOutcome | None:
        """Carries out what the plan's steps have said; None where there is nothing to do. Again is harmless, at any later time.

        Until it is done, `actual` tells of what the steps touched as not standing as it should. Raises ProvisionError.
        """
        ...
