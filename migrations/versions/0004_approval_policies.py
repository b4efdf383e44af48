"""Approval policies as data; ``authz.approval_book.sync`` fills them after the migration.

Lock: SHARE ROW EXCLUSIVE on ``staff`` and ``approval_execution`` for the moment the references to them are made. Down
drops the policies with what was changed at run time.
"""

from __future__ import annotations

from db.migrate import run_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0004_approval_policies.sql")


def downgrade() -> None:
    run_script("0004_down.sql")
