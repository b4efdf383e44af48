"""One timer for all sockets of a process: keep-alives, the ends of inits, tokens and connections, rights taken away (WS-6)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from resolvers.edge_errors import coded
from resolvers.realtime_connection import (
    GOING_AWAY,
    INIT_TIMEOUT,
    UNAUTHORIZED,
    Connection,
    Subscription,
    stream_error,
)
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from authz.enforcer import Snapshot
    from resolvers.parts import Parts


class Sockets(Protocol):
    """What the timer asks of ``RealTime``."""

    @property
    def connections(self) -> Mapping[Connection, asyncio.Task[None]]: ...
    @property
    def closing(self) -> Mapping[Connection, float]:
        """When a socket that was told to close is dropped whatever its peer does."""
        ...

    def close(self, connection: Connection, code: int, reason: str) -> None: ...
    def end(self, subscription: Subscription, code: str | None = None) -> None: ...


class Watch:
    """Looks at every socket twice a second at least, and at who is behind it every ``session_check_seconds``."""

    def __init__(self, parts: Parts, sockets: Sockets) -> None:
        self._parts = parts
        self._limits = parts.limits
        self._sockets = sockets

    async def run(self) -> None:
        limits = self._limits
        pause = min(1.0, limits.session_check_seconds, limits.keepalive_seconds, limits.init_seconds) / 2
        next_check = 0.0
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            check = now >= next_check
            if check:
                next_check = now + limits.session_check_seconds
            try:
                await self._look(now, check)
            except Exception as error:  # noqa: BLE001 - the timer outlives a bug about one socket
                coded(error, "realtime")

    async def _look(self, now: float, check: bool) -> None:
        for connection, task in list(self._sockets.connections.items()):
            due = self._sockets.closing.get(connection)
            if due is not None:
                if now >= due:
                    task.cancel()
                continue
            age = now - connection.opened_at
            if not connection.acknowledged:
                if age > self._limits.init_seconds:
                    self._sockets.close(connection, INIT_TIMEOUT, "Connection initialisation timeout")
                continue
            if age > self._limits.connection_seconds:
                self._sockets.close(connection, GOING_AWAY, "The connection is too old")
            elif now >= connection.next_keepalive:
                connection.next_keepalive = now + self._limits.keepalive_seconds
                connection.outbox.put(connection.dialect.keepalive)
            if check and self._expired(connection):
                self._sockets.close(connection, UNAUTHORIZED, "Unauthorized")
        # Only now is the database asked: a slow one must not keep a socket open beyond its token.
        snapshot = await self._snapshot() if check else None
        if snapshot is not None:
            for connection in list(self._sockets.connections):
                if connection.acknowledged and connection not in self._sockets.closing:
                    self._judge(connection, snapshot)

    async def _snapshot(self) -> Snapshot | None:
        """None while the policy cannot be read: sockets stay then, silent, since the hub tells nothing without one either."""
        try:
            return await self._parts.authorizer.current(None)
        except ConsoleError:
            return None

    def _expired(self, connection: Connection) -> bool:
        """Whether a token in use has ended. Amplify comes back by itself with a fresh one."""
        used = {subscription.session.identity.session for subscription in connection.subscriptions.values()}
        for key, session in list(connection.sessions.items()):
            if session is not connection.host and key not in used:
                del connection.sessions[key]
        latest = self._parts.clock() - timedelta(seconds=self._limits.token_leeway_seconds)
        return any(session.expires_at < latest for session in connection.sessions.values())

    def _judge(self, connection: Connection, snapshot: Snapshot) -> None:
        """Locked or offboarded: close. A right that was narrowed away: end the subscriptions that it carried."""
        if any(session.under(snapshot, fresh=True) is None for session in connection.sessions.values()):
            self._sockets.close(connection, UNAUTHORIZED, "Unauthorized")
            return
        for subscription in list(connection.subscriptions.values()):
            policy = self._parts.console.rules["Subscription", subscription.field].policy
            caller = subscription.session.under(snapshot)
            if policy is not None and caller is not None and not snapshot.opens(caller.grants, *policy, caller.facts):
                self._sockets.end(subscription, "Unauthorized")
                message = f"Not Authorized to access {subscription.field} on type Subscription"
                connection.fail(
                    subscription.id, [stream_error("SubscriptionNotAllowed", message, cursor=subscription.cursor)]
                )
