"""Filter inputs and connections in Amplify's names and shapes, generated from the ``@filterable`` fields of each type.

A key of a filter is a field of the type with the same name. ``in`` and ``notIn`` are our superset of Amplify's operators;
filters of subscriptions have neither ``not`` nor enums, as Amplify has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from functools import cache
from typing import Any, Final, Generic, TypeVar

import strawberry
from strawberry import ID
from strawberry.annotation import StrawberryAnnotation
from strawberry.tools import create_type
from strawberry.types.base import StrawberryList, StrawberryOptional, get_object_definition
from strawberry.types.enum import StrawberryEnumDefinition
from strawberry.types.field import StrawberryField
from strawberry.types.unset import UNSET

from schema.directives import INHERIT, Code, Filterable
from schema.scalars import AWSDate, AWSDateTime

Node = TypeVar("Node")


@strawberry.type(directives=[INHERIT])
class Connection(Generic[Node]):
    """A page of a list; ``nextToken`` null: the last one. ``Connection[Case]`` is CaseConnection."""

    items: list[Node]
    next_token: str | None


@strawberry.enum
class ModelSortDirection(Code):
    """Turns the order of a list."""

    ASC = auto()
    DESC = auto()


# Amplify's, lower-case names included; accepted, and answered by the column's type.
_ATTRIBUTE_TYPES: Final = (
    "binary",
    "binarySet",
    "bool",
    "list",
    "map",
    "number",
    "numberSet",
    "string",
    "stringSet",
    "_null",
)
ModelAttributeTypes: Final[Any] = Enum("ModelAttributeTypes", [(name, name) for name in _ATTRIBUTE_TYPES])  # type: ignore[misc]
strawberry.enum(ModelAttributeTypes)

_EQUAL: Final = ("ne", "eq")
_ORDERED: Final = ("le", "lt", "ge", "gt")
_LISTS: Final = ("between", "in", "notIn")
_TEXT: Final = ("contains", "notContains", "beginsWith")
_RESERVED: Final = frozenset({"in", "and", "or", "not"})


def _field(name: str, annotation: object) -> StrawberryField:
    return StrawberryField(
        python_name=f"{name}_" if name in _RESERVED else name,
        graphql_name=name,
        type_annotation=StrawberryAnnotation(annotation),
        default=UNSET,
    )


def _input(name: str, fields: Iterable[tuple[str, Any]]) -> type:
    return create_type(name, [_field(key, annotation) for key, annotation in fields], is_input=True)


def _operators(scalar: Any, names: Iterable[str]) -> list[tuple[str, Any]]:
    return [(name, list[scalar | None] | None if name in _LISTS else scalar | None) for name in names]


ModelSizeInput: Final = _input("ModelSizeInput", _operators(int, (*_EQUAL, *_ORDERED, "between")))
_EXISTS: Final[list[tuple[str, Any]]] = [("attributeExists", bool | None)]
_TYPED: Final[list[tuple[str, Any]]] = [*_EXISTS, ("attributeType", ModelAttributeTypes | None)]
_SIZED: Final[list[tuple[str, Any]]] = [*_TYPED, ("size", ModelSizeInput | None)]

_SCALARS: Final[dict[object, tuple[str, Any, tuple[str, ...], list[tuple[str, Any]]]]] = {
    str: ("String", str, (*_EQUAL, *_ORDERED, *_TEXT, *_LISTS), _SIZED),
    ID: ("ID", ID, (*_EQUAL, *_ORDERED, *_TEXT, *_LISTS), _SIZED),
    int: ("Int", int, (*_EQUAL, *_ORDERED, *_LISTS), _TYPED),
    float: ("Float", float, (*_EQUAL, *_ORDERED, *_LISTS), _TYPED),
    bool: ("Boolean", bool, _EQUAL, _TYPED),
}
# Amplify filters dates as strings; they are compared as instants.
for _date in (AWSDate, AWSDateTime):
    _SCALARS[_date] = _SCALARS[str]


def _kind(field: StrawberryField) -> tuple[Any, bool]:
    """The innermost type of a field, and whether it is a list."""
    kind: Any = field.type
    listed = False
    while isinstance(kind, (StrawberryOptional, StrawberryList)):
        listed = listed or isinstance(kind, StrawberryList)
        kind = kind.of_type
    return kind, listed


@cache
def _scalar_input(prefix: str, scalar: object) -> type:
    name, argument, operators, extras = _SCALARS[scalar]
    fields = _operators(argument, operators)
    return _input(f"{prefix}{name}Input", fields if prefix == "ModelSubscription" else [*fields, *extras])


@cache
def _enum_input(enum: type[Enum], *, listed: bool) -> type:
    if listed:
        whole: Any = list[enum | None] | None  # type: ignore[valid-type]
        return _input(
            f"Model{enum.__name__}ListInput",
            [("eq", whole), ("ne", whole), ("contains", enum | None), ("notContains", enum | None)],
        )
    return _input(f"Model{enum.__name__}Input", [*_operators(enum, ("eq", "ne", "in", "notIn")), *_EXISTS])


def _operator_input(field: StrawberryField, prefix: str) -> type:
    kind, listed = _kind(field)
    if isinstance(kind, StrawberryEnumDefinition):
        if prefix == "ModelSubscription":
            return _scalar_input(prefix, str)
        return _enum_input(kind.wrapped_cls, listed=listed)
    if kind not in _SCALARS:
        raise TypeError(f"{field.python_name} cannot be filtered by: no operators for {kind}")
    return _scalar_input(prefix, AWSDateTime if kind is AWSDate else kind)


def fields_of(of: type) -> list[StrawberryField]:
    """The declared fields of a type."""
    definition = get_object_definition(of, strict=True)
    return definition.fields


def field_of(of: type, python_name: str) -> StrawberryField:
    """One field of a type; declaring a read by a field that is not there is a bug."""
    return next(field for field in fields_of(of) if field.python_name == python_name)


def filterable_fields(of: type) -> list[StrawberryField]:
    """The fields marked ``@filterable``."""
    return [field for field in fields_of(of) if any(isinstance(d, Filterable) for d in field.directives)]


def _filter(name: str, fields: Iterable[StrawberryField], prefix: str, joins: tuple[str, ...]) -> type:
    made = create_type(
        name,
        [
            StrawberryField(
                python_name=field.python_name,
                type_annotation=StrawberryAnnotation(_operator_input(field, prefix) | None),
                default=UNSET,
            )
            for field in fields
        ],
        is_input=True,
    )
    # A filter names itself, so its own fields join once it exists.
    for join in joins:
        annotation = made | None if join == "not" else list[made | None] | None  # type: ignore[valid-type]
        fields_of(made).append(_field(join, annotation))
    return made


@cache
def filter_input(of: type) -> type:
    """ModelNFilterInput of type N."""
    return _filter(f"Model{of.__name__}FilterInput", filterable_fields(of), "Model", ("and", "or", "not"))


@cache
def subscription_filter_input(of: type, without: tuple[str, ...] = ()) -> type:
    """ModelSubscriptionNFilterInput of event N; ``without`` names filterable fields that no event is chosen by."""
    fields = [field for field in filterable_fields(of) if field.python_name not in without]
    return _filter(f"ModelSubscription{of.__name__}FilterInput", fields, "ModelSubscription", ("and", "or"))


@cache
def _key_condition(name: str) -> type:
    scalar: Any = {"Int": int, "String": str}[name]
    text = ("beginsWith",) if scalar is str else ()
    return _input(f"Model{name}KeyConditionInput", _operators(scalar, ("eq", *_ORDERED, "between", *text)))


def key_condition_input(field: StrawberryField) -> type:
    """The condition on the sort key of an index query; dates sort as strings there."""
    kind, _ = _kind(field)
    return _key_condition("Int" if kind is int else "String")
