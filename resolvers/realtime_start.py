"""What a start must pass before anything is told: document, limits, right, filter, record; in the contract's order."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from graphql import FragmentSpreadNode, Node, VariableNode, Visitor, visit

from authz.identity import AuthError
from resolvers.context import Request
from resolvers.documents import DocumentSyntaxError, InvalidDocumentError, Operation
from resolvers.edge import Body, body_of, parse_body
from resolvers.edge_errors import RefusalError, coded
from resolvers.matching import compile_match
from resolvers.rates import Buckets, Counts
from resolvers.realtime_connection import Connection, Session, Subscription, stream_error
from resolvers.roots import RootField, root_fields
from schema import telemetry
from schema.errors import ConsoleError, NotAuthorizedError

if TYPE_CHECKING:
    from resolvers.hub import Hub
    from resolvers.parts import Parts
    from resolvers.realtime_records import StreamRecords


class SubscriptionRefusedError(Exception):
    """The start is refused; ``errors`` end that one subscription."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__("refused")
        self.errors = errors
        self.error_type = str(errors[0].get("errorType")) if errors else "SubscriptionRefused"


class Starter:
    """Turns a start into a ``Subscription`` that the hub may be given."""

    def __init__(self, parts: Parts, hub: Hub, records: StreamRecords) -> None:
        self._parts = parts
        self._hub = hub
        self._records = records
        self._starts = Buckets(parts.limits.query_rate, name="starts")
        self.counts = Counts(parts.limits.subscriptions_per_person, name="subscriptions")

    async def open(
        self, connection: Connection, subscription_id: str, session: Session, body: bytes | Mapping[str, Any]
    ) -> Subscription:
        """Check everything and record the start durably. Raises ``SubscriptionRefusedError``; adds nothing to the hub yet."""
        try:
            with telemetry.span("subscription", kind="server"):
                asked = parse_body(body) if isinstance(body, bytes) else body_of(body)
                return await self._open(connection, subscription_id, session, asked)
        except RefusalError as error:
            raise SubscriptionRefusedError([stream_error("SubscriptionProcessingError", error.message)]) from error
        except DocumentSyntaxError as error:
            raise SubscriptionRefusedError(
                [stream_error("SubscriptionProcessingError", f"Unable to parse GraphQL query. {error}")]
            ) from error
        except InvalidDocumentError as error:
            raise SubscriptionRefusedError(
                [{"errorType": "SubscriptionProcessingError", **item} for item in error.errors]
            ) from error
        except NotAuthorizedError as error:
            # Amplify closes the socket, siblings and all, on "Unauthorized": this name ends the one subscription only.
            raise SubscriptionRefusedError([stream_error("SubscriptionNotAllowed", error.message)]) from error
        except AuthError as error:  # the person was locked between the handshake and this start
            raise SubscriptionRefusedError([stream_error(error.error_type, error.message)]) from error
        except ConsoleError as error:
            raise SubscriptionRefusedError([stream_error(error.code, error.message, **error.error_info)]) from error
        except SubscriptionRefusedError:
            raise
        except Exception as error:
            masked = coded(error, connection.id)
            raise SubscriptionRefusedError([stream_error(masked.code, masked.message, **masked.error_info)]) from error

    async def _open(self, connection: Connection, subscription_id: str, session: Session, body: Body) -> Subscription:
        parts = self._parts
        operation = parts.documents.operation(body.query, body.operation_name)
        if operation.kind != "subscription":
            raise SubscriptionRefusedError(
                [
                    stream_error(
                        "UnsupportedOperation",
                        "Only subscriptions run on this route; send queries and mutations by POST.",
                    )
                ]
            )
        core = parts.console.core
        variables = operation.bind(core, body.variables)
        roots = root_fields(core, operation, variables)
        if len(roots) != 1:
            raise SubscriptionRefusedError(
                [stream_error("SubscriptionProcessingError", "A subscription selects one root field.")]
            )
        (root,) = roots
        self._starts.require(session.person)
        self._limit(connection, session)
        telemetry.note("countersign.document.hash", operation.digest)
        telemetry.note("countersign.field", root.name)
        ids = telemetry.ids()
        caller, snapshot = await parts.callers.caller(session.identity, connection.ip)
        request = Request(
            id=str(uuid.uuid4()),
            trace_id=None if ids is None else ids[0],
            caller=caller,
            snapshot=snapshot,
            operation_name=operation.name,
            document_digest=operation.digest,
            client=caller.client,
            ip=connection.ip,
            user_agent=connection.user_agent,
            received_at=parts.clock(),
        )
        policy_row = await self._authorize(request, root)
        match = compile_match(root.arguments)
        subscription = Subscription(
            id=subscription_id,
            connection=connection,
            session=session,
            request=request,
            operation=operation,
            variables=variables,
            field=root.name,
            response_key=root.key,
            arguments=root.arguments,
            match=match,
            policy_row=policy_row,
            selection=selection_of(operation, root, variables.coerced),
            cursor=self._hub.cursor,
        )
        await self._records.started(subscription)
        return subscription

    def _limit(self, connection: Connection, session: Session) -> None:
        most = self._parts.limits.subscriptions_per_connection
        if len(connection.subscriptions) >= most:
            raise SubscriptionRefusedError(
                [stream_error("MaxSubscriptionsReachedError", f"Max number of {most} subscriptions reached")]
            )
        if self.counts.of(session.person) >= self._parts.limits.subscriptions_per_person:
            most = self._parts.limits.subscriptions_per_person
            raise SubscriptionRefusedError(
                [
                    stream_error(
                        "MaxSubscriptionsReachedError", f"Max number of {most} subscriptions of one person reached"
                    )
                ]
            )

    async def _authorize(self, request: Request, root: RootField) -> str:
        """The id of the policy line that opens the field. What it lets through is asked again of each event."""
        caller, policy = request.caller, self._parts.console.rules["Subscription", root.name].policy
        listed = caller.root_fields is None or root.name in caller.root_fields
        held = request.snapshot.holding(caller.grants, *policy, caller.facts) if policy is not None and listed else ()
        if held:
            return held[0].line.id
        error = NotAuthorizedError("Subscription", root.name)
        await self._records.denied(request, root, error.code)
        raise error


def selection_of(operation: Operation, root: RootField, variables: Mapping[str, Any]) -> tuple[str, ...]:
    """What decides the bytes of a payload beside the event and the rights.

    The document's text, and the variables if the selection itself asks them (``@include(if: $x)``); those that only
    filter do not count.
    """
    key = (operation.digest, operation.name or "", root.key)
    seen = _Variables(operation)
    for node in root.nodes:
        if node.selection_set is not None:
            visit(node.selection_set, seen)
    if not seen.found:
        return key
    canonical = orjson.dumps(dict(variables), default=str, option=orjson.OPT_SORT_KEYS)
    return (*key, hashlib.sha256(canonical).hexdigest())


class _Variables(Visitor):
    """Whether a selection mentions a variable, fragments included."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self._fragments = operation.fragments
        self._visited: set[str] = set()
        self.found = False

    def enter(self, node: Node, *_: object) -> None:
        if isinstance(node, VariableNode):
            self.found = True
        elif isinstance(node, FragmentSpreadNode) and node.name.value not in self._visited:
            self._visited.add(node.name.value)
            visit(self._fragments[node.name.value], self)
