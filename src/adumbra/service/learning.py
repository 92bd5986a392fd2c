"""Learning: models from a network's stored metrics, and forecasts from them. Trainings are versioned, and kept as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adumbra.forecast.demand import forecast as foresee
from adumbra.forecast.series import COLUMNS, choose_step_s, panel
from adumbra.forecast.training import Training
from adumbra.forecast.training import train as fit
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import NANOSECONDS, Panel, Quantiles, SeriesQuery
from adumbra.schema.sizing import RESOURCES
from adumbra.service import networks
from adumbra.service.observations import Progress
from adumbra.service.workspace import Workspace

TRAINING_SEED = 1
MAX_HORIZON_S = 90 * 86_400.0
FORECAST_POINTS = 240


@dataclass(frozen=True, slots=True)
class Trained:
    """A network's training: which of its trainings it is, what it found, and the models themselves."""

    network: str
    version: int
    training: Training


def panels(workspace: Workspace, name: str, step_s: float | None = None) -> dict[str, Panel]:
    """What a network's VMs have used of each resource, in the given steps or those that suit what is stored.

    Raises TooLittleDataError where nothing is stored of its VMs.
    """
    network = networks.get(workspace, name)
    span = workspace.metrics.span(name)
    if span is None:
        raise TooLittleDataError(f"nothing of {name} was observed yet", f"run `adumbra observe {name} pcap:FILE`")
    step_s = step_s or choose_step_s(network.spec.interval, (span[1] - span[0]) / NANOSECONDS)
    wanted = tuple(vm.name for vm in network.vms)
    known = set(workspace.metrics.vms(name))
    query = SeriesQuery(network=name, columns=COLUMNS, vms=tuple(vm for vm in wanted if vm in known), step_s=step_s)
    if not query.vms:
        raise TooLittleDataError(
            f"what was observed of {name} is of other VMs than its spec has now", f"run `adumbra observe {name} pcap:FILE`"
        )
    series = workspace.metrics.read(query)
    return {resource: panel(series, resource) for resource in RESOURCES}


def train(workspace: Workspace, name: str, now: Callable[[], int], progress: Progress = lambda *_: None) -> Trained:
    """Fits, back-tests and calibrates the models of every resource, and keeps them. Raises TooLittleDataError."""
    training = fit(panels(workspace, name), TRAINING_SEED, progress)
    record = workspace.state.save_training(name, training.summary(), training.to_bytes(), now())
    return Trained(name, record.version, training)


def trained(workspace: Workspace, name: str) -> Trained:
    """A network's latest training. Raises InputError where there is none, StoreError where it can't be read back."""
    networks.get(workspace, name)
    record = workspace.state.training(name)
    if record is None:
        raise InputError(f"{name} has no trained model yet", f"run `adumbra train {name}`")
    return Trained(name, record.version, Training.from_bytes(record.artifact))


def forecast(workspace: Workspace, name: str, horizon_s: float) -> Mapping[str, Quantiles]:
    """Calibrated quantiles of each resource's use over the horizon, from the end of what is stored.

    Raises InputError for a horizon that isn't one.
    """
    training = trained(workspace, name).training
    if not 1 <= horizon_s <= MAX_HORIZON_S:
        raise InputError(f"a horizon of {horizon_s:g} s is out of range", "give one from 1s to 90d")
    return foresee(training, panels(workspace, name, training.step_s), horizon_s, FORECAST_POINTS)
