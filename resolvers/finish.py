"""The completed finish: the planner's rows, as nested dictionaries, through graphql-core's execution.

Rows are keyed by label (the response key), documents made in Python by field name. Denied fields, computed fields and
``nextToken`` are answered here; nothing here reads a database. Errors are rendered in AppSync's shape, and what is not a
``ConsoleError`` leaves as ``INTERNAL``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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
from resolvers.edge_errors import coded, field_error
from resolvers.labels import KEY, NEED, ROW, label
from resolvers.paging import page_limit
from resolvers.read_plan import Plan, Site
from resolvers.sources import SOURCES
from resolvers.tokens import Cursor, Place, Tokens
from schema.errors import ConsoleError, NotAuthorizedError

if TYPE_CHECKING:
    from resolvers.documents import Operation
    from schema.console import Console

_NULL: Final = re.compile(r"Cannot return null for non-nullable field (\w+)\.(\w+)\.")


class Document(dict[str, Any]):
    """An object keyed by GraphQL field names, made in Python."""


@dataclass(frozen=True)
class Page:
    """A page of rows, one more than asked for when there is another page."""

    rows: list[dict[str, Any]]
    limit: int
    place: Place
    parent: str | None
    inner: Mapping[str, str]  # response key of a second ``items`` -> the column with its row

    @property
    def shown(self) -> list[dict[str, Any]]:
        return self.rows[: self.limit]


@dataclass(frozen=True)
class Run:
    """One execution: what the resolver asks beside the row."""

    plan: Plan
    binding: Binding
    tokens: Tokens
    digests: Mapping[int, str]
    request_id: str = "-"

    def place(self, site: Site) -> Place:
        return Place(self.binding.caller.id, site.place, self.digests.get(site.index, ""))


def document(value: Any) -> Any:
    """Objects made in Python, lists of them too, marked as such."""
    if isinstance(value, dict):
        return Document(value)
    if isinstance(value, list | tuple):
        return [document(item) for item in value]
    return value


class Finisher:
    """Completes the rows of one schema. Its tables are made once per process."""

    def __init__(self, console: Console) -> None:
        self._core: GraphQLSchema = console.core
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

    def complete(
        self,
        run: Run,
        operation: Operation,
        variables: VariableValues,
        values: Mapping[str, Any],
        *,
        only: Sequence[FieldNode] | None = None,
    ) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
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
            return self._of_page(run, source, name, key)
        handler = self._handlers.get((parent, name))
        if handler is not None:
            return handler(run, source, label(key))
        value = source[label(key)]
        if isinstance(value, Exception):
            raise value
        if (parent, name) in self._connections and isinstance(value, list):
            return self._page(run, source, value, info)
        return value

    def _page(
        self, run: Run, source: Mapping[str, Any], rows: list[dict[str, Any]], info: GraphQLResolveInfo[Run]
    ) -> Page:
        site = run.plan.by_node[id(info.field_nodes[0])]
        parent = source.get(ROW)
        cursor = run.binding.cursors.get(site.index)
        # The statement cannot know which parent a token is for; a page after another parent's cursor is thrown away.
        if cursor is not None and cursor.parent != parent:
            raise ConsoleError("INVALID_NEXT_TOKEN")
        return Page(
            rows,
            page_limit(run.binding.arguments[site.index]),
            run.place(site),
            parent,
            run.plan.inner.get(site.index, {}),
        )

    def _of_page(self, run: Run, page: Page, name: str, key: str) -> Any:
        if name == "items":
            column = page.inner.get(key)
            return page.shown if column is None else [row[column] for row in page.shown]
        if len(page.rows) <= page.limit:
            return None
        return run.tokens.seal(Cursor(tuple(page.rows[page.limit - 1][KEY]), page.parent), page.place)


def _computed(compute: Callable[[Binding, Any], Any]) -> Callable[[Run, Any, str], Any]:
    return lambda run, row, _: document(compute(run.binding, row))


def _actors(found: spec.Actor | spec.Actors) -> Callable[[Run, Any, str], Any]:
    if isinstance(found, spec.Actors):
        return lambda run, row, name: [Document(computed.actor(run.binding.snapshot, one)) for one in row[name] or ()]
    kind = f"{NEED}{found.kind}" if found.kind else None

    def one(run: Run, row: Any, name: str) -> Any:
        if row[name] is None:
            return None
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
