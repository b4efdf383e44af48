"""The root fields of a bound operation: fragments expanded, skipped ones gone, arguments coerced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import FieldNode, GraphQLError, GraphQLSchema
from graphql.execution.collect_fields import FragmentDetails, collect_fields
from graphql.execution.values import VariableValues

from resolvers.arguments import Arguments, arguments_of
from resolvers.documents import InvalidDocumentError, Operation
from resolvers.plan_cache import shape
from resolvers.validation_errors import located


@dataclass(frozen=True)
class RootField:
    """One response key at the top of an operation."""

    key: str
    name: str
    nodes: Sequence[FieldNode]
    arguments: Mapping[str, Any]  # an argument that was left out, or whose variable was, is absent; null is None

    @property
    def locations(self) -> list[tuple[int, int]]:
        found = []
        for node in self.nodes:
            if node.loc is not None:
                token = node.loc.start_token
                found.append((token.line, token.column))
        return found


def root_fields(schema: GraphQLSchema, operation: Operation, variables: VariableValues) -> list[RootField]:
    """In the document's order. Raises ``InvalidDocumentError`` for an argument that the variables make invalid."""
    found = operation.remembered(("roots", shape(variables.coerced)), lambda: _collected(schema, operation, variables))
    return [RootField(key, name, nodes, arguments(variables)) for key, name, nodes, arguments in found]


def _collected(
    schema: GraphQLSchema, operation: Operation, variables: VariableValues
) -> list[tuple[str, str, Sequence[FieldNode], Arguments]]:
    root = schema.get_root_type(operation.definition.operation)
    if root is None:
        raise InvalidDocumentError(
            [{"path": None, "locations": None, "message": f"Schema is not configured for {operation.kind}s."}]
        )
    fragments = {name: FragmentDetails(fragment) for name, fragment in operation.fragments.items()}
    collected = collect_fields(schema, fragments, variables, root, operation.definition)
    result: list[tuple[str, str, Sequence[FieldNode], Arguments]] = []
    for key, details in collected.grouped_field_set.items():
        nodes = [detail.node for detail in details]
        definition = schema.get_field(root, nodes[0].name.value)
        if definition is None:  # validation has refused the document before
            continue
        try:
            arguments = arguments_of(definition, nodes[0], variables)
        except GraphQLError as error:
            text = f"Validation error of type WrongType: argument value is not valid @ '{nodes[0].name.value}'"
            raise InvalidDocumentError([located(error, text)]) from error
        result.append((key, nodes[0].name.value, nodes, arguments))
    return result
