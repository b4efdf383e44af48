"""Approval requests keep the steps that need approval by themselves, and nothing they are judged by ever changes.

Lock: ACCESS EXCLUSIVE on ``approval_request`` for a moment (the columns' defaults are constant, so no row is rewritten), then
SHARE on it and on ``decision`` while the small indexes over what the timers wait for are built.
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0003_gates.sql")


def downgrade() -> None:
    run_script("0003_down.sql")
