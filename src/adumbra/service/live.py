"""The live network: readings of its real machines are kept, what was predicted is compared with them, and they calibrate.

Activation keeps the shadow: both are stored side by side, and scored against each other here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adumbra.forecast.series import FRAME_BYTES, RESOURCE, Statistic
from adumbra.provision.protocol import Provider
from adumbra.scale.readings import LONGEST_S, Followed, Follower
from adumbra.scale.score import Compared, Flags, Score, score, word
from adumbra.schema.errors import ConflictError, InputError, TooLittleDataError
from adumbra.schema.plain import of_plain
from adumbra.schema.records import NANOSECONDS, Floats, Origin
from adumbra.schema.sizing import RESOURCES, NetworkProfile, VmProfile
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import calibrations, networks
from adumbra.service.calibrations import Calibrated
from adumbra.service.live_series import Steps, Wanted, complete
from adumbra.service.live_usage import LIVE, nothing_measured
from adumbra.service.networks import Network
from adumbra.service.observations import Progress
from adumbra.service.providers import active_provider, provider_of
from adumbra.service.workspace import Workspace

LAST_S = 3600.0
"""How much is compared where nobody says."""
LEAST_LAST_S, MOST_LAST_S = 10.0, 31 * 86_400.0
_SIMULATED = ("cpu_cores", "memory_gb", "storage_gb")
_MEASURED = ("cpu_seconds", "memory_bytes", "storage_bytes", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
_PREDICTED = (*_MEASURED, *(f"{name}_{end}" for name in _MEASURED[:3] for end in ("low", "high")))

Columns = Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class VmCompared:
    """A VM's scores, in the order of RESOURCES, bandwidth each way and of the busier one; and a word about it."""

    vm: str
    word: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was predicted against what was measured between two times, in steps of step_s. learned_until_ns: until when the
    emulation that predicted has learned from measured use of this time, None: from none of it."""

    network: str
    start_ns: int
    end_ns: int
    step_s: float
    steps: int
    shortfall: float | None
    learned_until_ns: int | None
    vms: tuple[VmCompared, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Comparison:
        """What `to_dict` gave, through JSON or not. Raises PlainError for anything else."""
        return of_plain(cls, plain)


def follower_of(network: Network, provider: str, longest_s: float = LONGEST_S) -> Follower:
    """What turns the readings of a network's machines into intervals. longest_s: readings further apart begin anew."""
    vms = {vm.name: (vm.subnet, vm.role) for vm in network.vms}
    return Follower(Followed(network.name, network.spec.interval_ns, vms, provider, longest_s))


def read_once(workspace: Workspace, provider: Provider, follower: Follower) -> int | None:
    """Reads the machines of a network once, and stores the intervals that this closes. provider: opened. Gives how many
    machines there were; None where the provider tells of none. Raises ProvisionError, StoreError.
    """
    readings = provider.usage(follower.followed.network)
    for batch in follower.add(readings):
        workspace.metrics.write(batch)
    return len(readings) or None


@dataclass(frozen=True, slots=True)
class ByHand:
    """How machines are read by hand: for so long, so often, until `stop` says so. wait: waits so many seconds, or till then."""

    for_s: float
    every_s: float
    wait: Callable[[float], None]
    stop: Callable[[], bool] = lambda: False
    tell: Progress = lambda *_: None


def read_for(workspace: Workspace, name: str, by_hand: ByHand) -> int:
    """Reads the machines of an active network for a while, where no server does it. Gives how many intervals were stored.
    Raises ConflictError where it isn't active, or its provider tells of no machine; ProvisionError, StoreError.
    """
    network = networks.get(workspace, name)
    provider_name = active_provider(workspace, name)
    if network.record.state is not NetworkState.ACTIVE or provider_name is None:
        raise ConflictError(
            f"{name} is {network.record.state.value}: there is no machine to read", f"run `adumbra activate {name}` first"
        )
    follower = follower_of(network, provider_name, max(LONGEST_S, 3 * by_hand.every_s))
    times = max(2, math.ceil(by_hand.for_s / by_hand.every_s) + 1)
    with provider_of(workspace, provider_name, name) as provider:
        for number in range(times):
            if read_once(workspace, provider, follower) is None and not number:
                raise ConflictError(
                    f"{provider_name} tells of no machine of {name} that runs", "start them, or activate by --provider libvirt"
                )
            workspace.release_metrics()  # others want to read meanwhile
            by_hand.tell((number + 1) / times, f"{follower.tally.rows:,} intervals")
            if by_hand.stop() or number == times - 1:
                break
            by_hand.wait(by_hand.every_s)
    return follower.tally.rows


def compare(
    workspace: Workspace, name: str, last_s: float = LAST_S, step_s: float | None = None, *, since_ns: int | None = None
) -> Comparison:
    """Holds what was predicted of each VM against what was measured, over the last so many seconds of what was measured, or
    since a time. step_s: of the grid on which both are compared; None for one that suits.

    Raises NotFoundError; InputError for a time or step that can't be; TooLittleDataError where nothing was measured.
    """
    check(last_s, step_s)
    network = networks.get(workspace, name)
    span = workspace.metrics.span(name, Origin.LIVE)
    if span is None:
        raise TooLittleDataError(*nothing_measured(name))
    begin_ns = max(span[0], since_ns if since_ns is not None else span[1] - round(last_s * NANOSECONDS))
    steps = Steps.within(min(begin_ns, span[1]), span[1], network.spec.interval_ns, step_s)
    if not steps.count:
        raise TooLittleDataError(
            f"no whole step of {steps.step_ns / NANOSECONDS:g} s was measured of {name} yet",
            "wait a little, or give a shorter --step",
        )
    profile = promised(workspace, name)
    sizes = {vm.vm: vm for vm in profile.vms} if profile else {}
    stored = set(workspace.metrics.vms(name))
    vms = [vm.name for vm in network.vms if vm.name in stored]
    learned = _learned_until_ns(network)
    found = []
    pairs = zip(
        complete(workspace, Wanted(name, vms, _PREDICTED), steps),
        complete(workspace, Wanted(name, vms, _MEASURED, Origin.LIVE), steps),
        strict=True,
    )  # both give the VMs that were asked for, in that order; of those without rows, gaps
    for (vm, predicted), (_, measured) in pairs:
        scores = _scores(predicted, measured, steps, learned.get(vm, {}), (profile, sizes.get(vm)))
        found.append(VmCompared(vm, word(scores), scores))
    missing = {vm.name for vm in network.vms} - {vm.vm for vm in found}
    found += [VmCompared(vm.name, word(()), ()) for vm in network.vms if vm.name in missing]
    place = {vm.name: number for number, vm in enumerate(network.vms)}
    until = [each for of_vm in learned.values() for each in of_vm.values() if each > steps.start_ns]
    return Comparison(
        name, steps.start_ns, steps.end_ns, steps.step_ns / NANOSECONDS, steps.count,
        profile.shortfall if profile else None, max(until, default=None),
        tuple(sorted(found, key=lambda each: place[each.vm])),
    )  # fmt: skip


def check(last_s: float, step_s: float | None) -> None:
    """Raises InputError for a time or a step that can't be compared over."""
    if not LEAST_LAST_S <= last_s <= MOST_LAST_S:
        raise InputError(f"{last_s:g} s can't be compared", "give 10s to 31d")
    if step_s is not None and not 0.1 <= step_s <= 86_400:
        raise InputError(f"a step of {step_s:g} s can't be compared on", "give 100ms to 24h")


def promised(workspace: Workspace, name: str) -> NetworkProfile | None:
    """The profile that the network was activated with last; where it never was, the newest; None where there is none."""
    done = next((each for each in workspace.state.plans.of(name) if each.state is PlanState.DONE), None)
    kept = workspace.state.profiles(name)
    then = [each for each in kept if done is not None and each.created_ns <= done.created_ns]
    record = next(iter(then or kept), None)
    return None if record is None else NetworkProfile.from_dict(record.profile)


def _learned_until_ns(network: Network) -> dict[str, dict[str, int]]:
    """VM -> resource -> until when its emulation has learned from measured use."""
    known = network.calibration
    if known is None:
        return {}
    return {
        vm.vm: {name: fit.carried.end_ns if fit.carried else known.end_ns for name, fit in vm.fits.items()} for vm in known.vms
    }


def _scores(
    predicted: Columns, measured: Columns, steps: Steps, learned: Mapping[str, int],
    promise: tuple[NetworkProfile | None, VmProfile | None],
) -> tuple[Score, ...]:  # fmt: skip
    begins_ns = steps.start_ns + np.arange(steps.count) * steps.step_ns
    profile, size = promise
    scores = []
    for resource in RESOURCES:
        unseen = begins_ns >= learned.get(resource, 0)
        for compared in _compared(resource, predicted, measured, steps.step_ns / NANOSECONDS, unseen):
            provisioned = float(getattr(size, resource)) if size else None
            estimate = size.estimate.get(resource) if size and not compared.way else None  # of the busier way
            scores.append(score(compared, profile.shortfall if profile else None, provisioned, estimate))
    return tuple(scores)


def _compared(resource: str, predicted: Columns, measured: Columns, step_s: float, unseen: Flags) -> Sequence[Compared]:
    traits = RESOURCE[resource]
    never = traits.statistic is not Statistic.SHARE
    # Of what grows the traits' floor is a rate of growth; of how much there is, ratios mean something at any use.
    floor = 0.0 if traits.statistic is Statistic.GROWTH else traits.floor
    if resource in _SIMULATED:
        column, factor = traits.columns[0], traits.factor / (step_s if traits.per_second else 1.0)
        low, high = (predicted[f"{column}_{end}"] * factor for end in ("low", "high"))
        used = predicted[column] * factor, measured[column] * factor
        return [Compared(resource, *used, unseen, low=low, high=high, floor=floor, never=never)]
    (into, out), (into_real, out_real) = (
        [_mbps(columns, way, step_s) for way in ("rx", "tx")] for columns in (predicted, measured)
    )  # fmt: skip
    ways = (("", np.fmax(into, out), np.fmax(into_real, out_real)), ("rx", into, into_real), ("tx", out, out_real))
    return [Compared(resource, one, other, unseen, way, floor=floor, never=never) for way, one, other in ways]


def _mbps(columns: Columns, way: str, step_s: float) -> Floats:
    """What the packets of one way take of an Ethernet link, scans and all, in megabits a second."""
    frames = np.nan_to_num(columns[f"{way}_packets"]) * FRAME_BYTES
    return np.asarray((columns[f"{way}_bytes"] + frames) * 8e-6 / step_s)


def calibrate_live(
    workspace: Workspace, name: str, now: Callable[[], int], progress: Progress = lambda *_: None,
    *, measured_on: str | None = None,
) -> Calibrated:  # fmt: skip
    """Calibrates the demand model by the live readings: on from the last calibration where one can be gone on from, else from
    the roles' priors. Stored time is not emulated anew. Raises TooLittleDataError where there are too few readings.
    """
    how = calibrations.update_from if goes_on(workspace, name) else calibrations.from_usage
    return how(workspace, name, LIVE, now, progress, measured_on=measured_on)


def goes_on(workspace: Workspace, name: str) -> bool:
    """Whether the network's last calibration can be gone on from with later use."""
    known = networks.get(workspace, name).calibration
    return known is not None and any(fit.carried is not None for vm in known.vms for fit in vm.fits.values())
