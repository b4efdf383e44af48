"""Operation -> one SQL statement per database role, for one set of roles: every root field is a column of it.

Nested objects are sub-selects that correlate with the *limited* page of their parent, so a list of twenty asks twenty
times and never once per candidate. Row scope, masks and field denials are in the plan; a request only binds values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from graphql import (
    FieldNode,
    GraphQLField,
    GraphQLObjectType,
    SelectionSetNode,
    get_named_type,
    is_list_type,
)
from graphql.execution.values import VariableValues, get_argument_values
from graphql.type import GraphQLNonNull
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Text,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
)

from authz.scope import cities_context
from db.tables import authz_version
from resolvers import derived
from resolvers import source_fields as spec
from resolvers.binding import Binding, Params
from resolvers.filters import Filters, converter, instant, scalar
from resolvers.labels import ALIVE, INNER, KEY, NEED, ROW, label
from resolvers.masking import MASKS
from resolvers.metrics import approval_metrics
from resolvers.paging import after, limited, order_of, page_limit
from resolvers.read_plan import Plan, Root, Site, Statement, compiled
from resolvers.row_json import Pairs, RowJson, jsonable
from resolvers.scoping import Scoping
from resolvers.selections import collected
from resolvers.source_fields import Source, snake
from resolvers.sources import SOURCES
from schema.errors import ConsoleError, NotAuthorizedError

if TYPE_CHECKING:
    from authz.caller import Caller
    from authz.enforcer import Snapshot
    from resolvers.documents import Operation
    from schema.console import Console

PLAIN_LIST: Final = 100  # a list without a limit of its own
_PAGING: Final = frozenset({"filter", "orderBy", "sortDirection", "limit", "nextToken", "text"})
Grouped = Mapping[str, Sequence[FieldNode]]


class Planner:
    """Compiles one operation. Use once."""

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
        self._by_node: dict[int, Site] = {}
        self._denied: set[tuple[str, str]] = set()
        self._inner: dict[int, dict[str, str]] = {}
        self._json = RowJson()
        self._root: Root
        self._scoping: Scoping

    # ---------- operations ----------
    def query(self) -> Plan:
        """The plan of a query."""
        root_type = self._core.query_type
        assert root_type is not None  # noqa: S101 # every console has one
        roots: list[Root] = []
        columns: list[tuple[str, ColumnElement[Any]]] = []
        for key, nodes in self.collect([self._operation.definition.selection_set], root_type).items():
            if nodes[0].name.value == "__typename":
                continue
            column = self._plan_root(root_type, key, nodes)
            roots.append(self._root)
            if column is not None:
                columns.append((self._root.role, column.label(label(key))))
        if not columns and any(root.shape == "function" and root.error is None for root in roots):
            # What a function reads is decided on the present rights too.
            columns.append(("app", literal_column("1").label(ALIVE)))
        roles = dict.fromkeys(role for role, _ in columns)
        return self._plan(
            roots, [self._statement(role, [column for of, column in columns if of == role]) for role in roles]
        )

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
        for inner, chosen in self.collect(self._selections(nodes), payload).items():
            name = chosen[0].name.value
            below = get_named_type(payload.fields[name].type) if name in payload.fields else None
            if (
                name == "__typename"
                or not self._allowed(payload.name, name)
                or not isinstance(below, GraphQLObjectType)
            ):
                continue
            source = SOURCES.get(below.name)
            if source is None:
                continue
            ref = self.params.own(Text(), _ref(name), root=key)
            row = self._json.alias(source.table)
            visible = and_(row.c[source.key] == ref, self._scoping.visible(below.name, row))
            pairs.append((label(inner), self._one(below, chosen, source, row, visible)))
        statements = [compiled("app", select(*(column.label(name) for name, column in pairs)))] if pairs else []
        return self._plan([self._root], statements)

    def _plan(self, roots: Sequence[Root], statements: Sequence[Statement]) -> Plan:
        return Plan(
            tuple(roots),
            tuple(statements),
            tuple(self._sites),
            self.params,
            frozenset(self._denied),
            self._by_node,
            self._inner,
            self._operation,
        )

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
        self._scoping = Scoping(self._console, self._snapshot, self._caller, self.params, name)

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
            self._reads(item, nodes)
            return None
        assert isinstance(named, GraphQLObjectType)  # noqa: S101 # no root field returns a bare scalar
        try:
            return self._root_column(named, nodes, definition)
        except ConsoleError as error:
            self._root.error = error
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
            return self._page(root.type, named, nodes, source, None, None, root.site, definition)
        row = self._json.alias(source.table)
        keys = [name for name in definition.args if snake(name) == source.key]
        match = row.c[source.key] == (self._argument(row.c[source.key], keys[0]) if keys else self._scoping.caller)
        return self._one(named, nodes, source, row, and_(match, self._scoping.visible(root.type, row)))

    def _argument(self, column: ColumnElement[Any], name: str) -> ColumnElement[Any]:
        site = self._root.site.index
        return self.params.own(
            column.type, lambda b: converter(column.type)(b.arguments[site][name]), root=self._root.key
        )

    # ---------- selections ----------
    def collect(self, selections: Iterable[SelectionSetNode], of: GraphQLObjectType) -> dict[str, list[FieldNode]]:
        return collected(self._operation, self._variables, selections, of)

    @staticmethod
    def _selections(nodes: Sequence[FieldNode]) -> list[SelectionSetNode]:
        return [node.selection_set for node in nodes if node.selection_set]

    def _site(
        self, parent: str, name: str, root: str, definition: GraphQLField, node: FieldNode, *, pages: bool
    ) -> Site:
        if id(node) not in self._by_node:  # a fragment's field may be reached twice, with the same arguments
            site = Site(len(self._sites), f"{parent}.{name}", root, definition, node, pages)
            self._sites.append(site)
            self._by_node[id(node)] = site
        return self._by_node[id(node)]

    def _allowed(self, type_name: str, name: str) -> bool:
        """The field step. What is denied is not selected; the finish says so at every path."""
        policy = self._console.rules[type_name, name].policy
        if policy is None or self._snapshot.opens(self._caller.grants, *policy, self._scoping.static):
            self._root.fields.add(f"{type_name}.{name}")
            return True
        self._denied.add((type_name, name))
        return False

    def _reads(self, of: Any, nodes: Sequence[FieldNode]) -> None:
        """Take note of what a function's root shows."""
        if not isinstance(of, GraphQLObjectType):
            return
        for grouped in self.collect(self._selections(nodes), of).values():
            name = grouped[0].name.value
            if name in of.fields and self._allowed(of.name, name):
                self._reads(get_named_type(of.fields[name].type), grouped)

    # ---------- rows ----------
    def _one(
        self,
        of: GraphQLObjectType,
        nodes: Sequence[FieldNode],
        source: Source,
        row: FromClause,
        where: ColumnElement[bool],
        parent: FromClause | None = None,
    ) -> ColumnElement[Any]:
        pairs: Pairs = [
            (ROW, jsonable(row.c[source.key])),
            *self._fields(of, self.collect(self._selections(nodes), of), source.fields, row),
        ]
        return self._json.one(pairs, row, where, parent)

    def _page(
        self,
        type_name: str,
        connection: GraphQLObjectType,
        nodes: Sequence[FieldNode],
        source: Source,
        match: Callable[[FromClause], ColumnElement[bool]] | None,
        parent: FromClause | None,
        site: Site,
        definition: GraphQLField,
    ) -> ColumnElement[Any]:
        arguments = get_argument_values(definition, site.node, self._variables, hide_suggestions=True)
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
        limit = self.params.own(Integer(), lambda b: page_limit(b.arguments[site.index]) + 1, root=site.root, instead=0)
        page = limited(
            base, and_(*terms), sorted_by, limit, parent, descending=descending, name=self._json.name("page")
        )
        sort_key = func.json_build_array(*(page.c[name] for name in sorted_by))
        pairs: Pairs = [(ROW, jsonable(page.c[source.key])), (KEY, sort_key)]
        of = get_named_type(connection.fields["items"].type)
        assert isinstance(of, GraphQLObjectType)  # noqa: S101 # connections are of objects
        items = [
            (key, n)
            for key, n in self.collect(self._selections(nodes), connection).items()
            if n[0].name.value == "items"
        ]
        for position, (alias, chosen) in enumerate(items):
            self._allowed(connection.name, "items")
            fields = self._fields(of, self.collect(self._selections(chosen), of), source.fields, page)
            # A second ``items`` under another alias may give other fields the same names.
            if position == 0:
                pairs += fields
            else:
                column = f"{INNER}{position}"
                self._inner.setdefault(site.index, {})[alias] = column
                pairs.append((column, self._json.one([(ROW, jsonable(page.c[source.key])), *fields], None, None, page)))
        return self._json.many(pairs, page, parent)

    def _conditions(
        self, type_name: str, source: Source, base: FromClause, arguments: Mapping[str, Any], site: Site
    ) -> ColumnElement[bool]:
        def column(name: str) -> ColumnElement[Any]:
            rule = self._console.rules[type_name, name]
            # Filtering by a field needs the right to read it, unmasked (AZ-6).
            if not self._allowed(type_name, name) or rule.pii:
                raise NotAuthorizedError(type_name, name)
            return self._scalar(name, source.fields, base)

        filters = Filters(self.params, site.index, site.root, column)
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

        def part(position: int, column: ColumnElement[Any]) -> ColumnElement[Any]:
            def fetch(binding: Binding) -> Any:
                cursor = binding.cursors.get(site.index)
                if cursor is None or len(cursor.key) != len(columns):
                    raise ConsoleError("INVALID_NEXT_TOKEN")
                value = cursor.key[position]
                return (
                    datetime.fromisoformat(value) if isinstance(column.type, DateTime) and value is not None else value
                )

            return self.params.own(column.type, fetch, root=site.root)

        return [part(position, column) for position, column in enumerate(columns)]

    # ---------- fields ----------
    def _fields(
        self, of: GraphQLObjectType, grouped: Grouped, specs: Mapping[str, spec.FieldSpec], row: FromClause
    ) -> Pairs:
        """The columns of one object: a label per response key, and what computed fields need."""
        pairs: dict[str, ColumnElement[Any]] = {}
        for key, nodes in grouped.items():
            name = nodes[0].name.value
            if name == "__typename" or not self._allowed(of.name, name):
                continue
            found = specs.get(name)
            if isinstance(found, spec.Computed):
                pairs.update({f"{NEED}{need}": self._need(need, row) for need in found.needs})
                self._reads(get_named_type(of.fields[name].type), nodes)
            elif isinstance(found, spec.Actor):
                pairs[label(key)] = row.c[found.column]
                if found.kind:
                    pairs[f"{NEED}{found.kind}"] = row.c[found.kind]
                self._reads(get_named_type(of.fields[name].type), nodes)
            elif isinstance(found, spec.Actors):
                pairs[label(key)] = row.c[found.column]
                self._reads(get_named_type(of.fields[name].type), nodes)
            elif isinstance(found, spec.Embedded | spec.ToOne | spec.ToMany):
                pairs[label(key)] = self._below(of, name, key, nodes, found, row)
            else:
                pairs[label(key)] = self._masked(of.name, name, self._scalar(name, specs, row))
        return list(pairs.items())

    def _below(
        self,
        of: GraphQLObjectType,
        name: str,
        key: str,
        nodes: Sequence[FieldNode],
        found: spec.Embedded | spec.ToOne | spec.ToMany,
        row: FromClause,
    ) -> ColumnElement[Any]:
        named = get_named_type(of.fields[name].type)
        assert isinstance(named, GraphQLObjectType)  # noqa: S101 # the three kinds are objects
        if isinstance(found, spec.Embedded):
            return self._embedded(named, nodes, found, row)
        source = SOURCES[found.type]
        if isinstance(found, spec.ToOne):
            child = self._json.alias(source.table)
            return self._one(
                named,
                nodes,
                source,
                child,
                and_(child.c[source.key] == row.c[found.local], self._scoping.visible(found.type, child)),
                row,
            )
        if named.name.endswith("Connection"):
            site = self._site(of.name, name, self._root.key, of.fields[name], nodes[0], pages=True)
            return self._page(
                found.type, named, nodes, source, lambda child: found.match(row, child), row, site, of.fields[name]
            )
        base = self._json.alias(source.table)
        where = found.match(row, base)
        if self._scoping.read_row(found.type) is not None:
            where = and_(where, self._scoping.visible(found.type, base))
        page = limited(
            base,
            where,
            (*source.order.columns, source.key),
            literal_column(str(PLAIN_LIST)),
            row,
            descending=source.order.descending,
            name=self._json.name("page"),
        )
        pairs: Pairs = [
            (ROW, jsonable(page.c[source.key])),
            *self._fields(named, self.collect(self._selections(nodes), named), source.fields, page),
        ]
        return self._json.many(pairs, page, row)

    def _embedded(
        self, of: GraphQLObjectType, nodes: Sequence[FieldNode], found: spec.Embedded, row: FromClause
    ) -> ColumnElement[Any]:
        pairs = self._fields(of, self.collect(self._selections(nodes), of), found.fields, row)
        parts: list[ColumnElement[Any]] = []
        for name, column in pairs:
            parts += [literal_column(f"'{name}'"), column]  # a label: a GraphQL name or ours, never a quote in it
        made = func.json_build_object(*parts)
        return made if found.when is None else case((found.when(row, self._scoping), made))

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
            return jsonable(column)
        pii_class, mask = rule.pii
        self._root.pii[f"{type_name}.{name}"] = pii_class
        # A row of the field's own beside the type's is the right to the clear value (staff:contact).
        if rule.policy is not None and type_name in SOURCES and rule.policy != self._scoping.read_row(type_name):
            return jsonable(column)
        self._root.masked.add(f"{type_name}.{name}")
        salt = self.params.shared("salt", Text(), lambda b: b.salt)
        return MASKS[mask](column, salt)

    def _metrics(self, of: GraphQLObjectType, nodes: Sequence[FieldNode]) -> ColumnElement[Any]:
        site = self._root.site.index

        def at(end: str) -> ColumnElement[Any]:
            return self.params.own(
                DateTime(timezone=True), lambda b: instant(b.arguments[site]["at"][end]), root=self._root.key
            )

        page, fields = approval_metrics(self._scoping, at("from"), at("to"))
        pairs = self._fields(of, self.collect(self._selections(nodes), of), fields, page)
        return self._json.many([(ROW, page.c.requester_id), *pairs], page, None)


def _ref(name: str) -> Callable[[Binding], Any]:
    return lambda binding: binding.refs.get(name, binding.refs.get(snake(name)))
