"""What was predicted of VMs against what the real ones use, as words and figures for a table. Reads nothing."""

from __future__ import annotations

from dataclasses import dataclass

from adumbra.scale.score import Score
from adumbra.schema.units import format_duration, format_number, format_share, format_time
from adumbra.service.live import Comparison, VmCompared

_SHOWN = (
    ("CPU, cores", "cpu_cores", ""), ("Memory, GB", "memory_gb", ""), ("In, Mbps", "bandwidth_mbps", "rx"),
    ("Out, Mbps", "bandwidth_mbps", "tx"), ("Storage, GB", "storage_gb", ""),
)  # fmt: skip
TITLES: tuple[str, ...] = tuple(title for title, _, _ in _SHOWN)
MAX_ROWS = 200
_KINDS = {"as predicted": "good", "not measured": "calm", "too little yet": "calm", "not judged yet": "calm"}


@dataclass(frozen=True, slots=True)
class LiveCell:
    """One resource of a VM: means, and how far the prediction held."""

    predicted: str
    measured: str
    held: str


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A VM. cells: one for each of TITLES, None where nothing is known; kind: good, bad, busy or calm."""

    vm: str
    cells: tuple[LiveCell | None, ...]
    word: str
    kind: str


@dataclass(frozen=True, slots=True)
class LivePicture:
    """What is shown of a comparison. left_out: VMs beyond MAX_ROWS."""

    about: str
    rows: tuple[LiveRow, ...]
    left_out: int


def live_picture(found: Comparison) -> LivePicture:
    """The comparison as it is shown."""
    about = (
        f"The last {format_duration((found.end_ns - found.start_ns) / 1e9)} that were measured, up to "
        f"{format_time(found.end_ns)[:19]}Z, in steps of {format_duration(found.step_s)}. Each cell: the mean predicted → "
        "measured; below it, how much of what was measured lies in the emulation’s 80 % interval (and the 95 % interval of "
        "that share), and how often more was used than the profile’s size."
    )
    if found.learned_until_ns is not None:
        about += f" The interval is judged by what came after {format_time(found.learned_until_ns)[:19]}Z: the rest was "
        about += "learned from."
    rows = tuple(
        LiveRow(vm.vm, tuple(_cell(vm, resource, way) for _, resource, way in _SHOWN), vm.word, _kind(vm))
        for vm in found.vms[:MAX_ROWS]
    )
    return LivePicture(about, rows, max(0, len(found.vms) - MAX_ROWS))


def _kind(vm: VmCompared) -> str:
    return "bad" if vm.word.startswith("short") else _KINDS.get(vm.word, "busy")


def _cell(vm: VmCompared, resource: str, way: str) -> LiveCell | None:
    score = next((each for each in vm.scores if (each.resource, each.way) == (resource, way)), None)
    if score is None or score.measured is None or score.predicted is None:
        return None
    return LiveCell(format_number(score.predicted.mean), format_number(score.measured.mean), _held(score))


def _held(score: Score) -> str:
    told = []
    if (held := score.coverage) is not None:
        told.append(f"{held.share * 100:.0f} % ({held.low * 100:.0f} to {held.high * 100:.0f}) inside")
    short = score.promise.short if score.promise is not None else None
    if short is not None and short.count:
        told.append(f"{format_share(short.share, 2)} short")
    return ", ".join(told)
