"""Plans in the state store: kept before they are carried out, with what came of each of their steps. Carries out nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from adumbra.schema.errors import ConflictError
from adumbra.schema.state import NetworkState, PlanRecord, PlanState, StepRecord
from adumbra.store import queries, rows, tables
from adumbra.store.database import Database, names_subject
from adumbra.store.names import storable
from adumbra.store.statements import DELETED, find, move, note, numbered, of_networks

KEPT_PLANS, KEPT_ATTEMPTS = 100, 20
"""How many plans are kept of each network, and attempts of each step; older ones are removed as new ones come."""
_OPEN = (PlanState.EXECUTING.value, PlanState.AWAITING.value)


class PlanStore:
    """Plans of networks. Times are ns since the epoch; every method raises StoreError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, network: str, plan_json: Mapping[str, Any], now_ns: int, why: str) -> PlanRecord:
        """Keeps a plan that waits for somebody to approve it, and says why. One that waited before it is rejected: it takes
        its place."""
        with self._database.writing(f"save a plan of {network}") as connection:
            owner, table = find(connection, network), tables.plans
            waiting = sa.select(table.c.id).where(table.c.network_id == owner.id, table.c.state == PlanState.AWAITING.value)
            for (other,) in connection.execute(waiting).all():
                _reject(connection, _find(connection, other), now_ns, None, "Another plan took its place.")
            number = _keep(connection, owner.id, PlanState.AWAITING, plan_json, now_ns)
            note(connection, now_ns, network, "plan.awaiting", f"Plan {number} waits for approval: {why}.", id=number)
            names_subject(f"plan/{number}")
            return _plan(connection, _find(connection, number))

    def approve(self, number: int, by: str, now_ns: int, reason: str) -> PlanRecord:
        """Notes who approved a plan, which is carried out from now on, and that its network is activating for that reason.

        Raises NotFoundError, and ConflictError for one that doesn't wait.
        """
        with self._database.writing(f"approve the plan {number}") as connection:
            found, table = _waiting(connection, number), tables.plans
            new = {"state": PlanState.EXECUTING.value, "decided_by": storable(by)[:63], "decided_ns": now_ns}
            connection.execute(sa.update(table).where(table.c.id == number).values(**new))
            note(connection, now_ns, found.network, "plan.approved", f"{by} approved plan {number}.", id=number, by=by)
            move(connection, find(connection, found.network), NetworkState.ACTIVATING, now_ns, reason)
            return _plan(connection, _find(connection, number))

    def reject(self, number: int, by: str | None, now_ns: int, why: str = "") -> PlanRecord:
        """Notes that a plan won't be carried out. by: who said so, None: nobody. Raises as `approve` does."""
        with self._database.writing(f"reject the plan {number}") as connection:
            _reject(connection, _waiting(connection, number), now_ns, by, why)
            names_subject(f"plan/{number}")
            return _plan(connection, _find(connection, number))

    def begin(self, network: str, plan_json: Mapping[str, Any], now_ns: int, reason: str = "") -> PlanRecord:
        """Keeps a plan that is about to be carried out. reason: for which the network is activating with it; "": it isn't."""
        with self._database.writing(f"save a plan of {network}") as connection:
            owner = find(connection, network)
            number = _keep(connection, owner.id, PlanState.EXECUTING, plan_json, now_ns)
            note(connection, now_ns, network, "plan.begun", f"Began to carry out plan {number}.", id=number)
            if reason:
                move(connection, owner, NetworkState.ACTIVATING, now_ns, reason)
            return _plan(connection, _find(connection, number))

    def record_step(self, number: int, index: int, outcome_json: Mapping[str, Any], now_ns: int) -> None:
        """Adds what came of an attempt at a step. Raises NotFoundError where the plan isn't there (any more)."""
        with self._database.writing(f"record step {index} of plan {number}") as connection:
            _find(connection, number)
            rows.insert(
                connection, tables.plan_steps, plan_id=number, step_index=index, outcome=rows.plain(outcome_json),
                recorded_ns=now_ns,
            )  # fmt: skip
            rows.keep_newest(connection, tables.plan_steps, KEPT_ATTEMPTS, plan_id=number, step_index=index)

    def finish(
        self, number: int, state: PlanState, now_ns: int, moved: tuple[NetworkState, str] | None = None,
        undoes: int | None = None,
    ) -> PlanRecord:  # fmt: skip
        """Notes how a plan ended, or that it was undone later. moved: the state that its network comes to by that, and the
        reason; undoes: the plan that is undone by it. Raises NotFoundError where it isn't there (any more).
        """
        with self._database.writing(f"finish the plan {number}") as connection:
            network = _find(connection, number).network
            table, to = tables.plans, PlanState(state).value
            connection.execute(sa.update(table).where(table.c.id == number).values(state=to, finished_ns=now_ns))
            note(connection, now_ns, network, f"plan.{to}", f"Plan {number} is {to}.", id=number)
            if undoes is not None:
                connection.execute(sa.update(table).where(table.c.id == undoes).values(state=PlanState.UNDONE.value))
                note(connection, now_ns, network, "plan.undone", f"Plan {undoes} is undone by plan {number}.", id=undoes)
            if moved is not None:
                move(connection, find(connection, network), moved[0], now_ns, moved[1])
            return _plan(connection, _find(connection, number))

    def get(self, number: int) -> PlanRecord:
        """The plan of that number. Raises NotFoundError."""
        with self._database.reading(f"read the plan {number}") as connection:
            return _plan(connection, _find(connection, number))

    def newest(self, network: str, states: Collection[PlanState] = ()) -> PlanRecord | None:
        """The network's newest plan, of those in some states (none: any), with the outcomes of its steps; None for none."""
        with self._database.reading(f"look for a plan of {network}") as connection:
            table = tables.plans
            chosen = of_networks(table).where(table.c.network_id == find(connection, network).id)
            if states:
                chosen = chosen.where(table.c.state.in_([state.value for state in states]))
            row = connection.execute(chosen.order_by(table.c.id.desc()).limit(1)).one_or_none()
            return None if row is None else _plan(connection, row)

    def of(self, network: str, limit: int = 100, before_id: int | None = None) -> tuple[PlanRecord, ...]:
        """The network's plans that are kept, newest first; `before_id` pages on. Raises InputError for no limit."""
        with self._database.reading(f"list the plans of {network}") as connection:
            table = tables.plans
            chosen = of_networks(table).where(table.c.network_id == find(connection, network).id)
            found = connection.execute(queries.page(chosen, table, limit, before_id)).all()
            return tuple(_plan(connection, row) for row in found)

    def open(self) -> tuple[PlanRecord, ...]:
        """The plans of all networks noted as executing, oldest first."""
        with self._database.reading("look for unfinished plans") as connection:
            table = tables.plans
            executing = of_networks(table).where(table.c.state == PlanState.EXECUTING.value).order_by(table.c.id)
            return tuple(_plan(connection, row) for row in connection.execute(executing).all())


def _keep(connection: sa.Connection, network_id: int, state: PlanState, plan_json: Mapping[str, Any], now_ns: int) -> int:
    """Adds a plan, and removes old ones that are over."""
    number = rows.insert(
        connection, tables.plans, network_id=network_id, state=state.value, plan=rows.plain(plan_json), created_ns=now_ns
    )
    rows.keep_newest(connection, tables.plans, KEPT_PLANS, _OPEN, network_id=network_id)
    return number


def _waiting(connection: sa.Connection, number: int) -> sa.Row[Any]:
    found = _find(connection, number)
    if found.state != PlanState.AWAITING.value:
        raise ConflictError(
            f"plan {number} of {found.network} is {found.state}, and waits for nobody", "plan again, to ask anew"
        )
    return found


def _reject(connection: sa.Connection, found: sa.Row[Any], now_ns: int, by: str | None, why: str) -> None:
    new: dict[str, object] = {"state": PlanState.REJECTED.value, "finished_ns": now_ns, "decided_ns": now_ns}
    new["decided_by"] = None if by is None else storable(by)[:63]
    connection.execute(sa.update(tables.plans).where(tables.plans.c.id == found.id).values(**new))
    said = f"{by} rejected plan {found.id}." if by else f"Plan {found.id} is rejected."
    note(connection, now_ns, found.network, "plan.rejected", f"{said} {why}".strip(), id=found.id, by=by)


def _find(connection: sa.Connection, number: int) -> sa.Row[Any]:
    return numbered(connection, tables.plans, number, "plan", DELETED)


def _plan(connection: sa.Connection, row: sa.Row[Any]) -> PlanRecord:
    table = tables.plan_steps
    steps = connection.execute(sa.select(table).where(table.c.plan_id == row.id).order_by(table.c.id))
    outcomes = tuple(StepRecord(step.step_index, step.outcome, step.recorded_ns) for step in steps)
    return PlanRecord(
        row.id, row.network, PlanState(row.state), row.plan, outcomes, row.created_ns, row.finished_ns, row.decided_by,
        row.decided_ns,
    )  # fmt: skip
