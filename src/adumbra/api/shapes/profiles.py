"""Resource profiles and forecasts, as they travel."""

from __future__ import annotations

from pydantic import Field, StrictFloat

from adumbra.api.shapes.common import Answer, Asked, Instant
from adumbra.schema.sizing import Confidence, Risk

DIAL = "The dial: the largest share of intervals in which a VM may be short of a resource. null: the spec's target."


class ProfileAsked(Asked):
    """What a profile is asked for."""

    shortfall: StrictFloat | None = Field(default=None, gt=0, le=0.5, description=DIAL, examples=[0.01])
    horizon_s: StrictFloat | None = Field(
        default=None, ge=60, le=90 * 86_400, description="For how long it is to hold. null: a week.", examples=[604_800]
    )
    risk: Risk = Field(
        default=Risk.PER_VM, description="Whose shortness the dial bounds: each VM's, or the fleet's on average."
    )


class EstimateOut(Answer):
    """What is believed that a VM will need of a resource."""

    p50: float | None
    p90: float | None
    p99: float | None


class VmProfileOut(Answer):
    """A VM's sizes, rounded up."""

    vm: str
    cpu_cores: int
    memory_gb: float
    bandwidth_mbps: int
    storage_gb: int
    type: str | None
    price_per_hour: float | None = Field(description="US dollars.")
    estimate: dict[str, EstimateOut]
    confidence: Confidence
    reasons: list[str]


class ProfileOut(Answer):
    """A network's resource profile."""

    network: str
    version: int = Field(description="Counts the network's profiles from 1.")
    created: Instant
    horizon_s: float
    shortfall: float
    learned_s: float
    model: str
    risk: Risk
    vms: list[VmProfileOut]


class ProfileRow(Answer):
    """A profile in a list."""

    version: int
    created: Instant
    horizon_s: float
    shortfall: float
    risk: Risk
    learned_s: float
    model: str
    vms: int
    price_per_hour: float | None = Field(description="Of all VMs, US dollars; null where one's isn't known.")


class HourlyOut(Answer):
    """Sizes of one resource by the hour of the week."""

    resource: str
    unit: str
    days: list[str]
    vms: dict[str, list[list[float | None]]] = Field(description="VM, then weekday (Monday first), then hour, UTC.")


class ByHourOut(Answer):
    """Sizes by the hour of the week, of what throttles."""

    network: str
    shortfall: float
    resources: dict[str, HourlyOut]


class ForecastOf(Answer):
    """A forecast of one resource: step k begins `k` times `step_s` seconds after `start`."""

    unit: str = Field(examples=["cores"])
    start: Instant
    step_s: float
    steps: int
    levels: list[float] = Field(description="The quantiles, as shares.", examples=[[0.1, 0.5, 0.9]])
    vms: dict[str, list[list[float | None]]] = Field(description="VM, then step, then a value a level.")


class ForecastOut(Answer):
    """Calibrated quantiles of what VMs will use, from the end of what is stored."""

    network: str
    version: int = Field(description="Of the training that it comes from.")
    horizon_s: float
    resources: dict[str, ForecastOf]
