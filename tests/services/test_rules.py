"""Rules of cases and refunds: what their state tables add up to, and the pure sums and refusals beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from schema.cases import CaseState
from schema.directives import Code
from schema.errors import ConsoleError
from schema.money import RefundState
from services.cases import rules as cases
from services.money import rules as money

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def names(of: type[Code]) -> tuple[str, ...]:
    return tuple(member.value for member in of)


CASE_STATES, REFUND_STATES = names(CaseState), names(RefundState)


def test_terminal_states_have_no_way_out_and_the_others_have_one() -> None:
    leaving = {state for state, _ in money.REFUND}
    assert leaving == money.RESERVING
    assert money.TERMINAL == {"SUCCEEDED", "FAILED", "REJECTED", "CANCELED", "EXPIRED"}
    assert leaving | money.TERMINAL == set(REFUND_STATES)
    assert {s for s, _ in cases.CASE} == set(CASE_STATES) - {"CLOSED"}


@pytest.mark.contract("PT-2")
@pytest.mark.parametrize(("state", "answer"), list(product(REFUND_STATES, money.ANSWERS)))
def test_a_kernel_answer_moves_no_terminal_state_and_nothing_twice(state: str, answer: str) -> None:
    moved = money.answered(state, answer)
    if state in money.TERMINAL:
        assert moved is None
    elif moved is not None:
        assert money.answered(moved, answer) is None


@pytest.mark.parametrize(("before", "after"), list(product((None, *REFUND_STATES), REFUND_STATES)))
def test_sums_follow_the_state(before: str | None, after: str) -> None:
    reserved, succeeded = money.ledger_change(before, after, 100)
    held_before, holds_after = before in money.RESERVING, after in money.RESERVING
    assert reserved == 100 * (holds_after - held_before)
    assert succeeded == (100 if after == "SUCCEEDED" else 0)


LEDGER = {
    "captured_minor": 1_000,
    "succeeded_minor": 200,
    "reserved_minor": 300,
    "disputed_minor": 0,
    "charge_refundable": True,
    "currency": "EUR",
}


def test_refundable_is_what_nothing_else_holds() -> None:
    assert money.refundable_minor(LEDGER) == 500
    money.check_refundable(500, LEDGER)
    money.check_refundable(800, LEDGER, reserved_already=300)
    with pytest.raises(ConsoleError) as caught:
        money.check_refundable(501, LEDGER)
    assert (caught.value.code, caught.value.info) == ("REFUND_EXCEEDS_REFUNDABLE", {"refundableMinor": 500})


def case(**row: Any) -> dict[str, Any]:
    lease = {"assignee_id": "me", "lease_token": "t", "lease_expires_at": NOW + HOUR}
    return {"state": "CLAIMED", "last_claimed_at": NOW, **lease, **row}


@pytest.mark.parametrize(
    ("row", "token", "code"),
    [
        (case(), "t", None),
        (case(), "other", "LEASE_LOST"),
        (case(), None, "LEASE_REQUIRED"),
        (case(lease_expires_at=NOW), "t", "LEASE_LOST"),
        (case(assignee_id="you"), "t", "LEASE_LOST"),
        (case(assignee_id="you"), None, "CASE_CLAIMED"),
        (case(state="OPEN"), "t", "LEASE_LOST"),
        (case(state="OPEN", last_claimed_at=None), "t", "LEASE_REQUIRED"),
        (case(state="OPEN"), None, "LEASE_REQUIRED"),
        (case(state="ESCALATED"), None, "LEASE_REQUIRED"),
        (case(state="RESOLVED"), "t", None),
    ],
)
def test_a_lease_is_asked_by_holder_token_and_clock(row: dict[str, Any], token: str | None, code: str | None) -> None:
    if code is None:
        cases.check_lease(row, "me", token, NOW)
        return
    with pytest.raises(ConsoleError) as caught:
        cases.check_lease(row, "me", token, NOW)
    assert caught.value.code == code


def test_a_lease_lasts_fifteen_minutes_and_never_beyond_eight_hours() -> None:
    assert cases.lease_until(NOW, NOW) == NOW + timedelta(minutes=15)
    started = NOW - timedelta(hours=7, minutes=50)
    assert cases.lease_until(NOW, started) == NOW + timedelta(minutes=10)


def reported(category: str, who: str | None, accuracy: float | None = 1.0, *, muted: bool = False) -> dict[str, Any]:
    row = {"category": category, "reporter_id": who, "reporter_accuracy": accuracy, "reporter_muted": muted}
    return {"id": f"{category}{who}{accuracy}", **row}


@pytest.mark.parametrize(
    ("reports", "protected", "expected"),
    [
        ([], False, 0),
        ([reported("SPAM", "a")], False, 100 + 10),
        ([reported("SPAM", "a"), reported("SPAM", "a", 0.5)], False, 100 + 10),
        ([reported("SPAM", "a"), reported("HATE", "b"), reported("SPAM", "c")], False, 300 + 20),
        ([reported("HATE", "a", muted=True), reported("SPAM", "b")], False, 100 + 10),
        ([reported("SPAM", "a")], True, 100 + 10 + 50),
        ([reported("UNDERAGE_RISK", None, None)], False, 400 + 6),
    ],
)
def test_priority_is_severity_and_distinct_reporters(
    reports: list[dict[str, Any]], protected: bool, expected: int
) -> None:
    assert cases.priority(reports, protected=protected) == expected


@dataclass(frozen=True)
class Statement:
    ground: str | None = "ILLEGAL_CONTENT"
    ground_reference: str = "Rules 4"
    facts: str = "Seen."
    explanation: str = "Because."
    category: str = "FRAUD"
    content_type: tuple[str, ...] = ("TEXT",)


def decide(kind: str = "REMOVE_CONTENT", **row: Any) -> None:
    given = {"severity": 2, "duration_hours": None, "label": None, "statement": Statement(), **row}
    cases.check_decision(kind, **given)


def test_a_restricting_decision_names_every_field_its_statement_lacks() -> None:
    with pytest.raises(ConsoleError) as caught:
        decide(statement=replace(Statement(), facts=" ", content_type=()))
    assert (caught.value.code, caught.value.info) == ("STATEMENT_INCOMPLETE", {"fields": ["facts", "contentType"]})
    for kind in cases.KINDS & cases.RESTRICTIONS.keys():
        with pytest.raises(ConsoleError) as caught:
            decide(kind, statement=None, label="adult" if kind == "LABEL" else None)
        assert caught.value.info["fields"] == [
            "ground", "groundReference", "facts", "explanation", "category", "contentType",
        ]  # fmt: skip
    decide("WARN", statement=None)


@pytest.mark.parametrize(
    ("kind", "row", "field"),
    [
        ("SUSPEND", {}, "kind"),
        ("RESTORE", {}, "kind"),
        ("WARN", {"severity": 5}, "severity"),
        ("WARN", {"severity": -1}, "severity"),
        ("NO_ACTION", {"severity": 1}, "severity"),
        ("BAN", {"duration_hours": 24}, "durationHours"),
        ("LABEL", {"label": "adult", "duration_hours": 0}, "durationHours"),
        ("LABEL", {}, "label"),
        ("WARN", {"label": "adult"}, "label"),
        ("LABEL", {"label": "x" * 65}, "label"),
    ],
)
def test_parts_that_do_not_fit_the_kind_are_refused(kind: str, row: dict[str, Any], field: str) -> None:
    with pytest.raises(ConsoleError) as caught:
        decide(kind, **row)
    assert (caught.value.code, caught.value.info["field"]) == ("BAD_REQUEST", field)


def test_strikes_by_severity_and_none_for_no_action() -> None:
    assert [cases.strikes("WARN", severity) for severity in range(5)] == [0, 1, 2, 4, 0]
    assert cases.strikes("NO_ACTION", 0) == 0


def struck(severity: int, days_ago: float, state: str = "EFFECTIVE") -> dict[str, Any]:
    at = NOW - timedelta(days=days_ago)
    return {"severity": severity, "strikes": cases.STRIKES[severity], "state": state, "effective_at": at}


def test_strikes_expire_by_severity_and_outlive_being_superseded() -> None:
    assert cases.active_strikes([struck(1, 89), struck(1, 90)], NOW) == 1
    assert cases.active_strikes([struck(2, 179), struck(3, 364, "SUPERSEDED")], NOW) == 6
    assert cases.active_strikes([struck(3, 1, "REVERSED"), struck(3, 1, "PROPOSED")], NOW) == 0


def test_a_ban_is_proposed_by_severity_or_strikes_never_made() -> None:
    assert cases.proposes_ban("REMOVE_CONTENT", 4, 0)
    assert cases.proposes_ban("WARN", 1, 8)
    assert not cases.proposes_ban("WARN", 1, 7)
    assert not cases.proposes_ban("BAN", 4, 99)


@pytest.mark.parametrize(
    ("current", "kinds", "state"),
    [
        ("ACTIVE", [], "ACTIVE"),
        ("BANNED", ["WARN"], "ACTIVE"),
        ("ACTIVE", ["RESTRICT"], "RESTRICTED"),
        ("ACTIVE", ["SUSPEND", "RESTRICT"], "SUSPENDED"),
        ("ACTIVE", ["SUSPEND", "BAN"], "BANNED"),
        ("DELETED", ["BAN"], "DELETED"),
    ],
)
def test_a_subjects_state_is_derived(current: str, kinds: list[str], state: str) -> None:
    assert cases.subject_state(current, kinds) == state
