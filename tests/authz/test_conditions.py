"""The grammar of conditions: three truth values, every refusal, and the round trip through its stored form."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.conditions import (
    ENUMS,
    INTEGERS,
    SETS,
    All,
    AnyOf,
    Condition,
    ConditionError,
    FactRef,
    Leaf,
    Not,
    canonical,
    evaluate,
    facts_of,
    fold,
    parse,
    refusing_fact,
    text,
)
from authz.scope import ROLES, TIERS
from schema.cases import CaseKind, CaseState
from schema.common import Role, Tier
from schema.directives import Code, PiiClass
from schema.moderation import DecisionKind
from schema.money import RefundDestination


def leaf(fact: str, op: str, value: Any) -> dict[str, Any]:
    return {"fact": fact, "op": op, "value": value}


# Three leaves whose truth the facts choose: present and equal, present and unequal, absent.
TRUTH = {True: 1, False: 0, None: None}
SIDES = tuple(itertools.product(TRUTH, repeat=2))


def known(**values: bool | None) -> dict[str, int]:
    return {name: TRUTH[value] for name, value in values.items() if value is not None}  # type: ignore[misc]


A, B = leaf("enables", "eq", 1), leaf("bodies", "eq", 1)


@pytest.mark.parametrize(("left", "right"), SIDES)
def test_all_any_and_not_follow_kleene(left: bool | None, right: bool | None) -> None:
    facts = known(enables=left, bodies=right)
    both = False if False in (left, right) else None if None in (left, right) else True
    either = True if True in (left, right) else None if None in (left, right) else False
    assert evaluate(parse({"all": [A, B]}), facts) is both
    assert evaluate(parse({"any": [A, B]}), facts) is either
    assert evaluate(parse({"not": A}), facts) is (None if left is None else not left)


def test_no_condition_is_always_true() -> None:
    assert evaluate(None, {}) is True
    assert facts_of(None) == set()
    assert text(None) == "always"


@pytest.mark.parametrize(
    ("op", "below", "equal", "above"),
    [
        ("eq", False, True, False),
        ("ne", True, False, True),
        ("lt", True, False, False),
        ("le", True, True, False),
        ("gt", False, False, True),
        ("ge", False, True, True),
    ],
)
def test_integers_compare_with_numbers_and_with_other_integers(op: str, below: bool, equal: bool, above: bool) -> None:
    number, fact = parse(leaf("amountMinor", op, 10)), parse(leaf("amountMinor", op, {"fact": "aloneCeilingMinor"}))
    for amount, expected in ((9, below), (10, equal), (11, above)):
        assert evaluate(number, {"amountMinor": amount}) is expected
        assert evaluate(fact, {"amountMinor": amount, "aloneCeilingMinor": 10}) is expected
        assert evaluate(fact, {"amountMinor": amount}) is None


@pytest.mark.parametrize(
    ("op", "expected"), [("eq", False), ("ne", True), ("lt", True), ("le", True), ("gt", False), ("ge", False)]
)
def test_ordered_enums_compare_by_their_order(op: str, expected: bool) -> None:
    assert evaluate(parse(leaf("tier", op, "LEAD")), {"tier": "SENIOR"}) is expected


def test_enums_and_lists_of_tokens() -> None:
    assert evaluate(parse(leaf("caseKind", "in", ["REFUND", "DISPUTE"])), {"caseKind": "REFUND"}) is True
    assert evaluate(parse(leaf("caseKind", "in", ["REFUND"])), {"caseKind": "CITY"}) is False
    assert evaluate(parse(leaf("caseKind", "notIn", ["REFUND"])), {"caseKind": "CITY"}) is True
    assert evaluate(parse(leaf("caseKind", "notIn", ["REFUND"])), {"caseKind": "REFUND"}) is False


def test_a_root_field_that_no_condition_names_is_simply_another_one() -> None:
    condition = parse(leaf("rootField", "in", ["getAuditProof"]))
    assert evaluate(condition, {"rootField": "listAudit"}) is False
    assert evaluate(condition, {"rootField": "getAuditProof"}) is True


def test_sets_subset_and_overlap() -> None:
    subset, overlaps = (
        parse(leaf("piiClasses", "subset", ["CONTACT", "DEVICE"])),
        parse(leaf("piiClasses", "overlaps", ["CONTACT", "DEVICE"])),
    )
    assert evaluate(subset, {"piiClasses": frozenset({"CONTACT"})}) is True
    assert evaluate(subset, {"piiClasses": frozenset({"CONTACT", "PAYMENT"})}) is False
    assert evaluate(subset, {"piiClasses": frozenset()}) is True
    assert evaluate(overlaps, {"piiClasses": frozenset({"PAYMENT", "DEVICE"})}) is True
    assert evaluate(overlaps, {"piiClasses": frozenset({"PAYMENT"})}) is False
    assert evaluate(overlaps, {}) is None


@pytest.mark.parametrize(
    ("condition", "facts"),
    [
        (leaf("amountMinor", "eq", 1), {"amountMinor": "1"}),
        (leaf("caseKind", "ne", "CITY"), {"caseKind": 7}),
        (leaf("caseKind", "ne", "CITY"), {"caseKind": "NO_SUCH_KIND"}),
        (leaf("tier", "ge", "AGENT"), {"tier": "BOSS"}),
        (leaf("piiClasses", "subset", ["CONTACT"]), {"piiClasses": "CONTACT"}),
    ],
)
def test_a_fact_of_the_wrong_type_or_token_is_unknown_and_never_opens(
    condition: dict[str, Any], facts: dict[str, Any]
) -> None:
    assert evaluate(parse(condition), facts) is None


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (leaf("amount", "eq", 1), "unknown fact amount"),
        (leaf("amountMinor", "in", [1]), "no operator in"),
        (leaf("amountMinor", "eq", 1.5), "integer"),
        (leaf("amountMinor", "eq", True), "integer"),
        (leaf("amountMinor", "eq", "1"), "integer"),
        (leaf("amountMinor", "eq", 2**53), "2\\^53"),
        (leaf("amountMinor", "eq", {"fact": "caseKind"}), "integer fact"),
        (leaf("amountMinor", "eq", {"fact": "minutes", "x": 1}), "integer fact"),
        (leaf("amountMinor", "eq", {"fact": ["minutes"]}), "integer fact"),
        (leaf("amountMinor", "eq", {}), "integer fact"),
        (leaf("Anna Müller", "eq", 1), r"unknown fact \(no token\)"),
        (leaf("amountMinor", "Anna Müller", 1), r"no operator \(no token\)"),
        ({"Anna Müller": 1}, r"not \(no token\)"),
        (leaf("caseKind", "lt", "CITY"), "no operator lt"),
        (leaf("caseKind", "eq", "MOON"), "no token MOON"),
        (leaf("caseKind", "eq", ["CITY"]), "one token"),
        (leaf("caseKind", "eq", "CITY HALL"), "one token"),
        (leaf("caseKind", "in", "CITY"), "list of 1 to 64"),
        (leaf("caseKind", "in", []), "list of 1 to 64"),
        (leaf("caseKind", "in", ["CITY", "CITY"]), "twice"),
        (leaf("rootField", "eq", "listCases"), "no token listCases"),
        (leaf("piiClasses", "eq", "CONTACT"), "no operator eq"),
        (leaf("piiClasses", "subset", ["NAME"]), "no token NAME"),
        (leaf(7, "eq", 1), "texts"),  # type: ignore[arg-type]
        ({"all": []}, "1 to 32"),
        ({"all": [A] * 33}, "1 to 32"),
        ({"any": "x"}, "take a list"),
        ({"all": [A], "any": [B]}, "keys all, any"),
        ({}, "not none"),
        ({"eval": "1"}, "not eval"),
        ({"fact": "minutes", "op": "eq"}, "keys all, any"),
        ([A], "an object, not list"),
        ("nonsense", "is JSON"),
        ('{"not":{"fact":"bodies","fact":"bodies","op":"eq","value":1}}', "repeats a key"),
        ("{}" + " " * 4096, "4096 bytes"),
        ({"any": [{"all": [A] * 17}, {"all": [B] * 16}]}, "32 comparisons, this one 33"),
    ],
)
def test_what_the_grammar_does_not_list_is_refused_by_name(source: Any, complaint: str) -> None:
    with pytest.raises(ConditionError, match=complaint):
        parse(source)


def test_nesting_ends_at_six() -> None:
    deep: dict[str, Any] = A
    for _ in range(5):
        deep = {"not": deep}
    assert evaluate(parse(deep), {"enables": 1}) is False
    with pytest.raises(ConditionError, match="at most 6 deep"):
        parse({"not": deep})


def test_a_long_condition_is_refused_also_when_it_comes_decoded() -> None:
    tokens = sorted(ENUMS["reasonCode"])[:64]
    with pytest.raises(ConditionError, match="4096 bytes"):
        parse({"any": [leaf("reasonCode", "in", tokens)] * 6})


def test_facts_of_names_both_sides_of_a_comparison() -> None:
    condition = parse(
        {
            "all": [
                leaf("amountMinor", "le", {"fact": "requestCeilingMinor"}),
                {"not": leaf("destination", "eq", "ORIGINAL")},
            ]
        }
    )
    assert facts_of(condition) == {"amountMinor", "requestCeilingMinor", "destination"}


def test_text_reads_as_the_reference_writes_it() -> None:
    either = {
        "any": [
            leaf("decisionKind", "eq", "BAN"),
            {"all": [leaf("indefinite", "eq", 0), leaf("durationHours", "le", 720)]},
        ]
    }
    assert text(parse(either)) == "decisionKind == BAN or indefinite == 0 and durationHours <= 720"
    assert (
        text(parse({"all": [either, A]}))
        == "(decisionKind == BAN or indefinite == 0 and durationHours <= 720) and enables == 1"
    )
    assert text(parse({"not": either})) == "not (decisionKind == BAN or indefinite == 0 and durationHours <= 720)"
    assert text(parse({"all": [A]})) == "enables == 1"
    assert text(parse(leaf("sum24hMinor", "gt", {"fact": "aloneCeilingMinor"}))) == "sum24hMinor > aloneCeilingMinor"
    assert text(parse(leaf("caseKind", "notIn", ["CITY", "REFUND"]))) == "caseKind not in {CITY, REFUND}"


def test_the_fact_that_refuses_is_named_only_when_all_else_would_hold() -> None:
    condition = parse(
        {"all": [leaf("amountMinor", "le", {"fact": "requestCeilingMinor"}), leaf("caseState", "ne", "ESCALATED")]}
    )
    within: dict[str, Any] = {"amountMinor": 5, "requestCeilingMinor": 10, "caseState": "OPEN"}
    assert refusing_fact(condition, within) is None
    assert refusing_fact(condition, {**within, "amountMinor": 11}) == "amountMinor"
    assert refusing_fact(condition, {**within, "caseState": "ESCALATED"}) == "caseState"
    assert refusing_fact(condition, {**within, "amountMinor": 11, "caseState": "ESCALATED"}) is None
    assert refusing_fact(parse({"not": leaf("minutes", "eq", 1)}), {"minutes": 1}) == "minutes"
    assert refusing_fact(None, {}) is None


LEAVES = st.one_of(
    st.builds(
        Leaf,
        st.sampled_from(sorted(INTEGERS)),
        st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]),
        st.integers(-5, 5),
    ),
    st.builds(
        Leaf, st.sampled_from(sorted(INTEGERS)), st.just("le"), st.builds(FactRef, st.sampled_from(sorted(INTEGERS)))
    ),
    st.sampled_from(sorted(ENUMS)).flatmap(
        lambda fact: st.builds(Leaf, st.just(fact), st.sampled_from(["eq", "ne"]), st.sampled_from(ENUMS[fact]))
    ),
    st.sampled_from(sorted(SETS)).flatmap(
        lambda fact: st.builds(
            Leaf,
            st.just(fact),
            st.sampled_from(["subset", "overlaps"]),
            st.lists(st.sampled_from(SETS[fact]), min_size=1, max_size=3, unique=True).map(tuple),
        )
    ),
)
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(All, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=8,
).filter(
    lambda condition: (
        fold(
            condition,
            leaf=lambda _: 1,
            every=lambda sizes: 1 + max(sizes),
            some=lambda sizes: 1 + max(sizes),
            negation=lambda size: 1 + size,
        )
        <= 6
    )
)


@given(CONDITIONS)
@settings(max_examples=150, deadline=None)
def test_the_stored_form_reads_back_as_the_same_condition(condition: Condition) -> None:
    stored = canonical(condition)
    assert parse(stored) == condition
    assert canonical(parse(json.loads(stored))) == stored


@given(
    CONDITIONS,
    st.dictionaries(st.sampled_from(sorted(INTEGERS)), st.integers(-5, 5), max_size=6),
    st.sampled_from(sorted(INTEGERS)),
    st.integers(-5, 5),
)
@settings(max_examples=150, deadline=None)
def test_learning_a_fact_never_turns_an_answer_round(
    condition: Condition, facts: dict[str, int], fact: str, value: int
) -> None:
    before = evaluate(condition, {name: known for name, known in facts.items() if name != fact})
    after = evaluate(condition, {**facts, fact: value})
    assert before is None or before is after


@pytest.mark.parametrize(
    ("tokens", "enum"),
    [
        (ROLES, Role),
        (TIERS, Tier),
        (ENUMS["caseKind"], CaseKind),
        (ENUMS["caseState"], CaseState),
        (ENUMS["decisionKind"], DecisionKind),
        (ENUMS["destination"], RefundDestination),
        (SETS["piiClasses"], PiiClass),
    ],
)
def test_the_tokens_of_a_fact_are_those_of_the_schema(tokens: tuple[str, ...], enum: type[Code]) -> None:
    assert tokens == tuple(member.value for member in enum)
