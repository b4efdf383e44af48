"""What ``policy explain`` says: never something else than what an attempt would meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.caller import Grant
from authz.explain import Explanation, explain
from authz.rows import live
from authz.scope import ROLES, TIERS
from schema.directives import FieldRules
from tests.authz.people import LISBON, grant, snapshot

BOARD = snapshot(version=7)
REFUND = FieldRules("Mutation", "requestRefund", ("refund", "request"), dual=("refund.request", "POLICY"))
BAN = FieldRules("Mutation", "decideCase", ("case", "decide"), dual=("case.decide", "POLICY"))


def ask(rule: FieldRules, *grants: Grant, amount: int | None = None, **rest: Any) -> Explanation:
    facts = {} if amount is None else {"amountMinor": amount, "sum24hMinor": amount}
    return explain(BOARD, grants, rule, facts={**facts, **rest.pop("facts", {})}, **rest)


def test_within_the_own_ceiling_one_person_is_enough() -> None:
    found = ask(
        REFUND,
        grant("SUPPORT", cities=LISBON),
        amount=4_000,
        city_id="lisbon",
        facts={"destination": "ORIGINAL", "reasonCode": "DUPLICATE"},
    )
    assert (found.allowed, found.access, found.row_id, found.policy_version) == (
        True,
        "VALUE",
        "SUPPORT/AGENT/refund:request/ask",
        7,
    )
    assert (found.condition, found.role, found.cities, found.approvals, found.denied_code) == (
        "amountMinor <= requestCeilingMinor",
        "SUPPORT",
        LISBON,
        0,
        None,
    )
    assert (
        found.text
        == "Allowed by SUPPORT/AGENT/refund:request/ask of the grant gr-SUPPORT-AGENT in lisbon. One person is enough."
    )


def test_above_it_the_approvals_and_their_roles_are_told() -> None:
    one = ask(REFUND, grant("SUPPORT"), amount=12_000)
    assert (one.approvals, one.approver_roles) == (1, ("SUPPORT", "FINANCE"))
    assert one.text.endswith("in every city. Needs one approval of SUPPORT, FINANCE.")
    two = ask(REFUND, grant("FINANCE"), amount=200_001)
    assert two.approvals == 2
    assert two.text.endswith("Needs 2 approvals of SUPPORT, FINANCE.")


def test_what_is_not_known_is_told_as_a_condition() -> None:
    found = ask(REFUND, grant("SUPPORT"))
    assert (found.allowed, found.approvals) == (True, 0)
    assert "if amountMinor <= requestCeilingMinor" in found.text
    assert found.text.endswith("May need 2 approvals of SUPPORT, FINANCE, by destination, reasonCode, sum24hMinor.")


def test_above_the_ceiling_the_code_is_that_of_the_attempt() -> None:
    found = ask(REFUND, grant("SUPPORT"), amount=60_000)
    assert (found.allowed, found.access, found.denied_code) == (False, "DENIED", "AMOUNT_CEILING_EXCEEDED")
    assert (
        found.text == "refund:request is held, but only if amountMinor <= requestCeilingMinor, and that is not so here."
    )


def test_out_of_scope_is_as_if_it_did_not_exist() -> None:
    assert ask(REFUND, grant("SUPPORT", cities=LISBON), amount=1, city_id="berlin").denied_code == "NOT_FOUND"


def test_a_row_that_is_not_held_names_its_holders_and_a_deny_its_line() -> None:
    missing = ask(REFUND, grant("CITY_OPS", "LEAD"))
    assert (missing.denied_code, missing.row_id) == ("Unauthorized", None)
    assert (
        missing.text == "No grant of this person holds refund:request; held by: FINANCE from AGENT, SUPPORT from AGENT."
    )
    denied = ask(REFUND, grant("SUPPORT"), grant("AUDITOR"))
    assert (denied.allowed, denied.row_id) == (False, "AUDITOR/AGENT/refund:request/deny")
    assert ask(REFUND).text.startswith("No grant of this person holds")


def test_fields_without_a_row_follow_their_object_or_their_owner() -> None:
    assert ask(FieldRules("Note", "body", inherit=True)).access == "VALUE"
    assert ask(FieldRules("Viewer", "staff", own=True)).action == "self"


def test_personal_data_is_masked_and_a_key_without_dual_control_says_nothing_of_it() -> None:
    found = ask(
        FieldRules("Report", "detail", ("report", "read"), pii=("FREE_TEXT", "REDACT")), grant("SUPPORT", cities=())
    )
    assert (found.access, found.cities) == ("MASKED", ())
    assert (
        found.text
        == "Allowed by SUPPORT/AGENT/report:read of the grant gr-SUPPORT-AGENT in no city. The value is shown masked."
    )


@pytest.mark.contract("AZ-10")
@given(
    st.lists(st.builds(grant, st.sampled_from(ROLES), st.sampled_from(TIERS)), max_size=3),
    st.sampled_from(sorted(live().every)),
    st.integers(1, 25_000_000),
)
@settings(max_examples=200, deadline=None)
def test_the_explanation_equals_the_outcome_of_the_attempt(
    grants: Sequence[Grant], row: tuple[str, str], amount: int
) -> None:
    facts: dict[str, Any] = {
        "amountMinor": amount, "sum24hMinor": amount, "caseKind": "REFUND", "caseState": "OPEN", "contentCategory": "SFW", "decisionKind": "WARN",
        "relation": "OTHER", "alertTo": "ME", "voteRow": "HELD", "rootField": "verifyAudit", "service": "OUTBOX", "ratingStep": "SAME",
        "stepsHeld": 1, "macroRoleHeld": 1, "macroDomain": "BOTH",
    }  # fmt: skip
    found = explain(BOARD, grants, FieldRules("T", "f", row), facts=facts)
    verdict = BOARD.permits(grants, *row, facts)
    assert found.allowed == verdict.allowed
    assert found.row_id == verdict.policy_row_id or not found.allowed
    assert found.denied_code == verdict.code


def test_a_ban_is_explained_with_its_lead() -> None:
    found = ask(BAN, grant("TRUST_SAFETY"), facts={"decisionKind": "BAN"})
    assert (found.approvals, found.approver_roles) == (1, ("TRUST_SAFETY",))
