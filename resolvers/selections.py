"""The fields that an operation selects of a type, as graphql-core collects them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from graphql import (
    FieldNode,
    FragmentSpreadNode,
    GraphQLIncludeDirective,
    GraphQLObjectType,
    GraphQLSkipDirective,
    InlineFragmentNode,
    SelectionNode,
    SelectionSetNode,
)
from graphql.execution.values import VariableValues, get_directive_values

if TYPE_CHECKING:
    from resolvers.documents import Operation


def collected(
    operation: Operation, variables: VariableValues, selections: Iterable[SelectionSetNode], of: GraphQLObjectType
) -> dict[str, list[FieldNode]]:
    """Fields by response key, fragments expanded, skipped ones gone. The schema has no interfaces and no unions."""
    found: dict[str, list[FieldNode]] = {}
    visited: set[str] = set()

    def walk(selection: SelectionSetNode) -> None:
        for node in selection.selections:
            if not _included(node, variables):
                continue
            if isinstance(node, FieldNode):
                found.setdefault(node.alias.value if node.alias else node.name.value, []).append(node)
            elif isinstance(node, InlineFragmentNode):
                if node.type_condition is None or node.type_condition.name.value == of.name:
                    walk(node.selection_set)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in visited:
                fragment = operation.fragments[node.name.value]
                if fragment.type_condition.name.value == of.name:
                    visited.add(node.name.value)
                    walk(fragment.selection_set)

    for selection in selections:
        walk(selection)
    return found


def _included(node: SelectionNode, variables: VariableValues) -> bool:
    if not node.directives:
        return True
    skip = get_directive_values(GraphQLSkipDirective, node, variables)
    if skip and skip["if"]:
        return False
    include = get_directive_values(GraphQLIncludeDirective, node, variables)
    return include is None or bool(include["if"])
