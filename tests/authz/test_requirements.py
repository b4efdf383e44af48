"""What needs a second person: which policies apply, what the file may say, and what a deed's steps add up to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authz.caller import Grant
from authz.requirements import (
    FLOOR,
    Gate,
    Requirement,
    Seat,
    entry_of,
    facts_needed,
    parse_book,
    parse_policy,
    required,
    shipped,
    stamp,
)
from authz.scope import BUSINESS_ROLES, grant_facts
from tests.authz.people import grant


def refund(
    amount: int, by: Grant, destination: str = "ORIGINAL", reason: str = "DUPLICATE", protected: bool = False
) -> Requirement | None:
    facts = {
        "amountMinor": amount,
        "sum24hMinor": amount,
        "destination": destination,
        "reasonCode": reason,
        **grant_facts(by),
    }
    return required("refund.request", facts, protected, book=shipped())


def decide(kind: str, by: Grant, protected: bool = False, **facts: Any) -> Requirement | None:
    return required("case.decide", {"decisionKind": kind, **grant_facts(by), **facts}, protected, book=shipped())


def shape(requirement: Requirement | None) -> tuple[int, str] | None:
    return None if requirement is None else (requirement.approvals, requirement.policy_id)


ONE, TWO = (1, "refund.request/1"), (2, "refund.request/1+refund.request/2")


# ---------- which policies apply ----------
@pytest.mark.parametrize(
    ("role", "tier", "alone"),
    [
        ("SUPPORT", "AGENT", 5_000),
        ("SUPPORT", "SENIOR", 10_000),
        ("SUPPORT", "LEAD", 20_000),
        ("FINANCE", "AGENT", 20_000),
        ("FINANCE", "SENIOR", 50_000),
        ("FINANCE", "LEAD", 100_000),
    ],
)
def test_a_refund_needs_one_approval_above_the_requesters_own_ceiling_and_two_above_2000_euro(
    role: str, tier: str, alone: int
) -> None:
    by = grant(role, tier)
    assert refund(alone, by) is None
    assert shape(refund(alone + 1, by)) == ONE
    assert shape(refund(200_000, by)) == ONE
    assert shape(refund(200_001, by)) == TWO


def test_goodwill_is_alone_only_up_to_25_euro_whatever_the_ceiling() -> None:
    lead = grant("FINANCE", "LEAD")
    assert refund(2_500, lead, reason="GOODWILL") is None
    assert shape(refund(2_501, lead, reason="GOODWILL")) == ONE
    assert refund(2_501, lead, reason="LEGAL") is None


def test_another_instrument_always_needs_approval() -> None:
    assert shape(refund(1, grant("FINANCE", "LEAD"), destination="OTHER_INSTRUMENT")) == ONE
    assert refund(1, grant("FINANCE", "LEAD"), destination="STORE_CREDIT") is None


def test_a_ban_needs_a_lead_and_the_other_decisions_of_this_release_none() -> None:
    by = grant("TRUST_SAFETY", "LEAD")
    ban = decide("BAN", by)
    assert ban is not None
    assert shape(ban) == (1, "case.decide/1")
    assert ban.policies[0].seats == (Seat((("TRUST_SAFETY", "LEAD"),)),)
    for kind in ("NO_ACTION", "WARN", "LABEL", "REMOVE_CONTENT"):
        assert decide(kind, grant("TRUST_SAFETY")) is None
        assert decide(kind, grant("SUPPORT")) is None


@pytest.mark.parametrize(
    ("kind", "role", "tier", "facts", "expected"),
    [
        ("SUSPEND", "TRUST_SAFETY", "SENIOR", {"indefinite": 0, "durationHours": 720}, None),
        ("SUSPEND", "TRUST_SAFETY", "SENIOR", {"indefinite": 0, "durationHours": 721}, (1, "case.decide/1")),
        ("SUSPEND", "TRUST_SAFETY", "SENIOR", {"indefinite": 1}, (1, "case.decide/1")),
        ("SUSPEND", "TRUST_SAFETY", "AGENT", {"indefinite": 0, "durationHours": 100}, (1, "case.decide/2")),
        ("RESTRICT", "TRUST_SAFETY", "AGENT", {"indefinite": 0, "durationHours": 168}, None),
        ("RESTRICT", "TRUST_SAFETY", "AGENT", {"indefinite": 0, "durationHours": 169}, (1, "case.decide/2")),
        ("RESTRICT", "SUPPORT", "LEAD", {"indefinite": 0, "durationHours": 1}, (1, "case.decide/2")),
        ("RESTRICT", "TRUST_SAFETY", "AGENT", {"indefinite": 1}, (1, "case.decide/1+case.decide/2")),
    ],
)
def test_worked_examples_of_the_policy_rows(
    kind: str, role: str, tier: str, facts: dict[str, Any], expected: tuple[int, str] | None
) -> None:
    assert shape(decide(kind, grant(role, tier), **facts)) == expected


def test_what_the_facts_leave_open_counts_against_the_caller() -> None:
    assert shape(required("refund.request", {}, False, book=shipped())) == TWO
    assert shape(required("case.decide", {}, False, book=shipped())) == (1, "case.decide/1+case.decide/2")
    never = {"fact": "decisionKind", "op": "eq", "value": "RATE"}
    spared = {
        **shipped(),
        "case.decide": (parse_policy({**entry_of(shipped()["case.decide"][0]), "condition": never}),),
    }
    open_ = {"decisionKind": "SUSPEND"}  # for how long is not said
    assert shape(required("case.decide", open_, False, book=spared)) == (2, "built-in/no-policy")


def test_a_protected_target_adds_one_seat_for_a_lead_of_the_domain() -> None:
    alone = refund(100, grant("SUPPORT"), protected=True)
    assert alone is not None
    assert shape(alone) == (1, "built-in/protected")
    assert alone.policies[0].seats == (Seat((("FINANCE", "LEAD"),)),)
    assert shape(refund(6_000, grant("SUPPORT"), protected=True)) == (2, "refund.request/1")
    assert shape(refund(200_001, grant("SUPPORT"), protected=True)) == (3, "refund.request/1+refund.request/2")
    ban = decide("BAN", grant("TRUST_SAFETY"), protected=True)
    assert ban is not None
    assert ban.approvals == 2
    assert ban.policies[0].seats == (Seat((("TRUST_SAFETY", "LEAD"),)),) * 2
    warn = decide("WARN", grant("TRUST_SAFETY"), protected=True)
    assert warn is not None
    assert (warn.approvals, warn.approver_roles) == (1, ("TRUST_SAFETY",))


def test_a_key_without_policies_needs_two_leads() -> None:
    unknown = required("cash.burn", {}, False, book=shipped())
    assert unknown is not None
    assert shape(unknown) == (2, "built-in/no-policy")
    assert unknown.approver_roles == BUSINESS_ROLES
    assert not unknown.seats_for("SUPPORT", "SENIOR")
    assert required("cash.burn", {}, False, book={}) == unknown


def test_clocks_are_the_shortest_of_the_policies_that_apply() -> None:
    both = refund(200_001, grant("SUPPORT"))
    assert both is not None
    assert (both.approve_within_seconds, both.execute_within_seconds) == (86_400, 3_600)
    assert both.approver_roles == ("SUPPORT", "FINANCE")


def test_the_facts_that_a_key_needs_are_known_beforehand() -> None:
    assert facts_needed("refund.request", book=shipped()) == {
        "sum24hMinor",
        "aloneCeilingMinor",
        "destination",
        "reasonCode",
    }
    assert facts_needed("case.decide", book=shipped()) == {
        "decisionKind",
        "indefinite",
        "durationHours",
        "role",
        "tier",
    }
    assert facts_needed("cash.burn", book=shipped()) == set()


def test_a_requirement_survives_storage() -> None:
    for requirement in (refund(200_001, grant("SUPPORT"), protected=True), decide("BAN", grant("TRUST_SAFETY"))):
        assert requirement is not None
        assert Requirement.from_json(json.loads(json.dumps(requirement.to_json()))) == requirement


# ---------- the policy file ----------
GOOD: dict[str, Any] = {
    "id": "x/1", "key": "refund.request", "condition": None, "seats": [["FINANCE AGENT"]], "approveWithinSeconds": 60, "executeWithinSeconds": 60,
}  # fmt: skip


def whole(*entries: dict[str, Any]) -> str:
    """A file that has a policy for every key: the given ones, and a plain one for each key that they lack."""
    given = {entry["key"] for entry in entries}
    rest = [
        {**GOOD, "id": f"{key}/1", "key": key, "seats": GOOD["seats"] * floor}
        for key, floor in FLOOR.items()
        if key not in given
    ]
    return json.dumps([*entries, *rest])


@pytest.mark.contract("DC-6")
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seats": []}, "below the floor of 1"),
        ({"seats": [[]]}, "a seat lists the roles"),
        ({"seats": ["FINANCE AGENT"]}, "a seat lists the roles"),
        ({"seats": [["FINANCE"]]}, "its least tier"),
        ({"seats": [["BOSS LEAD"]]}, "its least tier"),
        ({"key": "cash.burn"}, "unknown action cash.burn"),
        ({"condition": {"fact": "x", "op": "eq", "value": 1}}, "approval policy x/1: unknown fact x"),
        ({"approveWithinSeconds": 0}, "approveWithinSeconds is a positive number"),
        ({"executeWithinSeconds": True}, "executeWithinSeconds is a positive number"),
        ({"enabled": False}, "has the keys"),
    ],
)
def test_a_policy_below_the_floor_or_out_of_shape_is_refused_by_name(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_book(whole({**GOOD, **change}))


@pytest.mark.contract("DC-6")
def test_every_key_of_the_floor_needs_a_policy_and_ids_are_unique() -> None:
    with pytest.raises(ValueError, match=r"no approval policy for approvalPolicy\.propose, case\.decide"):
        parse_book(json.dumps([GOOD]))
    with pytest.raises(ValueError, match="its id is taken"):
        parse_book(whole(GOOD, {**GOOD, "key": "case.decide"}))
    with pytest.raises(ValueError, match="has the keys"):
        parse_book('["x"]')
    assert set(shipped()) == set(FLOOR)


def test_a_policy_without_condition_always_applies() -> None:
    book = parse_book(whole(GOOD))
    assert shape(required("refund.request", {"sum24hMinor": 1}, False, book=book)) == (1, "x/1")


@pytest.mark.parametrize("policy", [one for found in shipped().values() for one in found], ids=lambda one: one.id)
def test_a_policy_is_written_as_it_is_read(policy: Any) -> None:
    assert parse_policy(json.loads(json.dumps(entry_of(policy)))) == policy


def test_the_stamp_tells_which_policies_of_a_key_are_in_force() -> None:
    book = parse_book(whole(GOOD))
    later = parse_book(whole({**GOOD, "version": 2}))
    other = parse_book(whole(GOOD, {**GOOD, "id": "y/1", "key": "case.decide", "approveWithinSeconds": 61}))
    assert stamp(book, "refund.request") != stamp(later, "refund.request")
    assert stamp(book, "refund.request") == stamp(other, "refund.request")
    assert stamp(book, "refund.request", "case.decide") != stamp(other, "refund.request", "case.decide")
    assert stamp(book, "case.decide", "refund.request") == stamp(book, "refund.request", "case.decide")


# ---------- a deed made of steps ----------
def gate(key: str, requirement: Requirement | None) -> Gate:
    assert requirement is not None
    return Gate(key, {"sum24hMinor": 1}, requirement)


def run(*gates: Gate, protected: bool = False) -> Requirement | None:
    facts = {"stepApprovals": max((one.requirement.approvals for one in gates), default=0)}
    return required("macro.run", facts, protected, book=shipped(), gates=gates)


def test_a_deed_needs_the_seats_of_all_its_steps_and_the_most_approvals_among_them() -> None:
    whole_run = run(
        gate("refund.request", refund(200_001, grant("SUPPORT"))),
        gate("case.decide", decide("BAN", grant("TRUST_SAFETY"))),
    )
    assert shape(whole_run) == (2, "refund.request/1+refund.request/2+case.decide/1")
    assert whole_run is not None
    assert whole_run.approver_roles == ("SUPPORT", "TRUST_SAFETY", "FINANCE")
    assert (whole_run.approve_within_seconds, whole_run.execute_within_seconds) == (86_400, 3_600)


def test_two_steps_under_one_policy_ask_for_its_seats_once() -> None:
    small = gate("refund.request", refund(12_000, grant("SUPPORT")))
    assert shape(run(small, small)) == ONE


def test_a_deed_whose_steps_need_nobody_needs_nobody_and_a_protected_target_is_counted_by_its_steps() -> None:
    assert run() is None
    assert run(protected=True) is None
    guarded = gate("refund.request", refund(12_000, grant("SUPPORT"), protected=True))
    assert shape(run(guarded, protected=True)) == (2, "refund.request/1")


def test_a_gate_survives_storage() -> None:
    facts = {"sum24hMinor": 1, "protectedTags": frozenset({"LEGAL_HOLD", "HIGH_PROFILE"})}
    kept = Gate("refund.request", facts, run(gate("refund.request", refund(12_000, grant("SUPPORT")))), "st-1")  # type: ignore[arg-type]
    assert Gate.from_json(json.loads(json.dumps(kept.to_json()))) == kept
