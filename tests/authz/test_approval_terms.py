"""Seats in the words of the schema and back: nothing is lost, and what does not fit together is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.approval_terms import Terms, in_order, seats_of, terms_of
from authz.requirements import Seat, parse_seat, shipped
from authz.scope import ROLES, TIERS

PAIRS = st.tuples(st.sampled_from(ROLES), st.sampled_from(TIERS))
SEATS = st.lists(PAIRS, min_size=1, max_size=4, unique_by=lambda pair: pair[0]).map(lambda pairs: Seat(tuple(pairs)))


@given(st.lists(SEATS, min_size=1, max_size=10))
def test_any_seats_come_back_whole(seats: list[Seat]) -> None:
    assert seats_of(terms_of(seats)) == in_order(seats)


@given(st.lists(SEATS, min_size=1, max_size=10))
def test_terms_say_no_more_than_the_seats(seats: list[Seat]) -> None:
    terms = terms_of(seats)
    assert terms.approvals == len(seats)
    assert set(terms.approver_roles) == {role for seat in seats for role, _ in seat.accepts}
    assert all(TIERS.index(tier) >= TIERS.index(terms.min_tier) for seat in seats for _, tier in seat.accepts)
    assert terms_of(seats_of(terms)) == terms


@pytest.mark.parametrize("policy", [one for policies in shipped().values() for one in policies], ids=lambda one: one.id)
def test_every_shipped_policy_can_be_said(policy: Any) -> None:
    assert seats_of(terms_of(policy.seats)) == in_order(policy.seats)


@pytest.mark.parametrize(
    ("id_", "terms"),
    [
        ("refund.request/1", Terms(1, ("SUPPORT", "FINANCE"), "AGENT", [["SUPPORT LEAD", "FINANCE AGENT"]])),
        ("refund.request/2", Terms(2, ("FINANCE",), "AGENT", [["FINANCE LEAD"]])),
        ("case.decide/2", Terms(1, ("TRUST_SAFETY",), "SENIOR", None)),
        ("macro.publish/1", Terms(1, ("TRUST_SAFETY", "FINANCE"), "LEAD", None)),
        ("macro.run/1", Terms(1, (), "AGENT", "STEPS")),
        ("approvalPolicy.propose/1", Terms(2, ("ADMIN", "AUDITOR"), "AGENT", [["ADMIN AGENT"], ["AUDITOR AGENT"]])),
    ],
)
def test_the_words_of_a_shipped_policy(id_: str, terms: Terms) -> None:
    (policy,) = [one for policies in shipped().values() for one in policies if one.id == id_]
    assert terms_of(policy.seats) == terms


@pytest.mark.parametrize(
    ("terms", "complaint"),
    [
        (Terms(0, ("ADMIN",), "AGENT"), "approvals are 1 to 10"),
        (Terms(11, ("ADMIN",), "AGENT"), "approvals are 1 to 10"),
        (Terms(1, (), "AGENT"), "approverRoles names each role once"),
        (Terms(1, ("ADMIN", "ADMIN"), "AGENT"), "approverRoles names each role once"),
        (Terms(1, ("ADMIN",), "AGENT", []), "mustInclude is a list of seats"),
        (Terms(1, ("ADMIN",), "AGENT", {"a": 1}), "mustInclude is a list of seats"),
        (Terms(1, ("ADMIN",), "AGENT", ["ADMIN AGENT"]), "a seat lists the roles"),
        (Terms(1, ("ADMIN",), "AGENT", [["BOSS AGENT"]]), "a seat names a role and its least tier"),
        (Terms(1, ("ADMIN",), "AGENT", [["ADMIN AGENT"], ["ADMIN AGENT"]]), "2 seats for 1 approvals"),
        (Terms(20, ("ADMIN",), "AGENT", [["ADMIN AGENT"]] * 11), "approvals are 1 to 10"),
        (Terms(2, ("ADMIN",), "AGENT", [["AUDITOR AGENT"]]), "mustInclude names AUDITOR AGENT"),
        (Terms(2, ("FINANCE",), "SENIOR", [["FINANCE AGENT"]]), "mustInclude names FINANCE AGENT"),
        (Terms(1, ("FINANCE", "SUPPORT"), "AGENT", [["FINANCE AGENT"]]), "approverRoles names SUPPORT"),
        (Terms(1, ("FINANCE",), "AGENT", [["FINANCE LEAD"]]), "minTier is AGENT"),
        (Terms(2, (), "AGENT", "STEPS"), "with mustInclude STEPS"),
        (Terms(1, ("ADMIN",), "AGENT", "STEPS"), "with mustInclude STEPS"),
    ],
)
def test_terms_that_do_not_fit_together_are_refused(terms: Terms, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        seats_of(terms)


def test_a_seat_that_names_a_role_twice_means_its_least_tier() -> None:
    assert in_order([parse_seat(["FINANCE LEAD", "FINANCE AGENT"])]) == (Seat((("FINANCE", "AGENT"),)),)
