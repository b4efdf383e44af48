"""Loading the policy: what refuses it as a whole, and that the table is Casbin's own answer."""

from __future__ import annotations

import importlib.metadata
import json
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.policy import FILES, Policy, PolicyError
from authz.rows import Rows, live
from authz.scope import BUSINESS_ROLES, ONE_TIER, ROLES, SERVICE, TIERS

ROWS = live().every
LINES, CONDITIONS, APPROVALS, MODEL = (files("authz").joinpath(name).read_text() for name in FILES)


def load(lines: str = LINES, conditions: str = CONDITIONS, approvals: str = APPROVALS, model: str = MODEL) -> Policy:
    return Policy.load(lines, conditions, approvals, model)


def test_casbin_is_the_maintained_package() -> None:
    assert importlib.metadata.packages_distributions()["casbin"] == ["pycasbin"]


def test_the_shipped_lines_are_sorted_and_each_row_is_held_by_somebody() -> None:
    assert LINES.splitlines() == sorted(LINES.splitlines())
    policy = Policy.shipped()
    assert {(line.object, line.action) for line in policy.all_lines if line.allow} == ROWS
    assert all(policy.holders(*row) for row in ROWS)


@pytest.mark.contract("AZ-9")
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("p, BOSS, AGENT, case, read, allow,", "unknown role BOSS"),
        ("p, SUPPORT, CHIEF, case, read, allow,", "unknown tier CHIEF"),
        ("p, SUPPORT, AGENT, cash, read, allow,", "unknown row cash:read"),
        ("p, SUPPORT, AGENT, case, burn, allow,", "unknown row case:burn"),
        ("p, SUPPORT, AGENT, approval, flag.propose, allow,", "unknown row approval:flag.propose"),
        ("p, SUPPORT, AGENT, refund, request, Deny,", "unknown effect Deny"),
        ("p, SUPPORT, AGENT, refund, request, deny, ask", "a deny takes no condition"),
        ("p, SUPPORT, LEAD, refund, request, deny,", "tier AGENT"),
        ("p, SUPPORT, AGENT, metrics, read, allow, never", "unknown condition never"),
        ("p, SUPPORT, AGENT, metrics, read, allow, own+never", "unknown condition never"),
        ("p, AUDITOR, LEAD, metrics, read, allow, own", "AUDITOR has one tier"),
        ("p, SERVICE, SENIOR, report, read, allow, svc-own", "SERVICE has one tier"),
        ("p, SUPPORT, AGENT, refund, request, allow, ask", "duplicate"),
        ("p, SUPPORT, LEAD, refund, request, allow, ask", "duplicate"),  # the AGENT line contains it
        ("p, SUPPORT, AGENT, refund, request", "expected 'p, role"),
        ("g, SUPPORT, AGENT, refund, request, allow, ask", "expected 'p, role"),
        ("p, SUPPORT, AGENT, *, read, allow,", "unknown row"),
    ],
)
def test_one_bad_line_refuses_the_whole_policy_and_is_named(line: str, complaint: str) -> None:
    with pytest.raises(PolicyError, match=complaint.replace("*", r"\*")) as caught:
        load(LINES + line + "\n")
    assert f"policy.csv line {len(LINES.splitlines()) + 1}" in str(caught.value)


@pytest.mark.contract("AZ-9")
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="empty"):
        load(text)


@pytest.mark.parametrize(
    ("conditions", "complaint"),
    [
        ("{", "not JSON"),
        (
            '{"own":{"fact":"relation","op":"eq","value":"OWN"},"own":{"fact":"relation","op":"eq","value":"OTHER"}}',
            "condition own: defined twice",
        ),
        (
            '{"own":{"fact":"relation","fact":"tier","op":"eq","value":"OWN"}}',
            "condition own: a condition repeats a key",
        ),
        ('{"own":{"fact":"relation","op":"eq","value":"MINE"}}', "condition own: relation has no token MINE"),
        ('{"own":[1,2]}', "condition own: a condition is an object"),
        ('{"own":{"all":["x"]}}', "condition own: a condition is an object"),
    ],
)
def test_a_bad_condition_refuses_the_whole_policy_and_is_named(conditions: str, complaint: str) -> None:
    with pytest.raises(PolicyError, match=complaint):
        load(conditions=conditions)


@pytest.mark.contract("AZ-9")
def test_matcher_and_effect_are_constants_of_the_code() -> None:
    for old, new in (
        ("r.act == p.act", "keyMatch(r.act, p.act)"),
        ("&& !some(where (p.eft == deny))", ""),
        ("r.tier == p.tier && ", ""),
    ):
        assert old in MODEL
        with pytest.raises(PolicyError, match="constants of the code"):
            load(model=MODEL.replace(old, new))


def test_a_wrong_approval_policy_refuses_the_whole_policy() -> None:
    with pytest.raises(
        PolicyError, match=r"approval_policies\.json: no approval policy for approvalPolicy\.propose, case"
    ):
        load(approvals="[]")
    with pytest.raises(PolicyError, match=r"approval_policies\.json"):
        load(approvals="7")


def test_the_digest_covers_all_four_files() -> None:
    one = load().digest
    assert load().digest == one == Policy.shipped().digest
    assert load(LINES + "p, CITY_OPS, AGENT, refund, read, allow,\n").digest != one
    assert load(conditions=CONDITIONS + "\n").digest != one
    assert load(approvals=APPROVALS + "\n").digest != one
    assert load(model=MODEL + "\n").digest != one


@pytest.mark.contract("AZ-9")
def test_empty_arguments_are_never_allowed() -> None:
    policy = Policy.shipped()
    assert not policy.enforce("", "", "", "")
    assert policy.explain("SUPPORT", "AGENT", "", "read") == (False, None)


@pytest.mark.contract("AZ-9")
def test_a_deny_overrides_every_allow_of_the_role_and_names_its_line() -> None:
    policy = load(LINES + "p, AUDITOR, AGENT, case, claim, allow,\n")
    assert policy.lines("AUDITOR", "LEAD", "case", "claim") == ()
    assert policy.denied({"AUDITOR", "SUPPORT"}, "case", "claim")
    assert not policy.denied({"SUPPORT"}, "case", "claim")
    allowed, line = policy.explain("AUDITOR", "LEAD", "case", "claim")
    assert not allowed
    assert line is not None
    assert line.id == "AUDITOR/AGENT/case:claim/deny"
    assert policy.explain("SUPPORT", "LEAD", "ledger", "read")[1] is not None
    assert policy.explain("CITY_OPS", "LEAD", "ledger", "read") == (False, None)


def test_line_ids_are_readable_and_unique() -> None:
    ids = [line.id for line in Policy.shipped().all_lines]
    assert len(set(ids)) == len(ids)
    assert "SUPPORT/AGENT/case:claim/kinds.SUPPORT+calm" in ids
    assert "TRUST_SAFETY/SENIOR/approval:case.decide" in ids


def test_auditors_are_denied_every_act_that_they_do_not_hold() -> None:
    policy = Policy.shipped()
    denied = {(line.object, line.action) for line in policy.all_lines if not line.allow}
    # Of a change of policy it votes, so nothing is denied there; it has no line to propose one by.
    votes = {("approval", "vote"), ("approval", "cancel"), ("approvalPolicy", "propose")}
    assert denied == live().acts - votes
    assert {line.role for line in policy.all_lines if not line.allow} == {"AUDITOR"}


# ---------- the table equals Casbin ----------
CONDITION_IDS = sorted(json.loads(CONDITIONS))


def random_line(role: str, tier: str, row: tuple[str, str], deny: bool, condition: str) -> str:
    one_tier = role in ONE_TIER or role == SERVICE
    if deny:
        return f"p, {role}, AGENT, {row[0]}, {row[1]}, deny,"
    return f"p, {role}, {'AGENT' if one_tier else tier}, {row[0]}, {row[1]}, allow, {condition}".rstrip()


FEW_ROWS = sorted(ROWS)[:6]
QUESTIONS = st.tuples(st.sampled_from((*ROLES, SERVICE)), st.sampled_from(TIERS), st.sampled_from(FEW_ROWS))
RANDOM_LINES = st.builds(
    random_line,
    st.sampled_from((*ROLES, SERVICE)),
    st.sampled_from(TIERS),
    st.sampled_from(FEW_ROWS),
    st.booleans(),
    st.sampled_from(["", *CONDITION_IDS[:3]]),
)


@pytest.mark.contract("AZ-9")
@given(st.lists(RANDOM_LINES, min_size=1, max_size=25), st.lists(QUESTIONS, min_size=10, max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_table_answers_as_casbin_does(lines: list[str], questions: list[tuple[str, str, tuple[str, str]]]) -> None:
    kept: dict[str, str] = {}
    for line in lines:  # one line per role, row, effect and condition: a second tier of it would be a duplicate
        parts = line.split(", ")
        kept.setdefault(str(parts[:2] + parts[3:]), line)
    policy = load("\n".join(kept.values()))
    for role, tier, row in questions:
        assert bool(policy.lines(role, tier, *row)) == policy.enforce(role, tier, *row)


@pytest.mark.contract("AZ-9")
def test_the_shipped_table_answers_as_casbin_does_for_every_question() -> None:
    policy = Policy.shipped()
    for role in (*ROLES, SERVICE):
        for tier in ("AGENT", "LEAD") if role in BUSINESS_ROLES else ("LEAD",):
            for row in sorted(ROWS):
                assert bool(policy.lines(role, tier, *row)) == policy.enforce(role, tier, *row), (role, tier, row)


def test_reads_acts_and_votes_do_not_overlap() -> None:
    known = live()
    assert not known.reads & known.acts
    assert not known.votes & (known.reads | known.acts)


def test_a_line_whose_row_no_field_asks_refuses_the_whole_policy() -> None:
    known = live()
    without = Rows(known.reads - {("metrics", "read")}, known.acts, known.votes)
    with pytest.raises(PolicyError, match="unknown row metrics:read, which no field of the schema asks"):
        Policy.load(LINES, CONDITIONS, APPROVALS, MODEL, rows=without)
