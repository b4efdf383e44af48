"""``POST /graphql``: one operation from its bytes to its envelope.

Queries are answered by the reader under one policy snapshot and leave only after their records are durable; mutations run
in the pipeline, one root field after the other. Whatever was refused once something may have run is a GraphQL error in a
200: Amplify repeats 429 and 5xx by itself, mutations too (security-contract RT-1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
from graphql import is_non_null_type
from starlette.types import ASGIApp, Receive, Scope, Send

from authz.identity import AuthError, Identity, renewed
from db import counters
from db.pool import connection
from resolvers.context import Request
from resolvers.documents import INTROSPECTION, DocumentSyntaxError, InvalidDocumentError, Operation
from resolvers.edge import Body, ClientGoneError, client_address, graphql_body, headers_of, respond
from resolvers.edge_errors import GRAPHQL_TYPE, JSON_TYPE, RefusalError, coded, field_error, malformed
from resolvers.http_reads import read, record_refusal
from resolvers.macro_preview import TRIED
from resolvers.rates import Buckets, Counts
from resolvers.registry import COMMANDS
from resolvers.roots import RootField, root_fields
from resolvers.telling import Telling
from schema import telemetry
from schema.errors import ConsoleError, NotAuthorizedError

if TYPE_CHECKING:
    from graphql.execution.values import VariableValues

    from db.unit_of_work import UnitOfWork
    from resolvers.parts import Parts
    from resolvers.read_plan import Plan
    from services.command import Result

_VOTES: Final = "votes"  # of the rate, in its table and for telemetry
_GRAPHQL_RESPONSE: Final = "application/graphql-response+json"


@dataclass
class Answer:
    """The envelope of one operation. ``status`` is 400 only for what never ran, and only where the client asked for that."""

    data: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    invalid: bool = False  # the document or its variables: nothing ran

    def body(self, *, without_data: bool) -> bytes:
        envelope: dict[str, Any] = {} if without_data else {"data": self.data}
        if self.errors:
            envelope["errors"] = self.errors
        if self.receipts:
            envelope["extensions"] = {"audit": self.receipts}
        return orjson.dumps(envelope)


@dataclass(frozen=True)
class _Accepts:
    """What the client wants to hear, by the GraphQL-over-HTTP draft; Amplify accepts anything and gets AppSync's answer."""

    graphql: bool
    json_only: bool

    @staticmethod
    def of(header: str) -> _Accepts:
        return _Accepts(_GRAPHQL_RESPONSE in header, header.strip().lower().partition(";")[0] == "application/json")

    @property
    def content_type(self) -> bytes:
        return GRAPHQL_TYPE if self.graphql else JSON_TYPE


class GraphQL:
    """The ASGI application of the route. ``page`` answers a browser's GET."""

    def __init__(self, parts: Parts, page: ASGIApp | None = None) -> None:
        limits = parts.limits
        self._parts = parts
        self._page = page
        self._queries = Buckets(limits.query_rate, name="queries")
        self._mutations = Buckets(limits.mutation_rate, name="mutations")
        self._at_once = Counts(limits.operations_at_once, name="operations at once")
        self._running: set[asyncio.Task[Answer]] = set()

    async def stop(self) -> None:
        """Let what has begun come to its end; what takes longer is rolled back with its connection."""
        if self._running:
            await asyncio.wait(self._running, timeout=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        if scope["method"] == "GET" and self._page is not None and "text/html" in headers.get("accept", ""):
            await self._page(scope, receive, send)
            return
        with Telling(headers.get("traceparent")) as telling:
            # Before anything is refused: the way back from an error to its trace.
            scope["state"]["traceresponse"] = telling.traceparent
            await self._answer(scope, receive, send, headers, telling)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], telling: Telling
    ) -> None:
        accepts = _Accepts.of(headers.get("accept", ""))
        try:
            body = await graphql_body(scope, receive, headers, self._parts.limits)
        except ClientGoneError:
            return
        request_id: str = scope["state"]["request_id"]
        ip = client_address(scope)
        try:
            with telemetry.span("authenticate"):
                identity = await self._parts.callers.identify(headers, ip)
        except AuthError as error:
            raise _unauthorized(error) from error
        # A task of its own: once begun, an operation is not cancelled because the client hung up (AU-4).
        operation = asyncio.create_task(self._operate(identity, body, headers, ip, request_id, telling))
        self._running.add(operation)
        operation.add_done_callback(self._running.discard)
        try:
            answer = await asyncio.shield(operation)
        except DocumentSyntaxError as error:
            message = f"Unable to parse GraphQL query. {error}"
            if not accepts.json_only:
                raise malformed(message) from error
            answer = Answer(errors=[{"path": None, "locations": None, "message": message}], invalid=True)
        except AuthError as error:
            raise _unauthorized(error) from error
        invalid = answer.invalid and accepts.graphql
        content = answer.body(without_data=invalid)
        if len(content) > self._parts.limits.response_bytes:
            too_large = ConsoleError(
                "LIMIT_EXCEEDED",
                "The response is too large.",
                limit="responseBytes",
                max=self._parts.limits.response_bytes,
            )
            content = Answer(errors=[field_error(too_large, None)], receipts=answer.receipts).body(without_data=False)
        telling.answered(400 if invalid else 200, answer.errors)
        await respond(send, 400 if invalid else 200, content, accepts.content_type)

    async def _operate(
        self,
        identity: Identity,
        body: Body,
        headers: dict[str, str],
        ip: str,
        request_id: str,
        telling: Telling,
    ) -> Answer:
        """Everything after the token. Raises only what still refuses the whole request by status."""
        parts = self._parts
        try:
            async with asyncio.timeout(parts.limits.operation_seconds):
                caller, snapshot = await parts.callers.caller(identity, ip)
                with telemetry.span("document") as told:
                    known = parts.documents.hits
                    operation = parts.documents.operation(body.query, body.operation_name)
                    told.set("countersign.cached", parts.documents.hits > known)
                    variables = operation.bind(parts.console.core, body.variables)
                    roots = root_fields(parts.console.core, operation, variables)
                telling.asked(operation, roots, request_id)
                request = Request(
                    id=request_id,
                    trace_id=telling.trace_id,
                    caller=caller,
                    snapshot=snapshot,
                    operation_name=operation.name,
                    document_digest=operation.digest,
                    client=caller.client,
                    ip=ip,
                    user_agent=headers.get("user-agent"),
                    received_at=parts.clock(),
                )
                with self._at_once.inside(caller.id):
                    await self._rate(caller.id, operation, roots)
                    return await self._run(request, identity, operation, variables, roots)
        except (DocumentSyntaxError, AuthError):
            raise
        except InvalidDocumentError as error:
            return Answer(errors=error.errors, invalid=True)
        except TimeoutError:
            return _refused(ConsoleError("DEPENDENCY_UNAVAILABLE", "The operation took too long; try again."))
        except Exception as error:  # noqa: BLE001 - the one place where an operation's error becomes its answer
            return _refused(coded(error, request_id))

    async def _rate(self, person: str, operation: Operation, roots: Sequence[RootField]) -> None:
        if operation.kind == "query":
            self._queries.require(person)
            tried = sum(root.name in TRIED for root in roots)
            if tried:
                self._mutations.require(person, tried)
        elif operation.kind == "mutation":
            self._mutations.require(person, len(roots))
            votes = sum(root.name == "voteOnApproval" for root in roots)
            if votes:
                await self._take_votes(person, votes)

    async def _take_votes(self, person: str, votes: int) -> None:
        """Counted for all processes together: who votes fast does not get as many tries as there are workers."""
        async with connection(self._parts.app_pool) as conn:
            wait = await counters.take(conn, _VOTES, person, votes, rate=self._parts.limits.vote_rate)
        if wait is not None:
            telemetry.count(telemetry.RATE_LIMITED, labels={"countersign.limit": _VOTES})
            raise ConsoleError("RATE_LIMITED", retryAfterMs=wait)

    async def _run(
        self,
        request: Request,
        identity: Identity,
        operation: Operation,
        variables: VariableValues,
        roots: Sequence[RootField],
    ) -> Answer:
        if operation.kind == "subscription":
            error = ConsoleError("BAD_REQUEST", "Subscriptions run over the WebSocket at /graphql/realtime.")
            return Answer(errors=[field_error(error, [root.key], root.locations) for root in roots])
        if operation.kind == "mutation":
            return await self._mutate(request, operation, variables, roots)
        parts = self._parts
        closed = [root for root in roots if not self._open(request, root)]
        if closed:
            await record_refusal(parts, request, "Query", closed, NotAuthorizedError("Query", closed[0].name))
            return Answer(
                errors=[
                    field_error(NotAuthorizedError("Query", root.name), [root.key], root.locations) for root in closed
                ]
            )
        answer, receipts = await read(parts, request, identity, operation, variables)
        return Answer(answer.content, answer.errors, receipts)

    def _open(self, request: Request, root: RootField) -> bool:
        """What is closed whatever the policy rows say: fields beyond an API key's list (TK-9), and the schema itself (BR-4)."""
        caller = request.caller
        if root.name in INTROSPECTION and not self._parts.front.introspection:
            return request.snapshot.opens(caller.grants, "schema", "introspect", caller.facts)
        return caller.root_fields is None or root.name.startswith("__") or root.name in caller.root_fields

    async def _mutate(
        self, request: Request, operation: Operation, variables: VariableValues, roots: Sequence[RootField]
    ) -> Answer:
        """Root fields in the document's order, each a unit of work of its own; the first non-null failure ends the row."""
        answer = Answer(data={})
        fields = self._parts.console.core.mutation_type.fields if self._parts.console.core.mutation_type else {}
        for root in roots:
            if root.name == "__typename":
                answer.data = {**(answer.data or {}), root.key: "Mutation"}
                continue
            value: Any = None
            errors: list[dict[str, Any]] = []
            try:
                value, errors, receipt = await self._one(request, operation, variables, root)
                answer.receipts.append({"field": root.key, **receipt})
            except Exception as error:  # noqa: BLE001 - one field's failure is that field's error; those before it stand
                errors = [field_error(coded(error, request.id), [root.key], root.locations)]
            answer.errors.extend(errors)
            if value is None and is_non_null_type(fields[root.name].type):
                answer.data = None
                break
            answer.data = {**(answer.data or {}), root.key: value}
        return answer

    async def _one(
        self, request: Request, operation: Operation, variables: VariableValues, root: RootField
    ) -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
        """One unit of work: its payload, read on its connection before it commits; errors within it; the receipt."""
        # publish*: for the IAM mode behind real AppSync, which is no mode of this server (TK-9).
        if root.name not in COMMANDS:
            denied = NotAuthorizedError("Mutation", root.name)
            await record_refusal(self._parts, request, "Mutation", [root], denied)
            raise denied
        errors: list[dict[str, Any]] = []
        receipt: dict[str, Any] = {}
        checked: tuple[Request, Plan] | None = None

        def accept(judged: Request) -> None:
            nonlocal checked
            plan = self._parts.reader.check(judged.caller, judged.snapshot, operation, variables, root.nodes[0])
            checked = judged, plan

        async def answer(uow: UnitOfWork, result: Result, extra: Mapping[str, Any]) -> Any:
            held = await self._as_of(request, uow.authz_version)
            payload = await self._parts.reader.payload(
                uow,
                held.caller,
                held.snapshot,
                operation,
                variables,
                root.nodes[0],
                result,
                extra,
                plan=checked[1] if checked is not None and checked[0] is held else None,
                request_id=request.id,
            )
            # Assigned, not added: an attempt that the database aborts is run again, and this with it.
            errors[:] = payload.errors
            receipt.update(id=extra["receipt"]["id"], hash=extra["receipt"]["hash"])
            return (payload.content or {}).get(root.key)

        value = await self._parts.pipeline.run(request, root.name, root.arguments, answer, accept)
        return value, errors, receipt

    async def _as_of(self, request: Request, version: int) -> Request:
        """The request by the policy that its unit of work runs under, which may be newer than the one it came with."""
        if version == request.snapshot.version:
            return request
        snapshot = await self._parts.authorizer.current(version)
        return request.under(renewed(request.caller, snapshot, request.received_at), snapshot)


def _refused(error: ConsoleError) -> Answer:
    return Answer(errors=[field_error(error, None)])


def _unauthorized(error: AuthError) -> RefusalError:
    headers = [(b"www-authenticate", b"Bearer")] if error.status == HTTPStatus.UNAUTHORIZED else []
    return RefusalError(error.status, error.error_type, error.message, headers)
