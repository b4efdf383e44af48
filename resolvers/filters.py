"""Amplify's filters as SQL conditions. Values are bind parameters; text is compared by position, so nothing needs escaping.

Dates compare as instants of the console's precision (milliseconds). A missing value satisfies only ``ne``, ``notIn``,
``notContains`` and ``attributeExists: false``, as DynamoDB has it. Lists know ``contains``, ``size`` and equality.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    Numeric,
    Text,
    all_,
    and_,
    any_,
    false,
    func,
    literal_column,
    not_,
    or_,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.types import TypeEngine

from resolvers.binding import Binding, Params
from schema.errors import ConsoleError

_EXACT: Final = 2**53
TICK: Final = timedelta(milliseconds=1)
Path = tuple[str | int, ...]
Column = Callable[[str], ColumnElement[Any]]  # field name -> what it reads, or a refusal

_ATTRIBUTE_TYPES: Final[Mapping[type[TypeEngine[Any]], str]] = {
    ARRAY: "list",
    Boolean: "bool",
    Integer: "number",
    Float: "number",
    Numeric: "number",
}


def dig(arguments: Any, path: Path) -> Any:
    for part in path:
        arguments = arguments[part]
    return arguments


def scalar(value: Any) -> Any:
    """An enum member as the database has it; text is as ``resolvers.documents`` let it in."""
    return value.value if isinstance(value, Enum) else value


def instant(value: Any) -> datetime:
    """An AWSDateTime; a date alone is its first instant in UTC."""
    try:
        parsed = datetime.fromisoformat(str(value))
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        parsed.replace(microsecond=0) + timedelta(days=1)  # the end of its millisecond must exist as well
    except (ValueError, OverflowError) as error:
        raise ConsoleError("BAD_REQUEST", "A date is not ISO 8601, or no date of this calendar.") from error
    return parsed.replace(microsecond=parsed.microsecond // 1000 * 1000)


def whole(value: Any) -> int:
    """Positions of the log are Float in the schema and whole in fact."""
    if isinstance(value, float) and not (value.is_integer() and abs(value) <= _EXACT):
        raise ConsoleError("BAD_REQUEST", "A whole number is compared with a fraction, or with one beyond 2^53.")
    return int(value)


def converter(of: TypeEngine[Any]) -> Callable[[Any], Any]:
    """From an argument's value to what is bound for a column of this type."""
    if isinstance(of, ARRAY):
        return lambda value: [scalar(item) for item in value]
    if isinstance(of, DateTime):
        return instant
    if isinstance(of, UUID):
        return uuid_or_none
    if isinstance(of, Integer):
        return whole
    if isinstance(of, Float):
        return float
    return scalar


def uuid_or_none(value: Any) -> str | None:
    """No row has an id that is no UUID: comparing with null finds none."""
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        return None


class Filters:
    """The conditions of one list: its site's arguments under ``site``, errors to the root field ``root``."""

    def __init__(self, params: Params, site: int, root: str, column: Column) -> None:
        self._params = params
        self._site = site
        self._root = root
        self._column = column

    def bind(self, of: TypeEngine[Any], path: Path, convert: Callable[[Any], Any]) -> ColumnElement[Any]:
        """The value at ``path`` of the site's arguments as a parameter."""
        site = self._site  # a kept ``fetch`` holds a number, not these filters with all their columns

        def fetch(binding: Binding) -> Any:
            return convert(dig(binding.arguments[site], path))

        return self._params.own(of, fetch, root=self._root)

    def of(self, value: Mapping[str, Any] | None, path: Path = ("filter",)) -> ColumnElement[bool]:
        """A ModelNFilterInput; null and the empty filter hold for every row."""
        terms: list[ColumnElement[bool]] = []
        for name, given in (value or {}).items():
            where = (*path, name)
            if name in ("and", "or"):
                parts = [self.of(part, (*where, position)) for position, part in enumerate(given or ())]
                if parts:
                    terms.append(and_(*parts) if name == "and" else or_(*parts))
            elif name == "not":
                if given is not None:
                    terms.append(not_(func.coalesce(self.of(given, where), literal_column("false"))))
            elif given is not None:
                terms.append(self.operators(self._column(name), given, where))
        return and_(true(), *terms)

    def operators(self, column: ColumnElement[Any], given: Mapping[str, Any], path: Path) -> ColumnElement[bool]:
        """All operators of one field; they are AND-ed."""
        return and_(true(), *(self._operator(column, op, value, (*path, op)) for op, value in given.items()))

    def _operator(self, column: ColumnElement[Any], op: str, value: Any, path: Path) -> ColumnElement[bool]:
        if op == "attributeExists":
            return true() if value is None else column.is_not(None) if value else column.is_(None)
        if op == "attributeType":
            return self._typed(column, value)
        if op == "size":
            return true() if value is None else self._size(column, value, path)
        if value is None:
            return {"eq": column.is_(None), "ne": column.is_not(None)}.get(op, false())
        if op == "between":
            return self._between(column, path)
        if isinstance(column.type, ARRAY):
            return self._list(column, op, path)
        if isinstance(column.type, DateTime):
            return self._dated(column, op, path)
        return self._scalar(column, op, path)

    def _scalar(self, column: ColumnElement[Any], op: str, path: Path) -> ColumnElement[bool]:
        if isinstance(column.type, UUID) and op not in ("eq", "ne", "in", "notIn"):
            column = column.cast(Text)
        convert = converter(column.type)
        of = Text() if isinstance(column.type, Text) else column.type
        if op in ("in", "notIn"):
            listed = self.bind(ARRAY(of), path, lambda values: [convert(item) for item in values if item is not None])
            return column == any_(listed) if op == "in" else or_(column.is_(None), column != all_(listed))
        bound = self.bind(of, path, convert)
        if op in ("contains", "notContains"):
            found = func.strpos(column, bound) > literal_column("0")
            return found if op == "contains" else not_(func.coalesce(found, literal_column("false")))
        if op == "beginsWith":
            return func.starts_with(column, bound, type_=Boolean)
        return _COMPARISONS[op](column, bound)

    def _dated(self, column: ColumnElement[Any], op: str, path: Path) -> ColumnElement[bool]:
        """What a client was shown is cut to the millisecond, so a value means that whole millisecond."""
        of = DateTime(timezone=True)
        if op in ("contains", "notContains", "beginsWith"):
            return self._scalar(iso(column), op, path)
        if op in ("in", "notIn"):
            listed = self.bind(ARRAY(of), path, lambda values: [instant(item) for item in values if item is not None])
            shown = func.date_trunc(literal_column("'milliseconds'"), column, type_=of)
            return shown == any_(listed) if op == "in" else or_(column.is_(None), shown != all_(listed))
        start = self.bind(of, path, instant)
        after = self.bind(of, path, lambda value: instant(value) + TICK)
        return {
            "eq": and_(column >= start, column < after),
            "ne": or_(column.is_(None), column < start, column >= after),
            "lt": column < start,
            "le": column < after,
            "gt": column >= after,
            "ge": column >= start,
        }[op]

    def _between(self, column: ColumnElement[Any], path: Path) -> ColumnElement[bool]:
        dated = isinstance(column.type, DateTime)
        convert = converter(column.type)

        def end(position: int) -> Callable[[Any], Any]:
            def fetch(values: Sequence[Any]) -> Any:
                if len(values) != 2 or None in values:  # noqa: PLR2004 # a low and a high end
                    raise ConsoleError("BAD_REQUEST", "between takes two values.")
                return (
                    convert(values[position]) + (TICK if dated and position else timedelta())
                    if dated
                    else convert(values[position])
                )

            return fetch

        if isinstance(column.type, ARRAY):
            raise _no_operator("between")
        low, high = (self.bind(column.type, path, end(position)) for position in (0, 1))
        return and_(column >= low, column < high if dated else column <= high)

    def _list(self, column: ColumnElement[Any], op: str, path: Path) -> ColumnElement[bool]:
        if op in ("contains", "notContains"):
            found = self.bind(Text(), path, scalar) == any_(column)
            return found if op == "contains" else not_(func.coalesce(found, literal_column("false")))
        if op not in ("eq", "ne"):
            raise _no_operator(op)

        def items(value: Any) -> list[Any]:
            return [scalar(item) for item in (value if isinstance(value, list) else [value])]

        bound = self.bind(ARRAY(Text), path, items)
        return column == bound if op == "eq" else column.is_distinct_from(bound)

    def _size(self, column: ColumnElement[Any], value: Mapping[str, Any], path: Path) -> ColumnElement[bool]:
        listed = isinstance(column.type, ARRAY)
        size = func.cardinality(column, type_=Integer) if listed else func.length(column, type_=Integer)
        return self.operators(size, value, path)

    def _typed(self, column: ColumnElement[Any], value: Any) -> ColumnElement[bool]:
        wanted = scalar(value)
        if wanted == "_null":
            return column.is_(None)
        kind = next((name for of, name in _ATTRIBUTE_TYPES.items() if isinstance(column.type, of)), "string")
        return column.is_not(None) if wanted in (kind, "stringSet" if kind == "list" else kind) else false()


def _no_operator(op: str) -> ConsoleError:
    return ConsoleError("BAD_REQUEST", f"A list cannot be filtered by {op}.")


_COMPARISONS: Final[Mapping[str, Callable[[ColumnElement[Any], ColumnElement[Any]], ColumnElement[bool]]]] = {
    "eq": lambda column, value: column == value,
    "ne": lambda column, value: column.is_distinct_from(value),
    "lt": lambda column, value: column < value,
    "le": lambda column, value: column <= value,
    "gt": lambda column, value: column > value,
    "ge": lambda column, value: column >= value,
}


def iso(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A timestamp as the console writes it: UTC, milliseconds, Z."""
    return func.to_char(
        func.timezone(literal_column("'UTC'"), column),
        literal_column("""'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'"""),
        type_=Text,
    )
