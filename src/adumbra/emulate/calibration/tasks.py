"""One resource's rows of a VM, made ready to learn from, and what the prior says of its costs. Pure; fits nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adumbra.emulate.calibration.evidence import Evidence
from adumbra.emulate.calibration.regression import Belief, Sample
from adumbra.emulate.roles import RolePrior
from adumbra.schema.calibration import COSTS, HOLDINGS
from adumbra.schema.records import NANOSECONDS, Floats, Ints

RESOURCES: tuple[str, ...] = ("cpu_cores", "memory_gb")
"""The resources that are calibrated."""
FITTED: tuple[str, ...] = tuple(name for name in COSTS if name != "wake_s")
"""The costs of CPU that are fitted. Waking isn't: over the rates that a VM sees, nearly as large a share of its requests comes
alone, so that rows don't tell it from a request's own cost, and what the prior believes of it would be carried to busier times.
"""
MOST_ROWS = 20_000  # that a fit looks at; more are added up to fewer
STEP_S = 10.0
"""Rows are judged, and followed, in steps of this at least: a second more or less in the clocks says nothing of costs."""
LEAST_MOVE = 0.1
"""Coefficient of variation of the load over the rows, below which costs can't be told apart."""
_REQUEST = COSTS.index("request_s")
_STILL = 1e-3
_IDLE_MOVE = 1e-9  # of the load beside the rest's: nothing came at all
_EACH_SD = 1.0  # how unsure each cost is by itself, relative to its own, where the role doesn't say
_LEAST_LEVEL_SD = 0.25


@dataclass(frozen=True, slots=True)
class Task:
    """One resource's rows and what the prior says of its costs. start_ns int64[n]; end_ns: when the last row is over; groups
    int64[n]: the step that each row belongs to, from 0; unit: a step's sum over this (and its rows) is in cores or bytes;
    waking float64[n]: what waking takes of each by the prior, beside the costs in `names`.
    """

    resource: str
    names: tuple[str, ...]
    sample: Sample
    start_ns: Ints
    end_ns: int
    belief: Belief
    groups: Ints
    unit: float
    waking: Floats

    @property
    def believed(self) -> Belief:
        """The prior as the law has it that is fitted: what waking takes is in the cost of a request, by the rows' mean."""
        mean, requests = self.belief.mean.copy(), float(self.sample.counts[:, _REQUEST].sum())
        mean[_REQUEST] += float(self.waking.sum()) / requests if requests > 0 else 0.0
        return replace(self.belief, mean=mean)

    @property
    def moves(self) -> str:
        """What the rows can tell: "each" cost, the "level" of those that move, or what is used at "rest" only."""
        belief = self.believed
        rest = self.sample.counts[:, 0] * belief.mean[0]
        load = self.sample.counts @ np.where(belief.moves, np.maximum(belief.mean, 1e-15), 0.0)
        if not load.mean() > _IDLE_MOVE * max(float(rest.mean()), 1e-300):
            return "rest"
        return "each" if float(load.std() / load.mean()) >= LEAST_MOVE else "level"

    def part(self, chosen: NDArray[np.bool_]) -> Task:
        """Some of the rows; their steps keep their numbers."""
        return replace(
            self, sample=self.sample.part(chosen), start_ns=self.start_ns[chosen], groups=self.groups[chosen],
            waking=self.waking[chosen],
        )  # fmt: skip

    def steps(self) -> Steps:
        """The rows, added up by step."""
        at = np.unique(self.groups, return_inverse=True)[1]
        rows = self.sample.summed(at)
        begins = self.start_ns[np.searchsorted(at, np.arange(len(rows)))]
        per = np.asarray(np.bincount(at) * self.unit, np.float64)
        return Steps(rows, begins, per, np.bincount(at, self.waking).astype(np.float64))


@dataclass(frozen=True, slots=True)
class Steps:
    """Rows added up by step: their sums; start_ns int64[n]; per float64[n], by which a sum is divided to be in cores or bytes;
    waking: as in Task.
    """

    rows: Sample
    start_ns: Ints
    per: Floats
    waking: Floats


def problem_of(evidence: Evidence, resource: str, least_rows: int) -> str:
    """Why nothing can be learned of a resource, or ""."""
    used = evidence.used.get(resource)
    if used is None:
        return "it was not measured"
    if np.isnan(used).all():
        return _unusable(evidence)
    rows = int((~np.isnan(used)).sum())
    if rows < least_rows:
        return f"there are {rows} rows with both traffic and use, and {least_rows} are the least"
    if not np.nansum(used) > 0:
        return "what was measured is 0 throughout"
    if resource == "cpu_cores" and _stands_still(used, evidence):
        return "what was measured doesn't move, while the traffic does: is it a limit, or a mean over all of the time?"
    return ""


def _unusable(evidence: Evidence) -> str:
    """Why none of the rows can be used, where they were measured."""
    watched = evidence.watched_s > 0
    if not watched.any():
        return "no traffic was observed while it was measured"
    if evidence.one_sided[watched].all():
        return "only one side of its traffic was seen while it was measured"
    return f"no {evidence.length_s:g} s on end were both measured and observed throughout"


def _stands_still(used: Floats, evidence: Evidence) -> bool:
    """Whether use is the same in all rows, to a thousandth, though the requests, or the bytes, in them are not."""
    there = ~np.isnan(used)
    known, counts = used[there], evidence.counts[there]
    moves = (counts.std(axis=0) > LEAST_MOVE * counts.mean(axis=0))[1:].any()
    return bool(moves and known.std() <= _STILL * known.mean())


def task_of(evidence: Evidence, resource: str, prior: RolePrior) -> Task:
    """The rows in which a resource was measured, of which there must be some."""
    used = evidence.used[resource]
    there = ~np.isnan(used)
    start_ns = evidence.start_ns[there]
    if resource == "cpu_cores":
        counts = evidence.counts[there]
        fitted = [COSTS.index(name) for name in FITTED]
        sample = Sample(counts[:, fitted], used[there] * evidence.length_s, evidence.works[there])
        waking = prior.cpu.wake_s * counts[:, COSTS.index("wake_s")]
        mean = np.array([getattr(prior.cpu, name) for name in FITTED])
        names, spread, unit = FITTED, prior.spread.cpu, evidence.length_s
    else:
        sample = Sample(evidence.holdings[there], used[there], np.zeros(int(there.sum())))
        waking = np.zeros(len(sample))
        mean = np.array([getattr(prior.memory, name) for name in HOLDINGS])
        names, spread, unit = HOLDINGS, prior.spread.memory, 1.0
    moves = np.arange(len(names)) > 0  # what is used at rest is not the role's work, nor on one scale with it
    noise = float(np.clip(prior.cpu.service_cv, 0.1, 10.0))
    belief = Belief(mean, max(spread, _LEAST_LEVEL_SD), prior.spread.costs or _EACH_SD, moves, noise)
    end_ns = int(start_ns[-1]) + round(evidence.length_s * NANOSECONDS)
    if len(sample) > MOST_ROWS:
        every = np.arange(len(sample), dtype=np.int64) // math.ceil(len(sample) / MOST_ROWS)
        sample, unit = sample.summed(every), unit * float(np.bincount(every)[0])
        waking = np.bincount(every, waking).astype(np.float64)
        start_ns = start_ns[np.searchsorted(every, np.arange(len(sample)))]
    groups = _groups(start_ns, max(STEP_S, evidence.length_s))
    return Task(resource, names, sample, start_ns, end_ns, belief, groups, unit, waking)


def _groups(start_ns: Ints, length_s: float) -> Ints:
    """Which rows make a step: those that begin in the same stretch of so many seconds; numbered from 0."""
    return np.unique(start_ns // round(length_s * 1e9), return_inverse=True)[1].astype(np.int64)
