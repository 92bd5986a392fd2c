"""What a VM is worth of each resource: declared machines, instance types, demand, and the resource profile. Nouns only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from adumbra.schema.plain import of_plain


class Risk(StrEnum):
    """Whose shortness the dial bounds: each VM's on its own, or the fleet's on average with each VM's bounded."""

    PER_VM = "per-vm"
    POOLED = "pooled"


class Confidence(StrEnum):
    """How far a profile may be trusted: from how long was learned, how often it was scored, and how wide it is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


BYTES_PER_GB = 2**30
"""A GB of memory or storage, as instance types, hypervisors and volumes are sold: 2^30 bytes. Bandwidth is decimal."""

RESOURCES: tuple[str, ...] = ("cpu_cores", "memory_gb", "bandwidth_mbps", "storage_gb")
"""The resources of a profile, in its order. All code that handles one takes its name as data."""
RESOURCE_UNITS: Mapping[str, str] = {"cpu_cores": "cores", "memory_gb": "GB", "bandwidth_mbps": "Mbps", "storage_gb": "GB"}
"""What each is counted in."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's size. Memory and storage in GB (BYTES_PER_GB bytes), bandwidth in megabits a second each way.

    bandwidth_mbps is what is always there; peak_bandwidth_mbps: what bursts reach, None where there is no more.
    """

    cpu_cores: float
    memory_gb: float
    bandwidth_mbps: float
    storage_gb: float
    peak_bandwidth_mbps: float | None = None


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A type of a provider's catalogue: its size, and its price in US dollars an hour (None: not known).

    bandwidth_mbps is what is always there, peak_bandwidth_mbps what bursts reach; burstable: the CPU is a share of a core.
    core_speed: of one of its cores, in reference cores; None: not known.
    """

    provider: str
    name: str
    arch: str
    cpu_cores: float
    memory_gb: float
    bandwidth_mbps: float
    peak_bandwidth_mbps: float
    burstable: bool
    price_per_hour: float | None
    core_speed: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a VM will need of one resource in the horizon: quantiles of what is believed, in the resource's unit."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What one VM is expected to use, as the profile stage takes it.

    need: resource -> the smallest amount that is short in no more than the asked share of intervals, calibrated, in the
    resource's unit; estimate: resource -> the interval of the same quantity; reasons: sentences about how it came about.
    """

    vm: str
    need: Mapping[str, float]
    estimate: Mapping[str, Estimate]
    confidence: Confidence
    reasons: tuple[str, ...]
    declared_type: str | None = None


@dataclass(frozen=True, slots=True)
class SizingPolicy:
    """What the user fixes: the dial and whose shortness it bounds, the horizon, and which types may be chosen (none named:
    those of one architecture)."""

    shortfall: float = 0.01
    horizon_s: float = 604_800.0
    provider: str = "aws"
    arch: str | None = None
    allowed_types: tuple[str, ...] = ()
    risk: Risk = Risk.PER_VM


@dataclass(frozen=True, slots=True)
class VmProfile:
    """One VM's sizes, rounded up, its type and price, and why."""

    vm: str
    cpu_cores: int
    memory_gb: float
    bandwidth_mbps: int
    storage_gb: int
    type: str | None
    price_per_hour: float | None
    estimate: Mapping[str, Estimate]
    confidence: Confidence
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """The resource profile of a network (DESIGN.md section 6)."""

    network: str
    horizon_s: float
    shortfall: float
    learned_s: float
    model: str
    vms: tuple[VmProfile, ...]
    risk: Risk = Risk.PER_VM

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the format of DESIGN.md section 6."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> NetworkProfile:
        """The profile that `to_dict` gave. Raises PlainError for anything else."""
        return of_plain(cls, plain)
