"""Plans in the state store: kept before they are carried out, with what came of each of their steps. Carries out nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from adumbra.schema.state import NetworkState, PlanRecord, PlanState, StepRecord
from adumbra.store import queries, rows, tables
from adumbra.store.database import Database
from adumbra.store.statements import DELETED, find, move, note, numbered, of_networks

KEPT_PLANS, KEPT_ATTEMPTS = 100, 20
"""How many plans are kept of each network, and attempts of each step; older ones are removed as new ones come."""


class PlanStore:
    """Plans of networks. Times are ns since the epoch; every method raises StoreError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, network: str, plan_json: Mapping[str, Any], now_ns: int, reason: str = "") -> PlanRecord:
        """Keeps a plan that is about to be carried out. reason: for which the network is activating with it; "": it isn't."""
        with self._database.writing(f"save a plan of {network}") as connection:
            owner, table = find(connection, network), tables.plans
            state = PlanState.EXECUTING.value
            number = rows.insert(
                connection, table, network_id=owner.id, state=state, plan=rows.plain(plan_json), created_ns=now_ns
            )
            rows.keep_newest(connection, table, KEPT_PLANS, (state,), network_id=owner.id)
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

    def finish(self, number: int, state: PlanState, now_ns: int, moved: tuple[NetworkState, str] | None = None) -> PlanRecord:
        """Notes how a plan ended, or that it was undone later. moved: the state that its network comes to by that, and the
        reason. Raises NotFoundError where it isn't there (any more).
        """
        with self._database.writing(f"finish the plan {number}") as connection:
            network = _find(connection, number).network
            table, to = tables.plans, PlanState(state).value
            connection.execute(sa.update(table).where(table.c.id == number).values(state=to, finished_ns=now_ns))
            note(connection, now_ns, network, f"plan.{to}", f"Plan {number} is {to}.", id=number)
            if moved is not None:
                move(connection, find(connection, network), moved[0], now_ns, moved[1])
            return _plan(connection, _find(connection, number))

    def newest(self, network: str) -> PlanRecord | None:
        """The network's newest plan with the outcomes of its steps; None where there is none."""
        found = self.of(network, 1)
        return found[0] if found else None

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


def _find(connection: sa.Connection, number: int) -> sa.Row[Any]:
    return numbered(connection, tables.plans, number, "plan", DELETED)


def _plan(connection: sa.Connection, row: sa.Row[Any]) -> PlanRecord:
    table = tables.plan_steps
    steps = connection.execute(sa.select(table).where(table.c.plan_id == row.id).order_by(table.c.id))
    outcomes = tuple(StepRecord(step.step_index, step.outcome, step.recorded_ns) for step in steps)
    return PlanRecord(row.id, row.network, PlanState(row.state), row.plan, outcomes, row.created_ns, row.finished_ns)
