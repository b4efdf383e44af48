"""graphql-core's validation errors in AppSync's words: ``Validation error of type <Kind>: <text> @ '<path>'``.

Clients do not read these texts; people do. No text repeats a value of the request, and none suggests another name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from graphql import DocumentNode, FieldNode, FragmentDefinitionNode, GraphQLError, Node, Visitor, visit

from resolvers.edge_errors import source_locations

# graphql-core's message -> AppSync's kind and text. The first that matches counts; groups are names of the document.
_KINDS: Final = tuple(
    (re.compile(pattern), kind, text)
    for pattern, kind, text in (
        (r"Cannot query field '(\w+)' on type '(\w+)'", "FieldUndefined", r"Field '\1' in type '\2' is undefined"),
        (r"Unknown argument '(\w+)' on field '([\w.]+)'", "UnknownArgument", r"Unknown field argument \1"),
        (r"Unknown argument '(\w+)' on directive", "UnknownDirectiveArgument", r"Unknown directive argument \1"),
        (
            r"Argument '\w+\.\w+\((\w+):\)' of type '([^']+)' is required",
            "MissingFieldArgument",
            r"Missing field argument \1",
        ),
        (
            r"Argument '@\w+\((\w+):\)' of type '([^']+)' is required",
            "MissingDirectiveArgument",
            r"Missing directive argument \1",
        ),
        (
            r"Field '(\w+)' of type '([^']+)' must have a selection",
            "SubSelectionRequired",
            r"Sub selection required for type \2 of field \1",
        ),
        (
            r"Field '(\w+)' must not have a selection",
            "SubSelectionNotAllowed",
            r"Sub selection not allowed on leaf field \1",
        ),
        (r"Unknown type '(\w+)'", "UnknownType", r"Unknown type \1"),
        (r"Unknown fragment '(\w+)'", "UndefinedFragment", r"Undefined fragment \1"),
        (r"Fragment '(\w+)' is never used", "UnusedFragment", r"Unused fragment \1"),
        (r"Unknown directive '@?(\w+)'", "UnknownDirective", r"Unknown directive \1"),
        (r"Directive '@?(\w+)' may not be used", "MisplacedDirective", r"Directive \1 not allowed here"),
        (r"Variable '\$(\w+)' is not defined", "UndefinedVariable", r"Undefined variable \1"),
        (r"Variable '\$(\w+)' is never used", "UnusedVariable", r"Unused variable \1"),
        (
            r"Variable '\$(\w+)' of type '([^']+)' used in position expecting type '([^']+)'",
            "VariableTypeMismatch",
            r"Variable type '\2' does not match expected type '\3'",
        ),
        (
            r"Variable '\$(\w+)' cannot be non-input type",
            "NonInputTypeOnVariable",
            r"Input variable \1 type is not an input type",
        ),
        (r"Fields '(\w+)' conflict", "FieldsConflict", r"\1: they differ; use other aliases"),
        (r"Fragment '(\w+)' cannot be spread here", "InvalidFragmentType", r"Fragment \1 cannot be spread here"),
        (
            r"Fragment '(\w+)' cannot condition on non composite",
            "InlineFragmentTypeConditionInvalid",
            r"Fragment \1 cannot condition on a type without fields",
        ),
        (
            r"Fragment cannot condition on non composite",
            "InlineFragmentTypeConditionInvalid",
            "Fragment cannot condition on a type without fields",
        ),
        (r"Fragment cannot be spread here", "InvalidFragmentType", "Fragment cannot be spread here"),
        (r"Cannot spread fragment '(\w+)' within itself", "FragmentCycle", "Fragment cycles not allowed"),
        (r"There can be only one (\w+) named '\$?(\w+)'", "DuplicateName", r"There can be only one \1 named \2"),
        (r"directive '@?(\w+)' can only be used once", "DuplicateDirective", r"Directive \1 can be used once only"),
        (
            r"Expected value of type '(\w+)' to include required field '(\w+)'",
            "WrongType",
            r"Required input field \2 of \1 is missing",
        ),
        (
            r"Expected value of type '(\w+)' not to include unknown field '(\w+)'",
            "WrongType",
            r"Field \2 is not defined by input type \1",
        ),
        (r"Value '\w+' does not exist in '(\w+)' enum", "WrongType", r"No such literal of enum '\1'"),
        (
            r"Expected value of non-null type '([^']+)' not to be None",
            "WrongType",
            r"argument value is null but '\1' is not",
        ),
        (r"Expected (?:value of )?type '([^']+)'", "WrongType", r"argument value is not a valid '\1'"),
        (r"^(Int|Float|String|Boolean|ID|Enum) ", "WrongType", r"argument value is not a valid '\1'"),
        (r"^Too many validation errors", "TooManyErrors", "further errors are not listed"),
        (r"The (\w+) operation is not supported", "OperationNotSupported", r"There is no \1 type"),
    )
)
# What a message means when its text has no rule of its own: value errors of scalars are free text.
_OTHER: Final = ("WrongType", "argument value is not valid")


def located(error: GraphQLError, message: str) -> dict[str, Any]:
    """An error object as AppSync sends it before anything ran: no errorType, path null."""
    return {"path": None, "locations": source_locations(error.locations), "message": message}


def validation_errors(document: DocumentNode, errors: Sequence[GraphQLError]) -> list[dict[str, Any]]:
    """Say each error as AppSync would, with the path of field names to the offending node."""
    wanted = {id(error.nodes[0]) for error in errors if error.nodes}
    paths = _Paths(wanted)
    visit(document, paths)
    return [_rendered(error, paths.found) for error in errors]


def _rendered(error: GraphQLError, paths: dict[int, str]) -> dict[str, Any]:
    path = paths.get(id(error.nodes[0]), "") if error.nodes else ""
    kind, text = _OTHER
    for pattern, known, template in _KINDS:
        match = pattern.search(error.message)
        if match:
            kind, text = known, match.expand(template)
            break
    return located(error, f"Validation error of type {kind}: {text} @ '{path}'")


class _Paths(Visitor):
    """Field names from the top to each wanted node."""

    def __init__(self, wanted: set[int]) -> None:
        super().__init__()
        self._wanted = wanted
        self._stack: list[str] = []
        self.found: dict[int, str] = {}

    def enter(self, node: Node, *_: Any) -> None:
        if isinstance(node, FieldNode | FragmentDefinitionNode):
            self._stack.append(node.name.value)
        if id(node) in self._wanted:
            self.found.setdefault(id(node), "/".join(self._stack))

    def leave(self, node: Node, *_: Any) -> None:
        if isinstance(node, FieldNode | FragmentDefinitionNode):
            self._stack.pop()
