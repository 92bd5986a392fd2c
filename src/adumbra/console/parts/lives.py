"""What was predicted of VMs against what the real ones use, as a table. Pure."""

from __future__ import annotations

from adumbra.console.parts.markup import Cell, Column, Raw, chip, e, table
from adumbra.console.parts.sizes import MAX_ROWS
from adumbra.scale.score import Score, Share
from adumbra.schema.units import format_duration, format_number, format_share, format_time
from adumbra.service.live import Comparison, VmCompared
from adumbra.service.pictures.words import NONE

_SHOWN = (
    ("CPU, cores", "cpu_cores", ""), ("Memory, GB", "memory_gb", ""), ("In, Mbps", "bandwidth_mbps", "rx"),
    ("Out, Mbps", "bandwidth_mbps", "tx"), ("Storage, GB", "storage_gb", ""),
)  # fmt: skip
_COLUMNS = (Column("VM"), *(Column(title, figure=True) for title, _, _ in _SHOWN), Column("So"))
_KINDS = {"as predicted": "good", "not measured": "calm", "too little yet": "calm", "not judged yet": "calm"}


def lives_table(found: Comparison) -> str:
    """Means of the last hour, and below each how far it could be trusted."""
    span = format_duration((found.end_ns - found.start_ns) / 1e9)
    about = (
        f"The last {e(span)} that were measured, up to {e(format_time(found.end_ns)[:19])}Z. Each cell: mean predicted → "
        "<strong>measured</strong>; below it, how much of what was measured lies in the emulation’s 80 % interval (and the "
        "95 % interval of that share), and how often more was used than the profile’s size."
    )
    if found.learned_until_ns is not None:
        about += f" The interval is judged by what came after {e(format_time(found.learned_until_ns)[:19])}Z, which was not "
        about += "learned from."
    rows = [[vm.vm, *(_cell(vm, resource, way) for _, resource, way in _SHOWN), _so(vm)] for vm in found.vms[:MAX_ROWS]]
    more = ""
    if len(found.vms) > MAX_ROWS:
        more = (
            f'<p class="dim">{MAX_ROWS:,} of {len(found.vms):,} VMs are shown; <code>adumbra live --output json</code> has '
            "all.</p>"
        )
    return f'<p class="dim">{about}</p>' + table(f"Predicted and measured use of {found.network}", _COLUMNS, rows) + more


def _so(vm: VmCompared) -> Raw:
    return chip(vm.word, "bad" if vm.word.startswith("short") else _KINDS.get(vm.word, "busy"))


def _cell(vm: VmCompared, resource: str, way: str) -> Cell:
    score = next((each for each in vm.scores if (each.resource, each.way) == (resource, way)), None)
    if score is None or score.measured is None or score.predicted is None:
        return NONE
    return Raw(
        f'<span class="was">{e(format_number(score.predicted.mean))}</span> → '
        f'<span class="now">{e(format_number(score.measured.mean))}</span>{_below(score)}'
    )


def _below(score: Score) -> str:
    told = []
    if score.coverage is not None:
        told.append(f"{_held(score.coverage)} inside")
    short = score.promise.short if score.promise is not None else None
    if short is not None and short.count:
        told.append(f"{format_share(short.share, 2)} short")
    return f'<span class="believed">{e(", ".join(told))}</span>' if told else ""


def _held(share: Share) -> str:
    return f"{share.share * 100:.0f} % ({share.low * 100:.0f} to {share.high * 100:.0f})"
