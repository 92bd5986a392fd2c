"""What was predicted against what was measured, as it travels."""

from __future__ import annotations

from pydantic import Field

from adumbra.api.shapes.common import Answer, Instant
from adumbra.api.shapes.profiles import EstimateOut


class ShareOut(Answer):
    """So many steps of so many, and the 95 % interval of that share (Wilson)."""

    count: int
    of: int
    share: float
    low: float
    high: float


class FiguresOut(Answer):
    """What a VM used, in the resource's unit."""

    mean: float
    p50: float
    p95: float
    p99: float


class PromiseOut(Answer):
    """What the profile promised, and what came of it."""

    shortfall: float = Field(description="The dial: the largest share of the time in which the VM may be short.")
    provisioned: float | None = Field(description="The size that the profile gave.")
    short: ShareOut | None = Field(description="In how much of the time the measured use was above it.")
    estimate: EstimateOut | None = Field(description="What was believed to be needed.")
    needed: float | None = Field(
        description="What was needed, by what was measured; null where it is too short a time to tell."
    )


class ScoreOut(Answer):
    """One resource of a VM, predicted against measured."""

    resource: str = Field(examples=["cpu_cores"])
    way: str = Field(description='"rx" or "tx" of bandwidth each way; "" of all else, and of the busier way.')
    paired: int = Field(description="Steps in which both are known.")
    only_predicted: int
    only_measured: int
    judged: int = Field(description="Those of the paired that the emulation hadn't learned from: of these are the next three.")
    predicted: FiguresOut | None
    measured: FiguresOut | None
    bias: float | None = Field(description="The mean of predicted - measured, in the resource's unit.")
    error: float | None = Field(description="The median of |predicted - measured| / measured.")
    coverage: ShareOut | None = Field(description="How much of what was measured lies in the emulation's 80 % interval.")
    promise: PromiseOut | None = Field(description="null where there is no profile.")


class VmComparedOut(Answer):
    """A VM's scores, and a word about it."""

    vm: str
    word: str = Field(examples=["as predicted"])
    scores: list[ScoreOut]


class LiveOut(Answer):
    """What was predicted of a network's VMs against what was measured of the real ones."""

    network: str
    start: Instant
    end: Instant
    step_s: float
    steps: int
    shortfall: float | None
    learned_until: Instant | None = Field(
        description="Until when the emulation has learned from measured use of this time; null: from none of it."
    )
    vms: list[VmComparedOut]
