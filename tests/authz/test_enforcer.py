"""The decision function, held against a second and deliberately plain reading of the role table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.caller import Grant
from authz.conditions import ENUMS
from authz.enforcer import Snapshot
from authz.policy import Policy
from authz.scope import BUSINESS_ROLES, CATEGORIES, ROLES, TIERS, UNSCOPED
from tests.authz.people import LISBON, NOW, grant, person, snapshot

POLICY = snapshot()

# ---------- the oracle: section 3 and 4 of the console domain as plain tables, no Casbin, no conditions ----------
ASK = {
    "SUPPORT": {"AGENT": 50_000, "SENIOR": 200_000, "LEAD": 500_000},
    "FINANCE": {"AGENT": 1_000_000, "SENIOR": 5_000_000, "LEAD": 20_000_000},
}
OWN_KINDS = {
    "SUPPORT": {"MODERATION", "VERIFICATION", "REFUND", "DISPUTE", "ACCOUNT"},
    "TRUST_SAFETY": {"MODERATION", "VERIFICATION", "APPEAL", "ACCOUNT"},
    "FINANCE": {"REFUND", "DISPUTE"},
    "CONTENT_EDITOR": {"MODERATION"},
    "CITY_OPS": {"CITY"},
}
DECIDES = {
    "SUPPORT": {"NO_ACTION", "WARN", "LABEL"},
    "TRUST_SAFETY": {"NO_ACTION", "WARN", "LABEL", "REMOVE_CONTENT", "BAN"},
    "CONTENT_EDITOR": {"NO_ACTION", "WARN", "LABEL", "REMOVE_CONTENT"},
}
KINDS_NOW = ("NO_ACTION", "WARN", "LABEL", "REMOVE_CONTENT", "BAN")


def in_scope(one: Grant, city: str | None, category: str | None) -> bool:
    return ("*" in one.city_ids or city in one.city_ids) and category in one.content_categories


def oracle_refund(grants: list[Grant], amount: int, city: str) -> tuple[bool, str | None]:
    if any(one.role == "AUDITOR" for one in grants):
        return False, "Unauthorized"
    held = [one for one in grants if one.role in ASK and ("*" in one.city_ids or city in one.city_ids)]
    if not held:
        return False, "Unauthorized"
    enough = any(amount <= ASK[one.role][one.tier] for one in held)
    return enough, None if enough else "AMOUNT_CEILING_EXCEEDED"


def oracle_claim(grants: list[Grant], kind: str, state: str, city: str | None, category: str) -> bool:
    if any(one.role == "AUDITOR" for one in grants):
        return False
    return any(
        in_scope(one, city, category)
        and kind in OWN_KINDS.get(one.role, ())
        and (one.role != "CONTENT_EDITOR" or category in ("SFW", "SUGGESTIVE"))
        and (state != "ESCALATED" or one.tier in ("SENIOR", "LEAD"))
        for one in grants
    )


def oracle_decide(grants: list[Grant], kind: str, city: str | None, category: str) -> bool:
    if any(one.role == "AUDITOR" for one in grants):
        return False
    return any(
        in_scope(one, city, category)
        and kind in DECIDES.get(one.role, ())
        and (one.role != "CONTENT_EDITOR" or category in ("SFW", "SUGGESTIVE"))
        for one in grants
    )


GRANTS = st.lists(
    st.builds(
        grant,
        st.sampled_from(ROLES),
        st.sampled_from(TIERS),
        st.sampled_from([("*",), ("lisbon",), ("berlin", "austin"), ()]),
        st.lists(st.sampled_from(CATEGORIES), max_size=4, unique=True),
    ),
    min_size=1,
    max_size=3,
)
CITIES = st.sampled_from([None, "lisbon", "berlin", "oslo"])
AMOUNTS = st.one_of(
    st.integers(1, 25_000_000),
    st.sampled_from([n + d for n in (50_000, 200_000, 500_000, 1_000_000, 5_000_000, 20_000_000) for d in (-1, 0, 1)]),
)


@pytest.mark.contract("AZ-4")
@given(GRANTS, AMOUNTS, st.sampled_from(["lisbon", "berlin", "oslo"]))
@settings(max_examples=400, deadline=None)
def test_refunds_agree_with_the_oracle(grants: list[Grant], amount: int, city: str) -> None:
    verdict = POLICY.permits(grants, "refund", "request", {"amountMinor": amount}, city_id=city)
    assert (verdict.allowed, verdict.code) == oracle_refund(grants, amount, city)


@pytest.mark.contract("AZ-4")
@given(
    GRANTS, st.sampled_from(ENUMS["caseKind"]), st.sampled_from(ENUMS["caseState"]), CITIES, st.sampled_from(CATEGORIES)
)
@settings(max_examples=400, deadline=None)
def test_claims_agree_with_the_oracle(
    grants: list[Grant], kind: str, state: str, city: str | None, category: str
) -> None:
    facts = {"caseKind": kind, "caseState": state, "contentCategory": category}
    verdict = POLICY.permits(grants, "case", "claim", facts, city_id=city, category=category)
    assert verdict.allowed == oracle_claim(grants, kind, state, city, category)


@pytest.mark.contract("AZ-4")
@given(GRANTS, st.sampled_from(KINDS_NOW), CITIES, st.sampled_from(CATEGORIES))
@settings(max_examples=400, deadline=None)
def test_decisions_agree_with_the_oracle(grants: list[Grant], kind: str, city: str | None, category: str) -> None:
    facts = {"decisionKind": kind, "contentCategory": category}
    verdict = POLICY.permits(grants, "case", "decide", facts, city_id=city, category=category)
    assert verdict.allowed == oracle_decide(grants, kind, city, category)


# ---------- which role holds which row at all: the cells of policy rows, section 3 ----------
FIVE, STAFF = list(BUSINESS_ROLES), list(ROLES)
FROM_TIER: dict[str, dict[str, str]] = {
    "alert:read": dict.fromkeys([*STAFF, "SERVICE"], "AGENT"),
    "alert:ack": dict.fromkeys([*FIVE, "ADMIN"], "AGENT"),
    "approval:read": dict.fromkeys(STAFF, "AGENT"),
    "approval:vote": {
        "SUPPORT": "LEAD",
        "TRUST_SAFETY": "SENIOR",
        "FINANCE": "AGENT",
        "CITY_OPS": "LEAD",
        "ADMIN": "AGENT",
        "AUDITOR": "AGENT",
    },
    "approval:cancel": dict.fromkeys(STAFF, "AGENT"),
    "approval:refund.request": {"SUPPORT": "LEAD", "FINANCE": "AGENT"},
    "approval:case.decide": {"TRUST_SAFETY": "SENIOR"},
    "approval:macro.publish": {"TRUST_SAFETY": "LEAD", "FINANCE": "LEAD"},
    "approval:macro.run": {"SUPPORT": "LEAD", "TRUST_SAFETY": "SENIOR", "FINANCE": "AGENT", "CITY_OPS": "LEAD"},
    "macro:edit": dict.fromkeys(["SUPPORT", "TRUST_SAFETY", "FINANCE"], "LEAD"),
    "macro:preview": dict.fromkeys(FIVE, "AGENT"),
    "macro:publish": dict.fromkeys(["SUPPORT", "TRUST_SAFETY", "FINANCE"], "LEAD"),
    "macro:read": dict.fromkeys(STAFF, "AGENT"),
    "macro:run": dict.fromkeys(FIVE, "AGENT"),
    "approval:approvalPolicy.propose": {"ADMIN": "AGENT", "AUDITOR": "AGENT"},
    "approvalPolicy:propose": {"ADMIN": "AGENT"},
    "approvalPolicy:read": {"ADMIN": "AGENT", "AUDITOR": "AGENT"},
    "audit:read": dict.fromkeys(STAFF, "AGENT"),
    "audit:body": {"AUDITOR": "AGENT"},
    "audit:verify": dict.fromkeys(STAFF, "AGENT"),
    "case:read": dict.fromkeys(STAFF, "AGENT"),
    "case:claim": dict.fromkeys(FIVE, "AGENT"),
    "case:skip": dict.fromkeys(FIVE, "AGENT"),
    "case:escalate": dict.fromkeys(FIVE, "AGENT"),
    "case:resolve": dict.fromkeys(FIVE, "AGENT"),
    "case:note": dict.fromkeys(FIVE, "AGENT"),
    "case:decide": dict.fromkeys(["SUPPORT", "TRUST_SAFETY", "CONTENT_EDITOR"], "AGENT"),
    "case:route": {
        "SUPPORT": "SENIOR",
        "TRUST_SAFETY": "SENIOR",
        "FINANCE": "SENIOR",
        "CONTENT_EDITOR": "LEAD",
        "CITY_OPS": "LEAD",
    },
    "queue:read": dict.fromkeys(STAFF, "AGENT"),
    "subject:read": dict.fromkeys(STAFF, "AGENT"),
    "decision:read": dict.fromkeys(STAFF, "AGENT"),
    "delivery:read": dict.fromkeys(STAFF, "AGENT"),
    "delivery:retry": {"TRUST_SAFETY": "LEAD", "FINANCE": "LEAD", "ADMIN": "AGENT"},
    "report:read": dict.fromkeys([*STAFF, "SERVICE"], "AGENT"),
    "report:submit": dict.fromkeys(["SUPPORT", "TRUST_SAFETY", "CONTENT_EDITOR", "SERVICE"], "AGENT"),
    "reasonCode:read": dict.fromkeys(STAFF, "AGENT"),
    "ledger:read": dict.fromkeys(["SUPPORT", "TRUST_SAFETY", "FINANCE", "ADMIN", "AUDITOR"], "AGENT"),
    "refund:read": dict.fromkeys(["SUPPORT", "TRUST_SAFETY", "FINANCE", "ADMIN", "AUDITOR"], "AGENT"),
    "refund:request": dict.fromkeys(["SUPPORT", "FINANCE"], "AGENT"),
    "refund:cancel": dict.fromkeys(["SUPPORT", "FINANCE"], "AGENT"),
    "metrics:read": dict.fromkeys(STAFF, "AGENT"),
    "staff:read": dict.fromkeys(STAFF, "AGENT"),
    "staff:contact": {"ADMIN": "AGENT"},
    "event:publish": {"SERVICE": "AGENT"},
    "template:read": dict.fromkeys(STAFF, "AGENT"),
    "template:edit": dict.fromkeys(FIVE, "LEAD"),
    "schema:introspect": {"ADMIN": "AGENT"},
}


@pytest.mark.contract("AZ-1", "AZ-4")
@pytest.mark.parametrize("row", sorted(FROM_TIER))
def test_each_row_opens_for_its_roles_from_their_tier_and_for_nobody_else(row: str) -> None:
    object_, action = row.split(":")
    for role in (*ROLES, "SERVICE"):
        for tier in TIERS if role in BUSINESS_ROLES else ("LEAD",):
            least = FROM_TIER[row].get(role)
            expected = least is not None and (role not in BUSINESS_ROLES or TIERS.index(tier) >= TIERS.index(least))
            assert POLICY.opens((grant(role, tier),), object_, action) is expected, (role, tier)


def test_the_oracle_names_every_row_there_is() -> None:
    lines = Policy.shipped().all_lines
    assert {f"{line.object}:{line.action}" for line in lines} == set(FROM_TIER)


# ---------- the field step ----------
def test_static_facts_shut_a_field_before_any_object_is_loaded() -> None:
    agent = (grant("SUPPORT"),)
    assert POLICY.opens(agent, "audit", "verify", {"rootField": "getAuditProof"})
    assert not POLICY.opens(agent, "audit", "verify", {"rootField": "verifyAudit"})
    assert POLICY.opens((grant("AUDITOR"),), "audit", "verify", {"rootField": "verifyAudit"})
    service = (grant("SERVICE"),)
    assert POLICY.opens(service, "report", "submit", {"service": "MARKETPLACE"})
    assert not POLICY.opens(service, "report", "submit", {"service": "OUTBOX"})


def test_holding_lists_each_grant_with_its_lines_in_the_callers_order() -> None:
    grants = (grant("TRUST_SAFETY", "SENIOR"), grant("SUPPORT"), grant("ADMIN"))
    held = POLICY.holding(grants, "case", "claim")
    assert [(one.grant.role, one.line.condition_id) for one in held] == [
        ("TRUST_SAFETY", "kinds.TRUST_SAFETY+calm"),
        ("TRUST_SAFETY", "kinds.TRUST_SAFETY"),
        ("SUPPORT", "kinds.SUPPORT+calm"),
    ]


@pytest.mark.contract("AZ-9")
def test_a_deny_of_one_role_overrides_every_grant_of_the_person() -> None:
    grants = (grant("TRUST_SAFETY", "LEAD"), grant("AUDITOR"))
    assert not POLICY.opens(grants, "case", "decide")
    assert POLICY.permits(grants, "case", "decide", {"decisionKind": "WARN"}).step == "ROW"


def test_rights_are_the_rows_that_open() -> None:
    assert POLICY.rights((grant("SERVICE"),), {"service": "OUTBOX"}) == ("alert:read", "event:publish")
    assert "refund:request" in POLICY.rights((grant("SUPPORT"),))
    assert POLICY.rights(()) == ()


# ---------- the object step ----------
def test_city_category_and_condition_are_asked_of_one_grant() -> None:
    split = (
        grant("SUPPORT", cities=LISBON, categories=("SFW",)),
        grant("TRUST_SAFETY", cities=("berlin",), categories=("NSFW",)),
    )
    facts = {"decisionKind": "REMOVE_CONTENT", "contentCategory": "NSFW"}
    assert POLICY.permits(split, "case", "decide", facts, city_id="berlin", category="NSFW").allowed
    assert POLICY.permits(split, "case", "decide", facts, city_id="lisbon", category="NSFW").step == "SCOPE"
    refused = POLICY.permits(
        split, "case", "decide", {**facts, "contentCategory": "SFW"}, city_id="lisbon", category="SFW"
    )
    assert (refused.step, refused.code, refused.fact) == ("CONDITION", "Unauthorized", "decisionKind")


def test_the_best_single_grant_carries_a_refund_and_never_a_sum() -> None:
    both = (grant("SUPPORT", "LEAD"), grant("FINANCE"), grant("FINANCE", "LEAD", cities=("berlin",)))
    verdict = POLICY.permits(both, "refund", "request", {"amountMinor": 100}, city_id="lisbon")
    assert verdict.grant == both[1]  # 20,000 alone as SUPPORT LEAD has, but it may request and approve more
    assert verdict.policy_row_id == "FINANCE/AGENT/refund:request/ask"
    assert (
        POLICY.permits(both, "refund", "request", {"amountMinor": 1_000_001}, city_id="lisbon").code
        == "AMOUNT_CEILING_EXCEEDED"
    )
    assert POLICY.permits(both, "refund", "request", {"amountMinor": 1_000_001}, city_id="berlin").grant == both[2]


def test_the_facts_of_the_grant_override_those_given() -> None:
    lied: dict[str, Any] = {"amountMinor": 60_000, "requestCeilingMinor": 10**9, "role": "FINANCE", "tier": "LEAD"}
    verdict = POLICY.permits((grant("SUPPORT"),), "refund", "request", lied)
    assert (verdict.allowed, verdict.code, verdict.fact) == (False, "AMOUNT_CEILING_EXCEEDED", "amountMinor")


def test_what_the_facts_leave_open_is_refused() -> None:
    assert POLICY.permits((grant("FINANCE"),), "refund", "request", {}).code == "AMOUNT_CEILING_EXCEEDED"
    assert not POLICY.permits((grant("SUPPORT"),), "case", "read", {}).allowed


def test_nobody_without_grants_may_anything() -> None:
    verdict = POLICY.permits((), "case", "read", {"caseKind": "CITY"}, city_id=UNSCOPED)
    assert (verdict.allowed, verdict.code, verdict.step, verdict.policy_row_id) == (False, "Unauthorized", "ROW", None)


# ---------- people ----------
def test_grants_of_a_person_are_those_in_force_of_an_active_member() -> None:
    lasting, ended = grant("SUPPORT"), grant("FINANCE", expires_at=NOW)
    future = grant("CITY_OPS", expires_at=NOW + timedelta(seconds=1))
    board: Snapshot = snapshot(person("ana", lasting, ended, future), person("ben", lasting, state="LOCKED"))
    assert board.grants_of("ana", NOW) == (lasting, future)
    assert board.grants_of("ben", NOW) == ()
    assert board.grants_of("nobody", NOW) == ()
