"""The finished contract as one object: the schema, the rules of each field, the row predicate and the lists of each type.

Made once by ``schema.build``; lint, printing, the planner and the pipeline all ask this and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

import strawberry
from graphql import GraphQLNamedType, GraphQLObjectType, GraphQLSchema

from schema.directives import FieldRules, ScopeRule


def is_described(of: GraphQLNamedType) -> TypeGuard[GraphQLObjectType]:
    """Whether this is an object type of ours, not one of introspection."""
    return isinstance(of, GraphQLObjectType) and not of.name.startswith("__")


@dataclass(frozen=True)
class Listable:
    """A type with a filtered list: its root fields, its filter input and the fields that may be filtered by."""

    type: str
    list_field: str
    get_field: str
    filter_input: str
    filter_fields: tuple[str, ...]


@dataclass(frozen=True)
class Console:
    """The schema and what it demands. ``rules`` is complete: one entry for every field of every object type."""

    strawberry: strawberry.Schema
    core: GraphQLSchema
    rules: Mapping[tuple[str, str], FieldRules]
    scopes: Mapping[str, ScopeRule]
    listables: Mapping[str, Listable]

    @cached_property
    def sdl(self) -> str:
        """The schema as printed, directives included."""
        return self.strawberry.as_str() + "\n"

    @cached_property
    def published(self) -> frozenset[str]:
        """The mutations that subscriptions listen to: behind real AppSync the outbox calls them, here nobody may."""
        return frozenset(name for rule in self.rules.values() for name in rule.subscribes)

    def roots(self) -> Iterable[tuple[str, GraphQLObjectType]]:
        """(kind, type) of each root type: query, mutation, subscription."""
        for kind in ("query", "mutation", "subscription"):
            root: GraphQLObjectType | None = getattr(self.core, f"{kind}_type")
            if root is not None:
                yield kind, root

    def objects(self) -> Iterable[GraphQLObjectType]:
        """Every object type but those of introspection."""
        return filter(is_described, self.core.type_map.values())
