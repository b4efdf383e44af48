"""Rows as JSON, made by the database: one object, an array in a page's order, and the text forms of GraphQL's scalars."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, DateTime, FromClause, LargeBinary, Text, func, literal_column, select
from sqlalchemy.dialects.postgresql import JSONB

from resolvers.filters import iso

Pairs = list[tuple[str, ColumnElement[Any]]]  # label and column

_EMPTY: Final[ColumnElement[Any]] = literal_column("'[]'::json")


class RowJson:
    """The sub-selects of one statement; it names them, so that no two are called alike."""

    def __init__(self) -> None:
        self._names = 0

    def name(self, prefix: str) -> str:
        """A name that nothing in the statement has yet."""
        self._names += 1
        return f"{prefix}{self._names}"

    def alias(self, table: FromClause) -> FromClause:
        """The table once more, under a name of its own."""
        return table.alias(self.name("t"))

    def one(
        self, pairs: Pairs, from_: FromClause | None, where: ColumnElement[bool] | None, parent: FromClause | None
    ) -> ColumnElement[Any]:
        """One row, or null."""
        inner = select(*(column.label(name) for name, column in pairs))
        if from_ is not None:
            inner = inner.select_from(from_)
        if where is not None:
            inner = inner.where(where)
        if parent is not None:
            inner = inner.correlate(parent)
        made = inner.subquery(self.name("r"))
        outer = select(func.row_to_json(made.table_valued())).select_from(made)
        return (outer.correlate(parent) if parent is not None else outer).scalar_subquery()

    def many(self, pairs: Pairs, page: FromClause, parent: FromClause | None) -> ColumnElement[Any]:
        """The rows of a page, in its order: nothing between the ordered page and the aggregate reorders them."""
        made = select(*(column.label(name) for name, column in pairs)).select_from(page).subquery(self.name("r"))
        outer = select(func.coalesce(func.json_agg(func.row_to_json(made.table_valued())), _EMPTY)).select_from(made)
        return (outer.correlate(parent) if parent is not None else outer).scalar_subquery()


def jsonable(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column in the one text form that GraphQL answers have."""
    if isinstance(column.type, DateTime):
        return iso(column)
    if isinstance(column.type, JSONB):
        return column.cast(Text)  # AWSJSON is JSON in a string
    if isinstance(column.type, LargeBinary):
        return func.encode(column, literal_column("'hex'"))
    return column
