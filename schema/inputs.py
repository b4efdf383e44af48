"""From coerced arguments to typed inputs: what commands are written against."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from strawberry.schema.name_converter import NameConverter
from strawberry.types.base import StrawberryList, StrawberryOptional, get_object_definition, has_object_definition
from strawberry.types.enum import StrawberryEnumDefinition

Input = TypeVar("Input")
_NAMES = NameConverter()


@cache
def _fields(of: Any) -> dict[str, tuple[str, Any]]:
    """GraphQL name -> (attribute, type)."""
    definition = get_object_definition(of, strict=True)
    return {_NAMES.get_graphql_name(field): (field.python_name, field.type) for field in definition.fields}


def _value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, StrawberryOptional):
        return _value(kind.of_type, value)
    if isinstance(kind, StrawberryList):
        return [_value(kind.of_type, item) for item in value]
    if isinstance(kind, StrawberryEnumDefinition):
        return kind.wrapped_cls(value)
    if has_object_definition(kind):
        return convert(kind, value)
    return value


def convert(of: type[Input], arguments: Mapping[str, Any]) -> Input:
    """Make an input of coerced arguments; what is absent or null becomes None. An unknown name is a bug: ``TypeError``."""
    kind: Any = of
    fields = _fields(kind)
    if unknown := arguments.keys() - fields.keys():
        raise TypeError(f"{of.__name__} has no {', '.join(sorted(unknown))}")
    return of(**{attribute: _value(of_field, arguments.get(name)) for name, (attribute, of_field) in fields.items()})
