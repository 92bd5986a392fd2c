"""The versions of a network's models: what each learned from and how it did, which of them serves, going back, forgetting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adumbra.forecast.series import seen_steps
from adumbra.forecast.training import Training
from adumbra.schema.errors import NotFoundError
from adumbra.schema.records import NANOSECONDS, Panel
from adumbra.schema.state import TrainingVersion
from adumbra.schema.version import __version__
from adumbra.service import networks
from adumbra.service.workspace import Workspace


def origin_of(panels: Mapping[str, Panel], seed: int) -> dict[str, Any]:
    """What models are learned from and by what, as plain data: the span, the VMs, what was measured of it, seed, software.

    measured_s: resource -> seconds measured, of all VMs together: at most the span times the VMs.
    """
    first = next(iter(panels.values()))
    steps = max(panel.values.shape[1] for panel in panels.values())
    return {
        "start_ns": first.start_ns,
        "end_ns": first.start_ns + round(steps * first.step_s * NANOSECONDS),
        "step_s": first.step_s,
        "vms": list(first.vms),
        "measured_s": {name: float(seen_steps(panel).sum() * panel.step_s) for name, panel in panels.items()},
        "seed": seed,
        "software": __version__,
    }


def versions(workspace: Workspace, name: str) -> tuple[TrainingVersion, ...]:
    """The versions that are kept, newest first. Raises NotFoundError for a network that isn't there."""
    networks.get(workspace, name)
    return workspace.state.trainings(name)


def version(workspace: Workspace, name: str, number: int) -> TrainingVersion:
    """One of them. Raises NotFoundError."""
    kept = versions(workspace, name)
    for each in kept:
        if each.version == number:
            return each
    told = ", ".join(str(each.version) for each in kept)
    raise NotFoundError(
        f"there is no version {number} of what was learned of {name}",
        f"kept are {told}" if told else f"run `adumbra train {name}`",
    )


def rollback(workspace: Workspace, name: str, number: int | None, now: Callable[[], int]) -> TrainingVersion:
    """Lets another version serve: that one, or (None) the newest earlier one that served before.

    Raises NotFoundError where it isn't there, and StoreError, with nothing changed, where its models can't be read.
    """
    kept = versions(workspace, name)
    chosen = _earlier(name, kept) if number is None else version(workspace, name, number).version
    record = workspace.state.training(name, chosen)
    if record is not None:
        Training.from_bytes(record.artifact)
    return workspace.state.serve_training(name, chosen, now())


def _earlier(name: str, kept: Sequence[TrainingVersion]) -> int:
    """The newest version below the one that serves that served before. Raises NotFoundError."""
    if not kept:
        raise NotFoundError(f"nothing was learned of {name} yet", f"run `adumbra train {name}`")
    now = next((each.version for each in kept if each.serves), 0)
    for each in kept:
        if each.version < now and each.served_ns is not None:
            return each.version
    raise NotFoundError(
        f"no version of {name} that served before {now} is kept", f"`adumbra model list {name}` shows those that are"
    )


def forget(workspace: Workspace, name: str, number: int, now: Callable[[], int]) -> TrainingVersion:
    """Removes a version for good. Raises NotFoundError, and ConflictError for the one that serves."""
    networks.get(workspace, name)
    return workspace.state.forget_training(name, number, now())
