"""What a meter counted in closed intervals, before anything is concluded from it; and the tallies of several as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adumbra.meter.layout import COUNTERS, KINDS
from adumbra.schema.records import Accounts, Ints, Outcome

_SUMMED = (
    "attributed", "foreign", "unclaimed", "late", "untracked", "transport_unread", "uncounted", "scanners",
    "scanned_attempts", "evicted_attempts", "evicted_sources",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Notes:
    """Values noted in the intervals of a tally. cells: int64[n], interval's place x VMs + VM; values: int64[n], in ns."""

    cells: Ints
    values: Ints


@dataclass(frozen=True, slots=True)
class Tally:
    """Closed intervals, in order, of V VMs: what was counted of each VM in each, and the values noted.

    start_ns: int64[k], each `interval_ns` long, increasing; counts: int64[k, V, COUNTERS]; missed: int64[k], packets that
    may have been any VM's; notes: one for each kind of `layout`. Plain arrays: it may be sent to another process.
    """

    interval_ns: int
    start_ns: Ints
    counts: Ints
    missed: Ints
    notes: tuple[Notes, ...]

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def vms(self) -> int:
        return int(self.counts.shape[1])

    def column(self, name: str) -> Ints:
        """One counter: int64[k, V]. Raises ValueError for a name that isn't one."""
        column: Ints = self.counts[:, :, COUNTERS.index(name)]
        return column


def merge(tallies: Sequence[Tally]) -> Tally:
    """The tallies of several meters that each saw its share of the same traffic, and the time of all of it.

    Counts are added and notes put together; an interval that only some of them gave (the others had seen nothing yet) is
    there all the same. A peer of a VM must always have been with one of them. `missed` is added: to be noted by one.
    Raises ValueError for none, or for tallies of different networks.
    """
    if not tallies or any((each.interval_ns, each.vms) != (tallies[0].interval_ns, tallies[0].vms) for each in tallies):
        raise ValueError("only tallies of one network and interval can be merged; give at least one")
    vms, interval_ns = tallies[0].vms, tallies[0].interval_ns
    start_ns: Ints = np.unique(np.concatenate([each.start_ns for each in tallies]))
    counts: Ints = np.zeros((len(start_ns), vms, len(COUNTERS)), np.int64)
    missed: Ints = np.zeros(len(start_ns), np.int64)
    cells: list[list[Ints]] = [[] for _ in range(KINDS)]
    for each in tallies:
        rows = np.searchsorted(start_ns, each.start_ns)
        counts[rows] += each.counts
        missed[rows] += each.missed
        for kind, noted in enumerate(each.notes):
            cells[kind].append(rows[noted.cells // vms] * vms + noted.cells % vms)
    notes = tuple(
        Notes(np.concatenate(cells[kind]), np.concatenate([each.notes[kind].values for each in tallies]))
        for kind in range(KINDS)
    )
    return Tally(interval_ns, start_ns, counts, missed, notes)


def merge_accounts(accounts: Sequence[Accounts]) -> Accounts:
    """The accounts of meters that shared the same traffic as those of one: what was elsewhere for one counts at another.

    What else they tell is the first one's: there is one tap. Raises ValueError for none.
    """
    if not accounts:
        raise ValueError("only accounts that are there can be merged; give at least one")
    elsewhere = Outcome.ELSEWHERE.name.lower()
    outcomes = {name: sum(each.outcomes[name] for each in accounts) for name in accounts[0].outcomes if name != elsewhere}
    told = {name: sum(getattr(each, name) for each in accounts) for name in _SUMMED}
    return replace(accounts[0], offered=sum(outcomes.values()), outcomes={**outcomes, elsewhere: 0}, **told)
