"""Macros in versions, and their runs.

Lock: SHARE on ``case_file`` while its index over (id, city_id) is built (a second per million cases; reads go on, writes
wait), then ACCESS EXCLUSIVE for the moment it becomes a constraint; SHARE ROW EXCLUSIVE on ``staff`` and ``case_file``
for the moment the references to them are made. Down drops macros and runs with their data.
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0006_macros.sql")


def downgrade() -> None:
    run_script("0006_down.sql")
