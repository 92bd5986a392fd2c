"""Traffic for emulated VMs, written down in a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from adumbra.emulate.demand import NEEDED
from adumbra.emulate.paths import NetworkPath
from adumbra.emulate.roles import CpuPrior, MemoryPrior, RolePrior, Spread, StoragePrior, UnseenPrior
from adumbra.emulate.vm import EmulatedVm
from adumbra.schema.records import Intervals, Requests
from adumbra.schema.sizing import Machine

SECOND = 1_000_000_000
BEGIN = 1_790_000_000 * SECOND
_COSTS = ("idle_cores", "connection_s", "request_s", "byte_in_s", "byte_out_s", "packet_s", "wake_s")


def make_intervals(
    arrivals: Sequence[Sequence[Sequence[float]]],
    columns: Mapping[str, Any] | None = None,
    one_sided: Any = False,
    starts_s: Sequence[float] | None = None,
    length_s: float = 1.0,
) -> Intervals:
    """Intervals from arrivals[k][V]: seconds into each interval at which requests come; columns broadcast to [k, V]."""
    shape = (len(arrivals), len(arrivals[0]))
    starts = [i * length_s for i in range(shape[0])] if starts_s is None else starts_s
    start_ns = BEGIN + np.array([round(s * SECOND) for s in starts], np.int64)
    rows = sorted(
        (v, start_ns[i] + round(t * SECOND)) for i, cells in enumerate(arrivals) for v, c in enumerate(cells) for t in c
    )
    given = dict.fromkeys(NEEDED, 0) | dict(columns or {})
    return Intervals(
        interval_ns=round(length_s * SECOND),
        start_ns=start_ns,
        columns={name: np.array(np.broadcast_to(_whole(value), shape)) for name, value in given.items()},
        one_sided=np.array(np.broadcast_to(np.asarray(one_sided, np.bool_), shape)),
        requests=Requests(
            time_ns=np.array([t for _, t in rows], np.int64),
            vm=np.array([v for v, _ in rows], np.int32),
            opens=np.zeros(len(rows), np.bool_),
        ),
    )


def _whole(value: Any) -> Any:
    """Counts as int64, unless one of them isn't told (NaN)."""
    given = np.asarray(value)
    return given if np.isnan(given.astype(np.float64)).any() else given.astype(np.int64)


def make_prior(**figures: Any) -> RolePrior:
    """A prior of which nothing costs anything but what is given, by the fields' own names."""
    parts: dict[str, Any] = {
        "cpu": (CpuPrior, dict.fromkeys(_COSTS, 0) | {"service_cv": 0}),
        "memory": (MemoryPrior, {"base_bytes": 0, "connection_bytes": 0, "release_s": 0}),
        "storage": (StoragePrior, {"base_bytes": 0, "written_per_byte_in": 0, "ops_per_request": 0}),
        "unseen": (UnseenPrior, {"requests_per_connection": 1, "request_bytes": 0, "response_bytes": 0}),
        "spread": (Spread, {"cpu": 0.5, "memory": 0.25, "storage": 1}),
    }  # fmt: skip
    built: dict[str, Any] = {}
    for part, (model, fields) in parts.items():
        given = figures.pop(part, {})
        built[part] = model(**(fields | given))
    cpu = {name: figures.pop(name) for name in list(figures) if name in CpuPrior.model_fields}
    assert not figures, f"unknown figures {figures}"
    return RolePrior(**built | {"cpu": CpuPrior(**(built["cpu"].model_dump() | cpu)), "source": "a test"})


def make_vm(name: str = "a", prior: RolePrior | None = None, cores: float = 1, mbps: float = 1000, **more: Any) -> EmulatedVm:
    path = more.pop("path", NetworkPath(0.0))
    return EmulatedVm(name, prior or make_prior(request_s=0.001), Machine(cores, 4, mbps, 20), path, **more)


@pytest.fixture(scope="session")
def intervals_of() -> Callable[..., Intervals]:
    return make_intervals


@pytest.fixture(scope="session")
def prior_of() -> Callable[..., RolePrior]:
    return make_prior


@pytest.fixture(scope="session")
def vm_of() -> Callable[..., EmulatedVm]:
    return make_vm
