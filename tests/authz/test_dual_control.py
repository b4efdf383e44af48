"""Dual control: who may vote, when a quorum is there, and what a vote binds."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.caller import Grant
from authz.dual_control import INELIGIBLE, Ballot, Bound, Vote, ballot, canonical, eligible, enough, fill, payload
from authz.requirements import PolicySeats, Requirement, Seat
from authz.scope import TIERS, UNSCOPED, grant_facts
from tests.authz.people import LISBON, NOW, grant, person, snapshot
from tests.authz.test_requirements import decide, refund

BOARD = snapshot()


# ---------- quorum ----------
FINANCE_AGENT, FINANCE_LEAD = Vote("fa", "FINANCE", "AGENT"), Vote("fl", "FINANCE", "LEAD")
SUPPORT_LEAD = Vote("sl", "SUPPORT", "LEAD")


def big() -> Requirement:
    found = refund(200_001, grant("SUPPORT"))
    assert found is not None
    return found


def test_two_of_finance_with_a_lead_among_them_approve_a_big_refund() -> None:
    assert fill(big(), [FINANCE_AGENT, FINANCE_LEAD]).reached
    assert fill(big(), [FINANCE_LEAD, Vote("fl2", "FINANCE", "LEAD")]).reached


def test_two_agents_lack_the_leads_seat() -> None:
    quorum = fill(big(), [FINANCE_AGENT, Vote("fa2", "FINANCE", "AGENT")])
    assert (quorum.reached, quorum.people) == (False, 0)
    assert quorum.missing == (("refund.request/2", Seat((("FINANCE", "LEAD"),))),)


def test_a_seat_of_another_policy_does_not_fill_this_one() -> None:
    quorum = fill(big(), [SUPPORT_LEAD, FINANCE_LEAD])
    assert not quorum.reached
    assert [policy for policy, _ in quorum.missing] == ["refund.request/2"]


@pytest.mark.contract("DC-2")
def test_one_person_in_two_groups_fills_one_seat() -> None:
    twice = [Vote("ana", "FINANCE", "LEAD"), Vote("ana", "SUPPORT", "LEAD")]
    quorum = fill(big(), twice)
    assert (quorum.reached, quorum.people) == (False, 1)
    assert len(quorum.missing) == 1


def test_rejections_voided_votes_and_votes_without_a_seat_are_nobody() -> None:
    votes = [
        Vote("a", "FINANCE", "LEAD", approve=False),
        Vote("b", "FINANCE", "LEAD", counts=False),
        Vote("c", "CITY_OPS", "LEAD"),
        Vote("d", "SUPPORT", "AGENT"),
    ]
    assert fill(big(), votes).people == 2
    assert len(fill(big(), votes).missing) == 3


def test_the_order_of_votes_does_not_matter_to_the_seating() -> None:
    picky = Requirement(
        "refund.request", 2, (PolicySeats("p", (Seat((("FINANCE", "AGENT"),)), Seat((("FINANCE", "LEAD"),)))),), 1, 1
    )
    for votes in itertools.permutations(
        [FINANCE_LEAD, FINANCE_AGENT]
    ):  # a greedy seating gives the lead the agent's seat
        assert fill(picky, votes).reached


def brute(requirement: Requirement, votes: list[Vote]) -> bool:
    """The definition, tried out: for each policy, some choice of different people fills its seats."""
    people = list(
        {
            vote.voter_id: vote
            for vote in reversed([v for v in votes if v.approve and v.counts and requirement.seats_for(v.role, v.tier)])
        }.values()
    )
    if len(people) < requirement.approvals:
        return False
    return all(
        any(
            all(seat.takes(vote.role, vote.tier) for seat, vote in zip(policy.seats, chosen, strict=True))
            for chosen in itertools.permutations(people, len(policy.seats))
        )
        for policy in requirement.policies
    )


SEATS = st.lists(
    st.tuples(st.sampled_from(["FINANCE", "SUPPORT"]), st.sampled_from(TIERS)), min_size=1, max_size=2, unique=True
).map(lambda accepts: Seat(tuple(accepts)))
VOTES = st.builds(
    Vote,
    st.sampled_from("abcde"),
    st.sampled_from(["FINANCE", "SUPPORT", "CITY_OPS"]),
    st.sampled_from(TIERS),
    st.booleans(),
    st.booleans(),
)
REQUIREMENTS = st.lists(st.lists(SEATS, min_size=1, max_size=3).map(tuple), min_size=1, max_size=2).map(
    lambda policies: Requirement(
        "refund.request",
        max(map(len, policies)),
        tuple(PolicySeats(str(n), seats) for n, seats in enumerate(policies)),
        1,
        1,
    )
)


@given(REQUIREMENTS, st.lists(VOTES, max_size=6))
@settings(max_examples=300, deadline=None)
def test_the_matching_finds_a_seating_whenever_there_is_one(requirement: Requirement, votes: list[Vote]) -> None:
    assert fill(requirement, votes).reached == brute(requirement, votes)


# ---------- who may vote ----------
def request(amount: int = 12_000, city: str | None = "lisbon", **changes: Any) -> Bound:
    by = grant("SUPPORT")
    requirement = refund(amount, by)
    assert requirement is not None
    facts = {"amountMinor": amount, "sum24hMinor": amount, "requesterRole": "SUPPORT", **grant_facts(by)}
    return Bound("refund.request", "req", facts, requirement, city, UNSCOPED, **changes)


def code(*grants: Grant, voter: str = "other", bound: Bound | None = None) -> str | None:
    return eligible(voter, grants, bound or request(), BOARD.permits)


def test_the_requester_the_author_and_the_person_concerned_may_not_vote() -> None:
    lead = grant("FINANCE", "LEAD")
    bound = request(contributor_ids=frozenset({"author"}), concerned_ids=frozenset({"subject"}))
    assert code(lead, voter="req", bound=bound) == "SELF_APPROVAL"
    assert code(lead, voter="author", bound=bound) == "CONTRIBUTOR"
    assert code(lead, voter="subject", bound=bound) == "CONFLICT"
    assert code(lead, voter="other", bound=bound) is None


def test_who_somebody_is_comes_before_what_he_holds() -> None:
    bound = request(contributor_ids=frozenset({"req", "author"}), concerned_ids=frozenset({"req", "author"}))
    assert code(voter="req", bound=bound) == "SELF_APPROVAL"
    assert code(voter="author", bound=bound) == "CONTRIBUTOR"
    assert INELIGIBLE == ("SELF_APPROVAL", "CONTRIBUTOR", "CONFLICT", "TIER", "OUT_OF_SCOPE", "AMOUNT")


@pytest.mark.parametrize("role", ["TRUST_SAFETY", "CONTENT_EDITOR", "CITY_OPS", "ADMIN", "AUDITOR"])
def test_other_roles_and_lower_tiers_have_no_seat(role: str) -> None:
    assert code(grant(role, "LEAD")) == "TIER"
    assert code(grant("SUPPORT", "SENIOR")) == "TIER"
    assert code() == "TIER"


def test_the_vote_is_bound_to_the_city_of_the_request() -> None:
    assert code(grant("FINANCE", "LEAD", cities=("berlin",))) == "OUT_OF_SCOPE"
    assert code(grant("FINANCE", "LEAD", cities=LISBON)) is None
    assert code(grant("FINANCE", "LEAD", cities=LISBON), bound=request(city=None)) == "OUT_OF_SCOPE"
    assert code(grant("FINANCE", "LEAD"), bound=request(city=None)) is None


@pytest.mark.parametrize(
    ("role", "tier", "ceiling"),
    [
        ("SUPPORT", "LEAD", 20_000),
        ("FINANCE", "AGENT", 50_000),
        ("FINANCE", "SENIOR", 500_000),
        ("FINANCE", "LEAD", 20_000_000),
    ],
)
def test_the_vote_is_bound_to_the_voters_own_amount(role: str, tier: str, ceiling: int) -> None:
    assert code(grant(role, tier), bound=request(ceiling)) is None
    assert code(grant(role, tier), bound=request(ceiling + 1)) == "AMOUNT"


def test_scope_and_amount_must_meet_in_one_grant() -> None:
    local, rich = grant("SUPPORT", "LEAD", cities=LISBON), grant("FINANCE", "LEAD", cities=("berlin",))
    assert code(local, rich, bound=request(20_001)) == "AMOUNT"
    assert code(local, rich, bound=request(20_000)) is None


def test_a_vote_rests_on_the_grant_that_fits_most_seats() -> None:
    support, finance = grant("SUPPORT", "LEAD"), grant("FINANCE", "LEAD")
    found = ballot("other", (support, finance), request(12_000), BOARD.permits)
    assert found == Ballot(None, support)  # both fit the one seat: the first
    big_one = ballot("other", (grant("FINANCE", "SENIOR"), finance), request(200_001), BOARD.permits)
    assert big_one.grant == finance
    assert big_one.vote("other") == Vote("other", "FINANCE", "LEAD")
    with pytest.raises(ValueError, match="no vote"):
        Ballot("TIER").vote("other")


def test_a_decision_is_bound_to_its_category_too() -> None:
    requirement = decide("BAN", grant("TRUST_SAFETY"))
    assert requirement is not None
    bound = Bound("case.decide", "req", {"decisionKind": "BAN"}, requirement, "lisbon", "NSFW")
    assert eligible("a", [grant("TRUST_SAFETY", "LEAD")], bound, BOARD.permits) is None
    assert eligible("a", [grant("TRUST_SAFETY", "LEAD", categories=("SFW",))], bound, BOARD.permits) == "OUT_OF_SCOPE"
    assert eligible("a", [grant("TRUST_SAFETY", "SENIOR")], bound, BOARD.permits) == "TIER"


def test_the_pool_is_everybody_who_could_vote_now() -> None:
    board = snapshot(
        person("req", grant("FINANCE", "LEAD")),
        person("fa", grant("FINANCE")),
        person("fl", grant("FINANCE", "LEAD")),
        person("gone", grant("FINANCE", "LEAD"), state="OFFBOARDED"),
        person("late", grant("FINANCE", "LEAD", expires_at=NOW)),
        person("sl", grant("SUPPORT", "LEAD")),
    )
    small = board.approvers(request(12_000), NOW)
    assert [vote.voter_id for vote in small] == ["fa", "fl", "sl"]
    assert enough(request(12_000).requirement, small)
    pool = board.approvers(request(200_001), NOW)
    assert [vote.voter_id for vote in pool] == ["fl"]  # an agent may approve up to 50,000
    assert not enough(request(200_001).requirement, pool)
    assert board.ballot("fl", request(), NOW).code is None
    assert board.ballot("gone", request(), NOW).code == "TIER"


# ---------- binding ----------
def bind(**changes: Any) -> tuple[str, str]:
    given_ = {
        "action": "refund.request",
        "arguments": {
            "input": {"orderId": "o1", "amount": {"amountMinor": 5, "currency": "EUR"}, "idempotencyKey": "k"},
            "idempotencyKey": "k",
        },
        "target_id": "o1",
        "target_version": 3,
        "requester_id": "req",
        "policy_id": "refund.request/1",
        "policy_version": 7,
    }
    return payload(**{**given_, **changes})


@pytest.mark.contract("DC-1")
def test_the_payload_is_canonical_and_its_hash_is_of_its_bytes() -> None:
    text, digest = bind()
    assert text == (
        '{"action":"refund.request","arguments":{"input":{"amount":{"amountMinor":5,"currency":"EUR"},"orderId":"o1"}},'
        '"policyId":"refund.request/1","policyVersion":7,"requesterId":"req","targetId":"o1","targetVersion":3}'
    )
    assert digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.contract("DC-1")
def test_every_part_of_the_binding_changes_the_hash_and_the_idempotency_key_does_not() -> None:
    arguments = {
        "input": {"amount": {"currency": "EUR", "amountMinor": 5}, "orderId": "o1", "idempotencyKey": "another"}
    }
    assert bind(arguments=arguments) == bind()
    changes: dict[str, Any] = {
        "action": "case.decide", "arguments": {}, "target_id": "o2", "target_version": 4, "requester_id": "x", "policy_id": "y", "policy_version": 8,
    }  # fmt: skip
    assert len({bind(**{name: value})[1] for name, value in changes.items()} | {bind()[1]}) == len(changes) + 1


@pytest.mark.parametrize("bad", [1.5, float("nan"), b"x", {1: 2}, {"a": {"b": {3}}}, "\ud800"])
def test_what_has_no_canonical_form_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"payload|surrogates"):
        canonical({"a": bad} if not isinstance(bad, dict) else bad)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON)
@settings(max_examples=100, deadline=None)
def test_canonical_json_reads_back_as_the_same_value(value: Any) -> None:
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(canonical(value))) == canonical(value)
