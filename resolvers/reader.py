"""The one reader: every read, nested ones included, is answered from the planner's statement under one policy snapshot.

A query is one statement per database role; a mutation's payload is one on the unit of work's connection; the finder and
subscriptions use the same sources and the same row predicates, so there is no second path to a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import orjson
from graphql import FieldNode, GraphQLObjectType, get_named_type, is_non_null_type
from graphql.execution.values import VariableValues
from sqlalchemy import Text, select

from db.pool import connection
from resolvers.binding import Binding, Bound, Params
from resolvers.computed import Call, Function, reason_codes
from resolvers.derived import NEEDS
from resolvers.finish import Finisher
from resolvers.labels import label
from resolvers.paging import page_limit
from resolvers.plan_cache import PlanCache, rights, shape
from resolvers.plans import Planner
from resolvers.read_plan import BYTES, Plan, Root, Statement, compiled, place_of
from resolvers.root_reads import RootRead, read_of
from resolvers.run import Run, document
from resolvers.scoping import Scoping
from resolvers.selections import collected
from resolvers.source_fields import snake
from resolvers.sources import SOURCES
from resolvers.tokens import Place, Tokens
from schema import telemetry
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from authz.caller import Caller
    from authz.enforcer import Snapshot
    from db.unit_of_work import Row, UnitOfWork
    from resolvers.documents import Operation
    from schema.console import Console
    from services.command import Result

Errors = list[dict[str, Any]]
_NOT_FILTER: Final = frozenset({"limit", "nextToken", "input"})  # an input is what is tried, with its secrets


class StaleSnapshotError(Exception):
    """The database is at another authorization version than the snapshot: nothing was read. Decide again on a newer one."""


@dataclass(frozen=True)
class Answer:
    """Content in the order of the document, errors in AppSync's shape, and what was read."""

    content: dict[str, Any] | None  # for ``orjson.dumps``: parts of it may be JSON already
    errors: Errors
    reads: list[RootRead] = field(default_factory=list)

    @cached_property
    def data(self) -> dict[str, Any] | None:
        """The content as plain values."""
        found: dict[str, Any] | None = orjson.loads(orjson.dumps(self.content))
        return found


class Reader:
    """Reads for one process. ``functions`` answer the root fields that have no table; ``reasonCodes`` is always there."""

    def __init__(
        self,
        console: Console,
        app_pool: asyncpg.Pool[Any],
        audit_pool: asyncpg.Pool[Any],
        tokens: Tokens,
        *,
        salt: str,
        functions: Mapping[str, Function] | None = None,
        best_finish: str = BYTES,
    ) -> None:
        self._console = console
        self._pools = {"app": app_pool, "audit": audit_pool}
        self._tokens = tokens
        self._salt = salt
        self._functions: dict[str, Function] = {"reasonCodes": reason_codes, **(functions or {})}
        self._finisher = Finisher(console, best=best_finish)
        self.finishes = self._finisher.finishes
        self.plans: PlanCache[Plan] = PlanCache(weigh=lambda plan: plan.size)
        self.finders: PlanCache[tuple[Statement, Bound]] = PlanCache()
        missing = {
            name for name in _root_names(console) if name not in self._functions and not _has_source(console, name)
        }
        if missing:
            raise ValueError(f"no source and no function for root fields: {', '.join(sorted(missing))}")

    # ---------- queries ----------
    async def query(
        self,
        caller: Caller,
        snapshot: Snapshot,
        operation: Operation,
        variables: VariableValues,
        *,
        request_id: str = "-",
    ) -> Answer:
        """Answer a query. Raises ``StaleSnapshotError`` before anything is shown when the snapshot is not the database's.

        ``request_id`` is what an INTERNAL error tells, and the log.
        """
        key = ("query", operation.digest, operation.name, rights(caller, snapshot), shape(variables.coerced))
        plan = self._plan(
            key, lambda: Planner(self._console, operation, variables, caller, snapshot, self._functions).query()
        )
        binding, digests = self._bind(plan, caller, snapshot, variables)
        raw: dict[str, Any] = {}
        for statement in plan.statements:
            row = await self._fetch(statement, plan, binding)
            if row is None:
                raise StaleSnapshotError
            raw.update(row)
        for root in plan.roots:
            refused = root.error or binding.errors.get(root.key)
            if refused is not None:
                raw[label(root.key)] = refused
            elif root.shape == "function":
                raw[label(root.key)] = await self._call(root, binding)
        content, errors = self._finisher.query(
            Run(plan, binding, self._tokens, digests, request_id), operation, variables, raw
        )
        return Answer(
            content,
            errors,
            [
                read_of(root, raw[label(root.key)], binding, digests.get(root.site.index))
                for root in plan.roots
                if root.is_read
            ],
        )

    async def _call(self, root: Root, binding: Binding) -> Any:
        try:
            return document(
                await self._functions[root.name](
                    Call(binding.caller, binding.snapshot, binding.arguments[root.site.index])
                )
            )
        except ConsoleError as error:
            return error

    def _bind(
        self,
        plan: Plan,
        caller: Caller,
        snapshot: Snapshot,
        variables: VariableValues,
        refs: Mapping[str, Any] | None = None,
    ) -> tuple[Binding, dict[int, str]]:
        arguments = [site.arguments(variables) for site in plan.sites]
        binding = Binding(caller, snapshot, self._salt, arguments, refs=refs or {})
        digests: dict[int, str] = {}
        for site, given in zip(plan.sites, arguments, strict=True):
            digests[site.index] = _digest(given)
            if not site.pages:
                continue
            try:
                page_limit(given)
                if given.get("nextToken") is not None:
                    place = Place(caller.id, site.place, digests[site.index])
                    binding.cursors[site.index] = self._tokens.open(given["nextToken"], place)
            except ConsoleError as error:
                binding.refuse(site.root, error)
        return binding, digests

    async def _fetch(self, statement: Statement, plan: Plan, binding: Binding) -> Mapping[str, Any] | None:
        values = plan.bound.values(statement.names, binding)
        async with connection(self._pools[statement.role]) as conn:
            row: Mapping[str, Any] | None = await conn.fetchrow(statement.text, *values)
        return row

    # ---------- payloads ----------
    def check(
        self, caller: Caller, snapshot: Snapshot, operation: Operation, variables: VariableValues, node: FieldNode
    ) -> Plan:
        """Refuse, before a mutation runs, what its payload would refuse after it: a limit or a token of a nested list.

        Returns the plan that ``payload`` will want, if caller and snapshot are still these.
        """
        plan = self._payload_plan(caller, snapshot, operation, variables, node)
        if plan.sites:
            binding, _ = self._bind(plan, caller, snapshot, variables)
            for error in binding.errors.values():
                raise error
        return plan

    def _payload_plan(
        self, caller: Caller, snapshot: Snapshot, operation: Operation, variables: VariableValues, node: FieldNode
    ) -> Plan:
        key = (
            "payload",
            operation.digest,
            operation.name,
            place_of(node),
            rights(caller, snapshot),
            shape(variables.coerced),
        )

        def build() -> Plan:
            nodes = self._root_nodes(operation, variables, node)
            return Planner(self._console, operation, variables, caller, snapshot).payload(nodes)

        return self._plan(key, build)

    def _plan(self, key: Hashable, build: Callable[[], Plan]) -> Plan:
        with telemetry.span("plan") as told:
            missed = self.plans.misses
            plan = self.plans.get(key, build)
            told.set("countersign.cached", self.plans.misses == missed)
            told.set("countersign.finish", plan.finish)
            told.set("countersign.finish.reason", plan.reason or "none")
        return plan

    async def payload(
        self,
        uow: UnitOfWork,
        caller: Caller,
        snapshot: Snapshot,
        operation: Operation,
        variables: VariableValues,
        node: FieldNode,
        result: Result,
        extra: Mapping[str, Any],
        *,
        plan: Plan | None = None,
        request_id: str = "-",
    ) -> Answer:
        """Answer the selection of one mutation on the unit of work's connection.

        Objects come by ``result.refs``, plain fields from ``extra`` and ``result.values``; ``data`` has the one response
        key. An object outside the caller's read scope is null. ``plan`` is what ``check`` returned for the same caller.
        """
        plan = plan or self._payload_plan(caller, snapshot, operation, variables, node)
        binding, digests = self._bind(plan, caller, snapshot, variables, result.refs)
        (root,) = plan.roots
        texts: Mapping[str, str | None] = {}
        for statement in plan.statements:
            row = await uow.fetchrow(statement.text, *plan.bound.values(statement.names, binding))
            texts = {} if row is None else dict(row)
        said = {**result.values, **extra}
        plain = {name: said.get(field_name, said.get(snake(field_name))) for name, field_name in root.plain}
        run = Run(plan, binding, self._tokens, digests, request_id)
        return Answer(
            *self._finisher.payload(
                run, operation, variables, texts, plain, lambda: self._root_nodes(operation, variables, node)
            )
        )

    def _root_nodes(self, operation: Operation, variables: VariableValues, node: FieldNode) -> list[FieldNode]:
        """Every node of the response key: the same mutation may be written twice, with two selections."""
        mutation = self._console.core.mutation_type
        assert mutation is not None  # noqa: S101 # only mutations have payloads
        fields = collected(operation, variables, [operation.definition.selection_set], mutation)
        return next(nodes for nodes in fields.values() if node in nodes)

    # ---------- one row ----------
    async def find(
        self,
        conn: asyncpg.Connection[Any],
        caller: Caller,
        snapshot: Snapshot,
        type_name: str,
        id_: str,
        by: tuple[str, str] | None = None,
    ) -> Row:
        """All columns of one row within the caller's scope; ``NOT_FOUND`` for any other, whether it exists or not.

        With it comes what its source says to read beside it.
        The scope is that of the type's read row, or of the policy row ``by``.
        """
        statement, bound = self.finders.get(
            (type_name, by, rights(caller, snapshot)), lambda: self._finder(caller, snapshot, type_name, by)
        )
        binding = Binding(caller, snapshot, self._salt, refs={"id": id_})
        row = await conn.fetchrow(statement.text, *bound.values(statement.names, binding))
        if row is None:
            raise ConsoleError("NOT_FOUND")
        return dict(row)

    def _finder(
        self, caller: Caller, snapshot: Snapshot, type_name: str, by: tuple[str, str] | None
    ) -> tuple[Statement, Bound]:
        params = Params()
        source = SOURCES[type_name]
        row = source.table.alias("t")
        wanted = params.own(Text(), lambda b: b.refs["id"], root=None)
        scoping = Scoping(self._console, snapshot, caller, params)
        beside = [NEEDS[name](row, scoping).label(name) for name in source.beside]
        found = select(*row.c, *beside).where(row.c[source.key] == wanted, scoping.visible(type_name, row, by))
        return compiled(source.role, found), params.bound()

    # ---------- subscriptions ----------
    async def event(
        self,
        caller: Caller,
        snapshot: Snapshot,
        operation: Operation,
        name: str,
        payload: Mapping[str, Any],
        variables: VariableValues | None = None,
    ) -> dict[str, Any] | None:
        """A subscription's selection over one event. Fields the caller may not read are null, as is an event that lacks what it promises.

        The answer depends on the caller's rights alone, so it may be shared by all who hold the same.
        """
        root = self._console.core.subscription_type
        assert root is not None  # noqa: S101 # only subscriptions have events
        of = get_named_type(root.fields[name].type)
        assert isinstance(of, GraphQLObjectType)  # noqa: S101 # every subscription's type
        chosen = variables or VariableValues({}, {})
        fields = collected(operation, chosen, [operation.definition.selection_set], root)
        selections = [
            node.selection_set
            for nodes in fields.values()
            for node in nodes
            if node.name.value == name and node.selection_set
        ]
        answer: dict[str, Any] = {}
        for key, nodes in collected(operation, chosen, selections, of).items():
            inner = nodes[0].name.value
            if inner == "__typename":
                answer[key] = of.name
                continue
            policy = self._console.rules[of.name, inner].policy
            open_ = policy is None or snapshot.opens(caller.grants, *policy, caller.facts)
            answer[key] = payload.get(inner) if open_ else None
            if answer[key] is None and is_non_null_type(of.fields[inner].type):
                return None
        return answer


def _digest(arguments: Mapping[str, Any]) -> str:
    """What is listed, whatever the page: filter, order and keys."""
    kept = {name: value for name, value in arguments.items() if name not in _NOT_FILTER}
    return hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()[:32] if kept else ""


def _root_names(console: Console) -> list[str]:
    return list(console.core.query_type.fields) if console.core.query_type else []


def _has_source(console: Console, name: str) -> bool:
    assert console.core.query_type is not None  # noqa: S101 # asked for its fields
    named = get_named_type(console.core.query_type.fields[name].type)
    if named.name.endswith("Connection") and isinstance(named, GraphQLObjectType):
        named = get_named_type(named.fields["items"].type)
    return named.name in SOURCES or name == "approvalMetrics"
