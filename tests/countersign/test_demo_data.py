"""The demo's rows are as the console itself would have left them."""

from __future__ import annotations

from datetime import UTC, datetime

from authz.dual_control import Requirement
from countersign import demo_data


def test_every_approval_of_the_history_can_be_judged() -> None:
    """Its seats are read by whoever lists requests: ``eligible`` is computed from them."""
    requests = demo_data.build(datetime(2026, 11, 24, tzinfo=UTC)).rows["approval_request"]
    assert requests
    for row in requests:
        requirement = Requirement.from_json(row["seats"])
        assert (requirement.key, requirement.approvals) == ("refund.request", row["approvals_needed"])
        assert requirement.seats_for("FINANCE", "AGENT") == 1
