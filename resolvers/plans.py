"""Operation -> one SQL statement per database role, for one set of roles: every root field is a column of it.

Nested objects are sub-selects that correlate with the *limited* page of their parent, so a list of twenty asks twenty
times and never once per candidate. Row scope, masks and field denials are in the plan; a request only binds values.
The rows come in the form of the answer; where they cannot, the plan says why and how they are brought into it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphql import (
    FieldNode,
    GraphQLField,
    GraphQLObjectType,
    get_named_type,
    is_list_type,
)
from graphql.type import GraphQLNonNull
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    Text,
    and_,
    func,
    literal_column,
    select,
)

from authz.scope import cities_context
from db.tables import authz_version
from resolvers.binding import Binding
from resolvers.completers import Fields, each, made_in_python
from resolvers.edge_errors import again
from resolvers.filters import converter, instant
from resolvers.labels import ALIVE, label
from resolvers.leaves import required
from resolvers.listing import Listing
from resolvers.metrics import approval_metrics
from resolvers.read_plan import BYTES, COMPILED, COMPLETED, FIRST_ITEMS, Complete, Plan, Root, Statement, compiled
from resolvers.row_json import Pairs
from resolvers.row_plans import RowPlanner
from resolvers.scoping import Scoping
from resolvers.source_fields import Source, snake
from resolvers.sources import SOURCES
from schema.errors import ConsoleError, NotAuthorizedError

Grouped = Mapping[str, Sequence[FieldNode]]
Made = tuple[ColumnElement[Any], Complete | None]  # a column, and what makes the answer of its value


class Planner(RowPlanner):
    """Compiles one operation. Use once."""

    # ---------- operations ----------
    def query(self) -> Plan:
        """The plan of a query."""
        root_type = self._core.query_type
        assert root_type is not None  # noqa: S101 # every console has one
        layout: list[tuple[str, Root | str]] = []
        columns: list[tuple[str, ColumnElement[Any]]] = []
        for key, nodes in self.collect([self._operation.definition.selection_set], root_type).items():
            if nodes[0].name.value == "__typename":
                layout.append((key, root_type.name))
                continue
            column = self._plan_root(root_type, key, nodes)
            layout.append((key, self._root))
            if column is not None:
                columns.append((self._root.role, column.label(label(key))))
        roots = [root for _, root in layout if isinstance(root, Root)]
        if not columns and any(root.shape == "function" and root.error is None for root in roots):
            # What a function reads is decided on the present rights too.
            columns.append(("app", literal_column("1").label(ALIVE)))
        roles = dict.fromkeys(role for role, _ in columns)
        statements = [self._statement(role, [column for of, column in columns if of == role]) for role in roles]
        return self._plan(roots, layout, statements)

    def payload(self, nodes: Sequence[FieldNode]) -> Plan:
        """The plan of one mutation's payload: each of its objects by the id that the command returns, within the caller's scope."""
        root_type = self._core.mutation_type
        assert root_type is not None  # noqa: S101 # only mutations have payloads
        node = nodes[0]
        definition = root_type.fields[node.name.value]
        key = node.alias.value if node.alias else node.name.value
        payload = get_named_type(definition.type)
        assert isinstance(payload, GraphQLObjectType)  # noqa: S101 # every payload is an object
        self._begin(key, node.name.value, payload.name, "one", definition, node)
        pairs: Pairs = []
        fields = Fields()
        for inner, chosen in self.collect(self._selections(nodes), payload).items():
            name = chosen[0].name.value
            if name == "__typename":
                fields.constant(inner, payload.name)
                continue
            of = payload.fields[name].type
            below = get_named_type(of)
            source = SOURCES.get(below.name) if self._allowed(payload.name, name) else None
            if source is None or not isinstance(below, GraphQLObjectType):
                self._root.plain.append((label(inner), name))
                fields.always(inner, made_in_python(of, chosen, self._collect_below))
                continue
            ref = self.params.own(Text(), _ref(name), root=key)
            row = self._json.alias(source.table)
            version = self.params.own(Integer(), _ref_version(name), root=key) if source.versioned else None
            visible = and_(row.c[source.key] == ref, self._scoping.visible(below.name, row, version=version))
            column, complete = self._one(below, chosen, source, row, visible)
            pairs.append((label(inner), required(of, column)))
            fields.column(inner, complete)
        self._root.complete = fields.completer()
        statements = [compiled("app", select(*(column.label(name) for name, column in pairs)))] if pairs else []
        return self._plan([self._root], [(key, self._root)], statements)

    def _plan(
        self, roots: Sequence[Root], layout: Sequence[tuple[str, Root | str]], statements: Sequence[Statement]
    ) -> Plan:
        whole = self._needs_graphql_core(roots)
        finish = COMPLETED if whole else COMPILED if self._needs_python else BYTES
        return Plan(
            tuple(roots),
            tuple(layout),
            tuple(statements),
            tuple(self._sites),
            self.params.bound(),
            frozenset(self._denied),
            self._by_place,
            self._inner,
            finish,
            whole or (self._needs_python[0] if self._needs_python else None),
        )

    def _needs_graphql_core(self, roots: Sequence[Root]) -> str | None:
        """Why only graphql-core can finish this: errors have a path each, and introspection is its own."""
        if self._denied:
            return "denied"
        if any(root.shape == "introspection" for root in roots):
            return "introspection"
        return "refused" if any(root.error for root in roots) else None

    def _statement(self, role: str, columns: Sequence[ColumnElement[Any]]) -> Statement:
        """Context of row-level security and the authorization version as one-time filters: decided before any row is looked at (AZ-7)."""
        cities = self.params.shared("cities", Text(), lambda b: cities_context(b.caller.grants))
        version = self.params.shared("version", BigInteger(), lambda b: b.snapshot.version)
        context = select(
            func.set_config(literal_column("'countersign.cities'"), cities, literal_column("true"))
        ).scalar_subquery()
        query = (
            select(*columns).select_from(authz_version).where(context.is_not(None), authz_version.c.version == version)
        )
        return compiled(role, query)

    def _begin(
        self, key: str, name: str, type_name: str, shape: str, definition: GraphQLField, node: FieldNode
    ) -> None:
        parent = "Query" if self._operation.kind == "query" else "Mutation"
        site = self._site(parent, name, key, definition, node, pages=shape == "page")
        self._root = Root(key, name, type_name, shape, site)
        self._root.required = isinstance(definition.type, GraphQLNonNull)
        self._scoping = Scoping(self._console, self._snapshot, self._caller, self.params, name)
        self._listing = Listing(self.params, self._json, self._scoping, self._variables, self._readable)

    def _plan_root(
        self, root_type: GraphQLObjectType, key: str, nodes: Sequence[FieldNode]
    ) -> ColumnElement[Any] | None:
        name = nodes[0].name.value
        definition = self._core.get_field(root_type, name)
        assert definition is not None  # noqa: S101 # validated
        named = get_named_type(definition.type)
        if name.startswith("__"):
            self._begin(key, name, named.name, "introspection", definition, nodes[0])
            return None
        connection = named.name.endswith("Connection")
        item = (
            get_named_type(named.fields["items"].type) if connection and isinstance(named, GraphQLObjectType) else named
        )
        listed = is_list_type(
            definition.type.of_type if isinstance(definition.type, GraphQLNonNull) else definition.type
        )
        shape = "function" if name in self._functions else "page" if connection else "list" if listed else "one"
        self._begin(key, name, item.name, shape, definition, nodes[0])
        rule = self._console.rules[root_type.name, name]
        self._root.action = rule.record_action
        if rule.policy:
            held = self._snapshot.holding(self._caller.grants, *rule.policy, self._scoping.static)
            self._root.policy_row = held[0].line.id if held else None
            if not held:
                self._root.error = NotAuthorizedError(root_type.name, name)
                return None
        if shape == "function":
            self._needs_python.append("function")
            self._root.complete = made_in_python(definition.type, nodes, self._collect_below)
            self._reads(item, nodes)
            return None
        assert isinstance(named, GraphQLObjectType)  # noqa: S101 # no root field returns a bare scalar
        try:
            return self._root_column(named, nodes, definition)
        except ConsoleError as error:
            self._root.error = again(error)  # without the frames that would keep this planner and its columns alive
            return None

    def _root_column(
        self, named: GraphQLObjectType, nodes: Sequence[FieldNode], definition: GraphQLField
    ) -> ColumnElement[Any]:
        root = self._root
        if root.name == "approvalMetrics":
            return self._metrics(named, nodes)
        source = SOURCES[root.type]
        root.role = source.role
        if root.shape == "page":
            return self._root_page(named, nodes, source)
        row = self._json.alias(source.table)
        keys = [name for name in definition.args if snake(name) == source.key]
        match = row.c[source.key] == (self._argument(row.c[source.key], keys[0]) if keys else self._scoping.caller)
        pairs, root.complete = self._fields(named, self.collect(self._selections(nodes), named), source.fields, row)
        site = root.site.index
        version = (
            self.params.own(Integer(), lambda b: b.arguments[site].get("version"), root=root.key)
            if source.versioned and "version" in definition.args
            else None
        )
        return self._json.root(
            pairs, row, source.key, and_(match, self._scoping.visible(root.type, row, version=version))
        )

    def _root_page(
        self, connection: GraphQLObjectType, nodes: Sequence[FieldNode], source: Source
    ) -> ColumnElement[Any]:
        root = self._root
        chosen = self.collect(self._selections(nodes), connection)
        token = any(below[0].name.value == "nextToken" for below in chosen.values())
        listed = self._listing.page(root.type, source, root.site, None, None, one_more=token)
        page = self._json.numbered(listed.rows) if token else listed.rows
        items: list[Pairs] = []
        entries: list[tuple[str, str, int, Complete | None]] = []
        for key, below in chosen.items():
            name = below[0].name.value
            if name != "items":
                entries.append((key, connection.name if name == "__typename" else name, -1, None))
                continue
            pairs, complete = self._items(connection, below, source, page)
            entries.append((key, name, FIRST_ITEMS + len(items), each(complete)))
            items.append(pairs)
        root.entries = entries
        return self._json.root_page(items, page, source.key, listed.sorted_by, listed.limit if token else None)

    def _argument(self, column: ColumnElement[Any], name: str) -> ColumnElement[Any]:
        site, convert = self._root.site.index, converter(column.type)
        return self.params.own(column.type, lambda b: convert(b.arguments[site][name]), root=self._root.key)

    def _metrics(self, of: GraphQLObjectType, nodes: Sequence[FieldNode]) -> ColumnElement[Any]:
        site = self._root.site.index

        def at(end: str) -> ColumnElement[Any]:
            return self.params.own(
                DateTime(timezone=True), lambda b: instant(b.arguments[site]["at"][end]), root=self._root.key
            )

        page, specs = approval_metrics(self._scoping, at("from"), at("to"))
        pairs, complete = self._fields(of, self.collect(self._selections(nodes), of), specs, page)
        self._root.complete = each(complete)
        return self._json.root_list(pairs, page)


def _ref(name: str) -> Callable[[Binding], Any]:
    return lambda binding: binding.refs.get(name, binding.refs.get(snake(name)))


def _ref_version(name: str) -> Callable[[Binding], Any]:
    """The version that a command names beside the id, as ``macroVersion`` beside ``macro``; None: the current one."""

    def version(binding: Binding) -> int | None:
        named = binding.refs.get(f"{name}Version")
        return None if named is None else int(named)

    return version
