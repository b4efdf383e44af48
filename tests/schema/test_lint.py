"""Each refusal of the lint, provoked by a small schema that is broken in one place; and the shipped schema, which is not."""

from typing import Annotated, Union

import pytest
import strawberry
from strawberry import ID

from authz.requirements import FLOOR
from schema import build
from schema.build import assemble
from schema.common import AuditRef, Outcome, ReasonInput
from schema.console import Console
from schema.directives import (
    IDEMPOTENT,
    INHERIT,
    OWN,
    ReasonList,
    audited,
    dual_control,
    policy,
    reasoned,
    subscribes,
)
from schema.fields import marked, signature
from schema.lint import lint, lint_payloads

READ = audited("thing.read", read=True)
ROW = policy("thing", "read")


@strawberry.type(directives=[ROW])
class Thing:
    id: ID
    name: str


@strawberry.type(directives=[INHERIT])
class Part:
    id: ID


@strawberry.type(directives=[INHERIT])
class ThingPayload:
    outcome: Outcome
    thing: Thing
    audit: AuditRef


@strawberry.input
class ThingInput:
    id: ID
    reason: ReasonInput
    idempotency_key: ID


class Query:
    @signature(ROW, READ)
    def thing(self) -> Thing | None: ...


ACTS = (policy("thing", "act"), audited("thing.act"), reasoned(ReasonList.DECIDE), IDEMPOTENT)


class Mutation:
    @signature(*ACTS)
    def act(self, input: ThingInput) -> ThingPayload: ...


def findings(console: Console, *, unheld: tuple[tuple[str, str], ...] = (), keys: tuple[str, ...] = ()) -> list[str]:
    return lint(console, lambda *row: row not in unheld, keys)


def of_query(*fields: object) -> list[str]:
    return findings(assemble([type("Query", (), {f"field{n}": field for n, field in enumerate(fields)})]))


def of_mutation(field: object, *, keys: tuple[str, ...] = ()) -> list[str]:
    return findings(assemble([Query], [type("Mutation", (), {"act": field})]), keys=keys)


def of_subscription(field: object) -> list[str]:
    class Publish:
        @signature(policy("event", "publish"), audited("event.publish"))
        def publish_thing(self, id: ID) -> Thing | None: ...

        @signature(policy("event", "publish"), audited("event.publish"))
        def publish_part(self, id: ID) -> ThingPayload: ...

    return findings(assemble([Query], [Publish], [type("Subscription", (), {"on_thing": field})]))


def test_a_sound_schema_has_no_finding() -> None:
    assert findings(assemble([Query], [Mutation])) == []


@pytest.mark.contract("AZ-1")
def test_the_shipped_schema_has_no_finding() -> None:
    assert findings(build.console(), keys=tuple(FLOOR)) == []


@pytest.mark.contract("AZ-1")
def test_a_field_without_any_rule_is_named() -> None:
    @strawberry.type
    class Bare:
        id: ID
        open: str = marked(ROW)

    @signature(ROW, READ)
    def bare(self: object) -> Bare | None: ...

    assert of_query(bare) == ["Bare.id: no @policy, @inherit or @self, so nothing says who may read it"]


@pytest.mark.contract("AZ-1")
def test_a_field_with_two_rules_is_named() -> None:
    @strawberry.type(directives=[ROW])
    class Torn:
        id: ID
        both: str = marked(ROW, OWN)

    @signature(ROW, READ)
    def torn(self: object) -> Torn | None: ...

    assert of_query(torn) == ["Torn.both: more than one of @policy, @inherit and @self"]


def test_a_row_that_nobody_holds_is_named_at_every_field() -> None:
    found = findings(assemble([Query]), unheld=(("thing", "read"),))
    assert found == [
        "Query.thing: nobody holds the policy row thing:read",
        "Thing.id: nobody holds the policy row thing:read",
        "Thing.name: nobody holds the policy row thing:read",
    ]


@pytest.mark.contract("AZ-1")
def test_a_root_field_cannot_inherit() -> None:
    @signature(INHERIT, READ)
    def thing(self: object) -> Thing | None: ...

    assert of_query(thing) == ["Query.field0: @inherit, but the path Query.field0 passes no @policy"]


@pytest.mark.contract("AZ-1")
def test_inherit_is_refused_where_one_of_two_paths_passes_no_row() -> None:
    @strawberry.type(directives=[INHERIT])
    class Middle:
        part: Part

    @signature(ROW, READ)
    def gated(self: object) -> Part | None: ...

    @signature(INHERIT, READ)
    def open_way(self: object) -> Middle | None: ...

    assert of_query(gated, open_way) == [
        "Query.field1: @inherit, but the path Query.field1 passes no @policy",
        "Middle.part: @inherit, but the path Query.field1.part passes no @policy",
        "Part.id: @inherit, but the path Query.field1.part.id passes no @policy",
    ]


def test_inherit_is_legal_behind_the_callers_own_row() -> None:
    @signature(OWN, READ)
    def mine(self: object) -> Part | None: ...

    assert of_query(mine) == []


@pytest.mark.contract("AZ-1")
def test_a_union_is_no_way_around_a_row() -> None:
    @signature(INHERIT, READ)
    def either(self: object) -> Annotated[Union[Part, Thing], strawberry.union("Either")] | None: ...  # noqa: UP007

    assert "Part.id: @inherit, but the path Query.field0.id passes no @policy" in of_query(either)


@pytest.mark.contract("AZ-1")
def test_an_interface_is_no_way_around_a_row() -> None:
    @strawberry.interface
    class Node:
        id: ID = marked(INHERIT)

    @strawberry.type(directives=[INHERIT])
    class Leaf(Node):
        secret: str

    @signature(INHERIT, READ)
    def node(self: object) -> Node | None: ...

    @signature(ROW, READ)
    def leaf(self: object) -> Leaf | None: ...

    assert "Leaf.secret: @inherit, but the path Query.field0.secret passes no @policy" in of_query(node, leaf)


@pytest.mark.contract("AZ-1")
def test_a_mutation_without_an_audit_action_is_named() -> None:
    @signature(policy("thing", "act"), reasoned(ReasonList.DECIDE), IDEMPOTENT)
    def act(self: object, input: ThingInput) -> ThingPayload: ...

    assert of_mutation(act) == ["Mutation.act: no @audited, so its use leaves no record"]


def test_a_query_without_an_audit_action_is_named() -> None:
    @signature(ROW)
    def thing(self: object) -> Thing | None: ...

    assert of_query(thing) == ["Query.field0: no @audited, so its use leaves no record"]


def test_a_query_recorded_as_a_write_is_named() -> None:
    @signature(ROW, audited("thing.read"))
    def thing(self: object) -> Thing | None: ...

    assert of_query(thing) == ["Query.field0: a query only reads, but @audited says read: false"]


@pytest.mark.contract("AZ-1")
def test_dual_control_without_an_approval_policy_is_named() -> None:
    @signature(*ACTS, dual_control("thing.act"))
    def act(self: object, input: ThingInput) -> ThingPayload: ...

    assert of_mutation(act, keys=("other.act",)) == ["Mutation.act: no approval policy for thing.act"]
    assert of_mutation(act, keys=("thing.act",)) == []


def test_dual_control_without_a_reason_is_named() -> None:
    @strawberry.input
    class Wordless:
        id: ID

    @signature(policy("thing", "act"), audited("thing.act"), dual_control("thing.act"))
    def act(self: object, input: Wordless) -> ThingPayload: ...

    assert of_mutation(act, keys=("thing.act",)) == [
        "Mutation.act: @dualControl without @reason: who votes must know why"
    ]


def test_a_reason_that_no_list_checks_is_named() -> None:
    @signature(policy("thing", "act"), audited("thing.act"), IDEMPOTENT)
    def act(self: object, input: ThingInput) -> ThingPayload: ...

    assert of_mutation(act) == ["Mutation.act: takes reason, but has no @reason"]


def test_a_reason_list_without_a_reason_is_named() -> None:
    @signature(policy("thing", "act"), audited("thing.act"), reasoned(ReasonList.DECIDE))
    def act(self: object, id: ID) -> ThingPayload: ...

    assert of_mutation(act) == ["Mutation.act: @reason, but it takes no reason"]


def test_a_key_that_is_not_kept_is_named() -> None:
    @signature(policy("thing", "act"), audited("thing.act"))
    def act(self: object, idempotency_key: ID) -> ThingPayload: ...

    assert of_mutation(act) == ["Mutation.act: takes idempotencyKey, but has no @idempotent"]


def test_idempotence_without_a_key_is_named() -> None:
    @signature(policy("thing", "act"), audited("thing.act"), IDEMPOTENT)
    def act(self: object, id: ID) -> ThingPayload: ...

    assert of_mutation(act) == ["Mutation.act: @idempotent, but it takes no idempotencyKey"]


def test_a_payload_without_a_receipt_is_named() -> None:
    @signature(policy("thing", "act"), audited("thing.act"))
    def act(self: object, id: ID) -> Thing | None: ...

    assert of_mutation(act) == ["Mutation.act: its payload has no audit, so the caller gets no receipt"]


def test_a_subscription_that_cannot_be_null_is_named() -> None:
    @signature(ROW, READ, subscribes("publishThing"))
    def on_thing(self: object) -> Thing: ...

    assert of_subscription(on_thing) == ["Subscription.onThing: a subscription must be nullable"]


def test_a_subscription_to_nothing_is_named() -> None:
    @signature(ROW, READ)
    def on_thing(self: object) -> Thing | None: ...

    assert "Subscription.onThing: no @aws_subscribe, so behind AppSync it hears nothing" in of_subscription(on_thing)


def test_a_subscription_to_a_mutation_that_is_not_there_is_named() -> None:
    @signature(ROW, READ, subscribes("publishThing", "publishOther"))
    def on_thing(self: object) -> Thing | None: ...

    assert of_subscription(on_thing) == [
        "Subscription.onThing: @aws_subscribe names the mutation publishOther, which does not exist"
    ]


def test_a_subscription_to_a_mutation_of_another_type_is_named() -> None:
    @signature(ROW, READ, subscribes("publishThing", "publishPart"))
    def on_thing(self: object) -> Thing | None: ...

    assert of_subscription(on_thing) == ["Subscription.onThing: publishPart returns another type than Thing"]


def test_a_subscription_argument_that_is_no_field_of_the_event_is_named() -> None:
    @signature(ROW, READ, subscribes("publishThing"))
    def on_thing(self: object, colour: str) -> Thing | None: ...

    assert of_subscription(on_thing) == [
        "Subscription.onThing: the argument colour is no field of Thing, so it would never match"
    ]


def test_more_plain_arguments_than_appsync_matches_are_named() -> None:
    @signature(ROW, READ, subscribes("publishThing"))
    def on_thing(self: object, a: ID, b: ID, c: ID, d: ID, e: ID, f: ID) -> Thing | None: ...

    assert "Subscription.onThing: more than 5 plain arguments" in of_subscription(on_thing)


class TestWhoMayAskMayRead:
    """The payload rule: no right to an answer's question without the right to the answer."""

    @staticmethod
    def of(held: set[tuple[str, str]], console: Console | None = None) -> list[str]:
        """Findings when SUPPORT holds these rows from SENIOR on, and nobody else holds anything."""
        made = console or assemble([Query], [Mutation])
        return lint_payloads(made, lambda role, tier, *row: role == "SUPPORT" and tier != "AGENT" and row in held)

    def test_whoever_holds_both_rows_is_fine(self) -> None:
        assert self.of({("thing", "act"), ("thing", "read")}) == []

    def test_a_mutation_whose_payload_its_holder_may_not_read_is_named_once(self) -> None:
        assert self.of({("thing", "act")}) == [
            "Mutation.act: SUPPORT SENIOR holds thing:act but not thing:read, which Thing.id needs"
        ]

    def test_a_readable_type_with_an_unreadable_non_null_field_is_named(self) -> None:
        @strawberry.type(directives=[policy("owner", "read")])
        class Owner:
            things: list[Thing]
            other: Thing | None

        class OwnerQuery:
            @signature(policy("owner", "read"), READ)
            def owner(self) -> Owner | None: ...

        console = assemble([OwnerQuery])
        assert self.of({("owner", "read")}, console) == [
            "Query.owner: SUPPORT SENIOR holds owner:read but not thing:read, which Thing.id needs",
            "Owner: SUPPORT SENIOR holds owner:read but not thing:read, which Thing.id needs",
        ]

    def test_a_nullable_field_demands_nothing(self) -> None:
        @strawberry.type(directives=[policy("owner", "read")])
        class Holder:
            id: ID
            thing: Thing | None
            many: list[Thing | None]
            secret: str | None = marked(policy("owner", "secret"))

        class HolderQuery:
            @signature(policy("owner", "read"), READ)
            def holder(self) -> Holder | None: ...

        assert self.of({("owner", "read")}, assemble([HolderQuery])) == []

    def test_a_non_null_field_with_a_row_of_its_own_is_demanded(self) -> None:
        @strawberry.type(directives=[policy("owner", "read")])
        class Keeper:
            id: ID
            secret: str = marked(policy("owner", "secret"))

        class KeeperQuery:
            @signature(policy("owner", "read"), READ)
            def keeper(self) -> Keeper | None: ...

        assert (
            "Query.keeper: SUPPORT SENIOR holds owner:read but not owner:secret, which Keeper.secret needs"
            in self.of({("owner", "read")}, assemble([KeeperQuery]))
        )

    @pytest.mark.parametrize("row", [("subject", "read"), ("report", "read"), ("decision", "read")])
    def test_reading_cases_demands_what_a_case_always_shows(self, row: tuple[str, str]) -> None:
        rows = {rule.policy for rule in build.console().rules.values()} - {row, None}
        found = lint_payloads(build.console(), lambda role, tier, *held: role == "FINANCE" and held in rows)
        assert f"Query.getCase: FINANCE AGENT holds case:read but not {':'.join(row)}" in "\n".join(found)
