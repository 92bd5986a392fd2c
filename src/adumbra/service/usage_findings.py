"""What was met in the measured use of many VMs: what is refused of it, what is said of the rest. Reads and mends nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS
from adumbra.service.usage_cleaning import ABSURD, TWICE, Beyond, Provision, VmFacts, sayings
from adumbra.service.usage_columns import listed
from adumbra.service.usage_grid import DAY_S, Grid, coarser

MOST_COARSER = 0.05  # of the VMs, with samples further apart than the step
MOST_BEYOND = 0.25  # of the VMs, beyond twice of what they have, in more than ODD of their samples
ODD = 0.05
SHORT_DAYS = 7
LEAST_MEMORY_BYTES = 1e6  # no system uses less
_OLD_NS = 10 * 365 * DAY_S * NANOSECONDS
_TOLD = {"cpu_cores": "cores", "memory_gb": "memory", "storage_gb": "storage"}


class Findings:
    """Counts, filled some VMs at a time."""

    def __init__(self, vms: tuple[str, ...], grid: Grid) -> None:
        count = len(vms)
        self._vms, self._grid = vms, grid
        self._samples = np.zeros(count, np.int64)
        self._usual_s = np.full(count, np.nan)
        self._days = np.zeros(count)
        self._first_ns = 2**63 - 1
        self._repeated = self._turned = 0
        self._resets: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._varying: Counter[str] = Counter()
        self._of: dict[str, _Of] = {}

    def met(
        self, first: int, facts: VmFacts, resets: Mapping[str, int], totals: Mapping[str, tuple[int, int]]
    ) -> None:  # fmt: skip
        part = slice(first, first + len(facts.samples))
        self._samples[part], self._usual_s[part] = facts.samples, facts.usual_s
        self._days[part] = (facts.last_ns - facts.first_ns) / (DAY_S * NANOSECONDS)
        if (facts.samples > 0).any():
            self._first_ns = min(self._first_ns, int(facts.first_ns[facts.samples > 0].min()))
        self._repeated += int(facts.repeated.sum())
        self._turned += int(facts.turned.sum())
        self._resets.update(resets)
        for name, (only_grow, varying) in totals.items():
            self._totals[name] += only_grow
            self._varying[name] += varying

    def measured(self, resource: str, first: int, provision: Provision, beyond: Beyond) -> None:
        """What was met in one resource's column, some VMs at a time."""
        if resource not in self._of:
            self._of[resource] = _Of(len(self._vms))
        self._of[resource].put(slice(first, first + len(beyond.known)), provision, beyond)

    def check(self, source: str, asked_step_s: float | None) -> None:
        """Raises InputError for what can't be mended: it is not what its column is called."""
        for name, only_grow in self._totals.items():
            if only_grow and 2 * only_grow >= self._varying[name]:
                total = {"cpu_cores": "cpu_seconds_total"}.get(name, name.replace("_per_s", "_total"))
                raise InputError(
                    f"{source}: {name} only ever grows in {only_grow:,} of {self._varying[name]:,} VMs in which it changes, "
                    "as a total does",
                    f"call the column {total}, and the differences are taken; or give what was used a second",
                )
        self._check_cores(source)
        self._check_memory(source)
        wide = coarser(self._usual_s, self._grid.step_s)
        if len(wide) > MOST_COARSER * len(self._vms):
            usual = float(np.median(self._usual_s[wide]))
            how = "ask for" if asked_step_s else "give more of those that are measured often, or ask for"
            raise InputError(
                f"{source}: {len(wide):,} of {len(self._vms):,} VMs have samples {usual:g} s apart, and a step of "
                f"{self._grid.step_s:g} s would be made of gaps",
                f"{how} a step of {usual:g} s or more",
            )

    def _check_cores(self, source: str) -> None:
        of = self._of.get("cpu_cores")
        if of is None:
            return
        odd = of.odd()
        told = np.isfinite(of.has) & (of.known > 0)
        if odd.sum() <= MOST_BEYOND * told.sum():
            return
        first = int(np.flatnonzero(odd)[0])
        largest = of.largest[odd]
        guess = "percent" if (largest <= 100.0 * np.maximum(of.has[odd], 1.0)).all() else "millicores"
        raise InputError(
            f"{source}: {odd.sum():,} of {told.sum():,} VMs are said to use more than twice the cores that they have, such as "
            f"{self._vms[first]} {of.largest[first]:,.4g} of {of.has[first]:g}: is cpu_cores in {guess}?",
            "give the mean number of cores in use, such as 0.25: "
            + ("percent / 100 x the cores" if guess == "percent" else "millicores / 1000"),
        )

    def _check_memory(self, source: str) -> None:
        of = self._of.get("memory_gb")
        if of is None:
            return
        used = of.largest[of.largest > 0]
        if len(used) and np.median(used) < LEAST_MEMORY_BYTES:
            raise InputError(
                f"{source}: VMs are said to use {np.median(used):,.4g} bytes of memory at most: is it in kB, MB or GB?",
                "give bytes",
            )
        odd = of.odd()
        told = np.isfinite(of.has) & (of.known > 0)
        if odd.sum() > MOST_BEYOND * told.sum():
            first = int(np.flatnonzero(odd)[0])
            raise InputError(
                f"{source}: {odd.sum():,} of {told.sum():,} VMs are said to use more than twice the memory that they have, "
                f"such as {self._vms[first]} {of.largest[first]:,.4g} bytes of {of.has[first]:,.4g}",
                "give both in bytes",
            )

    def notes(self, resources: Sequence[str]) -> Iterator[str]:
        """In words, what was mended or kept."""
        yield from sayings(self._repeated, self._turned, self._resets)
        if self._first_ns < _OLD_NS:
            yield "times begin before 1980: are they seconds since some beginning? Hours of the day are then not told by them"
        yield from self._of_time()
        for resource in resources:
            if resource in self._of:
                yield from self._of_resource(resource, self._of[resource])

    def _of_time(self) -> Iterator[str]:
        step = self._grid.step_s
        usual = float(np.nanmedian(self._usual_s)) if np.isfinite(self._usual_s).any() else step
        if usual * 1.5 < step:
            yield (
                f"samples are usually {usual:g} s apart: of CPU and bandwidth a step of {step:g} s has their mean, "
                "of memory and storage their largest"
            )
        wide = coarser(self._usual_s, step)
        if len(wide):
            named = listed(self._named(wide))
            yield f"{len(wide):,} VMs have samples further apart than {step:g} s, with gaps between: {named}"
        short = np.flatnonzero(self._days < SHORT_DAYS)
        if len(short):
            named = listed(self._named(short))
            yield f"{len(short):,} VMs were measured for less than {SHORT_DAYS} days, and are kept: {named}"
        steps = self._days * DAY_S / step + 1
        sparse = np.flatnonzero(self._samples * np.fmax(self._usual_s, step) / step < 0.5 * steps)
        if len(sparse):
            yield f"{len(sparse):,} VMs have gaps for more than half of their time: {listed(self._named(sparse))}"

    def _of_resource(self, resource: str, of: _Of) -> Iterator[str]:
        what = _TOLD[resource]
        if of.zeros.sum():
            yield f"{of.zeros.sum():,} rows say that a VM has no {what}: the most that its other rows say is taken"
        unknown = np.flatnonzero(~np.isfinite(of.has))
        if len(unknown):
            yield f"what {len(unknown):,} VMs have of {what} isn't told: {listed(self._named(unknown))}"
        if of.changed.any():
            yield f"what {of.changed.sum():,} VMs have of {what} changes: the most that is told of each is taken"
        if of.absurd.sum():
            yield f"{of.absurd.sum():,} values of {what} are more than {ABSURD:g} times what the VM has: gaps now"
        above = of.above - of.absurd
        if above.sum():
            yield f"{above.sum():,} values of {what} in {(above > 0).sum():,} VMs are above what the VM has, and are kept"
        odd = np.flatnonzero(of.odd())
        if len(odd):
            yield f"{len(odd):,} VMs often use more than {TWICE:g} times the {what} that they have: {listed(self._named(odd))}"
        if resource == "cpu_cores":
            yield from self._of_shares(of)

    def _of_shares(self, of: _Of) -> Iterator[str]:
        several = np.isfinite(of.has) & (of.has >= 2) & (of.largest > 0)
        if several.sum() >= 10 and 0.9 < float(np.nanmax(of.largest[several])) <= 1.0:
            yield "no VM ever uses more than one core, though they have several: is cpu_cores a share of them?"

    def _named(self, which: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[str]:
        return [self._vms[number] for number in which]


class _Of:
    """One resource's counts by VM. has, largest: float64[V], in the column's unit."""

    def __init__(self, count: int) -> None:
        self.has, self.largest = np.full(count, np.nan), np.full(count, np.nan)
        self.zeros, self.known = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.above, self.twice, self.absurd = (np.zeros(count, np.int64) for _ in range(3))
        self.changed = np.zeros(count, np.bool_)

    def put(self, part: slice, provision: Provision, beyond: Beyond) -> None:
        self.has[part], self.zeros[part], self.changed[part] = provision.largest, provision.zeros, provision.changed
        self.known[part], self.above[part], self.twice[part] = beyond.known, beyond.above, beyond.above_twice
        self.absurd[part], self.largest[part] = beyond.absurd, beyond.largest

    def odd(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """VMs of which more than a few samples are above twice of what they have."""
        return np.asarray((self.twice > ODD * self.known) & (self.known > 0))
