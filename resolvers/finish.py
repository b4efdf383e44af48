"""Both finishes of a plan's rows. Neither reads a database, and both are of the same statement.

*Compiled*: what the database wrote is the answer, or the plan's completers bring it into its form. *Completed*: everything
that has an error, and introspection, goes through graphql-core's execution as nested dictionaries, keyed by label (the
response key), documents made in Python by field name. Errors are rendered in AppSync's shape, and what is not a
``ConsoleError`` leaves as ``INTERNAL``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    SelectionSetNode,
    execute_sync,
    get_named_type,
)
from graphql.execution.values import VariableValues

from resolvers import computed
from resolvers import source_fields as spec
from resolvers.binding import Binding
from resolvers.edge_errors import again, coded, field_error
from resolvers.labels import NEED, ROW, label
from resolvers.leaves import MARKED, restored
from resolvers.read_plan import BYTES, COMPILED, COMPLETED, LAST, Complete, DeviationError, Root, place_of
from resolvers.run import Document, Page, Run, document
from resolvers.sources import SOURCES
from schema.errors import ConsoleError, NotAuthorizedError

if TYPE_CHECKING:
    from resolvers.documents import Operation
    from schema.console import Console

Finished = tuple[dict[str, Any] | None, list[dict[str, Any]]]  # data and errors
_NULL: Final = re.compile(r"Cannot return null for non-nullable field (\w+)\.(\w+)\.")


class Finisher:
    """Finishes the rows of one schema. Its tables are made once per process."""

    def __init__(self, console: Console, *, best: str = BYTES) -> None:
        """``best``: the best finish to use. Tests compare them with each other, a benchmark measures what they are worth."""
        self._core: GraphQLSchema = console.core
        self._best = best
        self.finishes: Counter[str] = Counter()  # how many operations ended how: bytes, compiled:why, completed:why
        self._handlers: dict[tuple[str, str], Callable[[Run, Any, str], Any]] = {}
        self._connections = {
            (of.name, name)
            for of in console.core.type_map.values()
            if isinstance(of, GraphQLObjectType)
            for name, field in of.fields.items()
            if get_named_type(field.type).name.endswith("Connection")
        }
        for type_name, source in SOURCES.items():
            self._register(type_name, source.fields)

    def _register(self, type_name: str, fields: Mapping[str, spec.FieldSpec]) -> None:
        for name, found in fields.items():
            if isinstance(found, spec.Embedded):
                self._register(found.type, found.fields)
            elif isinstance(found, spec.Actor | spec.Actors):
                self._handlers[type_name, name] = _actors(found)
            elif isinstance(found, spec.Computed):
                self._handlers[type_name, name] = _computed(computed.COMPUTED[type_name, name])

    # ---------- compiled ----------
    def query(self, run: Run, operation: Operation, variables: VariableValues, raw: Mapping[str, Any]) -> Finished:
        """Data and errors of a query. ``raw`` is by label: a root's column, a function's value, or the error of a root.

        Values of the data may be ``orjson.Fragment``: JSON that nobody has looked into.
        """
        plan = run.plan
        reason = plan.reason
        if COMPLETED not in (plan.finish, self._best):
            try:
                data = {
                    key: root if isinstance(root, str) else self._root(run, root, raw[label(key)])
                    for key, root in plan.layout
                }
            except Exception as error:  # noqa: BLE001 - graphql-core meets it again, and tells it at its place
                reason = str(error) if isinstance(error, DeviationError) else "error"
            else:
                self._count(plan.finish, reason)
                return data, []
        self._count(COMPLETED, reason)
        values = {label(root.key): _completable(root, raw[label(root.key)]) for root in plan.roots if root.is_read}
        return self._complete(run, operation, variables, values)

    def payload(
        self,
        run: Run,
        operation: Operation,
        variables: VariableValues,
        texts: Mapping[str, str | None],
        plain: Mapping[str, Any],
        nodes: Callable[[], Sequence[FieldNode]],
    ) -> Finished:
        """Data and errors of one mutation: ``texts`` is the statement's JSON, ``plain`` what the command said, both by label.

        ``nodes`` are those of its response key, asked for where it is completed.
        """
        plan = run.plan
        (root,) = plan.roots
        refused = run.binding.errors.get(root.key)
        reason = plan.reason if refused is None else "refused"
        if COMPLETED not in (plan.finish, self._best) and refused is None:
            try:
                value = {**{name: _parsed(text) for name, text in texts.items()}, **plain}
                data = {root.key: value if root.complete is None else root.complete(run, value)}
            except Exception as error:  # noqa: BLE001 - as above
                reason = str(error) if isinstance(error, DeviationError) else "error"
            else:
                self._count(COMPILED, reason)
                return data, []
        self._count(COMPLETED, reason)
        said = {name: document(value) for name, value in plain.items()}
        shown = {name: text if text is None else restored(orjson.loads(text)) for name, text in texts.items()}
        return self._complete(run, operation, variables, {label(root.key): refused or {**shown, **said}}, only=nodes())

    def _count(self, finish: str, reason: str | None) -> None:
        self.finishes[finish if reason is None else f"{finish}:{reason}"] += 1

    def _root(self, run: Run, root: Root, value: Any) -> Any:
        if isinstance(value, Exception):
            raise DeviationError("refused")
        if root.shape == "function":
            return value if root.complete is None else root.complete(run, value)
        if value is None:
            if root.required:
                raise DeviationError("null")
            return None
        if root.shape != "page":
            return self._json(run, root.complete, value[0])
        made: dict[str, Any] = {}
        for key, name, place, complete in root.entries:
            if name == "items":
                made[key] = self._json(run, complete, value[place])
            elif name == "nextToken":
                made[key] = _page(root, value).token(run)
            else:
                made[key] = name
        return made

    def _json(self, run: Run, complete: Complete | None, text: str) -> Any:
        if complete is not None:
            return complete(run, _parsed(text))
        if MARKED in text:
            raise DeviationError("marked")
        return orjson.Fragment(text) if self._best == BYTES else orjson.loads(text)

    # ---------- completed ----------
    def _complete(
        self,
        run: Run,
        operation: Operation,
        variables: VariableValues,
        values: Mapping[str, Any],
        *,
        only: Sequence[FieldNode] | None = None,
    ) -> Finished:
        """Data and errors. ``values`` are the roots' rows, or the error of a root; ``only`` answers a single root field."""
        definition = operation.definition
        if only is not None:
            definition = OperationDefinitionNode(
                operation=definition.operation,
                variable_definitions=definition.variable_definitions,
                selection_set=SelectionSetNode(selections=tuple(only)),
            )
        ast = DocumentNode(definitions=(definition, *operation.fragments.values()))
        raw = {name: source.value for name, source in variables.sources.items() if name in variables.coerced}
        result = execute_sync(
            self._core, ast, root_value=values, context_value=run, variable_values=raw, field_resolver=self._resolve
        )
        return result.data, [_rendered(error, self._core, run.request_id) for error in result.errors or ()]

    def _resolve(self, source: Any, info: GraphQLResolveInfo[Run], **_: Any) -> Any:
        run: Run = info.context
        name = info.field_name
        parent = info.parent_type.name
        if (parent, name) in run.plan.denied:
            raise NotAuthorizedError(parent, name)
        if isinstance(source, Document):
            return document(source.get(name))
        key = str(info.path.key)
        if isinstance(source, Page):
            return source.items(key) if name == "items" else source.token(run)
        handler = self._handlers.get((parent, name))
        if handler is not None:
            return handler(run, source, label(key))
        value = source[label(key)]
        if isinstance(value, Exception):
            raise value
        if (parent, name) in self._connections and isinstance(value, list):
            return run.page(run.plan.by_place[place_of(info.field_nodes[0])], value, source.get(ROW))
        return value


def _parsed(text: str | None) -> Any:
    if text is None:
        return None
    if MARKED in text:
        raise DeviationError("marked")
    return orjson.loads(text)


def _page(root: Root, value: Sequence[Any], lists: Mapping[str, list[dict[str, Any]]] | None = None) -> Page:
    last = None if value[LAST] is None else orjson.loads(value[LAST])[0]
    return Page([], root.site, last, lists=lists or {})


def _completable(root: Root, value: Any) -> Any:
    """A root's column as graphql-core's resolver takes it."""
    if isinstance(value, Exception):
        return again(value)  # it may be the plan's
    if value is None or root.shape == "function":
        return value
    if root.shape != "page":
        return restored(orjson.loads(value[0]))
    return _page(
        root,
        value,
        {key: restored(orjson.loads(value[place])) for key, name, place, _ in root.entries if name == "items"},
    )


def _computed(compute: Callable[[Binding, Any], Any]) -> Callable[[Run, Any, str], Any]:
    return lambda run, row, _: document(compute(run.binding, row))


def _actors(found: spec.Actor | spec.Actors) -> Callable[[Run, Any, str], Any]:
    if isinstance(found, spec.Actors):
        return lambda run, row, name: [Document(computed.actor(run.binding.snapshot, one)) for one in row[name] or ()]
    kind = f"{NEED}{found.kind}" if found.kind else None

    def one(run: Run, row: Any, name: str) -> Any:
        if row[name] is None or isinstance(row[name], dict):  # told by the statement already
            return row[name]
        return Document(computed.actor(run.binding.snapshot, row[name], row[kind] if kind else None))

    return one


def _rendered(error: GraphQLError, core: GraphQLSchema, request_id: str) -> dict[str, Any]:
    """One error of an execution with all of AppSync's keys. Whatever has no code of ours is INTERNAL, and its text stays here."""
    original: BaseException | None = error.original_error
    if not isinstance(original, ConsoleError) and (match := _NULL.match(error.message)):
        return _null_error(match[1], match[2], error.path, core, request_id)
    if original is None:  # raised by graphql-core itself: a value that its type cannot show
        original = error
    return field_error(coded(original, request_id), error.path or None, error.locations)


def _null_error(
    parent: str, name: str, path: Sequence[str | int] | None, core: GraphQLSchema, request_id: str
) -> dict[str, Any]:
    of = core.get_type(parent)
    kind = get_named_type(of.fields[name].type).name if isinstance(of, GraphQLObjectType) else name
    where = "/".join(str(part) for part in path or ())
    message = f"Cannot return null for non-nullable type: '{kind}' within parent '{parent}' (/{where})"
    return {
        "path": list(path) if path else None,
        "data": None,
        "errorType": "INTERNAL",
        "errorInfo": {"retryable": False, "requestId": request_id},
        "locations": None,
        "message": message,
    }
