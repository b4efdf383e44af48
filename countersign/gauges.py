"""What is looked at whenever metrics are sent: caches, pools and sockets of this process, and in the background child what waits in the tables.

Loaded only while telemetry is on. The callbacks run in the exporter's thread: they read and change nothing, and of the
tables they repeat what one statement found within the last 15 seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from db.pool import connection
from db.waiting import waited
from schema import telemetry
from schema.errors import ConsoleError, described
from schema.telemetry import Attributes, Metric

if TYPE_CHECKING:
    from resolvers.deliveries import Deliveries
    from resolvers.documents import Documents
    from resolvers.reader import Reader
    from resolvers.realtime import RealTime

logger: Final = logging.getLogger(__name__)
Told = list[tuple[float, Attributes]]

LOOK_SECONDS: Final = 15.0

# One row per figure: its name, up to two labels, the value. Ages are those of the console's clock.
_WAITING: Final = """
SELECT 'approvals' AS figure, action AS first, NULL AS second, count(*)::float AS value,
       extract(epoch FROM console_now() - min(created_at))::float AS age
FROM approval_request WHERE state = 'PENDING' GROUP BY action
UNION ALL
SELECT 'outbox', port, state, count(*), coalesce(extract(epoch FROM console_now() - min(created_at)), 0)
FROM outbox WHERE state IN ('PENDING', 'RETRYING', 'DEAD') GROUP BY port, state
UNION ALL
SELECT 'events', NULL, NULL, 0, extract(epoch FROM console_now() - created_at)
FROM (SELECT created_at FROM event WHERE position IS NULL ORDER BY id LIMIT 1) AS oldest
UNION ALL
SELECT 'audit', NULL, NULL, waiting, unanchored_seconds FROM audit.backlog(1000000)
"""


def pools(of: Mapping[str, asyncpg.Pool[Any]]) -> None:
    """Connections of each pool by its role."""

    def connections() -> Told:
        found: Told = []
        for name, pool in of.items():
            idle = pool.get_idle_size()
            for state, number in (("idle", idle), ("used", pool.get_size() - idle)):
                found.append((number, {"db.client.connection.pool.name": name, "db.client.connection.state": state}))
        return found

    telemetry.observe(telemetry.POOL_CONNECTIONS, connections)
    telemetry.observe(
        telemetry.POOL_MAXIMUM,
        lambda: [(pool.get_max_size(), {"db.client.connection.pool.name": name}) for name, pool in of.items()],
    )


def serving(documents: Documents, reader: Reader, realtime: RealTime) -> None:
    """Caches and sockets of a serving process."""
    caches: Mapping[str, Callable[[], tuple[int, int, int]]] = {
        "documents": lambda: (len(documents), documents.hits, documents.parsed),
        "plans": lambda: (len(reader.plans), reader.plans.hits, reader.plans.misses),
        "finders": lambda: (len(reader.finders), reader.finders.hits, reader.finders.misses),
    }
    telemetry.observe(
        telemetry.CACHE_ENTRIES, lambda: [(look()[0], {"countersign.cache": name}) for name, look in caches.items()]
    )

    def lookups() -> Told:
        found: Told = []
        for name, look in caches.items():
            _, hits, misses = look()
            found.append((hits, {"countersign.cache": name, "countersign.result": "hit"}))
            found.append((misses, {"countersign.cache": name, "countersign.result": "miss"}))
        return found

    def finishes() -> Told:
        found: Told = []
        for named, number in list(reader.finishes.items()):
            finish, _, reason = named.partition(":")
            found.append((number, {"countersign.finish": finish, "countersign.finish.reason": reason or "none"}))
        return found

    telemetry.observe(telemetry.CACHE_LOOKUPS, lookups)
    telemetry.observe(telemetry.FINISHES, finishes)
    telemetry.observe(telemetry.CONNECTIONS, lambda: [(len(realtime.connections), {})])
    telemetry.observe(
        telemetry.SUBSCRIPTIONS,
        lambda: [(sum(len(one.subscriptions) for one in list(realtime.connections)), {})],
    )


class Waiting:
    """What waits in the tables, looked at by the background child."""

    def __init__(self, pool: asyncpg.Pool[Any], deliveries: Deliveries) -> None:
        self._pool = pool
        self._ports = deliveries.ports
        self._rows: Sequence[Mapping[str, Any]] = ()
        observed: Iterable[tuple[Metric, Callable[[], Told]]] = (
            (telemetry.APPROVALS_WAITING, lambda: self._told("approvals", "value", "countersign.approval.key")),
            (telemetry.APPROVALS_OLDEST, lambda: self._told("approvals", "age", "countersign.approval.key")),
            (telemetry.OUTBOX_ROWS, self._outbox),
            (telemetry.OUTBOX_OLDEST, self._oldest_call),
            (telemetry.EVENTS_UNNUMBERED, lambda: self._told("events", "age") or [(0, {})]),
            (telemetry.AUDIT_UNANCHORED, lambda: self._told("audit", "age")),
            (telemetry.AUDIT_INTAKE, lambda: self._told("audit", "value")),
            (
                telemetry.BREAKERS,
                lambda: [(int(held), {"countersign.port": port}) for port, held in deliveries.held_back.items()],
            ),
        )
        for metric, callback in observed:
            telemetry.observe(metric, callback)

    async def run(self, stop: asyncio.Event) -> None:
        """Look every 15 seconds until ``stop``. What cannot be read now keeps its last figures."""
        while not stop.is_set():
            try:
                await self.look()
            except (ConsoleError, asyncpg.PostgresError) as error:
                logger.warning("what waits cannot be counted now: %s", described(error))
            await waited(stop, LOOK_SECONDS)

    async def look(self) -> None:
        async with connection(self._pool) as conn:
            self._rows = await conn.fetch(_WAITING)

    def _told(self, figure: str, column: str, label: telemetry.Key | None = None) -> Told:
        return [
            (row[column], {} if label is None else {label: row["first"]})
            for row in self._rows
            if row["figure"] == figure
        ]

    def _outbox(self) -> Told:
        return [
            (row["value"], {"countersign.port": row["first"], "countersign.state": row["second"]})
            for row in self._rows
            if row["figure"] == "outbox"
        ]

    def _oldest_call(self) -> Told:
        """Of the calls that are still open: one that is given up waits for a person, not for a port."""
        ages: dict[str, float] = dict.fromkeys(self._ports, 0.0)
        for row in self._rows:
            if row["figure"] == "outbox" and row["second"] != "DEAD":
                ages[row["first"]] = max(row["age"], ages.get(row["first"], 0.0))
        return [(age, {"countersign.port": port}) for port, age in ages.items()]
