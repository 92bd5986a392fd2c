"""What a cell of a series is in PromQL. Pure.

A cell is [T - step, T), and is asked for at T, when the last interval in it ends. Of a range selector Prometheus 2 takes both
ends, VictoriaMetrics and Prometheus 3 the later only, and VictoriaMetrics cuts some lengths by 1 ms: ranges are a few ms longer
or shorter than the step, where no sample lies, so that all of them take the same samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from adumbra.schema.metrics import Metric, Rollup
from adumbra.store.series import matcher, quoted

BEFORE_MS = 2
"""How much longer than a cell a range is that reaches back to the sample before it."""


@dataclass(frozen=True, slots=True)
class Family:
    """Series of a name that are asked for together: of a histogram's buckets several, by `le`; else one, whose `le` is ""."""

    name: str
    rollup: Rollup
    les: tuple[str, ...] = ("",)


def families(metrics: Iterable[Metric]) -> list[tuple[Family, dict[str, Metric]]]:
    """The columns by what they are in the store, and by `le`."""
    found: dict[str, dict[str, Metric]] = {}
    for metric in metrics:
        found.setdefault(metric.prometheus, {})[metric.le] = metric
    return [(Family(name, next(iter(by.values())).rollup, tuple(by)), by) for name, by in found.items()]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The series of a network's machines of one origin; of all VMs where `vms` is empty."""

    network: str
    origin: str
    vms: tuple[str, ...] = ()

    def all_vms(self) -> Chosen:
        return replace(self, vms=())

    def of(self, name: str, les: Sequence[str] = ()) -> str:
        """The selector of these series of a metric."""
        told = [f"network={quoted(self.network)}", f"origin={quoted(self.origin)}"]
        told += [matcher("vm", self.vms)] if self.vms else []
        told += [matcher("le", les)] if any(les) else []
        return f"{name}{{{','.join(told)}}}"


def cells(selector: str, rollup: Rollup, step_ms: int) -> str:
    """The value of each VM's (and bucket's) cell; of LAST, of each series, of which a VM whose labels change has several.

    A count is the last total less the first, which is that before the cell or the 0 that a stretch begins with; with neither,
    because it was lost, nothing can be said. It is right where no total falls in the cell (see `falls`).
    """
    inner = f"{selector}[{step_ms - 1}ms]"
    match rollup:
        case Rollup.SUM:
            all_, own = f"{selector}[{step_ms + BEFORE_MS}ms]", f"{selector}[{step_ms - 2}ms]"
            begins = f"count_over_time({all_}) - count_over_time({own}) + (min_over_time({all_}) == bool 0)"
            return f"sum by (vm, le) ((max_over_time({all_}) - min_over_time({all_})) and ({begins} > 0))"
        case Rollup.MEAN:
            return f"sum by (vm) (sum_over_time({inner})) / sum by (vm) (count_over_time({inner}))"
        case Rollup.MAX:
            return f"max by (vm) (max_over_time({inner}))"
        case Rollup.LAST:
            return f"last_over_time({inner})"


def falls(selector: str, step_ms: int) -> str:
    """Of which VMs and buckets a total falls in a cell: there a stretch begins, and the cell's count is not one difference."""
    return f"max by (vm, le) (resets({selector}[{step_ms + BEFORE_MS}ms])) > 0"


def present(selector: str, step_ms: int) -> str:
    """How many samples of a series lie in each cell."""
    return f"count_over_time({selector}[{step_ms - 1}ms])"
