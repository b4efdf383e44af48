"""The audit log: its schema, append function, guards, rights, and the net under every domain table.

Lock: SHARE ROW EXCLUSIVE on each domain table for the moment its trigger is made. Down drops the log with its records.
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0002_audit.sql")


def downgrade() -> None:
    run_script("0002_down.sql")
