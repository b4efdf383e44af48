"""The hub of one process: reads committed events in their order and tells each subscriber what he may hear.

An ``event`` row is written in the transaction of its change and numbered after the commit by one sequencer (security
contract ID-3), so the row numbers that become visible only grow and "greater than the last" misses nothing. NOTIFY only
saves waiting: the hub also looks once a second. The topic is the GraphQL type, ``payload`` that object without its cursor,
``facts`` what conditions and scope ask; ``services/telling.py`` writes both.
The row's ``city_id`` is the scope's city; none = only for grants of every city.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import orjson
from graphql import get_named_type

from db.pool import Dsn, connection
from db.waiting import waited
from resolvers.edge_errors import coded
from resolvers.hub_rights import may_hear
from resolvers.matching import Index
from schema import telemetry
from schema.errors import ConsoleError
from schema.telemetry import Attributes

if TYPE_CHECKING:
    from authz.caller import Caller
    from authz.enforcer import Snapshot
    from resolvers.parts import Parts
    from resolvers.realtime_connection import Subscription

logger = logging.getLogger("countersign.hub")

CHANNEL: Final = "countersign_event"
_BATCH: Final = 200  # events a round; bounds what one audit append carries
_RECONNECT_SECONDS: Final = 1.0

# The policy version rides in the statement that reads the rows: whatever was revoked before an event was written is
# known before that event is judged (security-contract AZ-7).
_NEXT: Final = """
SELECT e.position, e.topic, e.city_id, e.payload::text AS payload, e.facts::text AS facts, v.version
FROM event e, authz_version v WHERE e.position > $1 ORDER BY e.position LIMIT $2
"""
_LAST: Final = "SELECT coalesce(max(position), 0) FROM event"


@dataclass(frozen=True)
class Event:
    """One committed event as subscribers hear it."""

    position: int
    cursor: str
    type: str
    field: str  # the subscription's root field
    city_id: str | None
    payload: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass
class Batch:
    """What one round tells one subscription."""

    subscription: Subscription
    caller: Caller
    snapshot: Snapshot
    events: list[tuple[Event, str]] = field(default_factory=list)


# Ends a subscription with an error that carries its cursor; the second argument is the error.
Fail = Callable[["Subscription", ConsoleError], None]
# Makes the records of a round durable; raises AUDIT_UNAVAILABLE.
Disclose = Callable[[list[Batch]], Awaitable[None]]


class Hub:
    """Subscribers of this process and the loop that serves them. ``start`` before the first ``add``."""

    def __init__(self, parts: Parts, dsn: Dsn, *, cursor: Callable[[int], str], disclose: Disclose, fail: Fail) -> None:
        self._parts = parts
        self._dsn = dsn
        self._cursor = cursor
        self._disclose = disclose
        self._fail = fail
        self._index: Index[Subscription] = Index()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._position = 0
        self.rendered = 0  # payloads serialized so far; a test holds it to one per event and selection
        core = parts.console.core
        roots = core.subscription_type.fields if core.subscription_type else {}
        self._fields = {get_named_type(root.type).name: name for name, root in roots.items()}

    @property
    def cursor(self) -> str:
        """Everything up to here was told before; a subscription added now hears all that comes after."""
        return self._cursor(self._position)

    async def start(self) -> None:
        async with connection(self._parts.app_pool) as conn:
            self._position = await conn.fetchval(_LAST)
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._run())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def add(self, subscription: Subscription) -> None:
        """Tell this subscription every matching event from now on. Takes effect at once, without waiting."""
        subscription.cursor = self.cursor
        self._index.add(subscription.field, subscription.match, subscription)

    def remove(self, subscription: Subscription) -> None:
        self._index.remove(subscription.field, subscription.match, subscription)

    async def _listen(self) -> None:
        """Hold a connection of its own that LISTENs; without it the poll still keeps the promise."""
        while True:
            gone = asyncio.Event()
            try:
                conn = await asyncpg.connect(**self._dsn.connect_kwargs())
            except (OSError, asyncpg.PostgresError):
                telemetry.count(telemetry.LISTEN_LOST, labels={"countersign.listener": "events"})
                await asyncio.sleep(_RECONNECT_SECONDS)
                continue
            try:
                conn.add_termination_listener(lambda _, gone=gone: gone.set())
                await conn.add_listener(CHANNEL, lambda *_: self._wake.set())
                self._wake.set()
                await gone.wait()
                telemetry.count(telemetry.LISTEN_LOST, labels={"countersign.listener": "events"})
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.sleep(_RECONNECT_SECONDS)
            finally:
                conn.terminate()

    async def _run(self) -> None:
        while True:
            await waited(self._wake, self._parts.limits.poll_seconds)
            self._wake.clear()
            try:
                while await self.pump():
                    pass
            except ConsoleError as error:
                # The database or the policy is away (FC-1, FC-5): sockets stay, silent, and this goes on from the same place.
                logger.warning("events wait: %s", error.code)
            except Exception as error:  # noqa: BLE001 - the loop outlives a bug in one round; the round is repeated
                coded(error, "hub")

    async def pump(self) -> bool:
        """Tell one batch of events; True when there may be more. The place moves on only after all were told."""
        async with connection(self._parts.app_pool) as conn:
            rows = await conn.fetch(_NEXT, self._position, _BATCH)
        if not rows:
            return False
        with telemetry.span("events tell", {"countersign.event.count": len(rows)}, kind="consumer") as told:
            told.set("countersign.subscription.count", await self._round(rows))
        self._position = rows[-1]["position"]
        return len(rows) == _BATCH

    async def _round(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Tell these rows; how many subscriptions heard of them."""
        snapshot = await self._parts.authorizer.current(rows[0]["version"])
        rendered: dict[tuple[Any, ...], str] = {}
        batches: dict[Subscription, Batch] = {}
        for row in rows:
            event = self._event(row)
            if event is not None:
                await self._collect(event, snapshot, batches, rendered)
        if batches:
            await self._tell(list(batches.values()))
        return len(batches)

    def _event(self, row: Mapping[str, Any]) -> Event | None:
        root = self._fields.get(row["topic"])
        if root is None:
            return None
        cursor = self._cursor(row["position"])
        payload = {**orjson.loads(row["payload"]), "cursor": cursor}
        return Event(row["position"], cursor, row["topic"], root, row["city_id"], payload, orjson.loads(row["facts"]))

    async def _collect(
        self, event: Event, snapshot: Snapshot, batches: dict[Subscription, Batch], rendered: dict[tuple[Any, ...], str]
    ) -> None:
        policy = self._parts.console.rules["Subscription", event.field].policy
        if policy is None:
            return
        verdicts: dict[tuple[Any, ...], bool] = {}
        for subscription in list(self._index.candidates(event.field, event.payload)):
            if not subscription.live or not subscription.match.holds(event.payload):
                continue
            caller = subscription.session.under(snapshot)
            if caller is None:
                continue
            who = (caller.id, caller.grants)
            if who not in verdicts:
                verdicts[who] = may_hear(snapshot, caller, policy, city_id=event.city_id, facts=event.facts)
            if not verdicts[who]:
                continue
            key = (event.position, *subscription.selection, caller.role_set)
            text = rendered.get(key)
            if text is None:
                try:
                    text = rendered[key] = await self._render(event, subscription, caller, snapshot)
                except Exception as error:  # noqa: BLE001 - one selection that fails must not hold back everybody's events
                    self._fail(subscription, coded(error, subscription.request.id))
                    continue
            batch = batches.setdefault(subscription, Batch(subscription, caller, snapshot))
            batch.events.append((event, text))

    async def _render(self, event: Event, subscription: Subscription, caller: Caller, snapshot: Snapshot) -> str:
        """Answer the subscription's selection from the event, once for all who selected the same under the same rights."""
        self.rendered += 1
        operation, variables = subscription.operation, subscription.variables
        answer = await self._parts.reader.event(caller, snapshot, operation, event.field, event.payload, variables)
        text = orjson.dumps({"data": {subscription.response_key: answer}}).decode()
        if len(text) > self._parts.limits.event_bytes:
            error = {"errorType": "LIMIT_EXCEEDED", "message": "The event is larger than an event may be."}
            return orjson.dumps({"data": {subscription.response_key: None}, "errors": [error]}).decode()
        return text

    async def _tell(self, batches: list[Batch]) -> None:
        """Record the disclosure durably, then queue it. Where the record cannot be made, nothing is told (FC-2)."""
        try:
            await self._disclose(batches)
        except ConsoleError as error:
            for batch in batches:
                _dropped(batch.subscription, error, len(batch.events))
                self._fail(batch.subscription, error)
            return
        for _, told in groupby(_by_position(batches), key=lambda one: one[0].position):
            for event, text, subscription in told:
                if not subscription.live:
                    continue
                if subscription.connection.deliver(subscription, event.cursor, text):
                    telemetry.count(telemetry.EVENTS_DELIVERED, labels={"countersign.field": subscription.field})
                else:
                    full = ConsoleError(
                        "LIMIT_EXCEEDED", "The subscription was too slow; read again from its cursor.", limit="queue"
                    )
                    _dropped(subscription, full, 1)
                    self._fail(subscription, full)
            # The sockets' writers run here: a burst must not fill the queue of somebody who does read.
            await asyncio.sleep(0)


def _dropped(subscription: Subscription, error: ConsoleError, events: int) -> None:
    labels: Attributes = {"countersign.field": subscription.field, "error.type": error.code}
    telemetry.count(telemetry.EVENTS_DROPPED, events, labels)


def _by_position(batches: list[Batch]) -> list[tuple[Event, str, Subscription]]:
    """What one round tells, event by event in their order."""
    flat = [(event, text, batch.subscription) for batch in batches for event, text in batch.events]
    return sorted(flat, key=lambda one: one[0].position)
