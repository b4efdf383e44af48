"""Notes and timelines are only added to: nobody needs the right to change them.

Lock: none beyond the catalogue's; REVOKE waits for no row.
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0008_rights.sql")


def downgrade() -> None:
    run_script("0008_down.sql")
