"""What-if questions and answers, as they travel."""

from __future__ import annotations

from pydantic import Field, StrictBool, StrictFloat

from adumbra.api.shapes.common import Answer, Asked


class QuestionIn(Asked):
    """What is asked."""

    traffic: StrictFloat = Field(default=1.0, gt=0, le=1000, description="Times the traffic that was seen.", examples=[2.0])
    vms: list[str] = Field(default=[], max_length=1000, description="Of these VMs; none: of all.", examples=[["web-1"]])
    type: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="On this instance type; null: as declared.",
        examples=["m7i.xlarge"],
    )
    last_s: StrictFloat | None = Field(
        default=86_400.0,
        ge=0.1,
        le=1e9,
        description="Of how much of the stored time, from its end; null: of all.",
        examples=[3600],
    )
    sweep: StrictBool = Field(default=False, description="Try every type of the catalogue; a job.")


class MachineOut(Answer):
    """A machine's size."""

    cpu_cores: float
    memory_gb: float
    bandwidth_mbps: float
    storage_gb: float
    peak_bandwidth_mbps: float | None = None


class TriedOut(Answer):
    """What a machine would show. null: of nothing."""

    cpu_utilization: float | None
    cpu_p99: float | None
    cpu_short: float | None
    cores_usable: float | None
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    latency_ms_p99: float | None
    loss: float | None
    memory_gb: float | None
    bandwidth_mbps: float | None


class ChoiceOut(Answer):
    """A VM on a machine."""

    type: str | None
    machine: MachineOut
    arch: str | None
    core_speed: float | None
    price_per_hour: float | None
    tried: TriedOut
    short: list[str] = Field(description="Why it isn't enough; nothing: it is.")
    fits: bool


class VmAnswerOut(Answer):
    """What was found of a VM."""

    vm: str
    now: ChoiceOut = Field(description="As declared, under the traffic as it was.")
    declared: ChoiceOut = Field(description="As declared, under the traffic that is asked about.")
    assumed: bool = Field(description="The spec says nothing of its size: it stands on what a VM is usually taken for.")
    choices: list[ChoiceOut]
    interval: dict[str, list[float | None]] = Field(
        description="Simulated column: its mean, and the 80 % interval of that, for the first choice."
    )
    cheapest: str | None = Field(description="Of the choices that fit.")


class AnswersOut(Answer):
    """What was found."""

    network: str
    traffic: float
    start_ns: int
    end_ns: int
    observed_s: float = Field(description="How much of that time anything is stored of.")
    last_s: float | None
    vms: list[VmAnswerOut]
