"""Completers: closures made with a plan that turn parsed rows into the answer, where the row is not the answer already.

``None`` stands for "as it is", and most of a row is. A completer never says an error: what graphql-core would refuse or
leave out raises ``DeviationError``, and graphql-core completes the same rows instead, with its own words and paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from graphql import (
    FieldNode,
    GraphQLEnumType,
    GraphQLInt,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLScalarType,
)

from resolvers.computed import actor
from resolvers.labels import ROW, label
from resolvers.read_plan import Complete, DeviationError

if TYPE_CHECKING:
    from resolvers.binding import Binding
    from resolvers.read_plan import Site
    from resolvers.run import Run

Collect = Callable[[Sequence[FieldNode], GraphQLObjectType], Mapping[str, Sequence[FieldNode]]]
_INT: Final = range(-(2**31), 2**31)
_EXACT: Final[Mapping[str, type[Any]]] = {"String": str, "ID": str, "Boolean": bool}  # what these show as it is


class Fields:
    """One object's completer in the making: an entry per response key, in the document's order."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, str, Complete | None]] = []
        self._by_row: set[int] = set()  # entries that are made of the whole row, not of one column
        self._hidden = False

    def column(self, key: str, complete: Complete | None = None) -> None:
        """A field that is a column; ``complete`` is asked unless it is null."""
        self._entries.append((key, label(key), complete))
        self._hidden |= label(key) != key

    def constant(self, key: str, text: str) -> None:
        """A field whose value is known, and not in the row."""
        self.row(key, lambda _, __: text)

    def always(self, key: str, complete: Complete) -> None:
        """A field that Python has put into the row; ``complete`` is asked of null too."""
        name = label(key)
        self.row(key, lambda run, row: complete(run, row[name]))

    def row(self, key: str, complete: Complete) -> None:
        """A field that Python makes of the row's hidden columns."""
        self._by_row.add(len(self._entries))
        self._entries.append((key, "", complete))
        self._hidden = True

    def hide(self) -> None:
        """The row has a column that is not of the answer."""
        self._hidden = True

    def completer(self) -> Complete | None:
        """None when the parsed row is the answer."""
        if self._hidden:
            return self._rebuilt()
        steps = [(name, complete) for _, name, complete in self._entries if complete is not None]
        if not steps:
            return None

        def in_place(run: Run, row: Any) -> Any:
            for name, complete in steps:
                value = row[name]
                if value is not None:
                    row[name] = complete(run, value)
            return row

        return in_place

    def _rebuilt(self) -> Complete:
        entries = [
            (key, None if number in self._by_row else name, complete)
            for number, (key, name, complete) in enumerate(self._entries)
        ]

        def rebuilt(run: Run, row: Any) -> Any:
            made: dict[str, Any] = {}
            for key, name, complete in entries:
                if name is None:
                    made[key] = complete(run, row)  # type: ignore[misc] # one of the two is always there
                    continue
                value = row[name]
                made[key] = value if value is None or complete is None else complete(run, value)
            return made

        return rebuilt


def each(complete: Complete | None) -> Complete | None:
    """Every item of a list that is there."""
    if complete is None:
        return None
    return lambda run, value: [complete(run, item) for item in value]


def paged(site: Site, column: str, entries: Sequence[tuple[str, str, Complete | None]]) -> Complete:
    """A nested connection that came as rows with their sort keys: ``entries`` are (response key, field, completer of a row)."""

    def complete(run: Run, row: Any) -> Any:
        page = run.page(site, row[column], row.get(ROW))
        made: dict[str, Any] = {}
        for key, name, of_row in entries:
            if name == "items":
                rows = page.items(key)
                made[key] = rows if of_row is None else [of_row(run, one) for one in rows]
            elif name == "nextToken":
                made[key] = page.token(run)
            else:
                made[key] = name
        return made

    return complete


def by_row(compute: Callable[[Binding, Any], Any], complete: Complete) -> Complete:
    """A field that only Python can say, of a row's hidden columns."""
    return lambda run, row: complete(run, compute(run.binding, row))


def person(column: str, kind: str | None, complete: Complete) -> Complete:
    """Someone by the staff directory."""

    def one(run: Run, row: Any) -> Any:
        who = row[column]
        return complete(run, None if who is None else actor(run.binding.snapshot, who, row[kind] if kind else None))

    return one


def people(column: str, complete: Complete) -> Complete:
    """Several of them."""
    return lambda run, row: complete(run, [actor(run.binding.snapshot, who) for who in row[column] or ()])


# ---------- objects made in Python ----------
def made_in_python(of: GraphQLOutputType, nodes: Sequence[FieldNode], collect: Collect) -> Complete:
    """The completer of a value that is keyed by field names: every value is brought into its type's form, or deviates."""
    if isinstance(of, GraphQLNonNull):
        return _present(made_in_python(of.of_type, nodes, collect))
    if isinstance(of, GraphQLList):
        return _items(made_in_python(of.of_type, nodes, collect))
    if isinstance(of, GraphQLObjectType):
        return _object(of, nodes, collect)
    if isinstance(of, GraphQLScalarType | GraphQLEnumType):
        return _leaf(of)
    raise TypeError(f"no completer for {of}")


def _present(complete: Complete) -> Complete:
    def present(run: Run, value: Any) -> Any:
        made = complete(run, value)
        if made is None:
            raise DeviationError("null")
        return made

    return present


def _items(complete: Complete) -> Complete:
    def items(run: Run, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise DeviationError("no list")
        return [complete(run, item) for item in value]

    return items


def _object(of: GraphQLObjectType, nodes: Sequence[FieldNode], collect: Collect) -> Complete:
    entries: list[tuple[str, str, Complete | None]] = []
    for key, chosen in collect(nodes, of).items():
        name = chosen[0].name.value
        below = None if name == "__typename" else made_in_python(of.fields[name].type, chosen, collect)
        entries.append((key, of.name if below is None else name, below))

    def complete(run: Run, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise DeviationError("no object")
        return {key: name if below is None else below(run, value.get(name)) for key, name, below in entries}

    return complete


def _leaf(of: GraphQLScalarType | GraphQLEnumType) -> Complete:
    coerce = of.coerce_output_value
    exact = _EXACT.get(of.name) if isinstance(of, GraphQLScalarType) else None

    def leaf(_: Run, value: Any) -> Any:
        if value is None or type(value) is exact:
            return value
        if of is GraphQLInt and type(value) is int and value in _INT:
            return value
        try:
            return coerce(value)
        except Exception as error:
            raise DeviationError("no such value") from error

    return leaf
