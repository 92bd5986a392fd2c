"""Calibrations: what measured use says of a network's VMs, kept, shown, taken back; and emulating stored time anew by it.

Safe to kill, and to run again: a calibration is kept in one transaction, and each write of emulated time is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adumbra.emulate.calibration.calibrate import Judged, calibrate
from adumbra.emulate.calibration.evidence import Evidence, Gathering
from adumbra.emulate.calibration.response_times import Responses, fit_responses
from adumbra.emulate.calibration.rows import MeasuredVm
from adumbra.emulate.calibration.update import untouched, update
from adumbra.emulate.demand import NEEDED, SCANS, wakes
from adumbra.emulate.roles import RolePrior
from adumbra.emulate.vm import EmulatedVm
from adumbra.schema.calibration import Calibration, Fit, VmCalibration
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.metrics import BY_NAME, SIMULATED_WHERE_ONE_SIDED
from adumbra.schema.records import NANOSECONDS, MetricBatch, SeriesQuery
from adumbra.service import networks, replays
from adumbra.service.live_usage import is_live, read_live
from adumbra.service.measured_on import Cores, cores_of
from adumbra.service.networks import Network
from adumbra.service.observations import Progress, emulated_vms, emulator
from adumbra.service.usage import Usage, UsageVm, read_usage
from adumbra.service.usage_prometheus import is_url, read_prometheus
from adumbra.service.usage_units import check_units
from adumbra.service.workspace import Workspace, machine_of

TRAIN_SHARE = 1 / 3
MEASURED_AS: Mapping[str, tuple[str, float]] = {"cpu_cores": ("cpu_cores", 1.0), "memory_gb": ("memory_bytes", 1.0)}
"""Resource -> the usage file's column, and what a fit's unit is of it (memory is fitted in bytes)."""
RESPONSE_STEP_S, MAX_RESPONSE_STEPS = 10.0, 5000
_HOUR_NS = 3600 * NANOSECONDS

Learned = tuple[VmCalibration, Mapping[str, Judged]]
"""What is known of a VM, and by resource the time by which that was judged."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration that was kept, as which version, and the held-out rows of each VM and resource."""

    version: int
    calibration: Calibration
    judged: Mapping[str, Mapping[str, Judged]]

    def to_dict(self) -> dict[str, Any]:
        return {"version": self.version, **self.calibration.to_dict()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Calibrated:
        """What `to_dict` gave, without the held-out rows. Raises KeyError or TypeError for anything else."""
        rest = {name: value for name, value in plain.items() if name != "version"}
        return cls(plain["version"], Calibration.from_dict(rest), {})


def is_stale(workspace: Workspace, name: str) -> bool:
    """Whether stored time was emulated by an earlier calibration: the last one's work was stopped half-way."""
    kept = workspace.state.calibration(name)
    return kept is not None and kept.emulated_ns is None


def from_usage(
    workspace: Workspace, name: str, source: str, now: Callable[[], int], progress: Progress = lambda *_: None,
    *, train_share: float = TRAIN_SHARE, measured_on: str | None = None, called: str = "",
) -> Calibrated:  # fmt: skip
    """Fits the network's VMs to measured use, from a file, a Prometheus server, or its own live readings (live_usage.LIVE), and
    keeps what came of it. Always from the roles' priors. measured_on: see measured_on.cores_of; called: what to call the
    source, where that isn't its own name. Raises InputError for use that can't be read, or that has no time in common with
    what was observed; TooLittleDataError where nothing can be learned of any VM.
    """
    network = networks.get(workspace, name)
    cores = cores_of(network, measured_on)
    usage = _read(workspace, network, source, called or source)
    learned = learn(workspace, network, usage, cores, progress, train_share=train_share)
    about = Calibration(name, usage.source, *_span(usage), (), usage.notes + cores.notes)
    return _keep(workspace, network, about, learned, now)


def update_from(
    workspace: Workspace, name: str, source: str, now: Callable[[], int], progress: Progress = lambda *_: None,
    *, measured_on: str | None = None, called: str = "",
) -> Calibrated:  # fmt: skip
    """Goes on from the network's last calibration with use that was measured after what it learned from, and keeps what came of
    it. measured_on: None for the cores that it took. Run again after a kill that kept stored time from being emulated by it, it
    gives what it had kept.

    Raises InputError where there is no calibration to go on from, and where no use is later; else as from_usage does.
    """
    network = networks.get(workspace, name)
    kept, known = workspace.state.calibration(name), network.calibration
    until_ns = {} if known is None else _learned_until_ns(known)
    if kept is None or known is None or not until_ns:
        why = f"{name} was not calibrated by measured use: there is nothing to go on from"
        raise InputError(why, f"run `adumbra calibrate {name} USAGE` without --update")
    cores = cores_of(network, measured_on, known.vms)
    if is_live(source) and kept.emulated_ns is None and kept.calibration.get("follows"):
        return Calibrated(kept.version, known, {})  # what is still to be done of it comes first; readings go on meanwhile
    usage = _read(workspace, network, source, called or source, min(until_ns.values()))
    if not any(int(vm.time_ns[-1]) >= until_ns[vm.vm] for vm in usage.vms if vm.vm in until_ns):
        if kept.emulated_ns is None and kept.calibration.get("follows"):
            return Calibrated(kept.version, known, {})
        raise InputError(*_nothing_later(name, usage, max(until_ns.values())))
    learned = learn_on(workspace, network, usage, cores, progress, known=known)
    if not any(judged for _, judged in learned):
        why = _first_reason(usage, learned)
        raise TooLittleDataError(f"nothing new was learned of {name}: {why}", "watch and measure longer")
    old = sum(int((vm.time_ns < until_ns.get(vm.vm, 0)).sum()) for vm in usage.vms)
    left_out = (f"{old:,} rows were left out: the calibration had learned from their time already",) if old else ()
    about = Calibration(
        name, usage.source, known.start_ns, _span(usage)[1], (), usage.notes + left_out + cores.notes, kept.version
    )
    return _keep(workspace, network, about, learned, now)


def from_traffic(
    workspace: Workspace, name: str, now: Callable[[], int], progress: Progress = lambda *_: None,
    *, measured_on: str | None = None,
) -> Calibrated:  # fmt: skip
    """Corrects the network's VMs by the response times that were observed, where nothing was measured. A weak statement, and a
    wide one. measured_on: what answered, see measured_on.cores_of. Raises TooLittleDataError where no answers were seen.
    """
    network = networks.get(workspace, name)
    cores = cores_of(network, measured_on)
    begin, end = replays.span(workspace, name)
    stored = workspace.metrics.vms(name)
    learned: list[Learned] = []
    for number, vm in enumerate(emulated_vms(network)):
        progress(number / len(network.vms), f"response times of {vm.name}")
        if vm.name not in stored:
            continue
        on = cores.of[vm.name]
        found = fit_responses(_responses(workspace, name, vm.name, (begin, end)), vm.prior, on.core_speed)
        fits = {"cpu_cores": found} if isinstance(found, Fit) else {}
        learned.append((VmCalibration(vm.name, fits, {} if fits else {"cpu_cores": str(found)}, on), {}))
    note = "by observed response times: a request's work is believed to be a share of them, within a wide interval"
    about = Calibration(name, "response times", begin, end, (), (note, *cores.notes))
    return _keep(workspace, network, about, learned, now)


def _learned_until_ns(known: Calibration) -> dict[str, int]:
    """Each VM that can be gone on from -> the end of the last row that one of its fits learned from."""
    ends = {vm.vm: [fit.carried.end_ns for fit in vm.fits.values() if fit.carried is not None] for vm in known.vms}
    return {vm: min(each) for vm, each in ends.items() if each}


def _nothing_later(name: str, usage: Usage, learned_until_ns: int) -> tuple[str, str]:
    what = f"the use was measured until {_iso(_span(usage)[1])}, and {name} has learned from it until {_iso(learned_until_ns)}"
    return f"{what}: nothing is later", f"give later use, or learn anew from all of it by `adumbra calibrate {name} USAGE`"


def _first_reason(usage: Usage, learned: Sequence[tuple[VmCalibration, Mapping[str, Judged]]]) -> str:
    """Why a VM of which use was given shows nothing new, in words."""
    measured = {vm.vm for vm in usage.vms}
    vm = next(vm for vm, _ in learned if vm.vm in measured)
    return f"{vm.vm}: {next((fit.changed[0] for fit in vm.fits.values()), '') or next(iter(vm.refused.values()))}"


def _read(workspace: Workspace, network: Network, source: str, called: str, since_ns: int | None = None) -> Usage:
    """since_ns: what is earlier isn't needed; it is left out where that is cheap."""
    if is_live(source):
        usage = read_live(workspace, network, since_ns)
    elif is_url(source):
        usage = read_prometheus(source, replays.span(workspace, network.name), _names(network))
    else:
        try:
            usage = read_usage(Path(source), _names(network))
        except InputError as error:
            raise type(error)(error.what.replace(source, called), error.mend.replace(source, called)) from None
        notes = tuple(note.replace(source, called) for note in usage.notes)
        usage = replace(usage, source=usage.source.replace(source, called), notes=notes)
    check_units(usage, {vm.name: machine_of(vm) for vm in network.vms})
    return usage


def _span(usage: Usage) -> tuple[int, int]:
    """From when to when it was measured."""
    return min(int(vm.time_ns[0]) for vm in usage.vms), max(vm.end_ns for vm in usage.vms)


def _responses(workspace: Workspace, name: str, vm: str, between: tuple[int, int]) -> Responses:
    """What was seen of a VM in steps of 10 s, or as long as it takes for them to be no more than a few thousand."""
    start_ns, end_ns = between
    one = workspace.metrics.read(SeriesQuery(name, ("requests",), (vm,), start_ns, start_ns + NANOSECONDS))
    wanted_s = max(RESPONSE_STEP_S, (end_ns - start_ns) / NANOSECONDS / MAX_RESPONSE_STEPS)
    step_s = max(1, round(wanted_s / one.step_s)) * one.step_s
    columns = (*NEEDED, *SCANS, "requests", "response_ms_p50")
    series = workspace.metrics.read(SeriesQuery(name, columns, (vm,), start_ns, end_ns, step_s))
    known = {column: np.nan_to_num(values[0]) for column, values in series.values.items()}
    paid = (
        np.full(series.steps, series.step_s),
        np.maximum(known["connections_attempted"] - known["connections_scanned"], 0.0),
        known["requests"],
        np.maximum(known["rx_bytes"] - known["scan_bytes"], 0.0),
        known["tx_bytes"],
        known["rx_packets"] + known["tx_packets"],
        wakes(known["requests"], series.step_s),
    )
    return Responses(known["requests"], series.values["response_ms_p50"][0], np.array([each.sum() for each in paid]))


def shown(workspace: Workspace, name: str) -> Calibrated | None:
    """The calibration that the network's emulated VMs follow; None: their roles' priors."""
    kept, network = workspace.state.calibration(name), networks.get(workspace, name)
    return None if kept is None or network.calibration is None else Calibrated(kept.version, network.calibration, {})


def learn(
    workspace: Workspace, network: Network, usage: Usage, cores: Cores, progress: Progress,
    *, train_share: float = TRAIN_SHARE,
) -> list[Learned]:  # fmt: skip
    """What usage says of each of its VMs, by what is stored of them. Keeps nothing. Raises as from_usage does."""
    evidence, priors = _evidence(workspace, network, usage, cores, progress)
    learned = []
    for number, rows in enumerate(evidence):
        progress(number / len(evidence), f"fitting {rows.vm}")
        vm, judged = calibrate(rows, priors[rows.vm], train_share)
        learned.append((replace(vm, measured_on=cores.of[vm.vm]), judged))
    return learned


def learn_on(
    workspace: Workspace, network: Network, usage: Usage, cores: Cores, progress: Progress, *, known: Calibration
) -> list[Learned]:
    """What is known of each VM once usage was followed that is later than what the `known` calibration learned from; those that
    usage doesn't tell of stay as they are. Keeps nothing. Raises as update_from does.
    """
    evidence, priors = _evidence(workspace, network, usage, cores, progress)
    news: dict[str, Learned] = {}
    for number, rows in enumerate(evidence):
        progress(number / len(evidence), f"following {rows.vm}")
        vm, judged = update(rows, priors[rows.vm], known.of(rows.vm) or VmCalibration(rows.vm, {}, {}))
        news[rows.vm] = (replace(vm, measured_on=cores.of[vm.vm]), judged)
    others: dict[str, Learned] = {vm.vm: (untouched(vm), {}) for vm in known.vms}
    return list((others | news).values())


def _evidence(
    workspace: Workspace, network: Network, usage: Usage, cores: Cores, progress: Progress
) -> tuple[tuple[Evidence, ...], Mapping[str, RolePrior]]:
    """The rows of each VM that was measured and observed, and the priors of these."""
    stored = set(workspace.metrics.vms(network.name))
    vms = tuple(replace(vm, calibration=None) for vm in emulated_vms(network) if vm.name in stored)
    measured = _measured((vm for vm in usage.vms if vm.vm in stored), cores)
    return gather(workspace, network, vms, measured, progress), {vm.name: vm.prior for vm in vms}


def gather(
    workspace: Workspace, network: Network, vms: Sequence[EmulatedVm], measured: Sequence[MeasuredVm], progress: Progress
) -> tuple[Evidence, ...]:
    """What was observed, beside what was measured. Memory follows from all that came before, as it does when stored time is
    emulated: where it was measured, what was observed is read from its beginning. Raises InputError where no time is in common.
    """
    observed = replays.span(workspace, network.name)
    start_ns = min(int(each.start_ns[0]) for each in measured)
    end_ns = max(int(each.start_ns[-1]) + round(each.length_s * NANOSECONDS) for each in measured)
    begin, end = max(observed[0], start_ns), min(observed[1], end_ns)
    if begin >= end:
        raise InputError(*_apart(network.name, observed, (start_ns, end_ns)))
    if any("memory_gb" in each.used for each in measured):
        begin = observed[0]
    gathering = Gathering(vms, measured)
    for intervals in replays.replay(workspace, network.name, [vm.name for vm in vms], (begin, end)):
        gathering.add(intervals)
        progress((int(intervals.start_ns[-1]) - begin) / (end - begin), "reading what was observed")
    return gathering.evidence()


def _names(network: Network) -> dict[str, str]:
    """What a file may call each VM: its name, or one of its addresses."""
    addresses = {str(block): vm.name for vm in network.vms for block in vm.addresses if block.count == 1}
    return {**addresses, **{vm.name: vm.name for vm in network.vms}}


def _measured(vms: Iterable[UsageVm], cores: Cores) -> list[MeasuredVm]:
    """Usage, by resource. Raises TooLittleDataError where no VM has two rows."""
    several = [vm for vm in vms if len(vm.time_ns) > 1 and vm.length_s > 0]
    if not several:
        raise TooLittleDataError("no VM that was observed has more than one row of use", "give some minutes of it at least")
    return [
        MeasuredVm(
            vm.vm, vm.time_ns, vm.length_s,
            {name: vm.columns[column] * unit for name, (column, unit) in MEASURED_AS.items() if column in vm.columns},
            cores.of[vm.vm].core_speed,
        )
        for vm in several
    ]  # fmt: skip


def _apart(name: str, observed: tuple[int, int], measured: tuple[int, int]) -> tuple[str, str]:
    """What is wrong where observed and measured time have nothing in common, and what to do."""
    what = (
        f"the use was measured from {_iso(measured[0])} to {_iso(measured[1])}, and {name} was observed from "
        f"{_iso(observed[0])} to {_iso(observed[1])}: they have no time in common"
    )
    off = (observed[0] - measured[0]) / _HOUR_NS
    if abs(off) <= 26 and abs(off - round(off)) < 0.05 and round(off):
        return what, f"they are {abs(round(off))} hours apart: give times with their zone, such as 2026-01-31T12:00:00+01:00"
    return what, "observe the traffic of the measured time, or measure while it is observed"


def _iso(time_ns: int) -> str:
    return str(np.datetime64(time_ns, "ns").astype("datetime64[s]")) + "Z"


def _keep(
    workspace: Workspace, network: Network, about: Calibration, learned: Sequence[Learned], now: Callable[[], int]
) -> Calibrated:
    vms = tuple(vm for vm, _ in learned)
    if not any(vm.fits for vm in vms):
        first = next(((vm.vm, why) for vm in vms for why in vm.refused.values()), ("no VM", "it was not measured"))
        raise TooLittleDataError(f"nothing was learned of {network.name}: {first[0]}: {first[1]}", "watch and measure longer")
    calibration = replace(about, vms=vms)
    fitted = sum(bool(vm.fits if about.follows is None else judged) for vm, judged in learned)
    done = "Calibrated" if about.follows is None else "Brought up to date"
    message = f"{done} {fitted} of {len(network.vms)} VMs by {about.usage}."
    record = workspace.state.save_calibration(network.name, calibration.to_dict(), message, now())
    return Calibrated(record.version, calibration, {vm.vm: judged for vm, judged in learned})


def reset(workspace: Workspace, name: str, now: Callable[[], int]) -> bool:
    """Takes a network's VMs back to their roles' priors. False where they follow these already."""
    network = networks.get(workspace, name)
    if network.calibration is None:
        return False
    nothing = Calibration(name, "", 0, 0, ())
    workspace.state.save_calibration(name, nothing.to_dict(), f"Took {name} back to its roles' priors.", now())
    return True


def reemulate(workspace: Workspace, name: str, now: Callable[[], int], progress: Progress = lambda *_: None) -> int:
    """Emulates all stored time anew, by the calibration that there is, or the priors. What was observed stays as it is.

    Each write is one transaction; once all is done that is noted. Run again after a kill it does the whole again. When requests
    came within an interval isn't stored: that is drawn. Gives how many rows (VMs x intervals) it wrote; none where all stores
    keep what was written first.
    """
    network = networks.get(workspace, name)
    kept = workspace.state.calibration(name)
    written = _emulated(workspace, network, progress) if workspace.can_amend and workspace.metrics.span(name) else 0
    if kept is not None:
        workspace.state.note_emulated(name, kept.version, now())
    return written


def _emulated(workspace: Workspace, network: Network, progress: Progress) -> int:
    stored = set(workspace.metrics.vms(network.name))
    own = [vm for vm in emulated_vms(network) if vm.name in stored]
    vms = replays.with_arrivals(workspace, network.name, own)
    names = tuple(vm.name for vm in vms)
    begin, end = replays.span(workspace, network.name)
    shadow, written = emulator(vms), 0
    for intervals in replays.replay(workspace, network.name, names, (begin, end)):
        simulated = {name: values for name, values in shadow.emulate(intervals).items() if name in BY_NAME}
        # Round trips are simulated only where one side was seen; what was observed elsewhere is left alone.
        always = {name: values for name, values in simulated.items() if name not in SIMULATED_WHERE_ONE_SIDED}
        batch = MetricBatch(
            network.name, intervals.interval_ns / NANOSECONDS, names, intervals.start_ns, always, intervals.one_sided, ""
        )  # fmt: skip
        written += workspace.metrics.amend(batch)
        progress((int(intervals.start_ns[-1]) - begin) / (end - begin), f"{written:,} rows emulated anew")
    return written
