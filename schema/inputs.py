"""From coerced arguments to typed inputs: what commands are written against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeVar

from strawberry.schema.name_converter import NameConverter
from strawberry.types.base import StrawberryList, StrawberryOptional, get_object_definition, has_object_definition
from strawberry.types.enum import StrawberryEnumDefinition

Input = TypeVar("Input")
_NAMES = NameConverter()


_Made = Callable[[Any], Any]


@cache
def _fields(of: Any) -> dict[str, tuple[str, _Made | None]]:
    """GraphQL name -> (attribute, what makes its value; None: it is the value already)."""
    definition = get_object_definition(of, strict=True)
    return {_NAMES.get_graphql_name(field): (field.python_name, _maker(field.type)) for field in definition.fields}


def _maker(kind: Any) -> _Made | None:
    if isinstance(kind, StrawberryOptional):
        return _maker(kind.of_type)
    if isinstance(kind, StrawberryList):
        return _list_of(_maker(kind.of_type))
    if isinstance(kind, StrawberryEnumDefinition):
        return kind.wrapped_cls
    return partial(convert, kind) if has_object_definition(kind) else None


def _list_of(make: _Made | None) -> _Made:
    return lambda items: [item if make is None or item is None else make(item) for item in items]


def convert(of: type[Input], arguments: Mapping[str, Any]) -> Input:
    """Make an input of coerced arguments; what is absent or null becomes None. An unknown name is a bug: ``TypeError``."""
    kind: Any = of
    fields = _fields(kind)
    if unknown := arguments.keys() - fields.keys():
        raise TypeError(f"{of.__name__} has no {', '.join(sorted(unknown))}")
    made: dict[str, Any] = {}
    for name, (attribute, make) in fields.items():
        value = arguments.get(name)
        made[attribute] = value if make is None or value is None else make(value)
    return of(**made)
