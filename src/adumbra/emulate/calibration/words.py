"""Says in words what a fit found that wasn't believed before. Pure; fits nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adumbra.schema.records import Floats

_TOLD = 0.03  # a cost that makes less of the use than this isn't spoken of
_CHANGED = 1.25  # a factor that is worth a word
FAR_OFF = 30.0
"""How many times what was believed a VM may use, or a part of it, before the unit of what was measured is doubted."""
_SAID = {
    "idle_cores": ("at rest it uses {} of a core", 1.0, ""),
    "connection_s": ("a connection costs {}", 1.0, "s"),
    "request_s": ("a request costs {}", 1.0, "s"),
    "byte_in_s": ("a MB in costs {}", 1e6, "s"),
    "byte_out_s": ("a MB out costs {}", 1e6, "s"),
    "packet_s": ("a thousand packets cost {}", 1e3, "s"),
    "base_bytes": ("at rest it holds {}", 1.0, "B"),
    "connection_bytes": ("an open connection holds {}", 1.0, "B"),
    "session_bytes": ("a client that is remembered holds {}", 1.0, "B"),
    "cache_request_bytes": ("a request not seen before leaves {} in its cache", 1.0, "B"),
}


def level_of(resource: str, parts: Floats, before: Floats, after: Floats, believer: str) -> list[str]:
    """What a usual row takes, beside what the `believer` ("the prior") said of it; nothing where that was nothing.

    parts: float64[P], what each cost is paid for in it; before, after: float64[P], the costs.
    """
    total_before, total_after = float(parts @ before), float(parts @ after)
    if not total_before > 0:
        return []
    verb, unit = ("takes", "cores") if resource == "cpu_cores" else ("holds", "bytes")
    ratio = total_after / total_before
    doubt = "" if 1 / FAR_OFF <= ratio <= FAR_OFF else f", so far off that the unit may be wrong: is it in {unit}?"
    return [f"the same traffic {verb} {_times(ratio)} what {believer} said{doubt}"]


def costs_of(names: Sequence[str], parts: Floats, before: Floats, after: Floats, believer: str) -> list[str]:
    """Each cost that is another than before and makes something of the use, the largest first. Arguments: as in `level_of`."""
    shares = [parts * costs / max(float(parts @ costs), 1e-300) for costs in (before, after)]
    share = np.maximum(*shares)
    said = []
    for j in np.argsort(-share):
        old, new = float(before[j]), float(after[j])
        ratio = new / old if old > 0 else math.inf
        if share[j] < _TOLD or 1 / _CHANGED < ratio < _CHANGED:
            continue
        text, scale, unit = _SAID[names[j]]
        figure = f"{new * scale:.2g}" if not unit else _amount(new * scale, unit)
        if new == 0:
            was = _amount(old * scale, unit) if unit else f"{old:.2g}"
            said.append(f"{text.format('nothing that shows')} ({was} by {believer})")
        else:
            said.append(text.format(figure) + (f", {_times(ratio)} {believer}" if old > 0 else f", nothing by {believer}"))
    return said


def _times(ratio: float) -> str:
    if 0.95 < ratio < 1.05:
        return "about"
    return f"{ratio:.3g} times" if ratio < 100 else f"{ratio:.0f} times"


def _amount(value: float, unit: str) -> str:
    """A time or a size in the unit that reads best."""
    steps = (
        ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
        if unit == "s"
        else ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
    )
    for step, name in steps:
        if value >= step:
            return f"{value / step:.3g} {name}"
    return f"{value / steps[-1][0]:.2g} {steps[-1][1]}"
