"""The rules that people size VMs by today, as baselines: each a table row and a small function of measured use.

Pure arithmetic on what was measured before a size is set; sees nothing after it, and judges nothing. Where the constants come
from, and what of each system is left out: docs/rules.md.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import Floats
from adumbra.schema.sizing import RESOURCES

DAY_S = 86_400.0
LONGEST_DAYS = 14.0
"""How far back any of the rules looks."""

_CPU_AND_MEMORY = ("cpu_cores", "memory_gb")
_AT_ONCE = 4_000_000  # samples that are put into histograms at a time: bounds the memory, whatever the number of VMs


@dataclass(frozen=True, slots=True)
class Past:
    """One resource's measured use before a size is set, all that a rule may see.

    values: float64[V, T] in the resource's unit, gaps NaN, the last column the step that ends when the size is set; T may be
    anything from 0 steps on. provisioned: float64[V], in the same unit, NaN where it isn't known. Raises InputError for a
    resource that isn't sized, shapes that don't fit, infinite use, and a step that is no time.
    """

    resource: str
    values: Floats
    step_s: float
    provisioned: Floats

    def __post_init__(self) -> None:
        if self.resource not in RESOURCES:
            raise InputError(f"no rule sizes {self.resource[:64]!r}", f"use one of: {', '.join(RESOURCES)}")
        if self.values.ndim != 2 or self.provisioned.shape != self.values.shape[:1]:
            shapes = f"{self.values.shape} and {self.provisioned.shape}"
            raise InputError(f"use and provisioned amounts of shapes {shapes} don't fit", "give [VMs, steps] and [VMs]")
        if not (math.isfinite(self.step_s) and self.step_s > 0):
            raise InputError(f"a step of {self.step_s} s is no time", "give the seconds between two samples")
        if np.isinf(self.values).any():
            raise InputError(f"the use of {self.resource} has infinite values", "leave such samples out: gaps are NaN")

    def last(self, days: float) -> Floats:
        """The values of the last so many days, or of all the time there is where that is less."""
        steps = max(1, round(days * DAY_S / self.step_s))
        return self.values[:, max(0, self.values.shape[1] - steps) :]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its short name, its title as people read it, the resources that it sizes, and where it comes from.

    allocate gives float64[V], in the resource's unit: NaN for a VM without one sample in the time that the rule looks at. It
    raises InputError for a resource that the rule doesn't size.
    """

    name: str
    title: str
    resources: tuple[str, ...]
    source: str
    allocate: Callable[[Past], Floats]


def percentile_of(values: Floats, percent: float) -> Floats:
    """The percentile along the last axis, of what is there: linear between order statistics (Hyndman and Fan's 7th kind,
    "Sample quantiles in statistical packages", American Statistician 50, 1996). NaN where there is no value.
    """
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    ordered = np.sort(values, axis=-1)  # NaN sorts last
    count = values.shape[-1] - np.isnan(ordered).sum(axis=-1)
    at = np.maximum(count - 1, 0) * (percent / 100)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    below = np.take_along_axis(ordered, low[..., None], axis=-1)[..., 0]
    above = np.take_along_axis(ordered, high[..., None], axis=-1)[..., 0]
    return np.asarray(below + (above - below) * (at - low))


def peak_of(values: Floats) -> Floats:
    """The largest value along the last axis; NaN where there is none."""
    return np.asarray(np.fmax.reduce(values, axis=-1, initial=np.nan))


def peaks_of_blocks(values: Floats, step_s: float, block_s: float) -> Floats:
    """The largest value of each block of time, oldest first, float64[V, blocks]; NaN where a block has none.

    Blocks are counted back from the end. A step belongs to the block in which it begins; steps at least as long as a block
    are blocks by themselves.
    """
    steps = values.shape[1]
    if step_s >= block_s or steps == 0:
        return values
    age = np.arange(steps, 0, -1)  # a step begins so many steps before the end
    block = np.ceil(age * step_s / block_s - 1e-9).astype(np.int64)
    first = np.flatnonzero(np.diff(block, prepend=block[0] + 1))
    return np.asarray(np.fmax.reduceat(values, first, axis=1))


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram's buckets: the first of width `first`, each next one `growth` times as wide, up to one that holds `most`.

    Kubernetes' vertical-pod-autoscaler, pkg/recommender/util/histogram_options.go and model/aggregations_config.go.
    """

    first: float
    growth: float
    most: float

    @property
    def number(self) -> int:
        return math.ceil(math.log(self.most * (self.growth - 1) / self.first + 1) / math.log(self.growth)) + 1

    def index(self, values: Floats) -> Floats:
        """The bucket of each value, as a float. What is too large falls into the last one."""
        steps = np.log(np.maximum(values, 0.0) * ((self.growth - 1) / self.first) + 1) / math.log(self.growth)
        return np.asarray(np.minimum(np.where(values < self.first, 0.0, np.floor(steps)), self.number - 1))

    def ends(self) -> Floats:
        """Where each bucket ends, float64[number]; the last has no end, and its start stands for it."""
        after = np.minimum(np.arange(1, self.number + 1), self.number - 1)
        return np.asarray(self.first * (self.growth**after - 1) / (self.growth - 1))

    def percentile(self, values: Floats, weights: Floats, share: float) -> Floats:
        """The end of the first bucket up to which `share` of the weight lies: values [V, N], weights [N] -> float64[V].

        NaN where there is no value. Rows are taken some at a time, so that memory stays bounded.
        """
        rows, columns = values.shape
        out = np.full(rows, np.nan)
        size = max(1, _AT_ONCE // max(columns, 1))
        for start in range(0, rows, size):
            part = slice(start, start + size)
            out[part] = self._percentile(values[part], weights, share)
        return out

    def _percentile(self, values: Floats, weights: Floats, share: float) -> Floats:
        rows = values.shape[0]
        missing = np.isnan(values)
        cell = self.index(np.where(missing, 0.0, values)).astype(np.int64) + np.arange(rows)[:, None] * self.number
        weight = np.where(missing, 0.0, weights)
        filled = np.bincount(cell.ravel(), weights=weight.ravel(), minlength=rows * self.number).reshape(rows, self.number)
        upto = np.cumsum(filled, axis=1)
        total = upto[:, -1]
        found = np.argmax(upto >= share * total[:, None], axis=1)
        return np.where(total > 0, self.ends()[found], np.nan)


@dataclass(frozen=True, slots=True)
class VpaSettings:
    """How Kubernetes' vertical-pod-autoscaler sizes one resource: its target, for a pod of one container.

    peak_s: samples are the largest of each so many seconds; 0: all samples. least: no size is below it, in the resource's unit.
    """

    buckets: Buckets
    peak_s: float
    least: float
    days: float = 8.0
    half_life_s: float = DAY_S
    share: float = 0.9
    margin: float = 0.15


_GB = 2.0**30
VPA: Mapping[str, VpaSettings] = MappingProxyType(
    {
        "cpu_cores": VpaSettings(Buckets(first=0.01, growth=1.05, most=1000.0), peak_s=0.0, least=0.025),
        "memory_gb": VpaSettings(Buckets(first=1e7 / _GB, growth=1.05, most=1e12 / _GB), peak_s=DAY_S, least=250 * 2**20 / _GB),
    }
)


def vpa(past: Past) -> Floats:
    """The target of Kubernetes' vertical-pod-autoscaler, without its reaction to processes killed for want of memory."""
    return vpa_target(past, VPA[_sized(past, _CPU_AND_MEMORY)])


def vpa_target(past: Past, settings: VpaSettings) -> Floats:
    """The same under settings of one's own: its flags can change all of them."""
    values = past.last(settings.days)
    step_s = past.step_s
    if settings.peak_s:
        values = peaks_of_blocks(values, step_s, settings.peak_s)
        step_s = max(step_s, settings.peak_s)
    age_s = np.arange(values.shape[1], 0, -1) * step_s
    weights = np.exp2(-age_s / settings.half_life_s)
    target = settings.buckets.percentile(values, weights, settings.share) * (1 + settings.margin)
    return np.asarray(np.where(np.isnan(target), np.nan, np.maximum(target, settings.least)))


@dataclass(frozen=True, slots=True)
class Statistic:
    """A rule that reads one number off the last days and multiplies it.

    percent: the percentile, 100 for the largest; block_s: of the largest of each so many seconds, 0: of the samples.
    """

    days: float
    percent: float
    factor: float
    block_s: float = 0.0

    def __call__(self, past: Past) -> Floats:
        values = past.last(self.days)
        if self.percent == 100:
            return peak_of(values) * self.factor
        if self.block_s:
            values = peaks_of_blocks(values, past.step_s, self.block_s)
        return percentile_of(values, self.percent) * self.factor


def declared(past: Past) -> Floats:
    """What was provisioned, whatever was used: NaN where it isn't known."""
    return np.array(past.provisioned, dtype=np.float64)


def tomorrows_maximum(held: Floats) -> Floats:
    """The oracle: the largest use [V, H] of the very time that the size is held for, float64[V], NaN where nothing is measured.

    Not a rule, as nobody has the future: it bounds what sizes without any shortness can cost.
    """
    return peak_of(held)


def rules_named(names: Sequence[str] | str) -> tuple[Rule, ...]:
    """The rules of these names, in the order given, each once; "all" for all of them, in the order of RULES.

    Raises InputError for a name that isn't a rule's, with close ones.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    found: dict[str, Rule] = {}
    for name in wanted:
        if name == "all":
            found.update((each, rule) for each, rule in RULES.items() if each not in found)
        elif name in RULES:
            found.setdefault(name, RULES[name])
        else:
            close = difflib.get_close_matches(name, RULES, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"use all, or some of: {', '.join(RULES)}"
            raise InputError(f"there is no rule named {name[:64]!r}", hint)
    return tuple(found.values())


def _sized(past: Past, resources: Sequence[str]) -> str:
    if past.resource not in resources:
        raise InputError(f"this rule doesn't size {past.resource}", f"it sizes {' and '.join(resources)}")
    return past.resource


def _each(by_resource: Mapping[str, Statistic]) -> Callable[[Past], Floats]:
    """A rule with a statistic of its own for each resource."""

    def allocate(past: Past) -> Floats:
        return by_resource[_sized(past, tuple(by_resource))](past)

    return allocate


_PEAK = Statistic(LONGEST_DAYS, 100, 1.15)
_AZURE_SOURCE = "https://learn.microsoft.com/azure/migrate/concepts-assessment-calculation"

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            Rule(
                "azure-1d",
                "Azure Migrate: p95 x 1.3 of 1 day",
                RESOURCES,
                _AZURE_SOURCE,
                Statistic(1, 95, 1.3),
            ),
            Rule(
                "vpa",
                "Kubernetes VPA: p90 of 8 decaying days x 1.15",
                _CPU_AND_MEMORY,
                "https://github.com/kubernetes/autoscaler/tree/master/vertical-pod-autoscaler/pkg/recommender",
                vpa,
            ),
            Rule(
                "krr",
                "robusta krr simple: CPU p95, memory max x 1.15, of 14 days",
                _CPU_AND_MEMORY,
                "https://github.com/robusta-dev/krr/blob/main/robusta_krr/strategies/simple.py",
                _each({"cpu_cores": Statistic(14, 95, 1.0), "memory_gb": _PEAK}),
            ),
            Rule(
                "azure-14d",
                "p95 x 1.3 of 14 days",
                RESOURCES,
                _AZURE_SOURCE,
                Statistic(14, 95, 1.3),
            ),
            Rule(
                "crane",
                "Crane: p99 x 1.15 of 7 days",
                _CPU_AND_MEMORY,
                "https://github.com/gocrane/crane/tree/main/pkg/recommendation/recommender/resource",
                _each({name: Statistic(7, 99, 1.15) for name in _CPU_AND_MEMORY}),
            ),
            Rule(
                "aws-compute-optimizer",
                "AWS Compute Optimizer: CPU p99.5 of 5-minute maxima, memory max, 20 % headroom, of 14 days",
                _CPU_AND_MEMORY,
                "https://docs.aws.amazon.com/compute-optimizer/latest/ug/rightsizing-preferences.html",
                _each(
                    {
                        "cpu_cores": Statistic(14, 99.5, 1 / 0.8, block_s=300.0),
                        "memory_gb": Statistic(14, 100, 1 / 0.8),
                    }
                ),
            ),
            Rule("peak", "peak of 14 days x 1.15", RESOURCES, "the custom of sizing by the peak with some room", _PEAK),
            Rule("declared", "what was provisioned", RESOURCES, "what people asked for", declared),
        )
    }
)
