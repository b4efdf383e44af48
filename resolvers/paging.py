"""Pages by key: how many rows, in which order, and after which row the next page begins.

The order is total (the sort columns, then the row's key), so a page neither repeats nor skips a row that stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, and_, func, or_, select

from resolvers.filters import scalar
from resolvers.source_fields import Order, Source
from schema.errors import ConsoleError

DEFAULT_LIMIT: Final = 20
MOST: Final = 100  # console-domain, rule 11


def page_limit(arguments: Mapping[str, Any]) -> int:
    """``limit`` 1..100, 20 when it is not given."""
    limit = arguments.get("limit")
    if limit is None:
        return DEFAULT_LIMIT
    if not 1 <= limit <= MOST:
        raise ConsoleError("BAD_REQUEST", f"limit is a number from 1 to {MOST}.", field="limit")
    return int(limit)


def order_of(source: Source, arguments: Mapping[str, Any], field_name: str) -> tuple[Order, bool]:
    """The order that a list asks for or has by itself, and whether it descends."""
    chosen = scalar(arguments.get("orderBy"))
    order = source.orders[chosen] if chosen else source.orders.get(field_name, source.order)
    direction = scalar(arguments.get("sortDirection"))
    return order, order.descending if direction is None else direction == "DESC"


def limited(
    base: FromClause,
    where: ColumnElement[bool],
    columns: Sequence[str],
    limit: ColumnElement[Any],
    parent: FromClause | None,
    *,
    descending: bool,
    name: str,
) -> FromClause:
    """The rows of one page, all columns; ``columns`` are the order's, the key last."""
    ordered = (base.c[column].desc() if descending else base.c[column].asc() for column in columns)
    query = select(*base.c).where(where).order_by(*ordered).limit(limit)
    return (query.correlate(parent) if parent is not None else query).subquery(name)


def after(
    columns: Sequence[ColumnElement[Any]], values: Sequence[ColumnElement[Any]], *, descending: bool
) -> ColumnElement[bool]:
    """Whether a row stands after the one that ``values`` are of, in the order of the page."""
    row, cursor = func.row(*columns), func.row(*values)
    beyond: ColumnElement[bool] = row < cursor if descending else row > cursor
    first, key = columns[0], columns[-1]
    if len(columns) == 1 or not getattr(first, "nullable", True):
        return beyond
    # Nulls are last when ascending and first when descending, as the index has them.
    among_nulls = and_(first.is_(None), values[0].is_(None), key < values[-1] if descending else key > values[-1])
    across = (
        and_(values[0].is_(None), first.is_not(None)) if descending else and_(values[0].is_not(None), first.is_(None))
    )
    return or_(beyond, among_nulls, across)
