"""The transaction of one command. There is no other commit in the code, and none without the audit recorder.

``now`` is the console's clock in the database's transaction, so every deadline is compared with one clock. ``seal``
writes what leaves and awaits the recorder the unit was built with; ``commit`` seals first. If the record cannot be
taken, everything rolls back.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from db.clock import Clock, apart, utc_now
from db.pool import connection, usable
from schema.errors import ConsoleError

Row = Mapping[str, Any]
# Nothing of the unit happened, and it may be done again as it is: a conflict, or a statement prepared before a migration (RL-8).
CERTAIN_ABORTS: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InvalidCachedStatementError,
)
APPEND_SECONDS: Final = 2.0  # audit-design section 13: slower than this is as good as down
# Appends the records of the unit in its transaction and may leave their receipts in ``receipts``.
Recorder = Callable[["UnitOfWork"], Awaitable[None]]

# Whoever changes grants or policy takes this lock exclusively, so no command decides on a right that is just being
# revoked (security-contract AZ-7). It comes before the version is read: one statement could read it, then wait.
_OPEN = f"BEGIN; SELECT pg_advisory_xact_lock_shared({locks.POLICY})"

# Context of row-level security and the authorization version ride in one statement (security-contract AZ-7, DB-1).
_BEGIN = """
SELECT set_config('countersign.cities', $1, true) AS context, console_now() AS now, clock_timestamp() AS clock, version
FROM authz_version
"""

# One round trip for all that leaves. It wakes the background child when (and only if) this commits; the child looks at the
# tables, not at the message.
_LEAVE = """
WITH told AS (
  INSERT INTO event (topic, city_id, payload, facts, created_at)
  SELECT e.topic, e.city_id, e.payload, e.facts, $3
  FROM jsonb_to_recordset($1::jsonb) AS e (topic text, city_id text, payload jsonb, facts jsonb)
), sent AS (
  INSERT INTO outbox
    (id, port, operation, key, target_type, target_id, city_id, arguments, audit_id, lane, created_at, next_attempt_at)
  SELECT d.id, d.port, d.operation, d.key, d.target_type, d.target_id, d.city_id, d.arguments, d.audit_id, d.lane, $3, $3
  FROM jsonb_to_recordset($2::jsonb) AS d (id text, port text, operation text, key text, target_type text,
    target_id text, city_id text, arguments jsonb, audit_id uuid, lane text)
  ON CONFLICT (port, operation, key) DO NOTHING
)
SELECT pg_notify('countersign_work', '')
"""


class _UndoneError(Exception):
    """Ends a block that was only tried."""


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

    ``key`` comes from the aggregate, never from the attempt: the receiver makes one effect of it. Calls of one ``lane`` (the
    target's, when not named) leave one after the other, in the order they were queued in.
    """

    port: str
    operation: str
    key: str
    target: tuple[str, str]
    city_id: str | None
    arguments: Mapping[str, Any]
    audit_id: str | None = None  # the record it waits for; the unit's first when not named
    lane: str | None = None


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
    ahead_seconds: float = 0.0  # of this process's clock, of the database's (FC-8); below 0: behind
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
                # Released too: left behind, it would take the place of the one around it, which has the same name.
                await self.conn.execute("ROLLBACK TO SAVEPOINT step; RELEASE SAVEPOINT step")
            del self.records[kept[0] :], self.events[kept[1] :], self.deliveries[kept[2] :]
            raise
        await self.conn.execute("RELEASE SAVEPOINT step")

    @asynccontextmanager
    async def undone(self) -> AsyncGenerator[None, None]:
        """Let the block see what it does, and undo it whatever came of it: rows, events, records and deliveries."""
        with contextlib.suppress(_UndoneError):
            async with self.savepoint():
                yield
                raise _UndoneError

    async def _flush(self) -> None:
        if not self.events and not self.deliveries:
            return
        first = self.records[0]["id"]
        told = [{"topic": e.topic, "city_id": e.city_id, "payload": e.payload, "facts": e.facts} for e in self.events]
        ids = sorted(new_id("dlv") for _ in self.deliveries)  # of one moment: their order is that of their ids
        sent = [
            {
                "id": id_,
                "port": d.port,
                "operation": d.operation,
                "key": d.key,
                "target_type": d.target[0],
                "target_id": d.target[1],
                "city_id": d.city_id,
                "arguments": d.arguments,
                "audit_id": d.audit_id or first,
                "lane": d.lane or d.target[1],
            }
            for id_, d in zip(ids, self.deliveries, strict=True)
        ]
        await self.conn.execute(_LEAVE, orjson.dumps(told).decode(), orjson.dumps(sent).decode(), self.now)

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
        except CERTAIN_ABORTS:
            raise  # the pipeline repeats the whole unit
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
async def begin(
    pool: asyncpg.Pool[Any], recorder: Recorder, *, cities: str, clock: Clock = utc_now
) -> AsyncGenerator[UnitOfWork, None]:
    """Open a unit of work for someone who sees ``cities`` (comma-separated ids, or ``*``); ``clock`` is this process's.

    Left without ``commit``, it rolls back.
    """
    async with connection(pool) as conn:
        uow: UnitOfWork | None = None
        try:
            await conn.execute(_OPEN)
            before = clock()
            row = await conn.fetchrow(_BEGIN, cities)
            if row is None:
                raise ConsoleError("DEPENDENCY_UNAVAILABLE", "The database is not migrated.")
            ahead = apart(before, row["clock"], clock())
            uow = UnitOfWork(conn, row["now"], row["version"], recorder, ahead_seconds=ahead)
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
