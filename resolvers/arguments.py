"""A field's arguments for the variables of a request: coerced once by graphql-core, then only filled in.

Where a plan is kept, the variables have the same shape (``plan_cache.shape``): the same ones are there, the same ones null.
So of two requests only the values differ, and a template says where each of them goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import FieldNode, GraphQLField, ListValueNode, Node, ObjectValueNode, VariableNode
from graphql.execution.values import VariableValues, get_argument_values

Arguments = Callable[[VariableValues], Mapping[str, Any]]


@dataclass(frozen=True)
class _Variable:
    name: str


def arguments_of(definition: GraphQLField, node: FieldNode, variables: VariableValues) -> Arguments:
    """What gives the arguments for any variables of the shape of these. Raises graphql-core's error where these do not fit."""
    found = get_argument_values(definition, node, variables, hide_suggestions=True)
    written = {argument.name.value: argument.value for argument in node.arguments or ()}
    template = {name: _template(written.get(name), value) for name, value in found.items()}
    if _filled(template, variables.coerced) != found:  # a type of its own way from literal to value
        return lambda given: get_argument_values(definition, node, given, hide_suggestions=True)
    if not _has_variable(template):
        return lambda _: found
    return lambda given: {name: _filled(part, given.coerced) for name, part in template.items()}


def _template(node: Node | None, value: Any) -> Any:
    if isinstance(node, VariableNode):
        return _Variable(node.name.value)
    if isinstance(node, ObjectValueNode) and isinstance(value, dict):
        written = {field.name.value: field.value for field in node.fields}
        return {name: _template(written.get(name), item) for name, item in value.items()}
    if isinstance(node, ListValueNode) and isinstance(value, list) and len(node.values) == len(value):
        return [_template(item, part) for item, part in zip(node.values, value, strict=True)]
    return value


def _has_variable(template: Any) -> bool:
    if isinstance(template, dict):
        return any(_has_variable(part) for part in template.values())
    if isinstance(template, list):
        return any(_has_variable(part) for part in template)
    return isinstance(template, _Variable)


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    kind = type(template)
    if kind is _Variable:
        return values.get(template.name)
    if kind is dict:
        return {name: _filled(part, values) for name, part in template.items()}
    if kind is list:
        return [_filled(part, values) for part in template]
    return template
