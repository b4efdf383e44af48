"""Alembic's entry: runs the revisions on the connection that ``db.migrate`` hands over, each in a transaction of its own."""

from __future__ import annotations

from alembic import context

from db.migrate import LOCK_TIMEOUT, STATEMENT_TIMEOUT
from db.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=True,
    compare_type=True,
    compare_server_default=True,
)
# A migration that waits for a lock blocks everyone behind it: it gives up quickly instead, and is run again.
connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
connection.exec_driver_sql(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'")
connection.commit()
with context.begin_transaction():
    context.run_migrations()
