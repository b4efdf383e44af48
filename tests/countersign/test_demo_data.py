"""The demo's rows are as the console itself would have left them."""

from __future__ import annotations

from datetime import UTC, datetime

from authz.dual_control import Requirement
from countersign import demo_data
from services.messages.rules import VARIABLES


def test_every_approval_of_the_history_can_be_judged() -> None:
    """Its seats are read by whoever lists requests: ``eligible`` is computed from them."""
    requests = demo_data.build(datetime(2026, 11, 24, tzinfo=UTC)).rows["approval_request"]
    assert requests
    for row in requests:
        requirement = Requirement.from_json(row["seats"])
        assert (requirement.key, requirement.approvals) == ("refund.request", row["approvals_needed"])
        assert requirement.seats_for("FINANCE", "AGENT") == 1


def test_the_dead_letter_is_one_that_the_console_could_have_left() -> None:
    rows = demo_data.build(datetime(2026, 11, 24, tzinfo=UTC)).rows
    (delivery,) = rows["outbox"]
    (note,) = rows["note"]
    (case,) = (one for one in rows["case_file"] if one["id"] == note["case_id"])
    templates = {(one["name"], one["locale"], one["version"]): one for one in rows["template"]}
    sent = delivery["arguments"]
    chosen = templates[sent["template"], sent["locale"], sent["version"]]
    assert (delivery["key"], delivery["target_id"], delivery["lane"]) == (note["id"], note["id"], case["id"])
    assert (delivery["city_id"], sent["recipient"]) == (case["city_id"], case["subject_id"])
    assert set(chosen["variables"]) == set(sent["variables"])
    assert "{{" not in note["body"]
    assert all(set(one["variables"]) <= VARIABLES.keys() for one in rows["template"])
