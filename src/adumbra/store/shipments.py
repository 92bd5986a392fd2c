"""Which tap has told of which time of a network, and where two told of the same, in the state store. Keeps no metric.

A batch is claimed before its metrics are written and settled after: while a claim isn't settled, no other tap's batch of its
time is taken, so that of two taps one is always the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from adumbra.schema.errors import StoreBusyError
from adumbra.store import rows, tables
from adumbra.store.database import Database
from adumbra.store.names import storable
from adumbra.store.statements import find, note

if TYPE_CHECKING:
    from adumbra.store.ranges import Span  # which loads NumPy

KEPT_SHIPMENTS, KEPT_OVERLAPS = 2_000, 100
"""Stretches of time, and pairs of taps, of one network. Beyond them the oldest are forgotten."""
_NANOSECONDS = 1_000_000_000
CLAIM_S = 20.0
"""After so long a claim that wasn't settled is one of a server that died."""
NEWS_S = 600.0
"""An overlap is news when it begins, and once it was over for so long."""


@dataclass(frozen=True, slots=True)
class Held:
    """A stretch of a network's time that a tap told of. settled: whether its metrics are known to be stored."""

    instance: str
    span: Span
    settled: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """Time that a tap is about to store. ids: of its rows; held: what all taps had told of that time before, oldest first;
    beside: whether another tap told of what is right before that time."""

    ids: tuple[int, ...]
    held: tuple[Held, ...]
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two taps that told of the same intervals of the same VMs, with traffic in both. rows: how many of the later one's were
    left out. about: that in words.
    """

    first: str
    later: str
    rows: int
    about: str
    since_ns: int
    seen_ns: int


class ShipmentStore:
    """What taps told of. Times are ns since the epoch; every method raises StoreError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, network: str, instance: str, spans: Sequence[Span], now_ns: int) -> Claim:
        """Claims time for a tap. Raises StoreBusyError where another tap's batch of it is being stored at this moment."""
        table = tables.shipments
        begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
        with self._database.writing(f"claim time of {network}") as connection:
            owner = find(connection, network)
            near = sa.select(table).where(table.c.network_id == owner.id, table.c.end_ns >= begin, table.c.start_ns < end)
            touching = list(connection.execute(near.order_by(table.c.id)))
            beside = any(row.instance != instance and row.start_ns < begin for row in touching)
            found = [row for row in touching if row.end_ns > begin]
            patience_ns = round(CLAIM_S * _NANOSECONDS)  # either way: the clock may have gone back
            if any(not row.settled and row.instance != instance and abs(now_ns - row.told_ns) < patience_ns for row in found):
                raise StoreBusyError(f"another tap's metrics of {network} are being stored", "send it again in a moment")
            ids = tuple(
                rows.insert(
                    connection, table, network_id=owner.id, instance=instance, start_ns=span[0], end_ns=span[1],
                    settled=False, told_ns=now_ns,
                )
                for span in spans
            )  # fmt: skip
            held = tuple(Held(row.instance, (row.start_ns, row.end_ns), row.settled) for row in found)
            return Claim(ids, held, beside)

    def settle(self, network: str, instance: str, claim: Claim, now_ns: int) -> None:
        """Notes that the claimed time is stored: with what the tap told of right before it, where there is such."""
        table = tables.shipments
        with self._database.writing(f"settle time of {network}") as connection:
            owner = find(connection, network)
            own = (table.c.network_id == owner.id) & (table.c.instance == instance)
            for number in claim.ids:
                row = connection.execute(sa.select(table).where(table.c.id == number)).one_or_none()
                if row is None:
                    continue
                # One that was begun by a server that died, of just this time, is settled with it.
                inside = own & (table.c.start_ns >= row.start_ns) & (table.c.end_ns <= row.end_ns) & (table.c.id != number)
                connection.execute(sa.delete(table).where(inside))
                before = own & table.c.settled & (table.c.start_ns <= row.start_ns) & (table.c.end_ns >= row.start_ns)
                grown = connection.execute(sa.select(table).where(before).order_by(table.c.id).limit(1)).one_or_none()
                if grown is None:
                    connection.execute(sa.update(table).where(table.c.id == number).values(settled=True, told_ns=now_ns))
                else:
                    reach = {"end_ns": max(grown.end_ns, row.end_ns), "told_ns": now_ns}
                    connection.execute(sa.update(table).where(table.c.id == grown.id).values(**reach))
                    connection.execute(sa.delete(table).where(table.c.id == number))
            if claim.ids[-1] % 100 == 0:  # now and then is enough for a bound
                rows.keep_newest(connection, table, KEPT_SHIPMENTS, network_id=owner.id)

    def note_overlap(self, network: str, found: Overlap) -> bool:
        """Counts rows that a later tap told of after the first one. Gives whether that is news, which an event then tells."""
        table, first, later, now_ns = tables.tap_overlaps, found.first, found.later, found.seen_ns
        with self._database.writing(f"note an overlap of {network}") as connection:
            owner = find(connection, network)
            pair = (table.c.network_id == owner.id) & (table.c.first == first) & (table.c.later == later)
            known = connection.execute(sa.select(table).where(pair)).one_or_none()
            if known is None:
                rows.insert(
                    connection, table, network_id=owner.id, first=first, later=later, rows=found.rows,
                    about=storable(found.about), since_ns=now_ns, seen_ns=now_ns,
                )  # fmt: skip
                rows.keep_newest(connection, table, KEPT_OVERLAPS, network_id=owner.id)
            else:
                new = {"rows": known.rows + found.rows, "about": storable(found.about), "seen_ns": now_ns}
                connection.execute(sa.update(table).where(table.c.id == known.id).values(**new))
            news = known is None or now_ns - known.seen_ns >= NEWS_S * _NANOSECONDS
            if news:
                note(connection, now_ns, network, "source.duplicate", found.about, first=first, later=later, rows=found.rows)
            return news

    def overlaps(self, network: str) -> tuple[Overlap, ...]:
        """The pairs of taps that told of the same, newest first."""
        table = tables.tap_overlaps
        with self._database.reading(f"list the overlaps of {network}") as connection:
            query = sa.select(table).where(table.c.network_id == find(connection, network).id).order_by(table.c.id.desc())
            return tuple(
                Overlap(row.first, row.later, row.rows, row.about, row.since_ns, row.seen_ns)
                for row in connection.execute(query)
            )

    def forget(self, network: str) -> None:
        """Forgets who told of what: the metrics are gone."""
        with self._database.writing(f"forget what taps told of {network}") as connection:
            owner = find(connection, network)
            for table in (tables.shipments, tables.tap_overlaps):
                connection.execute(sa.delete(table).where(table.c.network_id == owner.id))
