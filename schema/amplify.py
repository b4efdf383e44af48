"""What an Amplify v6 client is configured with: ``amplify_outputs.json`` and the model introspection inside it.

Models are the types that have a get and a list, so ``client.models.Case.list`` works; writing goes through the console's own
mutations, ``client.mutations.requestRefund``. Every type stands among the ``nonModels`` too, so that a payload's default
selection holds the objects themselves; there, objects do not lead to other objects, and no selection runs in a circle.
A field with a policy row of its own is in no default selection: it would bring an error to everyone who lacks that row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLType,
    get_named_type,
)

from schema import build
from schema.console import Console, Listable

OUTPUTS_VERSION: Final = "1.4"
REGION: Final = "us-east-1"  # a client wants one to sign with; nothing here is in a region


def amplify_outputs(url: str, api_key: str | None = None) -> dict[str, Any]:
    """Make the contents of ``amplify_outputs.json`` for a server at ``url``."""
    data: dict[str, Any] = {
        "url": url,
        "aws_region": REGION,
        "default_authorization_type": "AMAZON_COGNITO_USER_POOLS",
        "authorization_types": ["OPENID_CONNECT", "API_KEY"] if api_key else ["OPENID_CONNECT"],
        "model_introspection": model_introspection(build.console()),
    }
    if api_key:
        data["api_key"] = api_key
    return {"version": OUTPUTS_VERSION, "data": data}


def model_introspection(console: Console) -> dict[str, Any]:
    """Describe models, types and operations as Amplify's code generator would."""
    types = console.core.type_map.values()
    roots = {root.name for _, root in console.roots()}
    described = [t for t in types if not t.name.startswith("__")]
    return {
        "version": 1,
        "models": {name: _model(console, listable) for name, listable in console.listables.items()},
        "enums": {
            t.name: {"name": t.name, "values": list(t.values)} for t in described if isinstance(t, GraphQLEnumType)
        },
        "nonModels": {
            t.name: {"name": t.name, "fields": dict(_plain_fields(console, t))}
            for t in described
            if isinstance(t, GraphQLObjectType) and t.name not in roots
        },
        "inputs": {
            t.name: {"name": t.name, "attributes": {name: _argument(name, field) for name, field in t.fields.items()}}
            for t in described
            if isinstance(t, GraphQLInputObjectType)
        },
        **_operations(console),
    }


def _operations(console: Console) -> dict[str, Any]:
    # What only AppSync's own outbox may call is no operation of a client.
    plural = {"query": "queries", "mutation": "mutations", "subscription": "subscriptions"}
    return {
        plural[kind]: {
            name: _operation(console, name, field)
            for name, field in root.fields.items()
            if name not in console.published
        }
        for kind, root in console.roots()
    }


def _operation(console: Console, name: str, field: GraphQLField) -> dict[str, Any]:
    kind = get_named_type(field.type)
    # An object comes with the loaders of its model; what a subscription brings is an event, even of the same type.
    is_model = any(name == listable.get_field for listable in console.listables.values())
    shape = {"name": name, **_shape(field.type), "type": {"model": kind.name} if is_model else _output(kind)}
    if field.args:
        shape["arguments"] = {argument: _argument(argument, definition) for argument, definition in field.args.items()}
    return shape


def _shape(kind: GraphQLType) -> dict[str, Any]:
    """Nullability in Amplify's words: of a list, ``isRequired`` is about its items."""
    required = isinstance(kind, GraphQLNonNull)
    inner = kind.of_type if isinstance(kind, GraphQLNonNull) else kind
    if isinstance(inner, GraphQLList):
        return {
            "isArray": True,
            "isRequired": isinstance(inner.of_type, GraphQLNonNull),
            "isArrayNullable": not required,
        }
    return {"isArray": False, "isRequired": required}


def _output(kind: Any) -> str | dict[str, str]:
    if isinstance(kind, GraphQLEnumType):
        return {"enum": kind.name}
    if isinstance(kind, GraphQLObjectType):
        return {"nonModel": kind.name}
    name: str = kind.name
    return name


def _argument(name: str, definition: GraphQLArgument | GraphQLInputField) -> dict[str, Any]:
    kind = get_named_type(definition.type)
    return {
        "name": name,
        **_shape(definition.type),
        "type": {"input": kind.name} if isinstance(kind, GraphQLInputObjectType) else _output(kind),
    }


def _field(name: str, kind: GraphQLType, **more: Any) -> dict[str, Any]:
    return {"name": name, **_shape(kind), "type": _output(get_named_type(kind)), "attributes": [], **more}


def _open_fields(console: Console, of: GraphQLObjectType) -> Iterator[tuple[str, GraphQLField]]:
    """The fields that the type's own row opens."""
    rows = [console.rules[of.name, name].policy for name in of.fields]
    row = max(rows, key=rows.count)
    return ((name, field) for name, field in of.fields.items() if console.rules[of.name, name].policy == row)


def _plain_fields(console: Console, of: GraphQLObjectType) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fields without arguments; from one object to another there is no step."""
    for name, field in _open_fields(console, of):
        single = get_named_type(field.type).name in console.listables and not _shape(field.type)["isArray"]
        if not field.args and not (single and of.name in console.listables):
            yield name, _field(name, field.type)


def _key(console: Console, listable: Listable) -> str:
    """The key of a model: the argument of its get."""
    query = console.core.query_type
    return next(iter(query.fields[listable.get_field].args)) if query else "id"


def _model(console: Console, listable: Listable) -> dict[str, Any]:
    of = console.core.type_map[listable.type]
    if not isinstance(of, GraphQLObjectType):
        raise TypeError(f"{listable.type} is no object type")
    key = _key(console, listable)
    attributes: list[dict[str, Any]] = [
        {"type": "model", "properties": {"queries": {"observeQuery": None}, "mutations": None, "subscriptions": None}}
    ]
    if key != "id":
        attributes.append({"type": "key", "properties": {"fields": [key]}})
    attributes += _indexes(console, listable)
    return {
        "name": listable.type,
        "pluralName": listable.list_field.removeprefix("list"),
        "syncable": True,
        "attributes": attributes,
        "fields": {**dict(_plain_fields(console, of)), **dict(_associations(console, of, key))},
        "primaryKeyInfo": {"isCustomPrimaryKey": key != "id", "primaryKeyFieldName": key, "sortKeyFieldNames": []},
    }


def _indexes(console: Console, listable: Listable) -> Iterator[dict[str, Any]]:
    """Index queries: lists of the same type that start at a required partition key."""
    for name, field in (console.core.query_type.fields if console.core.query_type else {}).items():
        if (
            name == listable.list_field
            or "filter" not in field.args
            or get_named_type(field.args["filter"].type).name != listable.filter_input
        ):
            continue
        partition, sort = list(field.args)[:2]
        index = name.removeprefix("list")
        named = index[0].lower() + index[1:]
        yield {"type": "key", "properties": {"name": named, "queryField": name, "fields": [partition, sort]}}


def _associations(console: Console, of: GraphQLObjectType, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects that a client loads when asked for: by the id beside them, or as a list filtered by this one's id."""
    back = key if key != "id" else f"{of.name[0].lower()}{of.name[1:]}Id"
    for name, field in _open_fields(console, of):
        target = get_named_type(field.type)
        if target.name in console.listables and f"{name}Id" in of.fields:
            association: dict[str, Any] = {"connectionType": "BELONGS_TO", "targetNames": [f"{name}Id"]}
            yield name, _field(name, field.type, type={"model": target.name}, association=association)
        elif isinstance(target, GraphQLObjectType) and "items" in target.fields:
            item = get_named_type(target.fields["items"].type).name
            if item in console.listables and back in console.listables[item].filter_fields:
                association = {"connectionType": "HAS_MANY", "associatedWith": [back]}
                shape = {"isArray": True, "isArrayNullable": True, "isRequired": True}
                yield (
                    name,
                    {"name": name, **shape, "type": {"model": item}, "attributes": [], "association": association},
                )
