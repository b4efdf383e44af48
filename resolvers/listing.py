"""The rows of one list: its conditions, its order, the row it begins after, and how many. Compiled for one root field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from graphql.execution.values import VariableValues
from sqlalchemy import ColumnElement, DateTime, FromClause, Integer, Text, and_, func, literal_column, or_
from sqlalchemy.types import TypeEngine

from resolvers.binding import Binding, Fetch, Params
from resolvers.filters import Filters, scalar
from resolvers.paging import after, limited, order_of, page_limit
from resolvers.row_json import RowJson
from resolvers.scoping import Scoping
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from resolvers.read_plan import Site
    from resolvers.source_fields import Source

PLAIN_LIST: Final = 100  # a list without a limit of its own
_PAGING: Final = frozenset({"filter", "orderBy", "sortDirection", "limit", "nextToken", "text"})


@dataclass(frozen=True)
class Listed:
    """A page of rows, all columns; ``sorted_by`` are the columns of its order, the key last."""

    rows: FromClause
    sorted_by: tuple[str, ...]
    limit: ColumnElement[int]


class Listing:
    """The lists of one root field. ``readable`` gives a filtered field's column, or refuses it."""

    def __init__(
        self,
        params: Params,
        json: RowJson,
        scoping: Scoping,
        variables: VariableValues,
        readable: Callable[[str, str, Source, FromClause], ColumnElement[Any]],
    ) -> None:
        self._params = params
        self._json = json
        self._scoping = scoping
        self._variables = variables
        self._readable = readable

    def page(
        self,
        type_name: str,
        source: Source,
        site: Site,
        match: Callable[[FromClause], ColumnElement[bool]] | None,
        parent: FromClause | None,
        *,
        one_more: bool,
    ) -> Listed:
        """The rows that a connection shows, within the caller's scope; ``one_more`` to know whether another page follows."""
        arguments = site.arguments(self._variables)
        base = self._json.alias(source.table)
        order, descending = order_of(source, arguments, site.place.partition(".")[2])
        sorted_by = (*order.columns, source.key)
        terms = [self._conditions(type_name, source, base, arguments, site)]
        if match is not None:
            terms.append(match(base))
        if match is None or self._scoping.read_row(type_name) is not None:
            terms.append(self._scoping.visible(type_name, base))
        if arguments.get("nextToken") is not None:
            columns = [base.c[name] for name in sorted_by]
            terms.append(after(columns, self._cursor(columns, site), descending=descending))
        limit = self._limit(site, 0)
        rows = limited(
            base,
            and_(*terms),
            sorted_by,
            self._limit(site, 1) if one_more else limit,
            parent,
            descending=descending,
            name=self._json.name("page"),
        )
        return Listed(rows, sorted_by, limit)

    def all_of(
        self, type_name: str, source: Source, match: Callable[[FromClause], ColumnElement[bool]], parent: FromClause
    ) -> FromClause:
        """The rows of a list that has no pages."""
        base = self._json.alias(source.table)
        where = match(base)
        if self._scoping.read_row(type_name) is not None:
            where = and_(where, self._scoping.visible(type_name, base))
        return limited(
            base,
            where,
            (*source.order.columns, source.key),
            literal_column(str(PLAIN_LIST)),
            parent,
            descending=source.order.descending,
            name=self._json.name("page"),
        )

    def _limit(self, site: Site, more: int) -> ColumnElement[int]:
        place = site.index
        return self._params.own(Integer(), lambda b: page_limit(b.arguments[place]) + more, root=site.root, instead=0)

    def _conditions(
        self, type_name: str, source: Source, base: FromClause, arguments: Mapping[str, Any], site: Site
    ) -> ColumnElement[bool]:
        def column(name: str) -> ColumnElement[Any]:
            return self._readable(type_name, name, source, base)

        filters = Filters(self._params, site.index, site.root, column)
        terms = [filters.of(arguments.get("filter"))]
        for name, value in arguments.items():
            if name in _PAGING or value is None:
                continue
            if isinstance(value, dict):  # the sort key of an index query
                terms.append(filters.operators(column(name), value, (name,)))
            else:
                found = column(name)
                terms.append(found == filters.bind(found.type, (name,), scalar))
        if arguments.get("text") is not None and source.text:
            wanted = func.lower(filters.bind(Text(), ("text",), scalar))
            terms.append(
                or_(*(func.strpos(func.lower(base.c[name]), wanted) > literal_column("0") for name in source.text))
            )
        return and_(*terms)

    def _cursor(self, columns: Sequence[ColumnElement[Any]], site: Site) -> list[ColumnElement[Any]]:
        """The sort key of the row that the page before ended with, as parameters."""
        parts = len(columns)
        return [
            self._params.own(column.type, _of_cursor(site.index, position, parts, column.type), root=site.root)
            for position, column in enumerate(columns)
        ]


def _of_cursor(site: int, position: int, parts: int, of: TypeEngine[Any]) -> Fetch:
    dated = isinstance(of, DateTime)

    def fetch(binding: Binding) -> Any:
        cursor = binding.cursors.get(site)
        if cursor is None or len(cursor.key) != parts:
            raise ConsoleError("INVALID_NEXT_TOKEN")
        value = cursor.key[position]
        return datetime.fromisoformat(value) if dated and value is not None else value

    return fetch
