"""Figures as people read them, with their units, and how each was come by. Pure."""

from __future__ import annotations

import math
from enum import StrEnum

from adumbra.profile.money import HOURS_PER_MONTH
from adumbra.schema.metrics import Provenance
from adumbra.schema.records import NANOSECONDS
from adumbra.schema.units import format_duration, format_number

UNITS = {"cpu_cores": "cores", "memory_gb": "GB", "bandwidth_mbps": "Mbps", "storage_gb": "GB"}
NAMES = {"cpu_cores": "CPU", "memory_gb": "Memory", "bandwidth_mbps": "Bandwidth", "storage_gb": "Storage"}
NONE = "–"


class Mark(StrEnum):
    """How what is shown was come by."""

    OBSERVED = "observed"
    INFERRED = "inferred"
    SIMULATED = "simulated"
    FORECAST = "forecast"
    DECLARED = "declared"
    PROPOSED = "proposed"
    LIVE = "live"


MEANS = {
    Mark.OBSERVED: "counted or timed in the traffic",
    Mark.INFERRED: "concluded from the traffic by a stated rule",
    Mark.SIMULATED: "given by the emulated VM that stands in for one that doesn't exist yet",
    Mark.FORECAST: "what the models expect, with calibrated intervals",
    Mark.DECLARED: "what the spec says",
    Mark.PROPOSED: "the size of the profile",
    Mark.LIVE: "read from the real VM",
}


def mark_of(provenance: Provenance) -> Mark:
    return Mark(provenance.value)


def amount(resource: str, value: float | None) -> str:
    """An amount of a resource: 2 cores, 0.07 cores, 6 GB."""
    if value is None or not math.isfinite(value):
        return NONE
    unit = "core" if resource == "cpu_cores" and value == 1 else UNITS[resource]
    return f"{format_number(value)} {unit}"


def month(per_hour: float | None) -> str:
    """A price an hour as dollars a month of 730 hours."""
    return NONE if per_hour is None else dollars(per_hour * HOURS_PER_MONTH)


def dollars(amount: float) -> str:
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"


def ago(now_ns: int, then_ns: int | None) -> str:
    """How long ago something was."""
    if then_ns is None:
        return "never"
    seconds = (now_ns - then_ns) / NANOSECONDS
    return "just now" if seconds < 5 else f"{short_duration(seconds)} ago"


def short_duration(seconds: float) -> str:
    """A duration by its largest unit alone: 15 min, 3 d."""
    told = format_duration(float(round(seconds)) if seconds >= 1 else seconds)
    parts = told.split()
    return " ".join(parts[:2])


def percent_change(proposed: float, declared: float) -> str:
    """How a price changes: 21 % less; the same."""
    if declared <= 0:
        return ""
    share = proposed / declared - 1
    if abs(share) < 0.005:
        return "the same"
    return f"{format_number(abs(share) * 100, 2)} % {'less' if share < 0 else 'more'}"
