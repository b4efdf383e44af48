"""Two schemas compared: one real pair for each kind of change, and what counts as announced."""

from __future__ import annotations

import pytest

from schema.build import console
from schema.changes import LEVELS, Change, changes, unannounced

HEAD = (
    "\n".join(line for line in console().sdl.splitlines() if line.startswith("directive "))
    + """
enum DualControlMode { ALWAYS POLICY }
enum PiiClass { CONTACT FREE_TEXT }
enum PiiMask { REDACT HIDDEN }
enum ReasonList { REFUND ROUTING }
enum ScopeKey { CITY CATEGORY }
"""
)
BEFORE = (
    HEAD
    + """
type Query {
  getCase(id: ID!): Case @policy(object: "case", action: "read") @audited(action: "case.read", read: true)
  listCases(filter: ModelCaseFilterInput, limit: Int): [Case!] @policy(object: "case", action: "read")
}
type Mutation {
  move(id: ID!, note: String): Case
    @policy(object: "case", action: "route") @reason(list: ROUTING) @audited(action: "case.move", read: false)
}
type Subscription { onCase: Case @aws_subscribe(mutations: ["move", "close"]) }
type Case @scope(by: [CITY]) { id: ID! state: State note: String @pii(class: FREE_TEXT, mask: REDACT) }
enum State { OPEN CLOSED }
input ModelCaseFilterInput { id: ID state: State }
"""
)
# What is written instead of what, and the one change that comes of it.
PAIRS = {
    "a field is gone": ("note: String @pii(class: FREE_TEXT, mask: REDACT) }", "}", "breaking", "Case.note"),
    "a filter field is gone": ("{ id: ID state: State }", "{ id: ID }", "breaking", "ModelCaseFilterInput.state"),
    "a value is gone": ("{ OPEN CLOSED }", "{ OPEN }", "breaking", "State.CLOSED"),
    "a value is new": ("{ OPEN CLOSED }", "{ OPEN CLOSED LOST }", "dangerous", "State.LOST"),
    "a field is new": ("{ id: ID! state: State note", "{ id: ID! size: Int state: State note", "additive", "Case.size"),
    "an answer may be null": ("{ id: ID! state: State note", "{ id: ID state: State note", "breaking", "Case.id"),
    "an argument is needed": ("note: String):", "note: String!):", "breaking", "Mutation.move(note:)"),
    "an argument is needed no more": ("move(id: ID!,", "move(id: ID,", "additive", "Mutation.move(id:)"),
    "an argument is new": ("limit: Int):", "limit: Int, size: Int):", "dangerous", "Query.listCases(size:)"),
    "an argument is new and needed": ("limit: Int):", "limit: Int, s: Int!):", "breaking", "Query.listCases(s:)"),
    "another policy row": ('action: "route"', 'action: "move"', "breaking", "Mutation.move"),
    "another reason list": ("@reason(list: ROUTING)", "@reason(list: REFUND)", "breaking", "Mutation.move"),
    "no reason any more": (" @reason(list: ROUTING)", "", "dangerous", "Mutation.move"),
    "a second person": (
        "@reason(list: ROUTING)",
        '@reason(list: ROUTING) @dualControl(action: "case.move", mode: ALWAYS)',
        "breaking",
        "Mutation.move",
    ),
    "another audit action": ('action: "case.move"', 'action: "case.route"', "dangerous", "Mutation.move"),
    "another mask": ("mask: REDACT", "mask: HIDDEN", "breaking", "Case.note"),
    "no mask any more": (" @pii(class: FREE_TEXT, mask: REDACT)", "", "dangerous", "Case.note"),
    "a narrower scope": ("@scope(by: [CITY])", "@scope(by: [CITY, CATEGORY])", "breaking", "Case"),
    "no scope any more": (" @scope(by: [CITY])", "", "dangerous", "Case"),
    "a value that is going": ("{ OPEN CLOSED }", "{ OPEN CLOSED @deprecated }", "dangerous", "State.CLOSED"),
    "an argument that is going": ("note: String):", "note: String @deprecated):", "dangerous", "Mutation.move(note:)"),
    "a mutation is heard no more": ('["move", "close"]', '["move"]', "breaking", "Subscription.onCase"),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_each_kind_of_change_is_told_with_its_level_and_coordinate(pair: tuple[str, str, str, str]) -> None:
    old, new, level, coordinate = pair
    assert BEFORE.count(old) == 1
    [found] = changes(BEFORE, BEFORE.replace(old, new))
    assert (found.level, found.coordinate) == (level, coordinate)
    assert coordinate.partition("(")[0] in found.text


def test_the_same_schema_has_not_changed_whatever_the_order_of_its_arguments() -> None:
    turned = BEFORE.replace("@pii(class: FREE_TEXT, mask: REDACT)", "@pii(mask: REDACT, class: FREE_TEXT)")
    assert changes(BEFORE, turned) == changes(console().sdl, console().sdl) == []


def test_the_gravest_come_first() -> None:
    after = BEFORE
    for old, new, *_ in (PAIRS["a field is new"], PAIRS["another audit action"], PAIRS["a value is gone"]):
        after = after.replace(old, new)
    assert [one.level for one in changes(BEFORE, after)] == list(LEVELS)


def test_a_type_that_is_gone_is_one_change_and_not_one_for_each_field() -> None:
    after = BEFORE.replace('type Subscription { onCase: Case @aws_subscribe(mutations: ["move", "close"]) }', "")
    assert [(one.level, one.coordinate) for one in changes(BEFORE, after)] == [("breaking", "Subscription")]


@pytest.mark.parametrize(
    ("text", "is_silent"),
    [
        ("- `Case.note` is gone, read `Case.summary`", False),
        ("- `Case.notes` is gone", True),
        ("- `OldCase.note` is gone", True),
        ("- Case lost a field", True),
        ("", True),
    ],
)
def test_a_breaking_change_is_announced_by_its_own_coordinate(text: str, is_silent: bool) -> None:
    gone = Change("breaking", "Case.note", "Field Case.note was removed.")
    assert unannounced([gone, Change("dangerous", "State.LOST", "")], text) == ([gone] if is_silent else [])


def test_an_argument_is_announced_by_itself_or_by_its_field() -> None:
    needed = Change("breaking", "Mutation.move(note:)", "")
    assert unannounced([needed], "`Mutation.move(note:)` is needed") == []
    assert unannounced([needed], "`Mutation.move` takes a note") == []
    assert unannounced([needed], "`Mutation.move(id:)` is needed") == [needed]
