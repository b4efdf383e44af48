"""Columns in the exact form in which GraphQL shows them, so that a row's JSON needs nobody to complete it.

What its type cannot show (a missing value that must be there, a word that its enum lacks) is not sent: a mark stands in its
place that no stored text can be, and whoever finds one asks graphql-core, which says the error and its path.
"""

from __future__ import annotations

from typing import Any, Final

from graphql import (
    GraphQLEnumType,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLList,
    GraphQLNonNull,
    GraphQLOutputType,
    GraphQLString,
)
from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnClause,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    Null,
    Numeric,
    Text,
    case,
    func,
    literal_column,
    null,
)
from sqlalchemy.dialects.postgresql import JSONB, array

from resolvers.filters import iso

MARKED: Final = "\\u000"  # how either mark begins in JSON: PostgreSQL escapes control characters so
MISSING: Final = "\x00"  # JSON may spell it, no text of PostgreSQL's may hold it
WRONG: Final = "\x01"  # in the place of a word or a number; graphql-core refuses it there

_MISSING: Final[ColumnElement[Any]] = literal_column("""'"\\u0000"'::json""")
_WRONG: Final[ColumnElement[Any]] = literal_column("chr(1)", Text)
_WRONG_JSON: Final[ColumnElement[Any]] = func.to_json(_WRONG)
_LARGEST: Final[ColumnElement[int]] = literal_column(str(2**31 - 1))
_LEAST: Final[ColumnElement[int]] = literal_column(str(-(2**31)))
_EXACT: Final[ColumnElement[int]] = literal_column(str(2**53))


def leaf(of: GraphQLOutputType, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A scalar, an enum, or a list of them, as ``of`` shows it."""
    inner = of.of_type if isinstance(of, GraphQLNonNull) else of
    if isinstance(column, Null):  # a mask that shows nothing
        return _MISSING if isinstance(of, GraphQLNonNull) else column
    if isinstance(inner, GraphQLList):
        shown = _listed(inner.of_type, column)
    elif isinstance(inner, GraphQLEnumType):
        stored = case((column.in_(_words(inner)), column), (column.is_(None), null()), else_=_WRONG)
        shown = stored if isinstance(column, ColumnClause) else column  # an expression's words are our own
    else:
        shown = _scalar(inner, column)
    if isinstance(of, GraphQLNonNull) and getattr(column, "nullable", True):
        return func.coalesce(func.to_json(shown), _MISSING)
    return shown


def required(of: GraphQLOutputType, made: ColumnElement[Any]) -> ColumnElement[Any]:
    """An object that was made as JSON: marked where it must be there and is not."""
    return func.coalesce(made, _MISSING) if isinstance(of, GraphQLNonNull) else made


def restored(value: Any) -> Any:
    """A parsed row with its marks taken back: what was missing is null, a list is as it was but for its bad end."""
    if isinstance(value, dict):
        return {key: restored(item) for key, item in value.items()}
    if isinstance(value, list):
        if value and value[-1] == WRONG:
            return value[:-1]
        return [restored(item) for item in value]
    return None if value == MISSING else value


def jsonable(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column in the one text form that GraphQL answers have."""
    if isinstance(column.type, DateTime):
        return iso(column)
    if isinstance(column.type, JSONB):
        return column.cast(Text)  # AWSJSON is JSON in a string
    if isinstance(column.type, LargeBinary):
        return func.encode(column, literal_column("'hex'"))
    return column


def _words(of: GraphQLEnumType) -> list[ColumnElement[str]]:
    """The members of an enum inside a statement: names, so no quote is in them."""
    return [literal_column(f"'{name}'", Text) for name in of.values]


def _scalar(of: GraphQLOutputType, column: ColumnElement[Any]) -> ColumnElement[Any]:
    kind = column.type
    if of is GraphQLInt and isinstance(kind, BigInteger):
        fits = column.between(_LEAST, _LARGEST)
        return case((fits, func.to_json(column)), (column.is_(None), null()), else_=_WRONG_JSON)
    if of is GraphQLFloat and isinstance(kind, Integer | Float | Numeric):
        # JSON of PostgreSQL's writes 1 for 1.0; a Float keeps its point. 20 digits hold every exact whole number.
        whole = func.abs(column) <= _EXACT
        if isinstance(kind, Float):
            whole = (column == func.trunc(column)) & whole
        pointed = func.to_json(column.cast(Numeric(20, 1)))
        return case((whole, pointed), (column.is_(None), null()), else_=_fraction(column))
    if of in (GraphQLID, GraphQLString) and isinstance(kind, Integer | Float | Numeric | Boolean):
        return column.cast(Text)
    return jsonable(column)


def _fraction(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """NaN and the infinities are texts in PostgreSQL's JSON: no Float."""
    if not isinstance(column.type, Float):
        return func.to_json(column)
    endless = column.in_([literal_column(f"'{word}'::float8") for word in ("NaN", "Infinity", "-Infinity")])
    return case((endless, _WRONG_JSON), else_=func.to_json(column))


def _listed(of: GraphQLOutputType, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A bad list gets one more item, the mark; so what was in it is still there to be refused by its place."""
    if not isinstance(of, GraphQLNonNull) or not isinstance(column, ColumnClause):
        return column
    member = of.of_type
    if isinstance(member, GraphQLEnumType):
        good = column.op("<@")(array(_words(member)))
    else:
        good = func.array_position(column, literal_column("NULL::text")).is_(None)
    return case((good, column), (column.is_(None), null()), else_=func.array_append(column, _WRONG))
