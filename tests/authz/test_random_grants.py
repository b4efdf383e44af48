"""Any grants, any row, any facts: the policy engine and a plain table answer alike, and name the same grant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.caller import Grant
from authz.conditions import ENUMS
from authz.scope import CATEGORIES, ROLES, TIERS
from tests.authz import plain_table as plain
from tests.authz.people import grant, snapshot
from tests.authz.test_enforcer import FROM_TIER

POLICY = snapshot()
GRANTS = st.lists(
    st.builds(
        grant,
        st.sampled_from([*ROLES[:5], *ROLES[:5], "ADMIN", "AUDITOR", "SERVICE"]),
        st.sampled_from(TIERS),
        st.sampled_from([("*",), ("lisbon",), ("berlin", "austin"), ()]),
        st.sampled_from([CATEGORIES, CATEGORIES, ("SFW",), ("NSFW", "PROHIBITED"), ()]),
    ),
    min_size=1,
    max_size=3,
)
EDGES = [limit + step for limits in plain.MONEY.values() for limit in limits for step in (-1, 0, 1)]
NAMED = (
    *("alertTo", "caseKind", "caseState", "contentCategory", "decisionKind", "macroDomain", "ratingStep", "relation"),
    *("rootField", "service", "voteRow"),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.sampled_from(ENUMS[name]) for name in NAMED},
    **dict.fromkeys(("amountMinor", "sum24hMinor"), st.sampled_from([1, *EDGES]) | st.integers(0, 25_000_000)),
    **dict.fromkeys(("indefinite", "macroRoleHeld", "stepsHeld"), st.integers(0, 1)),
    "durationHours": st.sampled_from((1, 719, 720, 721, 9_999)),
}
# Each fact may be unknown, and often a lie about the grant stands beside it.
LIES: dict[str, st.SearchStrategy[Any]] = {
    "role": st.sampled_from(ROLES),
    "tier": st.sampled_from(TIERS),
    "requestCeilingMinor": st.just(10**9),
    "approveCeilingMinor": st.just(10**9),
}
FACTS = st.fixed_dictionaries({}, optional={**VALUES, **LIES}) | st.fixed_dictionaries(VALUES)
SCOPES = st.fixed_dictionaries(
    {},
    optional={
        "city_id": st.sampled_from([None, "lisbon", "berlin", "oslo"]),
        "category": st.sampled_from([None, *CATEGORIES]),
    },
)


def agree(grants: list[Grant], row: str, facts: Mapping[str, Any], scope: Mapping[str, str | None]) -> None:
    object_, action = row.split(":")
    allowing = plain.allowing(grants, row, facts, scope)
    verdict = POLICY.permits(grants, object_, action, facts, **scope)
    assert verdict.allowed is bool(allowing)
    if verdict.grant is not None and verdict.allowed:
        assert verdict.grant in allowing
        assert plain.best([verdict.grant]) == plain.best(allowing)
    if not allowing:
        assert verdict.code == plain.refusal(grants, row, scope)
    carried = not plain.denied(grants, row) and any(plain.carries(one, row) for one in grants)
    assert POLICY.opens(grants, object_, action) is carried


@pytest.mark.contract("AZ-4")
def test_engine_and_table_agree_on_random_questions(request: pytest.FixtureRequest) -> None:
    """100,000 with ``--long``; a disagreement is made as small as it can be and printed."""
    long = request.config.getoption("--long")
    chosen = settings(
        max_examples=100_000 if long else 2_000,
        derandomize=not long and request.config.getoption("--hypothesis-seed") is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(GRANTS, st.sampled_from(sorted(FROM_TIER)), FACTS, SCOPES)(agree))()


def test_the_table_has_a_rule_for_every_row_with_a_condition() -> None:
    conditional = {f"{line.object}:{line.action}" for line in POLICY.policy.all_lines if line.condition is not None}
    assert conditional == set(plain.RULES)


def test_the_table_denies_the_auditor_what_the_file_does() -> None:
    rows = {tuple(row.split(":")) for row in FROM_TIER}
    denied = {f"{name}:{action}" for name, action in rows if POLICY.policy.denied({"AUDITOR"}, name, action)}
    assert denied == plain.NOT_FOR_AUDITORS
