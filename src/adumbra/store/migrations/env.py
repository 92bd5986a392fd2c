"""Run by Alembic when the state store's tables are behind. Uses the connection that it is given, in its transaction."""

from __future__ import annotations

from alembic import context

from adumbra.store.tables import METADATA

# SQLite can roll back the making of tables where, as here, the transaction was begun by hand.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=True, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
