"""The console's tables, guards, rights and row-level security.

Lock: none that anyone could wait for; everything is new. Down drops the tables with their data.
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0001_console.sql")
    run_script("0001_access.sql")


def downgrade() -> None:
    run_script("0001_down.sql")
