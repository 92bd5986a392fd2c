"""Plans and what becomes of them, as they travel."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, StrictBool

from adumbra.api.shapes.common import Answer, Asked, Instant
from adumbra.schema.plans import Act, Kind
from adumbra.schema.state import PlanState

ProviderName = Literal["terraform", "libvirt"]


class ProviderAsked(Asked):
    """By whom it is to be done."""

    provider: ProviderName = Field(default="terraform", description="Who makes it.")


class TakingAwayAsked(Asked):
    """By whom it is to be taken away."""

    provider: ProviderName | None = Field(default=None, description="Who made it; null: who did last.")


class DryRunAsked(Asked):
    """A plan that is asked for."""

    provider: ProviderName | None = Field(default=None, description="Who makes it; null: who did last, else terraform.")

    deactivate: StrictBool = Field(default=False, description="The plan that takes everything away.")


class SettingChangeOut(Answer):
    """A setting that a step gives another value; null: it isn't there."""

    setting: str
    before: Any
    after: Any


class StepOut(Answer):
    """One act on one thing."""

    act: Act
    kind: Kind
    name: str
    interrupts: str = Field(description="What stops while it is carried out; empty: nothing.")
    changes: list[SettingChangeOut]
    done: bool | None = Field(default=None, description="Whether it was carried out; null: not tried.")
    detail: str = Field(default="", description="What the last attempt came to.")


class PlanOut(Answer):
    """Ordered steps that turn what stands into what should."""

    network: str
    provider: str
    price_per_hour: float | None = Field(description="What the machines then cost, US dollars.")
    steps: list[StepOut]
    diff: list[str] = Field(
        description="The same as lines: + makes, ~ changes, -/+ makes anew, - takes away.", examples=[["+ machine web-1"]]
    )


class DryPlanOut(PlanOut):
    """A plan that was not carried out. plan: the same, whole; place: where its provider would keep what it makes."""

    plan: dict[str, Any]
    place: str


class KeptPlanOut(PlanOut):
    """A plan that is or was carried out."""

    id: int
    state: PlanState
    created: Instant
    finished: Instant | None
