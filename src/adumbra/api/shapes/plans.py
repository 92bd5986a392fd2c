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
    approve: StrictBool = Field(
        default=False, description="Approve the plan in the same act, where its policy asks for that; for administrators."
    )


class TakingAwayAsked(Asked):
    """By whom it is to be taken away."""

    provider: ProviderName | None = Field(default=None, description="Who made it; null: who did last.")


class DryRunAsked(Asked):
    """A plan that is asked for."""

    provider: ProviderName | None = Field(default=None, description="Who makes it; null: who did last, else terraform.")

    deactivate: StrictBool = Field(default=False, description="The plan that takes everything away.")
    rollback: StrictBool = Field(default=False, description="The plan that takes back what the newest one, which failed, did.")


class RollbackAsked(Asked):
    """Nothing more is asked for."""


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
    price_before_per_hour: float | None = Field(description="What they cost before; null: not known.")
    approval: str = Field(description="Why an administrator must approve it; empty: nobody must.")
    notes: dict[str, list[str]] = Field(description="VM or other thing -> what the policy made of it, or what can't be done.")
    steps: list[StepOut]
    diff: list[str] = Field(
        description="The same as lines: + makes, ~ changes, -/+ makes anew, - takes away.", examples=[["+ machine web-1"]]
    )
    finished_done: bool | None = Field(
        default=None, description="Whether the last act, after all steps, was carried out; null: not tried, or there is none."
    )
    finished_detail: str = Field(default="", description="What that came to, such as what tofu or terraform applied.")


class DryPlanOut(PlanOut):
    """A plan that was not carried out. plan: the same, whole; place: where its provider would keep what it makes."""

    plan: dict[str, Any]
    place: str


class KeptPlanOut(PlanOut):
    """A plan that is or was carried out, or waits for approval."""

    id: int
    state: PlanState
    created: Instant
    finished: Instant | None
    decided_by: str | None = Field(description="Who approved or rejected it; null: nobody had to, or has yet.")
    decided: Instant | None
    undoes: int | None = Field(description="The plan that it takes back.")
    plan: dict[str, Any] = Field(description="The same, whole.")
