"""Selection -> the columns of a row: fields with their masks, nested objects and lists, names, and what Python adds.

A nested object is a sub-select that correlates with the *limited* page of its parent. Each column comes in the form of the
answer; where it cannot, a completer comes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphql import (
    FieldNode,
    GraphQLField,
    GraphQLObjectType,
    SelectionSetNode,
    get_named_type,
)
from graphql.execution.values import VariableValues, get_argument_values
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Text,
    and_,
    case,
    func,
    literal_column,
)

from resolvers import computed, derived
from resolvers import source_fields as spec
from resolvers.arguments import arguments_of
from resolvers.binding import Params
from resolvers.completers import Fields, by_row, each, made_in_python, paged, people, person
from resolvers.labels import INNER, KEY, NEED, ROW, label
from resolvers.leaves import jsonable, leaf, required
from resolvers.listing import Listing
from resolvers.masking import MASKS
from resolvers.read_plan import Complete, Root, Site, place_of
from resolvers.row_json import Pairs, RowJson
from resolvers.scoping import Scoping
from resolvers.selections import collected
from resolvers.source_fields import Source, snake
from resolvers.sources import SOURCES
from schema.errors import NotAuthorizedError

if TYPE_CHECKING:
    from authz.caller import Caller
    from authz.enforcer import Snapshot
    from resolvers.documents import Operation
    from schema.console import Console

Grouped = Mapping[str, Sequence[FieldNode]]
Made = tuple[ColumnElement[Any], Complete | None]  # a column, and what makes the answer of its value


class RowPlanner:
    """The columns of one operation's rows. ``resolvers.plans`` makes its statements of them."""

    def __init__(
        self,
        console: Console,
        operation: Operation,
        variables: VariableValues,
        caller: Caller,
        snapshot: Snapshot,
        functions: Iterable[str] = (),
    ) -> None:
        self._console = console
        self._core = console.core
        self._operation = operation
        self._variables = variables
        self._caller = caller
        self._snapshot = snapshot
        self._functions = frozenset(functions)
        self.params = Params()
        self._sites: list[Site] = []
        self._by_place: dict[int, Site] = {}
        self._denied: set[tuple[str, str]] = set()
        self._inner: dict[int, dict[str, str]] = {}
        self._needs_python: list[str] = []  # why the statement's JSON is not the answer
        self._json = RowJson()
        self._root: Root
        self._scoping: Scoping
        self._listing: Listing

    # ---------- selections ----------
    def collect(self, selections: Iterable[SelectionSetNode], of: GraphQLObjectType) -> dict[str, list[FieldNode]]:
        return collected(self._operation, self._variables, selections, of)

    def _collect_below(self, nodes: Sequence[FieldNode], of: GraphQLObjectType) -> dict[str, list[FieldNode]]:
        return self.collect(self._selections(nodes), of)

    @staticmethod
    def _selections(nodes: Sequence[FieldNode]) -> list[SelectionSetNode]:
        return [node.selection_set for node in nodes if node.selection_set]

    def _site(
        self, parent: str, name: str, root: str, definition: GraphQLField, node: FieldNode, *, pages: bool
    ) -> Site:
        place = place_of(node)
        if place not in self._by_place:  # a fragment's field may be reached twice, with the same arguments
            arguments = arguments_of(definition, node, self._variables)
            site = Site(len(self._sites), f"{parent}.{name}", root, arguments, pages)
            self._sites.append(site)
            self._by_place[place] = site
        return self._by_place[place]

    def _allowed(self, type_name: str, name: str) -> bool:
        """The field step. What is denied is not selected; the finish says so at every path."""
        policy = self._console.rules[type_name, name].policy
        if policy is None or self._snapshot.opens(self._caller.grants, *policy, self._scoping.static):
            self._root.fields.add(f"{type_name}.{name}")
            return True
        self._denied.add((type_name, name))
        return False

    def _reads(self, of: Any, nodes: Sequence[FieldNode]) -> None:
        """Take note of what a value made in Python shows."""
        if not isinstance(of, GraphQLObjectType):
            return
        for grouped in self.collect(self._selections(nodes), of).values():
            name = grouped[0].name.value
            if name in of.fields and self._allowed(of.name, name):
                self._reads(get_named_type(of.fields[name].type), grouped)

    def _readable(self, type_name: str, name: str, source: Source, row: FromClause) -> ColumnElement[Any]:
        """The column of a field that is filtered by: that needs the right to read it, unmasked (AZ-6)."""
        if not self._allowed(type_name, name) or self._console.rules[type_name, name].pii:
            raise NotAuthorizedError(type_name, name)
        return self._scalar(name, source.fields, row)

    # ---------- rows ----------
    def _one(
        self,
        of: GraphQLObjectType,
        nodes: Sequence[FieldNode],
        source: Source,
        row: FromClause,
        where: ColumnElement[bool],
        parent: FromClause | None = None,
    ) -> Made:
        pairs, complete = self._fields(of, self.collect(self._selections(nodes), of), source.fields, row)
        return self._json.one(pairs, row, where, parent), complete

    def _fields(
        self,
        of: GraphQLObjectType,
        grouped: Grouped,
        specs: Mapping[str, spec.FieldSpec],
        row: FromClause,
        *,
        hidden: bool = False,
    ) -> tuple[Pairs, Complete | None]:
        """The columns of one object: a label per response key, and hidden ones for what Python makes of the row.

        ``hidden``: its row gets columns of somebody else's too.
        """
        into = _Columns()
        if hidden:
            into.fields.hide()
        for key, nodes in grouped.items():
            name = nodes[0].name.value
            if label(key) != key:
                self._needs_python.append("names")
            if name == "__typename":
                into.put(key, literal_column(f"'{of.name}'", Text))
                continue
            if not self._allowed(of.name, name):
                continue
            found = specs.get(name)
            if isinstance(found, spec.Computed | spec.Actors) or self._is_elsewhere(found):
                self._in_python(of, key, nodes, found, row, into)
            elif isinstance(found, spec.ToMany) and self._shows_token(of, nodes):
                self._needs_python.append("tokens")
                self._paged(of, key, nodes, found, row, into)
            else:
                into.put(key, *self._value(of, nodes, specs, row))
        return list(into.pairs.items()), into.fields.completer()

    def _is_elsewhere(self, found: spec.FieldSpec | None) -> bool:
        """Whether somebody's name is not in reach of the statement: another role's, or of one who is no member of the staff."""
        return isinstance(found, spec.Actor) and (found.kind is not None or self._root.role != "app")

    def _in_python(
        self,
        of: GraphQLObjectType,
        key: str,
        nodes: Sequence[FieldNode],
        found: spec.FieldSpec | None,
        row: FromClause,
        into: _Columns,
    ) -> None:
        name = nodes[0].name.value
        kind = of.fields[name].type
        made = made_in_python(kind, nodes, self._collect_below)
        if isinstance(found, spec.Computed):
            into.pairs.update({f"{NEED}{need}": self._need(need, row) for need in found.needs})
            into.fields.row(key, by_row(computed.COMPUTED[of.name, name], made))
            self._needs_python.append("computed")
        elif isinstance(found, spec.Actors):
            into.pairs[label(key)] = row.c[found.column]
            into.fields.row(key, people(label(key), made))
            self._needs_python.append("people")
        elif isinstance(found, spec.Actor):
            into.pairs[label(key)] = row.c[found.column]
            if found.kind:
                into.pairs[f"{NEED}{found.kind}"] = row.c[found.kind]
            into.fields.row(key, person(label(key), f"{NEED}{found.kind}" if found.kind else None, made))
            self._needs_python.append("people")
        self._reads(get_named_type(kind), nodes)

    def _value(
        self,
        of: GraphQLObjectType,
        nodes: Sequence[FieldNode],
        specs: Mapping[str, spec.FieldSpec],
        row: FromClause,
    ) -> Made:
        """A field whose column is the answer, or has it within."""
        name = nodes[0].name.value
        kind = of.fields[name].type
        named = get_named_type(kind)
        found = specs.get(name)
        if isinstance(found, spec.Actor):
            found = _embedded_person(named.name, found.column)
        if not isinstance(named, GraphQLObjectType):
            return leaf(kind, self._masked(of.name, name, self._scalar(name, specs, row))), None
        if isinstance(found, spec.Embedded):
            column, complete = self._embedded(named, nodes, found, row)
        elif isinstance(found, spec.ToOne):
            source = SOURCES[found.type]
            child = self._json.alias(source.table)
            where = and_(child.c[source.key] == row.c[found.local], self._scoping.visible(found.type, child))
            column, complete = self._one(named, nodes, source, child, where, row)
        elif isinstance(found, spec.ToMany) and named.name.endswith("Connection"):
            return self._connection(of, named, nodes, found, row)
        elif isinstance(found, spec.ToMany):
            source = SOURCES[found.type]
            page = self._listing.all_of(found.type, source, lambda child: found.match(row, child), row)
            pairs, complete = self._fields(named, self.collect(self._selections(nodes), named), source.fields, page)
            return self._json.many(pairs, page, row), each(complete)
        else:
            raise TypeError(f"no way to read {of.name}.{name}")
        return required(kind, column), complete

    # ---------- lists below a root ----------
    def _shows_token(self, of: GraphQLObjectType, nodes: Sequence[FieldNode]) -> bool:
        """Whether a list is paged through: only Python seals tokens, and only it can tell whose parent's a given one is."""
        definition = of.fields[nodes[0].name.value]
        named = get_named_type(definition.type)
        if not isinstance(named, GraphQLObjectType) or not named.name.endswith("Connection"):
            return False
        if (
            get_argument_values(definition, nodes[0], self._variables, hide_suggestions=True).get("nextToken")
            is not None
        ):
            return True
        chosen = self.collect(self._selections(nodes), named)
        return any(below[0].name.value == "nextToken" for below in chosen.values())

    def _connection(
        self,
        of: GraphQLObjectType,
        connection: GraphQLObjectType,
        nodes: Sequence[FieldNode],
        found: spec.ToMany,
        row: FromClause,
    ) -> Made:
        """A list without tokens: its rows in the object that the document asks for."""
        site = self._below(of, nodes)
        source = SOURCES[found.type]
        page = self._listing.page(
            found.type, source, site, lambda child: found.match(row, child), row, one_more=False
        ).rows
        entries: list[tuple[str, Pairs | str]] = []
        fields = Fields()
        for key, below in self.collect(self._selections(nodes), connection).items():
            if label(key) != key:
                self._needs_python.append("names")
            if below[0].name.value == "__typename":
                entries.append((label(key), connection.name))
                fields.column(key)
                continue
            pairs, complete = self._items(connection, below, source, page)
            entries.append((label(key), pairs))
            fields.column(key, each(complete))
        return self._json.connection(entries, page, row), fields.completer()

    def _paged(
        self,
        of: GraphQLObjectType,
        key: str,
        nodes: Sequence[FieldNode],
        found: spec.ToMany,
        row: FromClause,
        into: _Columns,
    ) -> None:
        """A list with tokens: its rows, one more than asked for, each with its sort key; beside them its parent's id."""
        site = self._below(of, nodes)
        source = SOURCES[found.type]
        connection = get_named_type(of.fields[nodes[0].name.value].type)
        assert isinstance(connection, GraphQLObjectType)  # noqa: S101 # asked before
        listed = self._listing.page(found.type, source, site, lambda child: found.match(row, child), row, one_more=True)
        page = listed.rows
        pairs: Pairs = [(KEY, func.json_build_array(*(page.c[name] for name in listed.sorted_by)))]
        entries: list[tuple[str, str, Complete | None]] = []
        first = True
        for inner, below in self.collect(self._selections(nodes), connection).items():
            name = below[0].name.value
            if name != "items":
                entries.append((inner, connection.name if name == "__typename" else name, None))
                continue
            chosen, complete = self._items(connection, below, source, page, hidden=first)
            if first:
                pairs += chosen
            else:
                # A second ``items`` under another alias may give other fields the same names.
                column = f"{INNER}{len(pairs)}"
                self._inner.setdefault(site.index, {})[inner] = column
                pairs.append((column, self._json.one(chosen, None, None, page)))
            entries.append((inner, name, complete))
            first = False
        into.pairs[ROW] = jsonable(row.c[SOURCES[of.name].key])
        into.pairs[label(key)] = self._json.many(pairs, page, row)
        into.fields.row(key, paged(site, label(key), entries))

    def _below(self, of: GraphQLObjectType, nodes: Sequence[FieldNode]) -> Site:
        name = nodes[0].name.value
        return self._site(of.name, name, self._root.key, of.fields[name], nodes[0], pages=True)

    def _items(
        self,
        connection: GraphQLObjectType,
        nodes: Sequence[FieldNode],
        source: Source,
        page: FromClause,
        *,
        hidden: bool = False,
    ) -> tuple[Pairs, Complete | None]:
        of = get_named_type(connection.fields["items"].type)
        assert isinstance(of, GraphQLObjectType)  # noqa: S101 # connections are of objects
        self._allowed(connection.name, "items")
        return self._fields(of, self.collect(self._selections(nodes), of), source.fields, page, hidden=hidden)

    # ---------- fields ----------
    def _embedded(
        self, of: GraphQLObjectType, nodes: Sequence[FieldNode], found: spec.Embedded, row: FromClause
    ) -> Made:
        pairs, complete = self._fields(of, self.collect(self._selections(nodes), of), found.fields, row)
        parts: list[ColumnElement[Any]] = []
        for name, column in pairs:
            parts += [literal_column(f"'{name}'"), column]  # a label: a GraphQL name or ours, never a quote in it
        made = func.json_build_object(*parts)
        return (made if found.when is None else case((found.when(row, self._scoping), made))), complete

    def _need(self, name: str, row: FromClause) -> ColumnElement[Any]:
        return row.c[name] if name in row.c else derived.NEEDS[name](row, self._scoping)

    def _scalar(self, name: str, specs: Mapping[str, spec.FieldSpec], row: FromClause) -> ColumnElement[Any]:
        found = specs.get(name)
        if isinstance(found, spec.Expression):
            return found.build(row, self._scoping)
        if isinstance(found, spec.Computed) and found.filter is not None:
            return found.filter(row, self._scoping)
        return row.c[found.column if isinstance(found, spec.Plain) else snake(name)]

    def _masked(self, type_name: str, name: str, column: ColumnElement[Any]) -> ColumnElement[Any]:
        rule = self._console.rules[type_name, name]
        if rule.pii is None:
            return column
        pii_class, mask = rule.pii
        self._root.pii[f"{type_name}.{name}"] = pii_class
        # A row of the field's own beside the type's is the right to the clear value (staff:contact).
        if rule.policy is not None and type_name in SOURCES and rule.policy != self._scoping.read_row(type_name):
            return column
        self._root.masked.add(f"{type_name}.{name}")
        salt = self.params.shared("salt", Text(), lambda b: b.salt)
        return MASKS[mask](column, salt)


class _Columns:
    """One object's columns and its completer, in the making."""

    def __init__(self) -> None:
        self.pairs: dict[str, ColumnElement[Any]] = {}
        self.fields = Fields()

    def put(self, key: str, column: ColumnElement[Any], complete: Complete | None = None) -> None:
        self.pairs[label(key)] = column
        self.fields.column(key, complete)


def _embedded_person(type_name: str, column: str) -> spec.Embedded:
    return spec.Embedded(type_name, derived.person(column), lambda t, _: t.c[column].is_not(None))
