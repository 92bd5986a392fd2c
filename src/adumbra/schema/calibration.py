"""What measured use said of VMs: the costs of their use, how sure these are, and what knowing them was worth. Nouns only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

COSTS: tuple[str, ...] = ("idle_cores", "connection_s", "request_s", "byte_in_s", "byte_out_s", "packet_s", "wake_s")
"""The costs of CPU: cores in use while nothing comes; seconds on a reference core for each of what comes, and for each request
that comes alone (emulate/demand.py, wakes). A fit
to measured use has no wake_s."""
HOLDINGS: tuple[str, ...] = ("base_bytes", "connection_bytes", "session_bytes", "cache_request_bytes")
"""What memory is held for: at rest, an open connection, a client that is remembered, a request not seen before."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Parameters fitted to measured use: `mean` and `covariance` (P x P) of `names`, in their units, none below zero.
    A cost that isn't named is 0: the others were fitted to all of the use.

    noise: what the law can't tell, as a coefficient of variation for one request (CPU), or of the whole (memory).
    error_before, error_after: median of |predicted - measured| / measured in the held-out time, by the parameters as they
    were and as they are; coverage: the share of its measurements inside the interval that is to hold 80 %; None where
    nothing was held out. `changed`: in words, what the fit says that was not believed before.
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


@dataclass(frozen=True, slots=True)
class VmCalibration:
    """What was learned of one VM: resource ("cpu_cores", "memory_gb") -> its fit. Refused: resource -> why there is none."""

    vm: str
    fits: Mapping[str, Fit]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration of a network came to. `usage`: what was measured, in words; times of what was used of it."""

    network: str
    usage: str
    start_ns: int
    end_ns: int
    vms: tuple[VmCalibration, ...]
    notes: tuple[str, ...] = ()

    def of(self, vm: str) -> VmCalibration | None:
        """What was learned of a VM, or None."""
        return next((each for each in self.vms if each.vm == vm), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_dict` gave, through JSON or not. Raises KeyError or TypeError for anything else."""
        vms = tuple(
            VmCalibration(vm["vm"], {name: _fit(each) for name, each in vm["fits"].items()}, dict(vm["refused"]))
            for vm in plain["vms"]
        )
        return cls(**{**plain, "vms": vms, "notes": tuple(plain["notes"])})


def _fit(plain: Mapping[str, Any]) -> Fit:
    rows = tuple(tuple(row) for row in plain["covariance"])
    lists = {name: tuple(plain[name]) for name in ("names", "before", "mean", "changed")}
    return Fit(**{**plain, **lists, "covariance": rows})
