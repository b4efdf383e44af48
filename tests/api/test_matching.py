"""Which events a subscription hears: arguments, null, filters, and the index that finds its subscribers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolvers.matching import Index, compile_match
from schema.errors import ConsoleError

EVENT = {
    "caseId": "c1",
    "queueId": "q1",
    "cityId": "lisbon",
    "kind": "CLAIMED",
    "assigneeId": None,
    "priority": 5,
    "state": "CLAIMED",
}


def holds(arguments: dict[str, Any], payload: dict[str, Any] = EVENT) -> bool:
    return compile_match(arguments).holds(payload)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, True),
        ({"caseId": "c1"}, True),
        ({"caseId": "c2"}, False),
        ({"caseId": "c1", "queueId": "q1"}, True),
        ({"caseId": "c1", "queueId": "q2"}, False),
        ({"assigneeId": None}, True),
        ({"cityId": None}, False),
        ({"cityId": "lisbon", "filter": None}, True),
        ({"unknown": "x"}, False),
        ({"unknown": None}, True),
    ],
)
def test_given_arguments_are_equalities_and_null_asks_for_null(arguments: dict[str, Any], expected: bool) -> None:
    assert holds(arguments) is expected


@pytest.mark.parametrize(
    ("operator", "operand", "expected"),
    [
        ("eq", 5, True), ("eq", 4, False), ("ne", 4, True), ("ne", 5, False), ("lt", 6, True), ("lt", 5, False), ("le", 5, True), ("le", 4, False),
        ("gt", 4, True), ("gt", 5, False), ("ge", 5, True), ("ge", 6, False), ("between", [5, 9], True), ("between", [6, 9], False),
        ("in", [1, 5], True), ("in", [], False), ("notIn", [1], True), ("notIn", [5], False),
    ],
)  # fmt: skip
def test_operators_of_numbers(operator: str, operand: Any, expected: bool) -> None:
    assert holds({"filter": {"priority": {operator: operand}}}) is expected


@pytest.mark.parametrize(
    ("operator", "operand", "expected"),
    [
        ("eq", "CLAIMED", True), ("ne", "CLAIMED", False), ("beginsWith", "CLA", True), ("beginsWith", "cla", False), ("contains", "AIM", True),
        ("contains", "x", False), ("notContains", "x", True), ("notContains", "AIM", False), ("between", ["A", "D"], True), ("lt", "D", True), ("gt", "D", False),
    ],
)  # fmt: skip
def test_operators_of_text(operator: str, operand: Any, expected: bool) -> None:
    assert holds({"filter": {"kind": {operator: operand}}}) is expected


@pytest.mark.parametrize("operator", ["eq", "lt", "le", "gt", "ge", "contains", "beginsWith"])
def test_a_missing_field_satisfies_no_operator(operator: str) -> None:
    assert not holds({"filter": {"assigneeId": {operator: "x"}}})


@pytest.mark.parametrize(("operator", "operand"), [("ne", "x"), ("notIn", ["x"]), ("notContains", "x")])
def test_but_the_three_denials_hold_of_a_missing_field(operator: str, operand: Any) -> None:
    assert holds({"filter": {"assigneeId": {operator: operand}}})


def test_eq_and_ne_of_null_ask_whether_the_field_is_null() -> None:
    assert holds({"filter": {"assigneeId": {"eq": None}}})
    assert not holds({"filter": {"assigneeId": {"ne": None}}})
    assert holds({"filter": {"cityId": {"ne": None}}})


def test_and_or_and_fields_combine() -> None:
    tree = {
        "priority": {"ge": 3},
        "or": [{"cityId": {"eq": "berlin"}}, {"and": [{"kind": {"eq": "CLAIMED"}}, {"state": {"ne": "CLOSED"}}]}],
    }
    assert holds({"filter": tree})
    assert not holds({"filter": {**tree, "priority": {"ge": 6}}})
    assert not holds({"filter": {"or": [{"cityId": {"eq": "berlin"}}, {"kind": {"eq": "SKIPPED"}}]}})


def test_text_is_never_compared_with_numbers() -> None:
    assert not holds({"filter": {"kind": {"lt": 5}}})
    assert not holds({"filter": {"priority": {"lt": "9"}}})
    assert not holds({"filter": {"priority": {"between": ["1", "9"]}}})


@pytest.mark.parametrize(
    "clause",
    [{"between": [1]}, {"between": [1, None]}, {"between": None}, {"in": None}, {"lt": None}, {"in": list(range(101))}],
)
def test_a_filter_that_cannot_be_evaluated_is_refused_at_the_start(clause: dict[str, Any]) -> None:
    with pytest.raises(ConsoleError) as refused:
        compile_match({"filter": {"priority": clause}})
    assert refused.value.code == "BAD_REQUEST"


def test_a_huge_filter_is_refused() -> None:
    with pytest.raises(ConsoleError) as refused:
        compile_match({"filter": {"or": [{"priority": {"eq": i, "ne": i}} for i in range(60)]}})
    assert refused.value.code == "LIMIT_EXCEEDED"


values = st.sampled_from(["a", "b", None])
payloads = st.fixed_dictionaries({"caseId": values, "queueId": values})
wishes = st.dictionaries(st.sampled_from(["caseId", "queueId"]), values)


@given(st.lists(wishes, max_size=8), payloads)
def test_the_index_finds_exactly_those_whom_asking_everybody_would_find(
    arguments: list[dict[str, Any]], payload: dict[str, Any]
) -> None:
    index: Index[int] = Index()
    matches = [compile_match(wish) for wish in arguments]
    for number, match in enumerate(matches):
        index.add("onCaseEvent", match, number)
    found = {n for n in index.candidates("onCaseEvent", payload) if matches[n].holds(payload)}
    assert found == {n for n, match in enumerate(matches) if match.holds(payload)}
    assert not list(index.candidates("onAlert", payload))
    for number, match in enumerate(matches):
        index.remove("onCaseEvent", match, number)
        index.remove("onCaseEvent", match, number)  # twice is harmless
    assert not list(index.candidates("onCaseEvent", payload))
