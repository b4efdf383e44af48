"""Row-level security asks for the caller's cities once per statement, and the planner no longer takes them for none.

Lock: ACCESS EXCLUSIVE on each table under row-level security, one after the other, for a change of the catalogue (milliseconds).
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0009_city_context.sql", apart=True)


def downgrade() -> None:
    run_script("0009_down.sql", apart=True)
