"""Rates that processes share, and the figures of who decides whose requests.

Lock: SHARE on ``approval_request`` and ``alert`` while their indexes are built (reads go on, writes wait; a second per
million requests).
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0007_counters.sql")


def downgrade() -> None:
    run_script("0007_down.sql")
