"""The count equation (security-contract AU-7): what clients sent about privileged fields, and what the log has of it.

Counts by what a client knows: the document it sent and the answer it got. Nothing of the server's own parsing is used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from graphql import (
    DirectiveNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    parse,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.conftest import Database

# What answers in place of a record that could not be made, or before anything was known of the request.
_AWAY: Final = frozenset(
    {"AUDIT_UNAVAILABLE", "DEPENDENCY_UNAVAILABLE", "RATE_LIMITED", "INTERNAL", "UnauthorizedException"}
)
_RECORDS: Final = """
SELECT body FROM audit.intake UNION ALL SELECT r.body FROM audit.record r JOIN audit.leaf l ON l.id = r.id
"""


@dataclass(frozen=True)
class Owed:
    """How many records an exchange must have left, from the least to the most."""

    least: int
    most: int


@dataclass
class Exchange:
    """One POST as its client sees it."""

    sent: bytes = b""
    status: int = 0
    request_id: str = ""
    answer: bytes = b""

    @property
    def owed(self) -> Owed:
        """Nothing for what never ran, one for each root field instance that was answered or refused by itself."""
        if self.status != 200:
            return Owed(0, 0)
        answer = json.loads(self.answer)
        errors = answer.get("errors", [])
        try:
            kind, keys = root_keys(json.loads(self.sent))
        except (GraphQLError, ValueError, KeyError):
            return Owed(0, 0)  # no operation: nothing ran
        whole = [error for error in errors if error.get("path") is None]
        if whole or kind == "subscription":
            return _of_whole(whole, len(keys))
        told = {error["path"][0]: error.get("errorType") for error in errors if len(error["path"]) == 1}
        if answer["data"] is None:
            keys = _run_before_the_end(kind, keys, told, receipts="extensions" in answer)
        least = sum(told.get(key) not in _AWAY for key in keys if not keys[key].startswith("__") or key in told)
        return Owed(least, sum(not keys[key].startswith("__") or key in told for key in keys))


def _of_whole(errors: list[Any], roots: int) -> Owed:
    code = errors[0].get("errorType") if errors else None
    if code == "LIMIT_EXCEEDED" and errors[0]["errorInfo"]["limit"] == "responseBytes":
        return Owed(roots, roots)  # it ran, and was too large to be shown
    return Owed(0, roots if code in _AWAY else 0)


def _run_before_the_end(kind: str, keys: dict[str, str], told: Mapping[str, Any], *, receipts: bool) -> dict[str, str]:
    """Without data: what ran of it.

    Of a query all of it, as its receipts say, where one field took the others with it; only the refusals, where those came
    before anything was read. Of a mutation whatever stood before the field that ended it.
    """
    if kind == "query":
        return keys if receipts else {key: name for key, name in keys.items() if key in told}
    found: dict[str, str] = {}
    for key, name in keys.items():
        found[key] = name
        if key in told:
            break
    return found


def root_keys(body: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Kind of the operation, and field by response key at its top, in the document's order."""
    document = parse(body["query"])
    operations = [one for one in document.definitions if isinstance(one, OperationDefinitionNode)]
    wanted = body.get("operationName")
    (operation,) = [one for one in operations if wanted is None or (one.name is not None and one.name.value == wanted)]
    fragments = {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}
    defaults = {
        one.variable.name.value: getattr(one.default_value, "value", None)
        for one in operation.variable_definitions or ()
    }
    variables = {**defaults, **(body.get("variables") or {})}
    found = {
        (node.alias or node.name).value: node.name.value
        for node in _tops(operation.selection_set, fragments, variables)
    }
    return operation.operation.value, found


def _tops(
    selection: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode], variables: Mapping[str, Any]
) -> Iterator[FieldNode]:
    for node in selection.selections:
        if not all(_taken(directive, variables) for directive in node.directives or ()):
            continue
        if isinstance(node, FieldNode):
            yield node
        elif isinstance(node, InlineFragmentNode):
            yield from _tops(node.selection_set, fragments, variables)
        elif isinstance(node, FragmentSpreadNode):
            yield from _tops(fragments[node.name.value].selection_set, fragments, variables)


def _taken(directive: DirectiveNode, variables: Mapping[str, Any]) -> bool:
    (argument,) = directive.arguments or ()
    value = variables[argument.value.name.value] if isinstance(argument.value, VariableNode) else argument.value.value  # type: ignore[attr-defined]
    return bool(value) is (directive.name.value == "include")


class Overheard:
    """ASGI middleware of the tests: keeps each POST with its answer."""

    def __init__(self, app: ASGIApp, exchanges: list[Exchange]) -> None:
        self._app = app
        self._exchanges = exchanges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", "/graphql"):
            await self._app(scope, receive, send)
            return
        exchange = Exchange()

        async def heard() -> Message:
            message = await receive()
            exchange.sent += message.get("body", b"")
            return message

        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                exchange.request_id = dict(message["headers"]).get(b"x-amzn-requestid", b"").decode()
            exchange.answer += message.get("body", b"")
            await send(message)

        await self._app(scope, heard, said)
        self._exchanges.append(exchange)


@dataclass
class Tally:
    """Both sides of the equation over a whole session."""

    exchanges: dict[str, list[Exchange]] = field(default_factory=dict)  # by database
    elsewhere: set[str] = field(default_factory=set)  # databases that a process nobody listens to serves too
    wrong: list[str] = field(default_factory=list)

    def of(self, database: Database) -> list[Exchange]:
        return self.exchanges.setdefault(database.name, [])

    async def close(self, database: Database, test: str) -> None:
        """Compare what was sent to this database with what its log holds; the database is about to go."""
        exchanges = self.exchanges.pop(database.name, [])
        if exchanges:
            records = await left(database)
            if database.name in self.elsewhere:
                records &= Counter({exchange.request_id: records.total() for exchange in exchanges})
            self.wrong += [f"{test}: {text}" for text in differences(exchanges, records)]


async def left(database: Database) -> Counter[str]:
    """Records by request id, of requests over HTTP; what a deed caused follows from it and is no request of its own."""
    conn = await asyncpg.connect(**database.superuser)
    try:
        bodies = [json.loads(row["body"]) for row in await conn.fetch(_RECORDS)]
    finally:
        await conn.close()
    return Counter(
        body["request"]["id"]
        for body in bodies
        if body["cause"] is None
        and body["kind"] != "system"
        and not (body.get("field") or "").startswith("Subscription.")
    )


def differences(exchanges: list[Exchange], records: Counter[str]) -> Iterator[str]:
    """Where the two sides are not equal, as sentences."""
    owed = {exchange.request_id: exchange for exchange in exchanges if exchange.request_id}
    for request_id, exchange in owed.items():
        found, due = records[request_id], exchange.owed
        if not due.least <= found <= due.most:
            yield f"{found} records where {due.least} to {due.most} are due: {exchange.sent[:200]!r} -> {exchange.answer[:300]!r}"
    for request_id in records.keys() - owed.keys():
        yield f"a record of request {request_id}, which nobody sent"


TALLY = Tally()
