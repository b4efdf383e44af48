"""The generated filter inputs and connections have Amplify's names and shapes exactly: its client sends them by name."""

import pytest
import strawberry
from graphql import GraphQLInputObjectType, GraphQLObjectType
from strawberry import ID

from schema.build import assemble, console
from schema.directives import FILTERABLE, audited, policy
from schema.fields import get, index, listing, marked, signature
from schema.filters import filter_input, subscription_filter_input
from schema.scalars import AWSJSON, AWSDate

TEXT = "ne: {0} eq: {0} le: {0} lt: {0} ge: {0} gt: {0} contains: {0} notContains: {0} beginsWith: {0} between: [{0}] in: [{0}] notIn: [{0}]"
NUMBER = "ne: {0} eq: {0} le: {0} lt: {0} ge: {0} gt: {0} between: [{0}] in: [{0}] notIn: [{0}]"
TYPED = " attributeExists: Boolean attributeType: ModelAttributeTypes"
SIZED = TYPED + " size: ModelSizeInput"


def shape(name: str) -> str:
    made = console().core.type_map[name]
    assert isinstance(made, GraphQLInputObjectType)
    return " ".join(f"{key}: {field.type}" for key, field in made.fields.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ModelStringInput", TEXT.format("String") + SIZED),
        ("ModelIDInput", TEXT.format("ID") + SIZED),
        ("ModelIntInput", NUMBER.format("Int") + TYPED),
        ("ModelFloatInput", NUMBER.format("Float") + TYPED),
        ("ModelBooleanInput", "ne: Boolean eq: Boolean" + TYPED),
        ("ModelSizeInput", "ne: Int eq: Int le: Int lt: Int ge: Int gt: Int between: [Int]"),
        (
            "ModelCaseStateInput",
            "eq: CaseState ne: CaseState in: [CaseState] notIn: [CaseState] attributeExists: Boolean",
        ),
        ("ModelRoleListInput", "eq: [Role] ne: [Role] contains: Role notContains: Role"),
        ("ModelSubscriptionStringInput", TEXT.format("String")),
        ("ModelSubscriptionIntInput", NUMBER.format("Int")),
        ("ModelIntKeyConditionInput", "eq: Int le: Int lt: Int ge: Int gt: Int between: [Int]"),
        (
            "ModelStringKeyConditionInput",
            "eq: String le: String lt: String ge: String gt: String between: [String] beginsWith: String",
        ),
    ],
)
def test_operators_are_those_of_the_scalar(name: str, expected: str) -> None:
    assert shape(name) == expected


def test_a_filter_has_its_types_fields_and_the_three_joins() -> None:
    assert shape("ModelStaffMemberFilterInput") == (
        "id: ModelIDInput displayName: ModelStringInput state: ModelStaffStateInput roles: ModelRoleListInput "
        "and: [ModelStaffMemberFilterInput] or: [ModelStaffMemberFilterInput] not: ModelStaffMemberFilterInput"
    )


def test_dates_are_filtered_as_strings_and_lists_of_ids_as_ids() -> None:
    assert "resolveDueAt: ModelStringInput" in shape("ModelCaseFilterInput")
    assert "cityIds: ModelIDInput contentCategories: ModelStringInput" in shape("ModelQueueFilterInput")


def test_a_subscription_filter_has_no_not_and_takes_enums_as_strings() -> None:
    assert shape("ModelSubscriptionAlertFilterInput") == (
        "kind: ModelSubscriptionStringInput severity: ModelSubscriptionIntInput cityId: ModelSubscriptionIDInput "
        "targetType: ModelSubscriptionStringInput targetId: ModelSubscriptionIDInput "
        "and: [ModelSubscriptionAlertFilterInput] or: [ModelSubscriptionAlertFilterInput]"
    )


def test_only_filterable_fields_are_keys() -> None:
    assert "version" not in shape("ModelCaseFilterInput")
    assert "summary" not in shape("ModelAlertFilterInput")


@strawberry.type(directives=[policy("gadget", "read")])
class Gadget:
    id: ID = marked(FILTERABLE)
    owner_id: ID | None = marked(FILTERABLE)
    made_on: AWSDate | None = marked(FILTERABLE)
    weight: int = marked(FILTERABLE)


class Query:
    get_gadget = get(Gadget, "gadget.read")
    list_gadgets = listing(Gadget, "gadget.list")
    list_gadgets_by_weight = index(Gadget, "gadget.list", partition="owner_id", sort="weight")


def test_one_line_declares_each_read_of_a_new_type() -> None:
    made = assemble([Query])
    fields = made.core.query_type.fields  # type: ignore[union-attr]
    assert {
        name: f"({', '.join(f'{a}: {d.type}' for a, d in field.args.items())}): {field.type}"
        for name, field in fields.items()
    } == {
        "getGadget": "(id: ID!): Gadget",
        "listGadgets": "(filter: ModelGadgetFilterInput, sortDirection: ModelSortDirection, limit: Int, nextToken: String): GadgetConnection!",
        "listGadgetsByWeight": (
            "(ownerId: ID!, weight: ModelIntKeyConditionInput, filter: ModelGadgetFilterInput, sortDirection: ModelSortDirection, "
            "limit: Int, nextToken: String): GadgetConnection!"
        ),
    }
    assert made.rules["Query", "listGadgetsByWeight"].policy == ("gadget", "read")
    assert made.rules["Query", "getGadget"].audited == ("gadget.read", True)
    assert made.listables["Gadget"].filter_fields == ("id", "ownerId", "madeOn", "weight")


def test_a_connection_is_named_after_its_items() -> None:
    made = assemble([Query]).core.type_map["GadgetConnection"]
    assert isinstance(made, GraphQLObjectType)
    assert {name: str(field.type) for name, field in made.fields.items()} == {
        "items": "[Gadget!]!",
        "nextToken": "String",
    }


def test_the_same_filter_is_one_type() -> None:
    assert filter_input(Gadget) is filter_input(Gadget)
    assert subscription_filter_input(Gadget, ("id",)) is not subscription_filter_input(Gadget)


def test_a_type_without_a_row_has_no_reads() -> None:
    @strawberry.type
    class Loose:
        id: ID

    with pytest.raises(TypeError, match="Loose has no @policy"):
        get(Loose, "loose.read")


def test_a_field_that_nothing_can_compare_is_not_filterable() -> None:
    @strawberry.type(directives=[policy("blob", "read")])
    class Blob:
        body: AWSJSON = marked(FILTERABLE)

    with pytest.raises(TypeError, match="body cannot be filtered by"):
        listing(Blob, "blob.list")


def test_printing_shows_directives_on_generated_fields() -> None:
    class Extra:
        @signature(policy("gadget", "read"), audited("gadget.count", read=True))
        def count_gadgets(self) -> int: ...

    text = assemble([Query, Extra]).sdl
    assert (
        'getGadget(id: ID!): Gadget @policy(object: "gadget", action: "read") @audited(action: "gadget.read", read: true)'
        in text
    )
    assert (
        'countGadgets: Int! @policy(object: "gadget", action: "read") @audited(action: "gadget.count", read: true)'
        in text
    )
    assert "type GadgetConnection @inherit" in text
