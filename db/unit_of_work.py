"""The transaction of one command. There is no other commit in the code, and none without the audit recorder.

``now`` is the console's clock in the database's transaction, so every deadline is compared with one clock. ``seal``
writes what leaves and awaits the recorder the unit was built with; ``commit`` seals first. If the record cannot be
taken, everything rolls back.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg
import orjson

from db import locks
from db.pool import connection, usable
from schema.errors import ConsoleError

Row = Mapping[str, Any]
APPEND_SECONDS: Final = 2.0  # audit-design section 13: slower than this is as good as down
# Appends the records of the unit in its transaction and may leave their receipts in ``receipts``.
Recorder = Callable[["UnitOfWork"], Awaitable[None]]

# Whoever changes grants or policy takes this lock exclusively, so no command decides on a right that is just being
# revoked (security-contract AZ-7). It comes before the version is read: one statement could read it, then wait.
_OPEN = f"BEGIN; SELECT pg_advisory_xact_lock_shared({locks.POLICY})"

# Context of row-level security and the authorization version ride in one statement (security-contract AZ-7, DB-1).
_BEGIN = """
SELECT set_config('countersign.cities', $1, true) AS context, console_now() AS now, version
FROM authz_version
"""

_INSERT_EVENT = """
INSERT INTO event (topic, city_id, payload, facts, created_at) VALUES ($1, $2, $3::jsonb, $4::jsonb, $5)
"""
_INSERT_OUTBOX = """
INSERT INTO outbox
  (id, port, operation, key, target_type, target_id, city_id, arguments, audit_id, created_at, next_attempt_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $10) ON CONFLICT (port, operation, key) DO NOTHING
"""


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value).decode()


@dataclass(frozen=True)
class Event:
    """What subscribers will hear: ``payload`` is the GraphQL object, ``facts`` what scope and conditions ask of it."""

    topic: str
    city_id: str | None
    payload: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Delivery:
    """A call to another system, made after the commit at least once.

    ``key`` comes from the aggregate, never from the attempt: the receiver makes one effect of it.
    """

    port: str
    operation: str
    key: str
    target: tuple[str, str]
    city_id: str | None
    arguments: Mapping[str, Any]
    audit_id: str | None = None  # the record it waits for; the unit's first when not named


@dataclass
class UnitOfWork:
    """One transaction with its clock, ids, records and outgoing rows. Made by ``begin``.

    ``audit_id`` is the id that the first record will have: what is written before the record may already name it.
    """

    conn: asyncpg.Connection[Any]
    now: datetime
    authz_version: int
    recorder: Recorder
    records: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    audit_id: str = field(default_factory=lambda: str(uuid7()))
    receipts: Sequence[Any] = ()  # of the records, in their order; there once sealed
    on_end: list[Callable[[bool], None]] = field(default_factory=list)  # told once, at the end, whether it committed
    sealed: bool = False
    committed: bool = False

    async def fetch(self, sql: str, *args: object) -> Sequence[Row]:
        rows: Sequence[Row] = await self.conn.fetch(sql, *args)
        return rows

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        row: Row | None = await self.conn.fetchrow(sql, *args)
        return row

    async def fetchone(self, sql: str, *args: object) -> Row:
        """The one row; none is a bug (``LookupError``)."""
        row = await self.fetchrow(sql, *args)
        if row is None:
            raise LookupError("a statement that returns a row returned none")
        return row

    async def fetchval(self, sql: str, *args: object) -> Any:
        return await self.conn.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        tag: str = await self.conn.execute(sql, *args)
        return tag

    def publish(self, event: Event) -> None:
        """Leave an event for subscribers; it is numbered and delivered after the commit."""
        self.events.append(event)

    def record(self, body: dict[str, Any]) -> None:
        """Queue an audit record; it is appended in this transaction by ``commit``."""
        self.records.append(body)

    def enqueue(self, delivery: Delivery) -> None:
        """Leave a call to another system. It departs once its record is anchored; same key twice is one row."""
        self.deliveries.append(delivery)

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None, None]:
        """Undo rows, events, records and deliveries of the block when it raises; the transaction stays usable."""
        kept = len(self.records), len(self.events), len(self.deliveries)
        await self.conn.execute("SAVEPOINT step")
        try:
            yield
        except BaseException:
            if not self.conn.is_closed():
                await self.conn.execute("ROLLBACK TO SAVEPOINT step")
            del self.records[kept[0] :], self.events[kept[1] :], self.deliveries[kept[2] :]
            raise
        await self.conn.execute("RELEASE SAVEPOINT step")

    async def _flush(self) -> None:
        if self.events:
            rows = [(e.topic, e.city_id, _json(e.payload), _json(e.facts), self.now) for e in self.events]
            await self.conn.executemany(_INSERT_EVENT, rows)
        if self.deliveries:
            first = self.records[0]["id"]
            await self.conn.executemany(
                _INSERT_OUTBOX,
                [
                    (
                        new_id("dlv"),
                        d.port,
                        d.operation,
                        d.key,
                        *d.target,
                        d.city_id,
                        _json(d.arguments),
                        d.audit_id or first,
                        self.now,
                    )
                    for d in self.deliveries
                ],
            )
        if self.events or self.deliveries:
            # Wakes the background child when (and only if) this commits; it looks at the tables, not at the message.
            await self.conn.execute("SELECT pg_notify('countersign_work', '')")

    async def seal(self) -> None:
        """Write what leaves and append the records; afterwards ``receipts`` are known and only reads may follow.

        Raises ``AUDIT_UNAVAILABLE`` when the log cannot take the records.
        """
        if self.sealed:
            return
        if not self.records:
            raise ConsoleError("INTERNAL", "A unit of work was about to commit without an audit record.")
        await self._flush()
        try:
            async with asyncio.timeout(APPEND_SECONDS):
                await self.recorder(self)
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
            raise  # certain aborts: the pipeline repeats the whole unit
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise ConsoleError("AUDIT_UNAVAILABLE") from error
        self.sealed = True

    async def commit(self) -> None:
        """Seal, then commit. Returns once it is durable; a connection lost here leaves the outcome unknown (ID-2)."""
        await self.seal()
        tag = await self.conn.execute("COMMIT")
        # A transaction that had failed already: Postgres answers COMMIT with ROLLBACK, not with an error.
        if tag != "COMMIT":
            raise ConsoleError("INTERNAL", "The transaction had failed before its commit.")
        self.committed = True


@asynccontextmanager
async def begin(pool: asyncpg.Pool[Any], recorder: Recorder, *, cities: str) -> AsyncGenerator[UnitOfWork, None]:
    """Open a unit of work for someone who sees ``cities`` (comma-separated ids, or ``*``).

    Left without ``commit``, it rolls back.
    """
    async with connection(pool) as conn:
        uow: UnitOfWork | None = None
        try:
            await conn.execute(_OPEN)
            row = await conn.fetchrow(_BEGIN, cities)
            if row is None:
                raise ConsoleError("DEPENDENCY_UNAVAILABLE", "The database is not migrated.")
            uow = UnitOfWork(conn, row["now"], row["version"], recorder)
            yield uow
        finally:
            if uow is not None:
                for told in uow.on_end:
                    told(uow.committed)
            if (uow is None or not uow.committed) and usable(conn):
                try:
                    await conn.execute("ROLLBACK")
                except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                    # Broken: the server rolls back by itself, and the first error is the one to tell.
                    if usable(conn):
                        conn.terminate()


def new_id(prefix: str) -> str:
    """A time-ordered id, ``prefix_<uuid7 hex>`` (RFC 9562 section 5.7): new rows land at the end of their index."""
    return f"{prefix}_{uuid7().hex}"


def uuid7() -> uuid.UUID:
    """A version 7 UUID from the wall clock and 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return uuid.UUID(int=value)
