"""Resource profiles: from trained models and one dial to each VM's sizes, type and price, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adumbra.emulate.vm import spread
from adumbra.forecast import demand
from adumbra.forecast.series import COLUMNS, Statistic, panel, resource_named
from adumbra.profile.catalog import load_catalog
from adumbra.profile.hourly import HourlySizes, hourly
from adumbra.profile.size import SizingContext, size
from adumbra.schema.backtests import Risk
from adumbra.schema.errors import ConflictError, InputError, PreconditionError, TooLittleDataError
from adumbra.schema.records import Floats, Series
from adumbra.schema.sizing import RESOURCES, NetworkProfile, SizingPolicy
from adumbra.schema.state import ProfileRecord
from adumbra.schema.units import format_duration
from adumbra.service import learning, networks
from adumbra.service.networks import Network
from adumbra.service.observations import capacities, emulated_vms
from adumbra.service.risk_needs import with_risks
from adumbra.service.workspace import Workspace

WEEK_S = 7 * 86_400.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """What a profile is asked for. shortfall: the dial, None for the spec's target; horizon_s: None for a week; risk: whose
    shortness the dial bounds, where risks were learned (with a shorter history each VM is sized on its own)."""

    shortfall: float | None = None
    horizon_s: float | None = None
    risk: Risk = Risk.PER_VM


def profile(workspace: Workspace, name: str, now: Callable[[], int], asked: Asked | None = None) -> NetworkProfile:
    """Sizes each VM of a network from its latest training, and keeps the profile.

    Raises ConflictError where nothing was trained yet, InputError where the dial is out of range.
    """
    return kept(workspace, name, now, asked)[0]


def kept(
    workspace: Workspace, name: str, now: Callable[[], int], asked: Asked | None = None
) -> tuple[NetworkProfile, ProfileRecord]:
    """The same, and as what it is kept. Where the spec changes meanwhile, its VMs are sized again: PreconditionError is raised
    where it never stops to.
    """
    for left in reversed(range(_TRIES)):
        version = workspace.state.network(name).version
        sizes = sized(workspace, name, asked)
        try:
            return sizes, workspace.state.save_profile(name, sizes.to_dict(), now(), version)
        except PreconditionError:
            if not left:
                raise
    raise AssertionError  # the last try raises


def sized(workspace: Workspace, name: str, asked: Asked | None = None) -> NetworkProfile:
    """The same sizes, kept nowhere. Raises as `profile` does."""
    network, asked = networks.get(workspace, name), asked or Asked()
    policy = _policy(network, asked)
    trained = learning.trained(workspace, name)
    use = learning.panels(workspace, name, trained.training.step_s)
    seen = next(iter(use.values())).vms
    missing = [vm.name for vm in network.vms if vm.name not in seen]
    if missing:
        raise ConflictError(
            f"{missing[0]} was not in {name} when it was observed", f"run `adumbra observe {name} pcap:FILE` and train again"
        )
    known = _known(network, seen)
    needs = demand.demand_given(trained.training, use, policy, known)
    needs = with_risks(needs, trained.training.risks, use, known, policy)
    context = SizingContext(name, trained.training.learned_s, trained.training.model)
    return size(needs, policy, load_catalog(), context)


def shortfall_of(workspace: Workspace, name: str, asked: Asked) -> float:
    """The dial, as it is asked for or as the spec's target says."""
    return _policy(networks.get(workspace, name), asked).shortfall


def by_hour(workspace: Workspace, name: str, asked: Asked | None = None) -> Mapping[str, HourlySizes]:
    """The sizes of each hour of the week to come, of what throttles: resource -> HourlySizes.

    A size is the calibrated quantile that use in a step of that hour exceeds with the dial's probability. Raises
    TooLittleDataError where less than a week was learned from: nothing is known then of the days of the week.
    """
    policy = _policy(networks.get(workspace, name), asked or Asked())
    training = learning.trained(workspace, name).training
    if training.learned_s < WEEK_S:
        raise TooLittleDataError(
            f"{name} was learned from {format_duration(training.learned_s)}, which doesn't show every hour of a week",
            "observe for a week, then train again; or ask for one size",
        )
    use = learning.panels(workspace, name, training.step_s)
    found = demand.forecast(training, use, WEEK_S, 168, (1.0 - policy.shortfall,))
    return {
        resource: hourly(quantiles, policy.shortfall)
        for resource, quantiles in found.items()
        if resource_named(resource).statistic is Statistic.SHARE
    }


def _known(network: Network, seen: Sequence[str]) -> demand.Known:
    """What is known of VMs beside their history: how unsure their emulation is, and the machines they were emulated on."""
    emulated = {vm.name: vm for vm in emulated_vms(network)}
    vms = [emulated[name] for name in seen]
    calibrated = {
        resource: np.array([vm.calibration is not None and resource in vm.calibration.fits for vm in vms])
        for resource in RESOURCES
    }
    return demand.Known(
        spread(vms), calibrated, declared_types={vm.name: vm.type for vm in network.vms}, capacity=capacities(vms),
        covariates=learning.beside(network, seen),
    )  # fmt: skip


def _policy(network: Network, asked: Asked) -> SizingPolicy:
    shortfall = asked.shortfall if asked.shortfall is not None else network.spec.targets.shortfall
    check(replace(asked, shortfall=shortfall))
    policy = SizingPolicy(shortfall=shortfall, risk=asked.risk)
    return policy if asked.horizon_s is None else replace(policy, horizon_s=asked.horizon_s)


def check(asked: Asked) -> None:
    """Raises InputError for what no profile can be asked for, whatever the network is."""
    if asked.shortfall is not None and not 0 < asked.shortfall <= 0.5:
        raise InputError(f"a shortfall of {asked.shortfall:.3%} is out of range", "give a share of time above 0% and up to 50%")
    if asked.horizon_s is not None and not 60 <= asked.horizon_s <= 90 * 86_400:
        raise InputError(f"a horizon of {asked.horizon_s:g} s is out of range", "give one from 1m to 90d")


_SEED_NAMES: Mapping[str, tuple[str, float]] = {  # the founding document's names -> column, factor to its unit
    "bandwidth_usage": ("rx_bytes", 1.0),
    "cpu_usage": ("cpu_seconds", 1.0),
    "memory_usage": ("memory_bytes", 1.0),
    "storage_usage": ("storage_bytes", 1.0),
}


def generate_resource_profile(
    emulated_vm_id: str,
    historical_data: Mapping[str, Sequence[float]],
    *,
    interval_s: float = 1.0,
    policy: SizingPolicy | None = None,
    seed: int = 1,
) -> dict[str, Any]:
    """The resource profile of one VM from its history: one entry of "vms" in DESIGN.md section 6's format.

    historical_data: catalogue column -> values, one an interval of `interval_s` seconds, oldest first, all of one length,
    NaN (or None) where nothing was measured. Of use are cpu_seconds, memory_bytes, rx_bytes, tx_bytes and storage_bytes (see
    schema/metrics.py for units); "cpu_usage", "memory_usage", "bandwidth_usage" and "storage_usage" are taken as
    cpu_seconds, memory_bytes, rx_bytes and storage_bytes. A resource without data is sized at its minimum, and a reason
    says so. Raises InputError for data that isn't of this form, TooLittleDataError for too little of it.
    """
    policy = policy or SizingPolicy()
    columns = _columns(historical_data)
    length = len(next(iter(columns.values())))
    values = {name: columns.get(name, np.full(length, np.nan))[np.newaxis, :] for name in COLUMNS}
    series = Series("", (emulated_vm_id,), 0, interval_s, values, np.zeros((1, length)))
    known = {
        resource: use for resource in RESOURCES if not np.isnan((use := panel(series, resource)).values).all()
    }  # fmt: skip
    if not known:
        raise InputError(f"the history of {emulated_vm_id} holds no value", f"give at least one of {', '.join(COLUMNS)}")
    training = demand.train(known, seed, lambda *_: None)
    needs = demand.demand(training, known, policy)
    missing = tuple(resource for resource in RESOURCES if resource not in known)
    told = tuple(f"{resource}: the history holds none of it, so the smallest size stands" for resource in missing)
    completed = [
        replace(each, need={**dict.fromkeys(missing, 0.0), **each.need}, reasons=(*each.reasons, *told)) for each in needs
    ]
    context = SizingContext(emulated_vm_id, length * interval_s, training.model)
    entry: dict[str, Any] = size(completed, policy, load_catalog(), context).to_dict()["vms"][0]
    return entry


def _columns(historical_data: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    columns: dict[str, Floats] = {}
    for name, given in historical_data.items():
        column, factor = _SEED_NAMES.get(name, (name, 1.0))
        if column not in COLUMNS:
            continue
        try:
            values = np.array([np.nan if v is None else v for v in given], np.float64) * factor
        except (TypeError, ValueError):
            raise InputError(
                f"{name} holds something that is no number", "give one number an interval, NaN for a gap"
            ) from None
        columns[column] = values
    if not columns:
        raise InputError("the history has no column that a profile is made from", f"give some of {', '.join(COLUMNS)}")
    if len({len(values) for values in columns.values()}) > 1:
        raise InputError("the history's columns differ in length", "give one value an interval in each, NaN for a gap")
    return columns
