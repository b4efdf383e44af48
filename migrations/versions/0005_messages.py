"""Templates of messages, what a city speaks, the embedded Help Center, and lanes in the outbox.

Lock: ACCESS EXCLUSIVE on ``note`` and ``outbox`` for the moment their columns are added (no row is rewritten), then SHARE
on ``outbox`` while the two small indexes over what is still open are built. Down drops templates, messages and the columns.
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0005_messages.sql")


def downgrade() -> None:
    run_script("0005_down.sql")
