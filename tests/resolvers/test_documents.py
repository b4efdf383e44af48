"""Documents: limits before validation, refusals in AppSync's words, and a cache that is bounded."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import get_introspection_query

from resolvers.documents import Documents, DocumentSyntaxError, InvalidDocumentError
from schema.build import console
from schema.errors import ConsoleError


def documents(**limits: int) -> Documents:
    return Documents(console().core, **limits)


def limit_of(text: str) -> Any:
    """The limit that refuses a document; it must be refused before validation, twice alike."""
    box = documents()
    for _ in range(2):
        with pytest.raises(ConsoleError) as error:
            box.operation(text)
    assert error.value.code == "LIMIT_EXCEEDED"
    assert box.validated == 0
    assert box.parsed <= 1
    return error.value.info["limit"]


DOUBLING = "query { ...f0 } " + " ".join(
    f"fragment f{n} on Query {{ a{n}: me {{ policyVersion }} ...f{n + 1} ...f{n + 1} b{n}: me {{ policyVersion }} }}"
    for n in range(48)
)
NESTED = "{ listCases { items { subject { decisions { items { decidedBy { roles } } } } } } }"

MANY = """fragment f on Case { id kind state subjectId queueId cityId priority contentCategory version createdAt skips slaState
  subject { id kind state cityId version displayNameMasked protectedTags tags activeStrikes totalStrikes openCaseCount }
  sla { policyId state pausedSeconds resolveDueAt } assignee { id kind displayName roles } lease { token expiresAt }
  reports { items { id state subjectId caseId category automated detail createdAt publicReply } nextToken }
  notes { items { id body internal createdAt } nextToken } }"""

ABUSE = {
    "bytes of query text": "{ me { policyVersion } } #" + "x" * 65_536,
    "tokens": "{" + "me{policyVersion}" * 500 + "}",
    "depth": "{ listCases { items { subject { decisions { items { decidedBy { roles { x { y } } } } } } } } }",
    "fields": "{ " + "getCase(id: 1) { ...f } " * 10 + "} " + MANY,
    "fragments": "{ me { policyVersion } } " + " ".join(f"fragment f{n} on Query {{ __typename }}" for n in range(51)),
    "uses of one response key": "{ me { " + "policyVersion " * 11 + "} }",
    "aliases": "{ me { " + " ".join(f"a{n}: policyVersion" for n in range(31)) + " } }",
    "root fields of a query": "{ " + " ".join(f"a{n}: __typename" for n in range(11)) + " }",
    "root fields of a mutation": "mutation { "
    + " ".join(f"a{n}: acknowledgeAlert(id: 1) {{ outcome }}" for n in range(6))
    + " }",
    "root fields of a subscription": "subscription { onAlert { id } onCaseEvent { at } }",
    "directives on one node": "{ me @a @b @c @d @e { policyVersion } }",
    "directives": "{ me { " + " ".join(f"a{n}: policyVersion @include(if: true)" for n in range(21)) + " } }",
    "operations": " ".join(f"query q{n} {{ __typename }}" for n in range(11)),
    "variables": "query(" + " ".join(f"$v{n}: Int" for n in range(201)) + ") { __typename }",
    "list items": "{ listCases(filter: { id: { in: [" + '"x" ' * 101 + "] } }) { nextToken } }",
    "value depth": "{ listCases(filter: " + "{not: " * 40 + "{}" + "}" * 40 + ") { nextToken } }",
}


@pytest.mark.contract("QL-5", "QL-6", "QL-7", "QL-8", "QL-9", "QL-10", "QL-12", "QL-15")
@pytest.mark.parametrize("limit", list(ABUSE))
def test_a_document_beyond_a_limit_is_refused_before_it_is_validated(limit: str) -> None:
    assert limit_of(ABUSE[limit]) == limit


@pytest.mark.contract("QL-7", "QL-15")
def test_fragments_that_double_each_other_are_counted_and_not_expanded() -> None:
    assert limit_of(DOUBLING) in ("fields", "uses of one response key", "aliases")


@pytest.mark.contract("QL-6")
def test_nesting_that_no_parser_stack_holds_is_a_depth_like_any_other() -> None:
    assert limit_of("{a" * 900 + "}" * 900) == "depth"
    assert limit_of("{ ... " * 600 + "{ __typename }" + "}" * 600) in ("depth", "tokens")


def test_the_deepest_allowed_document_is_valid() -> None:
    assert documents().operation(NESTED).kind == "query"


@pytest.mark.contract("QL-7")
def test_a_fragment_that_spreads_itself_is_a_validation_error() -> None:
    with pytest.raises(InvalidDocumentError) as error:
        documents().operation("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }")
    assert "FragmentCycle" in error.value.errors[0]["message"]


@pytest.mark.contract("QL-6")
def test_the_introspection_query_of_graphql_core_passes_the_limits() -> None:
    assert documents().operation(get_introspection_query()).kind == "query"


@pytest.mark.contract("QL-11")
def test_the_cost_is_the_number_of_objects_that_could_come_back() -> None:
    text = "query($n: Int) { listCases(limit: 100) { items { id reports(limit: $n) { items { id } } } } }"
    operation = documents().operation(text)
    core = console().core
    assert operation.bind(core, {"n": 49}).coerced == {"n": 49}  # 100 cases and 4,900 reports
    with pytest.raises(ConsoleError) as error:
        operation.bind(core, {"n": 50})
    assert error.value.error_info == {"retryable": False, "limit": "cost", "max": 5000, "cost": 5100}


@pytest.mark.contract("QL-11")
def test_a_list_without_a_limit_costs_the_default() -> None:
    text = "{ listCases(limit: 100) { items { id reports { items { id } } notes { items { id } } timeline { items { at } } } } }"
    with pytest.raises(ConsoleError) as error:
        documents().operation(text).bind(console().core, {})
    assert error.value.info["cost"] == 100 + 3 * 100 * 20


@pytest.mark.contract("QL-12")
def test_lists_in_variables_have_at_most_100_items() -> None:
    operation = documents().operation("query($f: ModelCaseFilterInput) { listCases(filter: $f) { nextToken } }")
    with pytest.raises(ConsoleError) as error:
        operation.bind(console().core, {"f": {"id": {"in": ["x"] * 101}}})
    assert error.value.info["limit"] == "list items"


@pytest.mark.contract("QL-4")
@pytest.mark.parametrize(
    "text",
    [
        '{ getCase(id: "a\\u0000") { id } }',
        'query($id: ID! = "\\u0000") { getCase(id: $id) { id } }',
        '{ listCases(filter: { and: [{ id: { in: ["x", "\\u0000"] } }] }) { nextToken } }',
        '{ me @include(if: "\\u0000") { policyVersion } }',
        "{ verifyAudit(fromSeq: 1e999) { ok } }",
        "{ verifyAudit(fromSeq: -1e999) { ok } }",
    ],
)
def test_what_json_may_not_say_a_literal_may_not_either(text: str) -> None:
    """NUL, which no text of PostgreSQL holds, and a number that is none: refused before anything is validated."""
    cache = documents()
    with pytest.raises(ConsoleError) as error:
        cache.operation(text)
    assert (error.value.code, cache.validated) == ("BAD_REQUEST", 0)


@pytest.mark.contract("QL-4")
@pytest.mark.parametrize("value", ["a\x00", float("inf"), float("nan"), ["x", "\x00"], {"eq": "\x00"}])
def test_variables_that_did_not_come_as_json_are_held_to_the_same(value: Any) -> None:
    operation = documents().operation("query($id: ID!) { getCase(id: $id) { id } }")
    with pytest.raises(ConsoleError) as error:
        operation.bind(console().core, {"id": value})
    assert error.value.code == "BAD_REQUEST"


REFUSED = [
    ("{ foo }", "Validation error of type FieldUndefined: Field 'foo' in type 'Query' is undefined @ 'foo'"),
    ("{ getCase { id } }", "Validation error of type MissingFieldArgument: Missing field argument id @ 'getCase'"),
    (
        "{ getCase(id: 1, x: 2) { id } }",
        "Validation error of type UnknownArgument: Unknown field argument x @ 'getCase'",
    ),
    (
        "{ me }",
        "Validation error of type SubSelectionRequired: Sub selection required for type Viewer! of field me @ 'me'",
    ),
    (
        "{ me { policyVersion { x } } }",
        "Validation error of type SubSelectionNotAllowed: Sub selection not allowed on leaf field policyVersion @ 'me/policyVersion'",
    ),
    ("{ ...nope }", "Validation error of type UndefinedFragment: Undefined fragment nope @ ''"),
    (
        "{ listCases(orderBy: NOPE) { nextToken } }",
        "Validation error of type WrongType: No such literal of enum 'CaseOrder' @ 'listCases'",
    ),
    (
        '{ listCases(limit: "x") { nextToken } }',
        "Validation error of type WrongType: argument value is not a valid 'Int' @ 'listCases'",
    ),
    ("query($x: Nope) { __typename }", "Validation error of type UnusedVariable: Unused variable x @ ''"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_validation_errors_are_worded_as_appsync_words_them(text: str, message: str) -> None:
    with pytest.raises(InvalidDocumentError) as error:
        documents().operation(text)
    first = error.value.errors[0]
    assert first["message"] == message
    assert first["path"] is None
    assert first["locations"][0].keys() == {"line", "column", "sourceName"}


def test_no_error_suggests_a_name_or_repeats_a_value() -> None:
    with pytest.raises(InvalidDocumentError) as error:
        documents().operation('{ getCases(id: "secret-value") { id } listCases(limit: "secret-value") { nextToken } }')
    said = str(error.value.errors)
    assert "secret-value" not in said
    assert "Did you mean" not in said


def test_a_wrong_variable_is_named_without_its_value() -> None:
    operation = documents().operation("query($n: Int) { listCases(limit: $n) { nextToken } }")
    with pytest.raises(InvalidDocumentError) as error:
        operation.bind(console().core, {"n": "secret-value"})
    assert error.value.errors[0]["message"] == "Variable 'n' has an invalid value : The value does not fit its type."


def test_a_missing_variable_is_told_as_null_for_non_null() -> None:
    operation = documents().operation("query($id: ID!) { getCase(id: $id) { id } }")
    with pytest.raises(InvalidDocumentError) as error:
        operation.bind(console().core, {})
    assert error.value.errors[0]["message"].endswith("Variable has coerced Null value for NonNull type.")


def test_a_text_that_is_no_graphql_is_a_syntax_error_every_time() -> None:
    box = documents()
    for _ in range(2):
        with pytest.raises(DocumentSyntaxError):
            box.operation("{ me ")
    assert box.parsed == 1


def test_of_several_operations_the_name_chooses() -> None:
    text = "query A { me { policyVersion } } query B { __typename }"
    assert documents().operation(text, "B").name == "B"
    for name in (None, "C"):
        with pytest.raises(InvalidDocumentError):
            documents().operation(text, name)


def test_a_text_is_parsed_and_validated_once() -> None:
    box = documents()
    first = box.operation(NESTED)
    assert box.operation(NESTED).definition is first.definition
    assert (box.parsed, box.validated) == (1, 1)


def test_the_cache_holds_no_more_than_its_number_and_its_text() -> None:
    box = documents(capacity=2)
    for n in (1, 2, 3, 1):
        box.operation(f"{{ a{n}: __typename }}")
    assert box.parsed == 4  # the first was gone again
    small = documents(text_bytes=30)
    for text in ("{ a: __typename }", "{ b: __typename }", "{ a: __typename }"):
        small.operation(text)
    assert small.parsed == 3
