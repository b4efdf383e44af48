"""Reason codes: the lists of the console domain, and what a reason must bring."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from authz.reasons import ALL_CODES, LISTS, check, codes
from schema.errors import ConsoleError


@dataclass(frozen=True)
class Given:
    code: str
    note: str | None = None
    ticket_ref: str | None = None


NEEDS_A_NOTE = {
    "DECIDE": {"NON_CONSENSUAL_IMAGERY", "UNDERAGE_RISK", "OTHER"},
    "REVERSE": {"NEW_EVIDENCE", "COURT_OR_AUTHORITY", "PROCEDURAL_ERROR"},
    "SUSPEND": {"SEVERE_VIOLATION", "SAFETY_EMERGENCY", "LEGAL_ORDER"},
    "VERIFICATION": {"SANCTIONS_HIT", "MANUAL_EVIDENCE"},
    "REFUND": {"GOODWILL", "LEGAL"},
    "DISPUTE": {"MISSED_DEADLINE"},
    "REVEAL": {"LEGAL_REQUEST", "SAFETY_EMERGENCY"},
    "RATE": {"CLASSIFIER_WRONG"},
    "FLAG_CITY": {"INCIDENT", "REGULATORY"},
    "ROUTING": set(),
    "STAFF_POLICY": {"SECURITY_INCIDENT", "REGULATOR_REQUEST"},
}


def test_the_lists_and_their_notes_are_those_of_the_console_domain() -> None:
    assert {name: {one.code for one in found if one.note_required} for name, found in LISTS.items()} == NEEDS_A_NOTE
    assert {name: len(found) for name, found in LISTS.items()} == {
        "DECIDE": 17,
        "REVERSE": 9,
        "SUSPEND": 7,
        "VERIFICATION": 10,
        "REFUND": 10,
        "DISPUTE": 4,
        "REVEAL": 6,
        "RATE": 5,
        "FLAG_CITY": 7,
        "ROUTING": 8,
        "STAFF_POLICY": 8,
    }
    assert all(one.label and one.list_name == name for name, found in LISTS.items() for one in found)
    assert "GOODWILL" in ALL_CODES
    assert len({one.code for one in codes("REFUND")}) == 10


def refused(list_name: str, reason: Given | None) -> tuple[str, object]:
    with pytest.raises(ConsoleError) as caught:
        check(list_name, reason)
    return caught.value.code, caught.value.info.get("field")


def test_a_reason_of_the_list_passes() -> None:
    check("REFUND", Given("DUPLICATE"))
    check("REFUND", Given("DUPLICATE", "ok", "T-1"))
    check("REFUND", Given("GOODWILL", "ten chars!"))


def test_a_missing_reason_and_one_of_another_list_are_told_apart() -> None:
    assert refused("REFUND", None) == ("REASON_REQUIRED", "reason")
    assert refused("REFUND", Given("")) == ("REASON_REQUIRED", "reason")
    assert refused("REFUND", Given("SPAM")) == ("REASON_INVALID", "reason.code")


@pytest.mark.parametrize("note", [None, "", "too short", "   padded   "])
def test_a_code_that_needs_a_note_refuses_a_missing_or_short_one(note: str | None) -> None:
    assert refused("REFUND", Given("GOODWILL", note)) == ("BAD_REQUEST", "reason.note")


def test_notes_and_tickets_are_bounded() -> None:
    check("REFUND", Given("GOODWILL", "x" * 2000, "t" * 200))
    assert refused("REFUND", Given("DUPLICATE", "x" * 2001)) == ("BAD_REQUEST", "reason.note")
    assert refused("REFUND", Given("DUPLICATE", None, "t" * 201)) == ("BAD_REQUEST", "reason.ticketRef")


@pytest.mark.parametrize("ticket", ["HELP-42", "#42", "https://tickets.example/browse/HELP-42?focus=1"])
def test_a_ticket_is_a_reference(ticket: str) -> None:
    check("REFUND", Given("DUPLICATE", None, ticket))


@pytest.mark.parametrize("ticket", ["ana@example.com", "Ana called twice", "T-1\n", "Aná"])
def test_a_ticket_stands_in_the_log_in_clear_and_is_no_free_text(ticket: str) -> None:
    assert refused("REFUND", Given("DUPLICATE", None, ticket)) == ("BAD_REQUEST", "reason.ticketRef")
