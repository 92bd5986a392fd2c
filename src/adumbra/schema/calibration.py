"""What measured use said of VMs: the costs of their use, how sure these are, and what knowing them was worth. Nouns only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

COSTS: tuple[str, ...] = ("idle_cores", "connection_s", "request_s", "byte_in_s", "byte_out_s", "packet_s", "wake_s")
"""The costs of CPU: cores in use while nothing comes; seconds on a reference core for each of what comes, and for each request
that comes alone (emulate/demand.py, wakes). A fit
to measured use has no wake_s."""
HOLDINGS: tuple[str, ...] = ("base_bytes", "connection_bytes", "session_bytes", "cache_request_bytes")
"""What memory is held for: at rest, an open connection, a client that is remembered, a request not seen before."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What an update goes on from. covariance (P x P): of the costs, by the rows alone; misfit: what the law doesn't explain,
    which Fit.covariance has in it; scale: P, what each cost's standard deviation is measured by; surprise: the running mean of
    how far rows were off, in standard deviations; changes: how often the law was seen to have changed
    (emulate/calibration/drift.py); end_ns: when the last row that was learned from was over.
    """

    covariance: tuple[tuple[float, ...], ...]
    misfit: float
    scale: tuple[float, ...]
    surprise: float
    changes: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters fitted to measured use: `mean` and `covariance` (P x P) of `names`, in their units, none below zero.
    A cost that isn't named is 0: the others were fitted to all of the use.

    noise: what the law can't tell, as a coefficient of variation for one request (CPU), or of the whole (memory).
    error_before, error_after: median of |predicted - measured| / measured in time that wasn't known, by the parameters as they
    were and by those learned before it; coverage: the share of its measurements inside the interval that is to hold 80 %; None
    where there was no such time. `changed`: in words, what the fit says that was not believed before. carried: what an update
    goes on from; None where none can.
    """

    names: tuple[str, ...]
    before: tuple[float, ...]
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    noise: float
    rows: int
    error_before: float | None = None
    error_after: float | None = None
    coverage: float | None = None
    changed: tuple[str, ...] = ()
    carried: Carried | None = None


@dataclass(frozen=True, slots=True)
class MeasuredOn:
    """The cores on which use was measured. core_speed: of one of them, in reference cores; what: in words."""

    core_speed: float
    what: str


@dataclass(frozen=True, slots=True)
class VmCalibration:
    """What was learned of one VM: resource ("cpu_cores", "memory_gb") -> its fit. Refused: resource -> why there is none.
    measured_on: what its use was taken to be measured on.
    """

    vm: str
    fits: Mapping[str, Fit]
    refused: Mapping[str, str]
    measured_on: MeasuredOn | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration of a network came to. `usage`: what was measured, in words; times of what was used of it. follows: the
    version from which it went on with later use; None: it began from the roles' priors.
    """

    network: str
    usage: str
    start_ns: int
    end_ns: int
    vms: tuple[VmCalibration, ...]
    notes: tuple[str, ...] = ()
    follows: int | None = None

    def of(self, vm: str) -> VmCalibration | None:
        """What was learned of a VM, or None."""
        return next((each for each in self.vms if each.vm == vm), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` gave, through JSON or not. Raises KeyError or TypeError for anything else."""
        return cls(**{**plain, "vms": tuple(map(_vm, plain["vms"])), "notes": tuple(plain["notes"])})


def _vm(plain: Mapping[str, Any]) -> VmCalibration:
    fits, on = {name: _fit(each) for name, each in plain["fits"].items()}, plain.get("measured_on")
    return VmCalibration(plain["vm"], fits, dict(plain["refused"]), MeasuredOn(**on) if on else None)


def _fit(plain: Mapping[str, Any]) -> Fit:
    lists = {name: tuple(plain[name]) for name in ("names", "before", "mean", "changed")}
    on = plain.get("carried")
    carried = Carried(**{**on, "covariance": _matrix(on["covariance"]), "scale": tuple(on["scale"])}) if on else None
    return Fit(**{**plain, **lists, "covariance": _matrix(plain["covariance"]), "carried": carried})


def _matrix(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows)
