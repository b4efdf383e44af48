"""What changed between two schemas, as their users meet it: additive, dangerous or breaking, each with its coordinate.

graphql-core says what happens to types, fields, arguments and values; the product's directives are compared here: who may,
for which reasons, with how many people, under which mask and scope, recorded as what.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from graphql import (
    BreakingChange,
    ConstDirectiveNode,
    DangerousChange,
    EnumValueDefinitionNode,
    FieldDefinitionNode,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    InputValueDefinitionNode,
    SafeChangeType,
    TypeDefinitionNode,
    build_schema,
    find_schema_changes,
    print_ast,
)

Level: TypeAlias = Literal["breaking", "dangerous", "additive"]
LEVELS: Final[tuple[Level, ...]] = ("breaking", "dangerous", "additive")
Node: TypeAlias = TypeDefinitionNode | FieldDefinitionNode | InputValueDefinitionNode | EnumValueDefinitionNode | None


@dataclass(frozen=True)
class Change:
    """One change: where, and in one sentence what."""

    level: Level
    coordinate: str  # Type, Type.field, Type.field(argument:) or @directive
    text: str


@dataclass(frozen=True)
class _Weight:
    """How grave it is that a directive of the product comes, goes or says something else."""

    what: str
    added: Level
    removed: Level
    changed: Level


# Breaking is what refuses or empties something that worked; what opens or is only recorded otherwise is dangerous.
# ``@filterable`` is not here: it is the filter input's field, which graphql-core compares.
_WEIGHTS: Final[Mapping[str, _Weight]] = MappingProxyType(
    {
        "policy": _Weight("the policy row", "breaking", "breaking", "breaking"),
        "inherit": _Weight("who may read it", "dangerous", "breaking", "breaking"),
        "self": _Weight("who may read it", "breaking", "dangerous", "breaking"),
        "scope": _Weight("the scope of its rows", "breaking", "dangerous", "breaking"),
        "reason": _Weight("the reason list", "breaking", "dangerous", "breaking"),
        "dualControl": _Weight("the approval by a second person", "breaking", "dangerous", "breaking"),
        "audited": _Weight("the audit action", "dangerous", "dangerous", "dangerous"),
        "idempotent": _Weight("the idempotency key", "additive", "breaking", "breaking"),
        "pii": _Weight("the mask", "breaking", "dangerous", "breaking"),
        "aws_subscribe": _Weight("the mutations that it hears", "additive", "breaking", "breaking"),
        "aws_iam": _Weight("the mode of authentication", "dangerous", "breaking", "breaking"),
        "aws_oidc": _Weight("the mode of authentication", "dangerous", "breaking", "breaking"),
        "aws_cognito_user_pools": _Weight("the mode of authentication", "dangerous", "breaking", "breaking"),
        "deprecated": _Weight("the deprecation", "dangerous", "additive", "additive"),
    }
)
_COORDINATE: Final = re.compile(r"@\w+|\w+\.\w+(?:\(\w+:\))?")


def changes(before: str, after: str) -> list[Change]:
    """Compare two schemas in SDL with the product's directives; the gravest first, then by coordinate."""
    old, new = build_schema(before), build_schema(after)
    found = [*_of_graphql(old, new), *_of_directives(old, new)]
    return sorted(found, key=lambda one: (LEVELS.index(one.level), one.coordinate, one.text))


def unannounced(found: Iterable[Change], announced: str) -> list[Change]:
    """The breaking changes whose coordinate the text does not name, by itself or by its type."""
    return [one for one in found if one.level == "breaking" and not _is_named(one.coordinate, announced)]


def _is_named(coordinate: str, text: str) -> bool:
    candidates = (coordinate, coordinate.partition("(")[0])
    return any(re.search(rf"(?<![\w.@]){re.escape(name)}(?![\w.(])", text) for name in candidates)


def _of_graphql(old: GraphQLSchema, new: GraphQLSchema) -> Iterator[Change]:
    for change in find_schema_changes(old, new):
        if change.type is SafeChangeType.DESCRIPTION_CHANGED:
            continue
        level: Level = (
            "breaking"
            if isinstance(change, BreakingChange)
            else "dangerous"
            if isinstance(change, DangerousChange)
            else "additive"
        )
        named = _COORDINATE.search(change.description)
        words = change.description.removeprefix("Standard scalar ").split()
        yield Change(level, named.group() if named else words[0], change.description)


def _of_directives(old: GraphQLSchema, new: GraphQLSchema) -> Iterator[Change]:
    for name, before in old.type_map.items():
        after = new.type_map.get(name)
        if after is None:
            continue
        was, now = dict(_places(name, before)), dict(_places(name, after))
        for place in was.keys() & now.keys():
            yield from _compared(place, _said(was[place]), _said(now[place]))


def _places(name: str, of: GraphQLNamedType) -> Iterator[tuple[str, Node]]:
    """Each coordinate of a type that a directive may stand at: itself, its fields with their arguments, its values."""
    yield name, of.ast_node
    if isinstance(of, GraphQLEnumType):
        yield from ((f"{name}.{value}", found.ast_node) for value, found in of.values.items())
    elif isinstance(of, (GraphQLObjectType, GraphQLInputObjectType)):
        for field, found in of.fields.items():
            yield f"{name}.{field}", found.ast_node
            for argument, given in found.args.items() if isinstance(found, GraphQLField) else ():
                yield f"{name}.{field}({argument}:)", given.ast_node


def _said(node: Node) -> dict[str, str]:
    """Each directive of a definition by name, as printed with its arguments in one order."""
    return {one.name.value: _printed(one) for one in (node.directives if node else None) or ()}


def _printed(directive: ConstDirectiveNode) -> str:
    arguments = sorted(print_ast(argument) for argument in directive.arguments or ())
    return f"@{directive.name.value}" + (f"({', '.join(arguments)})" if arguments else "")


def _compared(coordinate: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name, weight in _WEIGHTS.items():
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        if was is None:
            yield Change(weight.added, coordinate, f"{coordinate}: {weight.what} was added, {now}.")
        elif now is None:
            yield Change(weight.removed, coordinate, f"{coordinate}: {weight.what} was removed, {was}.")
        else:
            yield Change(weight.changed, coordinate, f"{coordinate}: {weight.what} changed from {was} to {now}.")
