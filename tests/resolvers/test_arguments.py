"""Arguments by a template are those of graphql-core, for every set of variables of the same shape."""

from __future__ import annotations

import re
from typing import Any

import pytest
from graphql import FieldNode, GraphQLError
from graphql.execution.values import VariableValues, get_argument_values

from resolvers.arguments import arguments_of
from resolvers.documents import Documents, InvalidDocumentError, Operation
from resolvers.plan_cache import shape
from resolvers.roots import root_fields
from schema.build import console
from schema.errors import ConsoleError

CORE = console().core
DECLARED = "query($id: ID, $n: Int, $kind: CaseKind, $kinds: [CaseKind], $text: String, $filter: ModelCaseFilterInput, $m: Int = 7)"
ARGUMENTS = (
    "limit: $n",
    "limit: 5, filter: { id: { eq: $id } }",
    "filter: { or: [{ kind: { eq: $kind } }, { contentCategory: { beginsWith: $text } }], priority: { between: [1, $n] } }, limit: $m",
    "filter: $filter, sortDirection: ASC, orderBy: SLA",
    "filter: { kind: { in: $kinds } }",
    "filter: { kind: { in: [REFUND, $kind] } }",
    "filter: { and: [$filter, { not: { id: { ne: $id } } }] }",
)  # fmt: skip
GIVEN: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {}),
    ({"n": 3, "id": "a"}, {"n": 9, "id": "b"}),
    ({"n": None, "id": None}, {"n": None, "id": None}),
    (
        {"kind": "REFUND", "kinds": ["REFUND", "APPEAL"], "text": "x"},
        {"kind": "REFUND", "kinds": ["CITY"], "text": "y"},
    ),
    ({"filter": {"priority": {"gt": 3}}}, {"filter": {"priority": {"gt": 4}}}),
    ({"m": 1}, {"m": 2}),
)


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("number", range(len(GIVEN)))
def test_a_template_says_what_graphql_core_says(arguments: str, number: int) -> None:
    # Variables that a document declares and does not use are refused, so only the used ones are declared.
    used = ", ".join(
        one for one in DECLARED[6:-1].split(", ") if re.search(re.escape(one.split(":")[0]) + r"\b", arguments)
    )
    text = f"query{f'({used})' if used else ''} {{ listCases({arguments}) {{ items {{ id }} }} }}"
    operation = Documents(CORE).operation(text)
    one, other = (operation.bind(CORE, given) for given in GIVEN[number])
    node = operation.definition.selection_set.selections[0]
    assert isinstance(node, FieldNode)
    assert CORE.query_type is not None
    definition = CORE.query_type.fields["listCases"]

    def expected(variables: VariableValues) -> Any:
        return get_argument_values(definition, node, variables, hide_suggestions=True)

    made = arguments_of(definition, node, one)
    assert made(one) == expected(one)
    if shape(one.coerced) == shape(other.coerced):
        assert made(other) == expected(other)
        assert list(made(other)) == list(expected(other))


def test_what_graphql_core_refuses_is_refused() -> None:
    operation = Documents(CORE).operation('query($id: ID = "x") { getCase(id: $id) { id } }')
    with pytest.raises(InvalidDocumentError):
        root_fields(CORE, operation, operation.bind(CORE, {"id": None}))
    node = operation.definition.selection_set.selections[0]
    assert isinstance(node, FieldNode)
    assert CORE.query_type is not None
    with pytest.raises(GraphQLError):
        arguments_of(CORE.query_type.fields["getCase"], node, operation.bind(CORE, {"id": None}))


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"id": "a", "n": 1, "yes": True}, True),
        ({"id": 5, "n": 1, "yes": True}, True),  # coerced into a text
        ({"id": "a", "n": 1.0, "yes": True}, True),
        ({"id": "a", "n": True, "yes": True}, False),
        ({"id": "a", "n": 2**31, "yes": True}, False),
        ({"id": "a", "n": 1, "yes": 1}, False),
        ({"id": None, "n": 1, "yes": True}, False),
        ({"n": 1, "yes": True}, False),
        ({"id": "a"}, True),
        ({"id": "a", "n": None}, True),
    ],
)
def test_variables_are_coerced_the_same_way_at_the_second_time(given: dict[str, Any], fits: bool) -> None:
    """What has been seen to fit is taken as it is; whatever looks otherwise goes through graphql-core."""
    text = "query($id: ID!, $n: Int, $yes: Boolean = false) { listCases(limit: $n, filter: { id: { eq: $id } }) { items { id @include(if: $yes) } } }"
    cold, warm = Documents(CORE).operation(text), Documents(CORE).operation(text)
    warm.bind(CORE, {"id": "x", "n": 3, "yes": False})

    def bound(operation: Operation) -> Any:
        try:
            made = operation.bind(CORE, given)
        except (InvalidDocumentError, ConsoleError) as error:
            return getattr(error, "errors", str(error))
        return made.coerced, {name: source.value for name, source in made.sources.items()}

    assert bound(warm) == bound(cold)
    assert isinstance(bound(warm), tuple) is fits
