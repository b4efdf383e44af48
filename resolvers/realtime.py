"""``WS /graphql/realtime``: sockets of both subprotocols, from the handshake to the last frame.

Every start is authorized by its own credentials, not by the handshake's (an Amplify client shares one socket among
modes and users of a page). Owns WS-1 to WS-4, WS-6 and WS-8 of the security contract; the starts are in ``realtime_start``.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send
from websockets import http11

from authz.identity import AuthError
from resolvers import edge_json
from resolvers.edge import allowed_host, client_address, headers_of, refuse_upgrade
from resolvers.edge_errors import RefusalError, coded
from resolvers.rates import Buckets, Counts
from resolvers.realtime_connection import (
    BAD_MESSAGE,
    BROKEN,
    DUPLICATE,
    FORBIDDEN,
    GOING_AWAY,
    TOO_BIG,
    TOO_MANY,
    TRY_LATER,
    UNAUTHORIZED,
    Connection,
    Outbox,
    Session,
    Subscription,
    stream_error,
)
from resolvers.realtime_dialects import AppSync, BadHandshakeError, choose, credentials, handshake_credentials
from resolvers.realtime_start import Starter, SubscriptionRefusedError
from resolvers.realtime_watch import Watch
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from resolvers.hub import Hub
    from resolvers.parts import Parts
    from resolvers.realtime_records import StreamRecords

# After a close is queued the peer has this long to take it; then the task ends and the server drops the connection.
_CLOSING_SECONDS: Final = 3.0
_ID_CHARACTERS: Final = 128
_HEADER_BYTES: Final = 32 * 1024


class RealTime:
    """The ASGI application of the route, with one shared timer for all its sockets."""

    def __init__(self, parts: Parts, records: StreamRecords) -> None:
        self._parts = parts
        self._records = records
        self._limits = parts.limits
        self.connections: dict[Connection, asyncio.Task[None]] = {}
        self.closing: dict[Connection, float] = {}
        self._strangers = 0
        self._people = Counts(self._limits.connections_per_person, name="connections")
        self._messages = Buckets(self._limits.message_rate, name="messages")
        self._watch = Watch(parts, self)
        self._ticker: asyncio.Task[None] | None = None
        self._ends: set[asyncio.Task[None]] = set()
        self._starter: Starter | None = None
        self._hub: Hub | None = None

    def attach(self, hub: Hub) -> None:
        """The hub and this object need each other; ``app.py`` makes both, then joins them."""
        self._hub = hub
        self._starter = Starter(self._parts, hub, self._records)

    async def start(self) -> None:
        # Amplify carries the whole token in a subprotocol header, 11 KiB of base64 for 8 KiB; the library's only other
        # switch for its limit of 8 KiB a line is an environment variable read at import.
        http11.MAX_LINE_LENGTH = max(http11.MAX_LINE_LENGTH, _HEADER_BYTES)
        self._ticker = asyncio.create_task(self._watch.run())

    async def stop(self) -> None:
        """Close every socket (1001) and note the end of every subscription."""
        if self._ticker:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for connection in list(self.connections):
            self.close(connection, GOING_AWAY, "The server is going away")
        if self.connections:
            await asyncio.wait(self.connections.values(), timeout=1.0)
        if self._ends:
            await asyncio.wait(self._ends, timeout=2.0)

    # ---------- one socket ----------
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        offered: list[str] = list(scope.get("subprotocols", ()))
        dialect = choose(offered)
        if dialect is None:
            await refuse_upgrade(
                scope,
                receive,
                send,
                RefusalError(400, "NoProtocolError", "Offer the subprotocol graphql-ws or graphql-transport-ws."),
            )
            return
        if self._strangers >= self._limits.unauthenticated_sockets:
            await refuse_upgrade(scope, receive, send, RefusalError(429, "ThrottlingException", "Rate exceeded"))
            return
        headers = headers_of(scope)
        await receive()  # websocket.connect
        await send({"type": "websocket.accept", "subprotocol": dialect.subprotocol})
        connection = Connection(
            id=str(uuid.uuid4()),
            dialect=dialect,
            outbox=Outbox(self._limits),
            ip=client_address(scope),
            user_agent=headers.get("user-agent"),
            opened_at=time.monotonic(),
        )
        self._strangers += 1
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        task = asyncio.create_task(self._serve(connection, receive, send, offered, query))
        self.connections[connection] = task
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            self._forget(connection)
        if not task.cancelled() and (error := task.exception()) is not None:
            coded(error, connection.id)

    async def _serve(
        self, connection: Connection, receive: Receive, send: Send, offered: list[str], query: Mapping[str, list[str]]
    ) -> None:
        """Read and write until either ends. A write that times out means a dead or stuck peer."""
        reader = asyncio.create_task(self._read(connection, receive, offered, query))
        writer = asyncio.create_task(connection.outbox.write(send))
        try:
            done, _ = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                # OSError: the peer is gone (uvicorn's ClientDisconnected); TimeoutError: it stopped reading.
                if error is not None and not isinstance(error, OSError | TimeoutError):
                    coded(error, connection.id)
                    connection.outbox.close(BROKEN, "Internal error")
            if reader in done and not writer.done():
                await asyncio.wait({writer}, timeout=_CLOSING_SECONDS if connection.outbox.closing else 0)
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(
        self, connection: Connection, receive: Receive, offered: list[str], query: Mapping[str, list[str]]
    ) -> None:
        handshake: Mapping[str, str] | BadHandshakeError | None = None
        if isinstance(connection.dialect, AppSync):
            try:
                handshake = handshake_credentials(offered, query)
            except BadHandshakeError as error:
                handshake = error
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if connection.outbox.closing:
                continue
            value = self._message(connection, message.get("text"))
            if value is None:
                continue
            if not connection.acknowledged and value["type"] not in ("connection_init", "ping", "pong"):
                self.close(connection, UNAUTHORIZED, "Unauthorized")
            elif value["type"] == "connection_init":
                await self._initialize(connection, value, handshake)
            else:
                await self._hear(connection, value)

    def _message(self, connection: Connection, text: str | None) -> dict[str, Any] | None:
        """One frame of the peer, or None where it closed the connection."""
        if self._messages.take(connection.id) is not None:
            self.close(connection, TOO_MANY, "Too many messages")
            return None
        if text is None:
            self.close(connection, BAD_MESSAGE, "Send text frames")
            return None
        raw = text.encode()
        if len(raw) > self._limits.message_bytes:
            self.close(connection, TOO_BIG, "The message is too big")
            return None
        try:
            value = edge_json.loads(raw, string_bytes=self._limits.message_bytes)
        except edge_json.BadJsonError:
            self.close(connection, BAD_MESSAGE, "Invalid message")
            return None
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            self.close(connection, BAD_MESSAGE, "Invalid message")
            return None
        return value

    # ---------- the handshake's second half ----------
    async def _initialize(
        self, connection: Connection, value: Mapping[str, Any], handshake: Mapping[str, str] | BadHandshakeError | None
    ) -> None:
        if connection.acknowledged:
            self.close(connection, TOO_MANY, "Too many initialisation requests")
            return
        try:
            session = await self._authenticate(self._credentials(value, handshake), connection)
        except BadHandshakeError as error:
            self._refuse(connection, "BadRequestException", 400, str(error), BAD_MESSAGE)
            return
        except AuthError as error:
            self._refuse(connection, error.error_type, error.status, error.message, FORBIDDEN)
            return
        except ConsoleError as error:  # the policy or the database is away: the client may come again
            self._refuse(connection, error.code, 503, error.message, TRY_LATER)
            return
        if connection.outbox.closing:
            return  # the time for the init ran out meanwhile
        if not self._people.enter(session.person):
            self._refuse(connection, "LimitExceededError", 429, "Too many connections of one person.", TOO_MANY)
            return
        self._strangers -= 1
        connection.sessions[session.identity.session] = session
        connection.host = session
        connection.outbox.put(connection.dialect.acknowledged())
        if isinstance(connection.dialect, AppSync):
            connection.outbox.put(connection.dialect.keepalive)
        connection.next_keepalive = time.monotonic() + self._limits.keepalive_seconds

    def _credentials(
        self, value: Mapping[str, Any], handshake: Mapping[str, str] | BadHandshakeError | None
    ) -> Mapping[str, str]:
        """AppSync's come with the upgrade and name our host; the other subprotocol's come in the init's payload."""
        if handshake is None:
            return credentials(value.get("payload") or {})
        if isinstance(handshake, BadHandshakeError):
            raise handshake
        if not allowed_host(handshake.get("host", ""), self._parts.front):
            raise BadHandshakeError("The host of the handshake is missing or not ours.")
        return handshake

    async def _authenticate(self, found: Mapping[str, str], connection: Connection) -> Session:
        callers = self._parts.callers
        identity = await callers.identify(found, connection.ip)
        caller, snapshot = await callers.caller(identity, connection.ip)
        return Session(identity, caller, snapshot, callers.under, caller.id, caller.expires_at)

    def _refuse(self, connection: Connection, error_type: str, status: int, message: str, code: int) -> None:
        if isinstance(connection.dialect, AppSync):
            connection.outbox.put(connection.dialect.refused(error_type, status, message))
        self.close(connection, code, "Forbidden" if code == FORBIDDEN else message, drop=False)

    # ---------- what an acknowledged peer says ----------
    async def _hear(self, connection: Connection, value: Mapping[str, Any]) -> None:
        kind, appsync = value["type"], isinstance(connection.dialect, AppSync)
        if kind in ("ping", "pong") and not appsync:
            if kind == "ping":
                connection.outbox.put('{"type":"pong"}')
            return
        subscription_id = value.get("id")
        if kind == ("start" if appsync else "subscribe"):
            if not isinstance(subscription_id, str) or not 0 < len(subscription_id) <= _ID_CHARACTERS:
                self.close(connection, BAD_MESSAGE, "Invalid message")
            elif appsync:
                await self._start_appsync(connection, subscription_id, value.get("payload"))
            else:
                await self._start_transport(connection, subscription_id, value.get("payload"))
        elif kind == ("stop" if appsync else "complete") and isinstance(subscription_id, str):
            subscription = connection.subscriptions.get(subscription_id)
            if subscription is not None:
                self.end(subscription)
                if appsync:
                    connection.outbox.put(connection.dialect.ended(subscription_id))
        else:
            if appsync:
                connection.fail(
                    "", [stream_error("UnsupportedOperation", "unknown not supported through the realtime channel")]
                )
            self.close(connection, BAD_MESSAGE, "Invalid message", drop=False)

    async def _start_appsync(self, connection: Connection, subscription_id: str, payload: Any) -> None:
        data = payload.get("data") if isinstance(payload, dict) else None
        if not isinstance(payload, dict) or not isinstance(data, str):
            connection.fail(
                "", [stream_error("UnsupportedOperation", "unknown not supported through the realtime channel")]
            )
            return
        extensions = payload.get("extensions")
        try:
            found = credentials(extensions.get("authorization") if isinstance(extensions, dict) else None)
            session = await self._authenticate(found, connection)
        except BadHandshakeError as error:
            connection.fail(subscription_id, [stream_error("BadRequestException", str(error))])
            return
        except AuthError as error:  # a dead token: this name makes Amplify reconnect with a fresh one
            connection.fail(subscription_id, [stream_error(error.error_type, error.message)])
            return
        except ConsoleError as error:
            connection.fail(subscription_id, [stream_error(error.code, error.message)])
            return
        session = connection.sessions.setdefault(session.identity.session, session)
        previous = connection.subscriptions.get(subscription_id)
        # Amplify repeats a start whose ack it missed: the new one replaces the old (contract 5.3).
        if previous is not None:
            self.end(previous)
        await self._begin(connection, subscription_id, session, data.encode())

    async def _start_transport(self, connection: Connection, subscription_id: str, payload: Any) -> None:
        if not isinstance(payload, dict) or connection.host is None:
            self.close(connection, BAD_MESSAGE, "Invalid message")
            return
        if subscription_id in connection.subscriptions:
            self.close(connection, DUPLICATE, f"Subscriber for {subscription_id} already exists")
            return
        await self._begin(connection, subscription_id, connection.host, payload)

    async def _begin(
        self, connection: Connection, subscription_id: str, session: Session, body: bytes | dict[str, Any]
    ) -> None:
        starter, hub = self._starter, self._hub
        if starter is None or hub is None:
            raise RuntimeError("attach() comes before the first socket")
        try:
            subscription = await starter.open(connection, subscription_id, session, body)
        except SubscriptionRefusedError as refusal:
            connection.fail(subscription_id, refusal.errors)
            return
        # One synchronous step: an event told from here on stands behind the ack in the queue, and none is told before it.
        connection.subscriptions[subscription_id] = subscription
        starter.counts.enter(session.person)
        if isinstance(connection.dialect, AppSync):
            connection.outbox.put(connection.dialect.started(subscription_id))
        hub.add(subscription)

    # ---------- ends ----------
    def end(self, subscription: Subscription, code: str | None = None) -> None:
        """Stop telling; the record of the end follows in its own time."""
        if not subscription.live:
            return
        subscription.live = False
        subscription.connection.subscriptions.pop(subscription.id, None)
        if self._hub is not None and self._starter is not None:
            self._hub.remove(subscription)
            self._starter.counts.leave(subscription.session.person)
        task = asyncio.create_task(self._records.ended(subscription, code))
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    def fail(self, subscription: Subscription, error: ConsoleError) -> None:
        """End one subscription with an error; its siblings stay."""
        if subscription.live:
            self.end(subscription, error.code)
            subscription.connection.fail(
                subscription.id,
                [stream_error(error.code, error.message, **{"cursor": subscription.cursor, **error.error_info})],
            )

    def close(self, connection: Connection, code: int, reason: str, *, drop: bool = True) -> None:
        """Close a socket; with ``drop`` nothing that is still queued is sent."""
        for subscription in list(connection.subscriptions.values()):
            self.end(
                subscription, None if code == GOING_AWAY else "Unauthorized" if code == UNAUTHORIZED else "BAD_REQUEST"
            )
        connection.outbox.close(code, reason, drop=drop)
        self.closing.setdefault(connection, time.monotonic() + _CLOSING_SECONDS)

    def _forget(self, connection: Connection) -> None:
        for subscription in list(connection.subscriptions.values()):
            self.end(subscription)
        self.connections.pop(connection, None)
        self.closing.pop(connection, None)
        if connection.host is not None:
            self._people.leave(connection.host.person)
        else:
            self._strangers -= 1
