"""One socket: its bounded queue out, its identities, its subscriptions, and the frames both subprotocols share.

Nothing here waits for a slow reader but the socket's own writer task, so a publisher never does (security-contract WS-5).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
from starlette.types import Send

if TYPE_CHECKING:
    from graphql.execution.values import VariableValues

    from authz.caller import Caller
    from authz.enforcer import Snapshot
    from authz.identity import Identity
    from resolvers.context import Request
    from resolvers.documents import Operation
    from resolvers.limits import Limits
    from resolvers.matching import Match

# Close codes of graphql-transport-ws, used in both subprotocols.
BAD_MESSAGE: Final = 4400
UNAUTHORIZED: Final = 4401
FORBIDDEN: Final = 4403
INIT_TIMEOUT: Final = 4408
DUPLICATE: Final = 4409
TOO_MANY: Final = 4429
GOING_AWAY: Final = 1001
TOO_BIG: Final = 1009
BROKEN: Final = 1011
TRY_LATER: Final = 1013
_CONTROL_FRAMES: Final = 1_000  # a peer that makes us owe this many answers without reading one is not a client


def frame(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value).decode()


class Dialect(Protocol):
    """A subprotocol's own words."""

    subprotocol: str
    keepalive: str

    def acknowledged(self) -> str: ...

    def data(self, subscription_id: str, payload: str) -> str:
        """Put the id around a payload that was serialized once for everybody."""
        ...

    def failed(self, subscription_id: str, errors: Sequence[Mapping[str, Any]]) -> str:
        """The frame that ends one subscription and tells why."""
        ...

    def ended(self, subscription_id: str) -> str: ...


@dataclass(eq=False)
class Session:
    """One verified identity on a socket, and the caller that the present policy makes of it."""

    identity: Identity
    caller: Caller | None  # None: the person may not come any more
    snapshot: Snapshot
    judge: Callable[[Identity, Snapshot], Caller | None]
    person: str
    expires_at: datetime

    def under(self, snapshot: Snapshot, *, fresh: bool = False) -> Caller | None:
        """The caller under this snapshot. Asked anew for each version, and with ``fresh`` because grants also end by time."""
        if fresh or snapshot is not self.snapshot:
            self.caller = self.judge(self.identity, snapshot)
            self.snapshot = snapshot
        return self.caller


@dataclass(eq=False)
class Subscription:
    """One live root field of one socket. ``cursor`` is that of the last event put into the socket's queue, or the start's."""

    id: str
    connection: Connection
    session: Session
    request: Request
    operation: Operation
    variables: VariableValues
    field: str
    response_key: str
    arguments: Mapping[str, Any]
    match: Match
    policy_row: str | None  # the line that opened it, for its records
    selection: tuple[str, ...]  # equal selections of equal rights share one serialized payload
    cursor: str = ""
    record_id: str | None = None  # of the start's audit record: the cause of the later ones
    delivered: int = 0
    live: bool = True


@dataclass(frozen=True)
class _Close:
    code: int
    reason: str


@dataclass
class Outbox:
    """What is still to be sent. Events are bounded in number and bytes, answers to the peer's own messages by its message rate."""

    limits: Limits
    _frames: deque[tuple[str, bool] | _Close] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _events: int = 0
    _event_bytes: int = 0
    _closing: bool = False

    def put(self, text: str) -> None:
        """Queue an answer or a keep-alive."""
        if self._closing:
            return
        self._frames.append((text, False))
        if len(self._frames) - self._events > _CONTROL_FRAMES:
            self.close(BAD_MESSAGE, "Too many unread answers")
        self._wake.set()

    def offer(self, text: str) -> bool:
        """Queue an event; False when the queue is full, and nothing is queued."""
        if self._closing:
            return True
        if self._events >= self.limits.queue_events or self._event_bytes + len(text) > self.limits.queue_bytes:
            return False
        self._frames.append((text, True))
        self._events += 1
        self._event_bytes += len(text)
        self._wake.set()
        return True

    @property
    def closing(self) -> bool:
        return self._closing

    def close(self, code: int, reason: str, *, drop: bool = False) -> None:
        """Close after what is queued, or at once with ``drop``; nothing is queued any more."""
        if self._closing:
            return
        self._closing = True
        if drop:
            self._frames.clear()
        self._frames.append(_Close(code, reason))
        self._wake.set()

    async def write(self, send: Send) -> None:
        """Send in order until closed. Raises TimeoutError when the peer takes nothing for ``write_seconds``."""
        while True:
            while not self._frames:
                self._wake.clear()
                await self._wake.wait()
            item = self._frames.popleft()
            async with asyncio.timeout(self.limits.write_seconds):
                if isinstance(item, _Close):
                    await send({"type": "websocket.close", "code": item.code, "reason": item.reason})
                    return
                text, event = item
                if event:
                    self._events -= 1
                    self._event_bytes -= len(text)
                await send({"type": "websocket.send", "text": text})


@dataclass(eq=False)
class Connection:
    """One accepted socket. ``host`` is the handshake's session, once acknowledged; AppSync's starts may bring others."""

    id: str
    dialect: Dialect
    outbox: Outbox
    ip: str
    user_agent: str | None
    opened_at: float
    sessions: dict[str, Session] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    host: Session | None = None
    next_keepalive: float = 0.0

    @property
    def acknowledged(self) -> bool:
        return self.host is not None

    def deliver(self, subscription: Subscription, cursor: str, payload: str) -> bool:
        """Queue one event; False when the queue was full and the subscription must end."""
        if not self.outbox.offer(self.dialect.data(subscription.id, payload)):
            return False
        subscription.cursor = cursor
        subscription.delivered += 1
        return True

    def fail(self, subscription_id: str, errors: Sequence[Mapping[str, Any]]) -> None:
        self.outbox.put(self.dialect.failed(subscription_id, errors))


def stream_error(error_type: str, message: str, **info: Any) -> dict[str, Any]:
    """An error that ends a subscription, in the shape both subprotocols carry."""
    return {"errorType": error_type, "message": message, **({"errorInfo": info} if info else {})}
