"""What is believed of a VM's costs and holdings, and sets drawn from that belief. Pure: a VM's sets follow from its key alone.

From the role's prior, lognormal; from what measured use said of the VM, where something did, normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate.chance_kernels import PARAMETERS as PURPOSE
from adumbra.emulate.chance_kernels import draw_normals_for
from adumbra.emulate.layout import MEMORY, PARAMETERS, STORAGE
from adumbra.emulate.roles import RolePrior
from adumbra.schema.calibration import COSTS, HOLDINGS, Fit, VmCalibration
from adumbra.schema.records import Floats

if TYPE_CHECKING:
    from adumbra.emulate.vm import EmulatedVm

PARAMETER_SETS = 64
"""Sets that make an interval whose ends are sure enough: the 10th and 90th percentile of 64 lie within about 4 points."""
LEAST_SHARE = 0.05  # of the cores that is left to requests, however much the idle system takes
MOST_NOISE = 100.0  # a coefficient of variation beyond this is taken as this
_TRIES = 64  # draws of a set before what is below zero is put to zero
_AT_ONCE = 256  # VMs, which bounds the working memory

_PLACES: tuple[tuple[str, str], ...] = (
    *(("cpu", name) for name in COSTS), *(("memory", name) for name in MEMORY), *(("storage", name) for name in STORAGE),
)  # fmt: skip
_GROUPS = ("cpu", "memory", "storage")
_GROUP = np.array([_GROUPS.index(group) for group, _ in _PLACES])
_CACHE_BYTES, _CACHE_REQUEST_BYTES = (_PLACES.index(("memory", name)) for name in ("cache_bytes", "cache_request_bytes"))
_NOTHING = {"cpu": dict.fromkeys(COSTS, 0.0), "memory": dict.fromkeys(HOLDINGS, 0.0)}
_OF_RESOURCE: Mapping[str, str] = {"cpu_cores": "cpu", "memory_gb": "memory", "storage_gb": "storage"}


def believed(prior: RolePrior, calibration: VmCalibration | None) -> RolePrior:
    """The prior with what was measured in its place: means for figures, and a request's noise for its variation.

    Costs that a fit has no name for are 0: it explained all of the use without them. A cache keeps the room that the prior
    gives it, in requests, as the fit assumed: its bound grows or shrinks with what a request leaves in it.
    """
    fits = _fits(calibration)
    if not fits:
        return prior
    update = {
        group: getattr(prior, group).model_copy(update={**_NOTHING[group], **dict(zip(fit.names, fit.mean, strict=True))})
        for group, fit in fits.items()
    }
    if "memory" in fits:
        room = prior.memory.cache_requests
        update["memory"] = update["memory"].model_copy(update={"cache_bytes": room * update["memory"].cache_request_bytes})
    if "cpu" in fits:
        update["cpu"] = update["cpu"].model_copy(update={"service_cv": min(fits["cpu"].noise, MOST_NOISE)})
    return prior.model_copy(update=update)


def parameters(vms: Sequence[EmulatedVm], keys: NDArray[np.uint64], sets: int) -> NDArray[np.void]:
    """The central set of each VM and `sets` drawn ones, layout.PARAMETERS[V, 1 + sets]; a VM's follow from its key alone, and
    the first of them don't depend on how many there are.

    From a prior: each figure times exp(N(0, costs)) of its own, and times exp(N(0, s)) of its resource, the prior's spread.
    From a calibration: normal, of the fit's mean and covariance, truncated at zero: what is nothing by the fit is folded; the
    rest follows it, and is drawn again where it is below zero (and after 64 draws put to zero). Memory also times a lognormal
    of mean 1 with the fit's noise.
    """
    drawn = np.empty((len(vms), 1 + sets), PARAMETERS)
    for first in range(0, len(vms), _AT_ONCE):
        part = vms[first : first + _AT_ONCE]
        _fill(drawn[first : first + _AT_ONCE], part, keys[first : first + _AT_ONCE])
    return drawn


def _fill(drawn: NDArray[np.void], vms: Sequence[EmulatedVm], keys: NDArray[np.uint64]) -> None:
    sets = drawn.shape[1] - 1
    central = np.array([[getattr(getattr(vm.believed, group), name) for group, name in _PLACES] for vm in vms], np.float64)
    values = np.repeat(central[:, np.newaxis], 1 + sets, axis=1)
    if sets:
        normals = np.stack([_normals(key, 0, 0, (sets, len(_GROUPS) + len(_PLACES))) for key in keys])
        common, own = normals[..., _GROUP], normals[..., len(_GROUPS) :]
        whole = np.array([[getattr(vm.prior.spread, group) for group, _ in _PLACES] for vm in vms])
        costs = np.array([vm.prior.spread.costs for vm in vms])
        values[:, 1:] *= np.exp(whole[:, np.newaxis] * common + costs[:, np.newaxis, np.newaxis] * own)
        for v, vm in enumerate(vms):
            for group, fit in _fits(vm.calibration).items():
                columns = [_PLACES.index((group, name)) for name in fit.names]
                values[v, 1:, columns] = _truncated(fit, int(keys[v]), 1 + _GROUPS.index(group), sets).T
                if group == "memory":
                    variance = math.log1p(min(fit.noise, MOST_NOISE) ** 2)
                    noise = np.exp(math.sqrt(variance) * normals[v, :, _GROUPS.index(group)] - 0.5 * variance)
                    memory = [_PLACES.index(("memory", name)) for name in MEMORY]
                    values[v, 1:, _CACHE_BYTES] = vm.prior.memory.cache_requests * values[v, 1:, _CACHE_REQUEST_BYTES]
                    values[v, 1:, memory] *= noise
    cores = np.array([vm.machine.cpu_cores for vm in vms], np.float64)[:, np.newaxis]
    for i, (group, name) in enumerate(_PLACES):
        drawn[name if group == "cpu" else f"{group}_{name}"] = values[..., i]
    drawn["idle_cores"] = np.minimum(drawn["idle_cores"], (1.0 - LEAST_SHARE) * cores)
    # A fraction of a core makes each server slower: 2.5 cores are two servers of 1.25, a quarter core is one of 0.25.
    drawn["server_cores"] = (cores - drawn["idle_cores"]) / np.maximum(np.floor(cores), 1.0)


def log_spread(vm: EmulatedVm, resource: str) -> float:
    """How unsure the simulated use of a resource is: standard deviation of its natural logarithm.

    By a prior, its spread and that of one cost by itself, as if one cost were the whole. By a calibration, the standard error
    of what the fit predicts for the mean of the loads that it was made from, over that; never more than by the prior. That mean
    follows from the covariance: of all loads with the same idle use, a least-squares line is surest at the mean of its data, so
    it is C^-1 e / (e' C^-1 e), where e is 1 for what is there while nothing comes, the first of the names, and else 0. Memory
    has the fit's noise on top; CPU's averages out over requests.
    """
    group = _OF_RESOURCE.get(resource)
    if group is None:
        return 0.0
    prior = math.hypot(getattr(vm.prior.spread, group), vm.prior.spread.costs)
    fit = _fits(vm.calibration).get(group)
    return prior if fit is None else min(prior, _fitted_spread(fit, with_noise=group == "memory", otherwise=prior))


def _fitted_spread(fit: Fit, *, with_noise: bool, otherwise: float) -> float:
    covariance, mean = np.array(fit.covariance, np.float64), np.array(fit.mean, np.float64)
    load = np.linalg.pinv(covariance, hermitian=True)[0]
    # Where what is there while nothing comes is known for certain: a load to which each cost adds as much.
    alike = np.where(mean > 0, 1.0 / np.where(mean > 0, mean, 1.0), 0.0)
    load = np.maximum(load / load[0], 0.0) if load[0] > 0 else alike
    use = float(load @ mean)
    if not use > 0:
        return otherwise
    variance = max(float(load @ covariance @ load), 0.0) / use**2 + (fit.noise**2 if with_noise else 0.0)
    return math.sqrt(math.log1p(variance))


def _fits(calibration: VmCalibration | None) -> dict[str, Fit]:
    """The fits that stand for a prior's figures, by the prior's parts."""
    fits = {} if calibration is None else calibration.fits
    return {_OF_RESOURCE[resource]: fit for resource, fit in fits.items() if _OF_RESOURCE.get(resource) in {"cpu", "memory"}}


def _truncated(fit: Fit, key: int, stream: int, sets: int) -> Floats:
    """`sets` draws of a fit's parameters, none below zero, float64[sets, P]."""
    covariance = np.array(fit.covariance, np.float64)
    sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    unit = np.where(sd > 0, sd, 1.0)  # so that nanoseconds a byte and cores stand on one scale
    mean, covariance = np.array(fit.mean, np.float64) / unit, covariance / np.outer(unit, unit)
    above = mean > 0
    nothing, beside = covariance[np.ix_(~above, ~above)], covariance[np.ix_(above, ~above)]
    follow = beside @ np.linalg.pinv(nothing, hermitian=True)
    roots = _root(nothing), _root(covariance[np.ix_(above, above)] - follow @ beside.T)
    drawn = np.empty((sets, len(mean)))
    missing: NDArray[np.bool_] = np.ones(sets, np.bool_)
    for attempt in range(_TRIES):
        normals, tried = _normals(key, stream, attempt, drawn.shape), np.empty_like(drawn)
        tried[:, ~above] = np.abs(normals[:, ~above] @ roots[0].T)
        tried[:, above] = mean[above] + tried[:, ~above] @ follow.T + normals[:, above] @ roots[1].T
        drawn[missing] = tried[missing]
        missing = np.asarray((drawn < 0).any(axis=1))
        if not missing.any():
            break
    return np.maximum(drawn, 0.0) * unit


def _root(covariance: Floats) -> Floats:
    """A matrix R with R R' the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _normals(key: int, stream: int, attempt: int, shape: tuple[int, int]) -> Floats:
    """Standard normals; the first rows don't depend on how many rows are asked for."""
    flat = np.empty(shape[0] * shape[1])
    draw_normals_for(np.uint64(key), attempt, PURPOSE | stream << 8, flat)
    return flat.reshape(shape)
