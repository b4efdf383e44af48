"""The schema as a document: whole, as real AppSync takes it, or as the answer to an introspection query.

AppSync knows neither the product's directives nor declarations of its own scalars; what it knows stays. Types that another
mode of authentication reaches carry that mode and the default ones, since a type without directives is the default mode's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

import orjson
from graphql import (
    ConstDirectiveNode,
    DocumentNode,
    FieldDefinitionNode,
    GraphQLObjectType,
    GraphQLSchema,
    InputObjectTypeDefinitionNode,
    InputValueDefinitionNode,
    NameNode,
    ObjectTypeDefinitionNode,
    ScalarTypeDefinitionNode,
    TypeDefinitionNode,
    build_schema,
    get_named_type,
    introspection_from_schema,
    parse,
    print_ast,
)

from schema.console import Console

Format = Literal["sdl", "appsync", "json"]

# What AppSync declares by itself: needed to check a document, never part of it.
APPSYNC_PRELUDE: Final = """
directive @aws_subscribe(mutations: [String!]) on FIELD_DEFINITION
directive @aws_iam on FIELD_DEFINITION | OBJECT
directive @aws_api_key on FIELD_DEFINITION | OBJECT
directive @aws_oidc on FIELD_DEFINITION | OBJECT
directive @aws_lambda on FIELD_DEFINITION | OBJECT
directive @aws_cognito_user_pools(cognito_groups: [String!]) on FIELD_DEFINITION | OBJECT
directive @aws_auth(cognito_groups: [String!]!) on FIELD_DEFINITION
scalar AWSDate
scalar AWSTime
scalar AWSDateTime
scalar AWSTimestamp
scalar AWSEmail
scalar AWSJSON
scalar AWSPhone
scalar AWSURL
scalar AWSIPAddress
"""
# How staff come; they need no directive where nobody else comes.
_STAFF_MODES: Final = ("aws_oidc", "aws_cognito_user_pools")
_OTHER_MODES: Final = ("aws_iam", "aws_api_key", "aws_lambda")


def render(console: Console, form: Format) -> str:
    """Print the schema; the same schema prints the same bytes."""
    if form == "sdl":
        return console.sdl
    if form == "appsync":
        return appsync(console)
    return orjson.dumps(introspection_from_schema(console.core), option=orjson.OPT_INDENT_2).decode() + "\n"


def appsync(console: Console) -> str:
    """Print what AppSync accepts, after checking that it is a schema."""
    nodes = [node for node in parse(console.sdl).definitions if isinstance(node, TypeDefinitionNode)]
    modes = _modes_of_types(console, {node.name.value: node for node in nodes})
    stripped = [_strip(node, modes) for node in nodes if not isinstance(node, ScalarTypeDefinitionNode)]
    used = _used_names(stripped)
    text = print_ast(DocumentNode(definitions=tuple(node for node in stripped if node.name.value in used))) + "\n"
    checked(text)
    return text


def checked(text: str) -> GraphQLSchema:
    """Build the schema of an AppSync document; raises ``GraphQLError`` or ``TypeError`` where AppSync would refuse it."""
    return build_schema(APPSYNC_PRELUDE + text)


def _named(name: str) -> ConstDirectiveNode:
    return ConstDirectiveNode(name=NameNode(value=name), arguments=())


def _aws(nodes: Iterable[ConstDirectiveNode] | None) -> tuple[ConstDirectiveNode, ...]:
    return tuple(node for node in nodes or () if node.name.value.startswith("aws_"))


def _strip(node: TypeDefinitionNode, modes: dict[str, tuple[str, ...]]) -> TypeDefinitionNode:
    if isinstance(node, ObjectTypeDefinitionNode):
        own = _aws(node.directives)
        present = {directive.name.value for directive in own}
        completed = tuple(_named(mode) for mode in modes.get(node.name.value, ()) if mode not in present)
        fields = tuple(
            FieldDefinitionNode(name=f.name, arguments=f.arguments, type=f.type, directives=_aws(f.directives))
            for f in node.fields or ()
        )
        return ObjectTypeDefinitionNode(name=node.name, interfaces=(), directives=(*own, *completed), fields=fields)
    if isinstance(node, InputObjectTypeDefinitionNode):
        values = tuple(InputValueDefinitionNode(name=f.name, type=f.type, directives=()) for f in node.fields or ())
        return InputObjectTypeDefinitionNode(name=node.name, directives=(), fields=values)
    return node


def _used_names(nodes: Iterable[TypeDefinitionNode]) -> set[str]:
    """The types that a root reaches: enums that only the product's directives use fall out."""
    by_name = {node.name.value: node for node in nodes}
    used: set[str] = set()
    waiting: list[str] = [name for name in ("Query", "Mutation", "Subscription") if name in by_name]
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting += [mention for mention in _mentions(by_name[name]) if mention in by_name]
    return used


def _mentions(node: TypeDefinitionNode) -> Iterator[str]:
    if isinstance(node, (ObjectTypeDefinitionNode, InputObjectTypeDefinitionNode)):
        for field in node.fields or ():
            yield print_ast(field.type).strip("[]!")
            if isinstance(field, FieldDefinitionNode):
                yield from (print_ast(argument.type).strip("[]!") for argument in field.arguments or ())


def _modes_of_types(console: Console, nodes: Mapping[str, TypeDefinitionNode]) -> dict[str, tuple[str, ...]]:
    """For each type that another mode than the staff's reaches: all modes it needs."""
    reached: dict[str, set[str]] = {}
    for _, root in console.roots():
        node = nodes[root.name]
        declared = node.fields or () if isinstance(node, ObjectTypeDefinitionNode) else ()
        for field in declared:
            modes = {directive.name.value for directive in _aws(field.directives)} & set(_OTHER_MODES)
            waiting = [get_named_type(root.fields[field.name.value].type)] if modes else []
            seen: set[str] = set()
            while waiting:
                of = waiting.pop()
                if isinstance(of, GraphQLObjectType) and of.name not in seen:
                    seen.add(of.name)
                    reached.setdefault(of.name, set()).update(modes)
                    waiting += [get_named_type(f.type) for f in of.fields.values()]
    return {name: (*sorted(modes), *_STAFF_MODES) for name, modes in reached.items()}
