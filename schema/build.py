"""Merges the areas into one schema and reads its rules back. A schema with findings of ``schema.lint`` must not be served.

The core schema resolves nothing by itself: whoever executes it says how (``field_resolver``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import strawberry
from graphql import GraphQLNamedType, GraphQLObjectType, GraphQLSchema, get_named_type
from strawberry.schema.config import StrawberryConfig
from strawberry.tools import create_type
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.field import StrawberryField

from schema import alerts, approvals, audit, cases, common, deliveries, kpis, macros, messages, moderation, money, staff
from schema.console import Console, Listable, is_described
from schema.directives import FieldRules, ScopeRule, field_rules, scope_rule
from schema.scalars import SCALARS

_DEFINITION: Final = "strawberry-definition"
QUERIES: Final = (
    common.Query,
    staff.Query,
    cases.Query,
    moderation.Query,
    money.Query,
    deliveries.Query,
    messages.Query,
    macros.Query,
    approvals.Query,
    audit.Query,
    alerts.Query,
    kpis.Query,
)
MUTATIONS: Final = (
    moderation.Mutation,
    cases.Mutation,
    money.Mutation,
    deliveries.Mutation,
    messages.Mutation,
    macros.Mutation,
    approvals.Mutation,
    alerts.Mutation,
)
SUBSCRIPTIONS: Final = (cases.Subscription, approvals.Subscription, alerts.Subscription)


def _root_fields(areas: Iterable[type]) -> list[StrawberryField]:
    fields = []
    for area in areas:
        for name, field in vars(area).items():
            if isinstance(field, StrawberryField):
                field.python_name = name
                fields.append(field)
    return fields


def _root_type(name: str, areas: Iterable[type]) -> type | None:
    fields = _root_fields(areas)
    return create_type(name, fields) if fields else None


def _definition(holder: Any) -> Any:
    return (holder.extensions or {}).get(_DEFINITION)


def _directives_of(definition: StrawberryObjectDefinition | StrawberryField | None) -> list[object]:
    return list(definition.directives or ()) if definition is not None else []


def assemble(queries: Iterable[type], mutations: Iterable[type] = (), subscriptions: Iterable[type] = ()) -> Console:
    """Build a console from classes whose attributes are root fields."""
    query = _root_type("Query", queries)
    if query is None:
        raise TypeError("a schema needs a query")
    made = strawberry.Schema(
        query=query,
        mutation=_root_type("Mutation", mutations),
        subscription=_root_type("Subscription", subscriptions),
        config=StrawberryConfig(scalar_map=SCALARS),
    )
    core: GraphQLSchema = made._schema  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the only way to graphql-core's schema
    rules: dict[tuple[str, str], FieldRules] = {}
    scopes: dict[str, ScopeRule] = {}
    for object_type in core.type_map.values():
        if not is_described(object_type):
            continue
        of_type = _directives_of(_definition(object_type))
        if (rule := scope_rule(of_type)) is not None:
            scopes[object_type.name] = rule
        for name, field in object_type.fields.items():
            field.resolve = field.subscribe = None
            rules[object_type.name, name] = field_rules(
                object_type.name, name, _directives_of(_definition(field)), of_type
            )
    return Console(
        strawberry=made,
        core=core,
        rules=MappingProxyType(rules),
        scopes=MappingProxyType(scopes),
        listables=MappingProxyType(_listables(core, rules)),
    )


def _listables(core: GraphQLSchema, rules: Mapping[tuple[str, str], FieldRules]) -> dict[str, Listable]:
    """A list is the root field whose filter is that of its items and that starts at no partition."""
    found: dict[str, Listable] = {}
    roots = core.query_type.fields if core.query_type else {}
    gets = {get_named_type(f.type).name: name for name, f in roots.items() if name.startswith("get")}
    for name, field in roots.items():
        argument = field.args.get("filter")
        connection = get_named_type(field.type)
        if (
            argument is None
            or not isinstance(connection, GraphQLObjectType)
            or any(str(a.type).endswith("!") for a in field.args.values())
        ):
            continue
        item: GraphQLNamedType = get_named_type(connection.fields["items"].type)
        if item.name in gets:
            filterable = tuple(f for (t, f), rule in rules.items() if t == item.name and rule.filterable)
            found[item.name] = Listable(
                item.name, name, gets[item.name], get_named_type(argument.type).name, filterable
            )
    return found


@cache
def console() -> Console:
    """The console's schema, built once per process."""
    return assemble(QUERIES, MUTATIONS, SUBSCRIPTIONS)
