"""The pure parts of macros: the template language, the parameters' schema, gravity and domain, the hash of a plan."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.build import console
from schema.errors import ConsoleError
from services.macros import drafts, parameters, rules, templates
from services.macros.rules import StepKind

NOW = int(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp())
ROOTS = {"case": {"id": "case_1", "n": 3, "yes": True, "none": None, "list": [1]}, "param": {"a": {"b": 2}}}


def resolve(path: str) -> Any:
    return templates.lookup(ROOTS, path)


# ---------- templates ----------
@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{case.id}}", "case_1"),
        ("{{ case.n }}", 3),
        ("{{case.yes}}", True),
        ("{{case.none}}", None),
        ("{{case.list}}", [1]),
        ("{{param.a}}", {"b": 2}),
        ("{{param.a.b}}", 2),
        ("case {{case.id}}, {{case.n}} of {{case.yes}}", "case case_1, 3 of true"),
        ("no placeholder { }", "no placeholder { }"),
        ({"a": ["{{case.n}}", {"b": " {{case.n}}"}], "c": 5}, {"a": [3, {"b": " 3"}], "c": 5}),
    ],
)
def test_a_placeholder_alone_keeps_the_type_and_within_a_text_is_text(template: Any, rendered: Any) -> None:
    assert templates.render(template, resolve) == rendered


@pytest.mark.parametrize(
    "template",
    [
        "{{}}",
        "{{case}}",
        "{{case.id",
        "case.id}}",
        "{{case.id | upper}}",
        "{{case['id']}}",
        "{{case.__class__}}",
        "{{case.id()}}",
        "{{{case.id}}}",
        "{{ {{case.id}} }}",
        "{{case..id}}",
        "{{1.id}}",
        {"{{case.id}}": 1},
        ["{{x}}"],
        "{{" + "a." * 200 + "a}}",
    ],
)
def test_what_is_no_path_is_refused(template: Any) -> None:
    with pytest.raises(templates.TemplateError):
        templates.paths(template)


@pytest.mark.parametrize("path", ["case.nothing", "case.id.more", "nowhere.x", "case.list.first"])
def test_a_path_without_a_value_is_told_by_its_name(path: str) -> None:
    with pytest.raises(templates.UnknownPathError) as caught:
        templates.render(f"{{{{{path}}}}}", resolve)
    assert caught.value.path == path


def test_what_is_no_text_cannot_stand_inside_one() -> None:
    for path in ("case.none", "case.list", "param.a"):
        with pytest.raises(templates.TemplateError):
            templates.render(f"x {{{{{path}}}}}", resolve)


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        (None, True),
        ("case.id", True),
        ("!case.id", False),
        ("case.none", False),
        ("!case.none", True),
        ("case.nothing", False),
        ("!case.nothing", True),
        ("param.a.b", True),
    ],
)
def test_a_condition_is_whether_something_is_there(when: str | None, holds: bool) -> None:
    assert templates.holds(when, resolve) is holds


@pytest.mark.parametrize("when", ["", "!", "case", "!!case.id", "case.id == 3", "{{case.id}}", "case.id && case.n"])
def test_a_condition_is_one_path_and_nothing_else(when: str) -> None:
    with pytest.raises(templates.TemplateError):
        templates.condition_path(when)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_a_value_is_never_read_as_a_template_again(value: Any) -> None:
    assert templates.render({"x": "{{param.v}}"}, lambda _: value) == {"x": value}


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_a_value_says_stands_as_it_is_within_a_text(value: str, around: str) -> None:
    plain = around.replace("{", "(").replace("}", ")")
    assert templates.render(plain + "{{param.v}}|", lambda _: value) == f"{plain}{value}|"


@given(JSON)
def test_any_json_is_a_template_or_is_refused_and_one_without_placeholders_is_itself(template: Any) -> None:
    try:
        named = templates.paths(template)
    except templates.TemplateError:
        return
    if not named:
        assert templates.render(template, resolve) == template


# ---------- the parameters' schema ----------
def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "object", "$ref": "#"},
        {"type": "object", "$id": "x"},
        {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"},
        schema(a={"$ref": "https://example.org/x.json"}),
        schema(a={"$ref": "#/$defs/none"}),
        schema(a={"$dynamicRef": "#x"}),
        {**schema(a={"$ref": "#/$defs/a"}), "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"$ref": "#/$defs/a"}}},
        schema(a={"type": "nothing"}),
        schema(a={"pattern": r"(x)\1"}),
        schema(a={"pattern": "("}),
        {"type": "object", "$defs": []},
        {
            "type": "object",
            "$ref": "#/$defs/d0",
            "$defs": {**{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}, "d40": {}},
        },
    ],
)  # fmt: skip
def test_a_schema_that_looks_elsewhere_or_in_a_circle_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConsoleError) as caught:
        parameters.check_schema(bad)
    assert caught.value.code == "SCHEMA_VIOLATION"


def test_size_and_depth_are_bounded() -> None:
    deep: Any = {}
    for _ in range(rules.DOCUMENT_DEPTH):
        deep = {"properties": deep}
    for large in ({"type": "object", "description": "x" * rules.DOCUMENT_MAXIMUM}, {"type": "object", **deep}):
        with pytest.raises(ConsoleError) as caught:
            parameters.check_schema(large)
        assert caught.value.code == "LIMIT_EXCEEDED"


def test_every_place_is_named_and_no_value_is() -> None:
    of = {**schema(a=schema(b={"type": "integer"}), c={"enum": ["x"]}), "required": ["d"]}
    with pytest.raises(ConsoleError) as caught:
        parameters.check(of, {"a": {"b": "hunter2"}, "c": "hunter2"})
    places = [problem["path"] for problem in caught.value.info["violations"]]
    assert set(places) == {"parameters.a.b", "parameters.c", "parameters"}
    assert "hunter2" not in str(caught.value.info)
    parameters.check(of, {"a": {"b": 1}, "c": "x", "d": None})


@pytest.mark.parametrize(
    ("path", "known"),
    [("a", True), ("a.b", True), ("a.x", False), ("x", False), ("open.anything", True), ("r.b", True)],
)
def test_what_a_schema_declares_is_known(path: str, known: bool) -> None:
    of = {
        **schema(a=schema(b={}), open={"type": "object"}, r={"$ref": "#/$defs/r"}),
        "$defs": {"r": schema(b={})},
    }
    parameters.check_schema(of)
    assert parameters.declares(of, path.split(".")) is known


# ---------- gravity and domain ----------
REFUND, DECIDE = StepKind("REFUND", "refund.request"), StepKind("DECIDE", "case.decide")
RESOLVE, RELEASE, NOTE = StepKind("DECIDE", None), StepKind("ROUTING", None), StepKind(None, None)


@pytest.mark.parametrize(
    ("kinds", "listed", "domain"),
    [
        ([REFUND, NOTE, RESOLVE], "REFUND", "MONEY"),
        ([RESOLVE, DECIDE], "DECIDE", "SAFETY"),
        ([REFUND, DECIDE], "DECIDE", "BOTH"),
        ([RELEASE, RESOLVE], "DECIDE", "BOTH"),
        ([RELEASE], "ROUTING", "BOTH"),
        ([NOTE], "ROUTING", "BOTH"),
    ],
)
def test_the_gravest_step_gives_the_reason_list_and_the_gated_ones_the_domain(
    kinds: list[StepKind], listed: str, domain: str
) -> None:
    assert rules.gravest_list(kinds) == listed
    assert rules.domain(kinds) == domain


def test_every_reason_list_of_the_schema_has_its_gravity() -> None:
    for rule in console().rules.values():
        if rule.reason and rule.reason != "GRAVEST_STEP":
            assert rules.gravest_list([StepKind(rule.reason, None)]) == rule.reason


def test_a_mutation_says_what_it_takes_demands_and_makes() -> None:
    found = drafts.mutation("requestRefund")
    assert found is not None
    assert (found.kind, set(found.refs)) == (REFUND, {"refund", "ledger"})
    assert drafts.mutation("withdrawVote") is None  # takes no input
    assert drafts.kinds([{"action": "requestRefund"}, {"action": "gone"}]) == [REFUND]


# ---------- the plan's hash ----------
def test_a_plans_hash_says_when_it_was_made_and_changes_with_everything_in_it() -> None:
    plan = {"macro": "m", "steps": [{"key": "a", "arguments": {"x": 1}}]}
    made = rules.plan_hash(NOW, plan)
    assert rules.issued_at(made, NOW) == NOW
    assert made == rules.plan_hash(NOW, {"steps": plan["steps"], "macro": "m"})
    others = [
        rules.plan_hash(NOW + 1, plan),
        rules.plan_hash(NOW, {**plan, "macro": "n"}),
        rules.plan_hash(NOW, {**plan, "steps": [{"key": "a", "arguments": {"x": "1"}}]}),
    ]
    assert len({made, *others}) == 4


@pytest.mark.parametrize(
    ("age", "good"), [(0, True), (rules.PLAN_SECONDS, True), (rules.PLAN_SECONDS + 1, False), (-1, False)]
)
def test_a_plan_is_good_for_ten_minutes_and_not_before_it_was_made(age: int, good: bool) -> None:
    assert (rules.issued_at(rules.plan_hash(NOW - age, {}), NOW) is not None) is good


@given(st.text(max_size=80))
def test_any_other_text_is_no_plans_hash(text: str) -> None:
    assert rules.issued_at(text, NOW) is None


def test_a_plan_shows_states_and_amounts_and_nothing_of_people() -> None:
    row = {
        "state": "APPROVED",
        "amount_minor": 5,
        "currency": "EUR",
        "destination": "ORIGINAL",
        "reason_note": "secret",
    }
    assert rules.shown("Refund", row) == {
        "state": "APPROVED",
        "amountMinor": 5,
        "currency": "EUR",
        "destination": "ORIGINAL",
    }
    assert rules.shown("Subject", {"display_name": "Ana"}) == {}
    before, after = rules.changed("Case", {"state": "CLAIMED", "version": 1}, {"state": "RESOLVED", "version": 1})
    assert (before, after) == ({"state": "CLAIMED"}, {"state": "RESOLVED"})
