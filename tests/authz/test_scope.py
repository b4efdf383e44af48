"""Cities, categories and ceilings of a grant."""

from __future__ import annotations

import pytest

from authz.caller import Grant
from authz.scope import UNSCOPED, ceilings, cities_context, covers, grant_facts, grant_problem, rank
from tests.authz.people import grant

TABLE = {
    ("SUPPORT", "AGENT"): (5_000, 50_000, 0),
    ("SUPPORT", "SENIOR"): (10_000, 200_000, 0),
    ("SUPPORT", "LEAD"): (20_000, 500_000, 20_000),
    ("FINANCE", "AGENT"): (20_000, 1_000_000, 50_000),
    ("FINANCE", "SENIOR"): (50_000, 5_000_000, 500_000),
    ("FINANCE", "LEAD"): (100_000, 20_000_000, 20_000_000),
    ("TRUST_SAFETY", "LEAD"): (0, 0, 0),
    ("ADMIN", "LEAD"): (0, 0, 0),
}


@pytest.mark.parametrize(("held", "amounts"), TABLE.items())
def test_ceilings_are_those_of_the_console_domain(held: tuple[str, str], amounts: tuple[int, int, int]) -> None:
    assert ceilings(grant(*held)) == amounts
    facts = grant_facts(grant(*held))
    assert (facts["aloneCeilingMinor"], facts["requestCeilingMinor"], facts["approveCeilingMinor"]) == amounts
    assert (facts["role"], facts["tier"]) == held


def test_more_money_ranks_first_then_tier() -> None:
    ordered = sorted(
        [grant("SUPPORT"), grant("TRUST_SAFETY", "LEAD"), grant("FINANCE"), grant("TRUST_SAFETY")],
        key=rank,
        reverse=True,
    )
    assert [(one.role, one.tier) for one in ordered] == [
        ("FINANCE", "AGENT"),
        ("SUPPORT", "AGENT"),
        ("TRUST_SAFETY", "LEAD"),
        ("TRUST_SAFETY", "AGENT"),
    ]


def test_city_and_category_must_both_lie_in_the_grant() -> None:
    local = grant("SUPPORT", cities=("lisbon", "berlin"), categories=("SFW",))
    assert covers(local, "lisbon", "SFW")
    assert covers(local, "berlin", UNSCOPED)
    assert covers(local, UNSCOPED, "SFW")
    assert not covers(local, "austin", "SFW")
    assert not covers(local, "lisbon", "NSFW")
    assert not covers(local, "lisbon", None)
    assert not covers(local, None, "SFW")
    assert covers(grant("SUPPORT"), None, "SFW")


def test_the_context_of_row_level_security_is_the_union_of_cities() -> None:
    assert cities_context([]) == ""
    assert (
        cities_context([grant("SUPPORT", cities=("lisbon",)), grant("FINANCE", cities=("berlin", "lisbon"))])
        == "berlin,lisbon"
    )
    assert cities_context([grant("SUPPORT", cities=("lisbon",)), grant("FINANCE")]) == "*"


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (Grant("g", "BOSS", "LEAD", ("*",), ()), "unknown role BOSS"),
        (Grant("g", "SERVICE", "AGENT", ("*",), ()), "unknown role SERVICE"),
        (Grant("g", "SUPPORT", "CHIEF", ("*",), ()), "tier CHIEF for role SUPPORT"),
        (Grant("g", "ADMIN", "AGENT", ("*",), ()), "tier AGENT for role ADMIN"),
        (Grant("g", "SUPPORT", "LEAD", ("*",), ("SFW", "ODD")), "unknown category ODD"),
        (
            Grant("g", "CONTENT_EDITOR", "LEAD", ("*",), ("SFW", "NSFW")),
            "a CONTENT_EDITOR covers SFW and SUGGESTIVE only",
        ),
        (Grant("g", "SUPPORT", "LEAD", ("*", "lisbon"), ()), "every city and a list of cities at once"),
        (Grant("g", "SUPPORT", "LEAD", ("lisbon,berlin",), ()), "a city id that is empty or has a comma"),
    ],
)
def test_a_grant_that_no_decision_may_rest_on_is_named(bad: Grant, problem: str) -> None:
    assert grant_problem(bad) == problem


def test_good_grants_have_no_problem() -> None:
    assert grant_problem(grant("SUPPORT")) is None
    assert grant_problem(grant("AUDITOR")) is None
    assert grant_problem(grant("CONTENT_EDITOR", categories=("SFW", "SUGGESTIVE"))) is None
