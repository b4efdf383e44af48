"""Rows as JSON, made by the database: one object, an array in a page's order, and what a record needs beside them.

A root is a ``text[]``: its JSON as it leaves, then ids and sort keys, all of one aggregate over the limited page and never
of a second scan. Hidden columns stand in a row only where Python has something to add to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    Text,
    case,
    func,
    literal_column,
    null,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.sql.selectable import LateralFromClause

from resolvers.labels import NUMBER

Pairs = list[tuple[str, ColumnElement[Any]]]  # label and column

_EMPTY: Final[ColumnElement[Any]] = literal_column("'[]'::json")
_EVERY: Final[ColumnElement[Any]] = func.count(literal_column("*"))


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

    # ---------- below a root ----------
    def one(
        self, pairs: Pairs, from_: FromClause | None, where: ColumnElement[bool] | None, parent: FromClause | None
    ) -> ColumnElement[Any]:
        """One row, or null."""
        inner = select(*_labelled(pairs))
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
        made = select(*_labelled(pairs)).select_from(page).subquery(self.name("r"))
        outer = select(func.coalesce(func.json_agg(func.row_to_json(made.table_valued())), _EMPTY)).select_from(made)
        return (outer.correlate(parent) if parent is not None else outer).scalar_subquery()

    def connection(
        self, entries: Sequence[tuple[str, Pairs | str]], page: FromClause, parent: FromClause
    ) -> ColumnElement[Any]:
        """A page without a token, as it leaves: per label its rows, or a text of ours."""
        parts: list[ColumnElement[Any]] = []
        rows: list[LateralFromClause] = []
        for label, what in entries:
            if isinstance(what, str):
                parts += [_said(label), _said(what)]
                continue
            rows.append(self._row(what, page))
            parts += [_said(label), func.coalesce(func.json_agg(func.row_to_json(rows[-1].table_valued())), _EMPTY)]
        found = select(func.json_build_object(*parts)).select_from(_with(page, rows))
        return found.correlate(parent).scalar_subquery()

    # ---------- roots ----------
    def root(self, pairs: Pairs, row: FromClause, key: str, where: ColumnElement[bool]) -> ColumnElement[Any]:
        """One row and its id, or null."""
        made = self._row(pairs, row)
        beside = array([func.row_to_json(made.table_valued()).cast(Text), row.c[key].cast(Text)])
        return select(beside).select_from(_with(row, [made])).where(where).scalar_subquery()

    def root_list(self, pairs: Pairs, page: FromClause) -> ColumnElement[Any]:
        """All rows, and how many."""
        made = select(*_labelled(pairs)).select_from(page).subquery(self.name("r"))
        rows = func.coalesce(func.json_agg(func.row_to_json(made.table_valued())), _EMPTY)
        return select(array([rows.cast(Text), _EVERY.cast(Text)])).select_from(made).scalar_subquery()

    def root_page(
        self,
        items: Sequence[Pairs],
        page: FromClause,
        key: str,
        sorted_by: Sequence[str],
        limit: ColumnElement[int] | None,
    ) -> ColumnElement[Any]:
        """Ids, the sort key of the last row if another follows, and the rows once per selection of them.

        ``limit`` where a token is wanted: then ``page`` has one row more, which only says that it is there.
        """
        rows = [self._row(pairs, page) for pairs in items]
        within = page.c[NUMBER] <= limit if limit is not None else None

        def gathered(what: ColumnElement[Any]) -> ColumnElement[Any]:
            made = func.json_agg(what)
            return made if within is None else made.filter(within)

        last: ColumnElement[Any] = null()
        if limit is not None:
            sort_key = func.json_agg(func.json_build_array(*(page.c[name] for name in sorted_by)))
            last = case((limit < _EVERY, sort_key.filter(page.c[NUMBER] == limit).cast(Text)), else_=null())
        beside = array(
            [
                gathered(page.c[key].cast(Text)).cast(Text),
                last.cast(Text),
                *(func.coalesce(gathered(func.row_to_json(row.table_valued())), _EMPTY).cast(Text) for row in rows),
            ]
        )
        return select(beside).select_from(_with(page, rows)).scalar_subquery()

    def numbered(self, page: FromClause) -> FromClause:
        """The rows with their number, in the order in which they come."""
        number = func.row_number(type_=Integer).over().label(NUMBER)
        return select(*page.c, number).select_from(page).subquery(self.name("page"))

    def _row(self, pairs: Pairs, row: FromClause) -> LateralFromClause:
        """The answer's columns of a row, beside the row itself: PostgreSQL folds it into the scan of ``row``."""
        return select(*_labelled(pairs)).correlate(row).lateral(self.name("r"))


def _labelled(pairs: Pairs) -> list[ColumnElement[Any]]:
    return [column.label(name) for name, column in pairs]


def _with(page: FromClause, rows: Sequence[LateralFromClause]) -> FromClause:
    joined = page
    for row in rows:
        joined = joined.join(row, true())
    return joined


def _said(text: str) -> ColumnElement[str]:
    return literal_column("'" + text.replace("'", "''") + "'", Text)
