"""The sealer: files what the intake holds, gives each record its place in the tree and the chain, has the head anchored.

Any number of sealers is safe: everything of one run is one transaction that compares the head it started from. The
advisory lock only spares the others the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from audit import store
from audit.anchor import Anchorer, DirectoryAnchor
from audit.keys import Keys, Signer
from audit.record import (
    COLUMNS,
    SYSTEM_ACTOR,
    NotCanonicalError,
    chain_next,
    chain_start,
    columns,
    leaf,
    new_record,
    numbers,
    parse,
)
from audit.store import Head, LogConflictError
from audit.verify import moment
from audit.writer import Writer
from db import locks
from db.pool import Dsn
from db.unit_of_work import uuid7
from db.waiting import waited
from schema import telemetry
from schema.errors import described

log = logging.getLogger("countersign.audit")

BATCH: Final = 2_000
SEAL_SECONDS: Final = 0.2
ANCHOR_SECONDS: Final = 10.0
HEARTBEAT_SECONDS: Final = 60.0
HOURLY: Final = 3_600.0
RETRY_SECONDS: Final = 1.0
CONFLICT_SECONDS: Final = 10.0

# From the lowest n each time: a remembered lower bound would break the order for late committers.
# KNOWN GAP: a reader of hours keeps deleted intake rows alive, and each batch then walks over them (about 20 ms per
# 200,000); a bound taken from a snapshot all of whose transactions have ended would close it.
_TAKE: Final = "SELECT n, db_at, kid, mac, leaf, body FROM audit.intake ORDER BY n LIMIT $1"
_KNOWN: Final = "SELECT id FROM audit.leaf WHERE id = ANY($1::uuid[])"
_REMOVE: Final = "DELETE FROM audit.intake WHERE n = ANY($1::bigint[])"
_MOVE: Final = "UPDATE audit.head SET size = $2, root = $3, chain = $4, edge = $5 WHERE size = $1"
_WRITERS: Final = "SELECT w, settled, high, holes FROM audit.writer WHERE w = ANY($1::text[])"
_KEEP_WRITER: Final = """
INSERT INTO audit.writer (w, settled, high, holes, seen_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (w) DO UPDATE SET settled = $2, high = $3, holes = $4, seen_at = $5
"""
_QUARANTINE: Final = "INSERT INTO audit.quarantine (id, found_at, code, n, db_at, kid, mac, leaf, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
# S0: records of this month and the last that no sealer filed.
_STRAYS: Final = """
INSERT INTO audit.quarantine (id, found_at, code, db_at, kid, mac, leaf, body)
SELECT r.id, clock_timestamp(), 'UNSEALED_RECORD', r.db_at, r.kid, r.mac, r.leaf, r.body
  FROM audit.record r
 WHERE r.db_at >= date_trunc('month', now()) - interval '1 month'
   AND NOT EXISTS (SELECT 1 FROM audit.leaf l WHERE l.id = r.id)
   AND NOT EXISTS (SELECT 1 FROM audit.quarantine q WHERE q.id = r.id AND q.code = 'UNSEALED_RECORD')
RETURNING id
"""
_URGENT: Final = """
SELECT EXISTS (SELECT 1 FROM outbox WHERE state IN ('PENDING', 'RETRYING') AND audit_id IS NOT NULL AND NOT audit.anchored(audit_id))
"""
_RECORD_COLUMNS: Final = ("id", "db_at", "kid", "mac", "leaf", "body", *COLUMNS)

Alarm = Callable[[str, str], Awaitable[None]]


async def _log_alarm(code: str, text: str) -> None:
    log.error("audit alarm %s: %s", code, text)


def _no_fault(_: str) -> None:
    """Tests put a crash here; the steps are S1..S6 and A1..A6, S6 being after the commit."""


@dataclass(frozen=True)
class Sealed:
    """What one run did."""

    records: int
    quarantined: int
    size: int


@dataclass
class _Counts:
    """A writer's numbers as sealed so far (audit.writer)."""

    settled: int = 1
    high: int = 0
    holes: set[int] = field(default_factory=set)

    def add(self, number: int, voided: Sequence[int], settled: int) -> None:
        self.holes.update(range(self.high + 1, number))
        self.high, self.settled = max(self.high, number), max(self.settled, settled)
        self.holes.difference_update((number, *voided))


class Sealer:
    """Runs in one background process, beside the signing key. ``run`` until told to stop; the steps may be called alone."""

    def __init__(
        self,
        dsn: Dsn,
        *,
        keys: Keys,
        signer: Signer,
        anchor: DirectoryAnchor,
        writer: Writer,
        alarm: Alarm = _log_alarm,
        fault: Callable[[str], None] = _no_fault,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        anchor_seconds: float = ANCHOR_SECONDS,
    ) -> None:
        self._dsn: Final = dsn
        self._keys: Final = keys
        self._origin: Final = signer.name
        self._writer: Final = writer
        self._alarm: Final = alarm
        self._fault: Final = fault
        self._anchorer: Final = Anchorer(anchor, signer, fault)
        self._heartbeat_seconds: Final = heartbeat_seconds
        self._anchor_seconds: Final = anchor_seconds
        self._conn: asyncpg.Connection[Any] | None = None
        self._known: tuple[int, bytes] | None = None  # the last head that this process sealed or recognised
        self._wake: Final = asyncio.Event()
        self._alarmed: set[str] = set()
        self._hourly_at = self._heartbeat_at = self._anchored_at = float("-inf")  # monotonic

    # ---------- connection ----------
    async def connection(self) -> asyncpg.Connection[Any]:
        """The sealer's own connection, direct: its lock and its LISTEN are the session's."""
        if self._conn is None or self._conn.is_closed():
            conn: asyncpg.Connection[Any] = await asyncpg.connect(**self._dsn.connect_kwargs())
            await conn.add_listener("countersign_work", lambda *_: self._wake.set())
            self._conn = conn
        return self._conn

    async def close(self) -> None:
        if self._conn is not None and not self._conn.is_closed():
            await self._conn.close(timeout=2)
        self._conn = None

    # ---------- sealing ----------
    async def run_once(self, limit: int = BATCH) -> Sealed:
        """One run of S1-S5. Raises ``LogConflictError`` when the tree is not the one this process knows."""
        conn = await self.connection()
        if not await conn.fetchval("SELECT EXISTS (SELECT 1 FROM audit.intake)"):
            return Sealed(0, 0, self._known[0] if self._known else 0)
        with telemetry.span("audit seal") as told:
            sealed, bad = await self._seal(conn, limit)
            told.set("countersign.record.count", sealed.records)
            told.set("countersign.quarantined", sealed.quarantined)
            told.set("countersign.tree.size", sealed.size)
        telemetry.count(telemetry.AUDIT_SEALED, sealed.records)
        telemetry.count(telemetry.AUDIT_QUARANTINED, sealed.quarantined)
        for row, code in bad:
            await self._alarm(code, f"an intake row ({row['n']}) is no genuine record and is in quarantine")
        return sealed

    async def _seal(self, conn: asyncpg.Connection[Any], limit: int) -> tuple[Sealed, list[tuple[asyncpg.Record, str]]]:
        async with conn.transaction():
            self._fault("S1")
            head = await store.read_head(conn, lock=True)
            await self._recognise(conn, head)
            self._fault("S2")
            rows = await conn.fetch(_TAKE, limit)
            self._fault("S3")
            good, bad = await self._judge(conn, rows)
            self._fault("S4")
            chain = await self._file(conn, head, good, bad)
            if await conn.execute(_REMOVE, [row["n"] for row in rows]) != f"DELETE {len(rows)}":
                raise LogConflictError("HEAD_CONFLICT", "intake rows vanished while they were sealed")
            self._fault("S5")
            moved = await conn.execute(
                _MOVE, head.size, head.size + len(good), head.edge.root(), chain, head.edge.dump()
            )
            if moved != "UPDATE 1":
                raise LogConflictError("HEAD_CONFLICT", "the head moved while it was locked")
        self._known = (head.edge.size, head.edge.root())
        self._fault("S6")
        return Sealed(len(good), len(bad), head.edge.size), bad

    async def _recognise(self, conn: asyncpg.Connection[Any], head: Head) -> None:
        """Compare the head with what this process sealed or saw before; a sealed row rewritten with its tree is caught here."""
        if self._known is not None and self._known != (head.size, head.root):
            size, root = self._known
            if head.size <= size or await store.root_at(conn, head, size) != root:
                raise LogConflictError(
                    "HEAD_CONFLICT", f"head {head.size} does not extend head {size}, which this process has seen"
                )
        self._known = (head.size, head.root)

    async def _judge(
        self, conn: asyncpg.Connection[Any], rows: Sequence[asyncpg.Record]
    ) -> tuple[list[tuple[asyncpg.Record, dict[str, Any], dict[str, Any]]], list[tuple[asyncpg.Record, str]]]:
        """S3: records (row, body, columns) and what is none, with its code."""
        good: list[tuple[asyncpg.Record, dict[str, Any], dict[str, Any]]] = []
        bad: list[tuple[asyncpg.Record, str]] = []
        for row in rows:
            data = row["body"].encode()
            body: dict[str, Any] = {}
            projected: dict[str, Any] = {}
            if leaf(data) != row["leaf"]:
                bad.append((row, "LEAF_MISMATCH"))
            elif not self._keys.mac_holds(row["kid"], row["leaf"], row["mac"]):
                bad.append((row, "UNAUTHENTICATED_WRITER"))
            else:
                try:
                    body = parse(data)
                    projected = columns(body)
                    numbers(body)
                    proper = str(UUID(body["id"])) == body["id"] and moment(body["at"]) is not None
                except (NotCanonicalError, ValueError, KeyError, TypeError, AttributeError):
                    proper = False
                if not proper:
                    bad.append((row, "NOT_CANONICAL"))
                elif body.get("log") != self._origin:
                    bad.append((row, "WRONG_ORIGIN"))
                else:
                    good.append((row, body, projected))
        taken = {str(row["id"]) for row in await conn.fetch(_KNOWN, [body["id"] for _, body, _ in good])}
        kept: list[tuple[asyncpg.Record, dict[str, Any], dict[str, Any]]] = []
        for row, body, projected in good:
            if body["id"] in taken:
                bad.append((row, "DUPLICATE_ID"))
            else:
                taken.add(body["id"])
                kept.append((row, body, projected))
        return kept, bad

    async def _file(
        self,
        conn: asyncpg.Connection[Any],
        head: Head,
        good: Sequence[tuple[asyncpg.Record, dict[str, Any], dict[str, Any]]],
        bad: Sequence[tuple[asyncpg.Record, str]],
    ) -> bytes:
        """S4: grow the edge and write records, places, full tiles, counters and quarantine. Returns the new chain."""
        chain = head.chain if head.chain is not None else chain_start(self._origin)
        records, places, tiles = [], [], []
        for row, body, projected in good:
            chain = chain_next(chain, row["leaf"])
            record_id = UUID(body["id"])
            places.append((head.edge.size, record_id, row["db_at"], row["leaf"], chain, head.now))
            records.append(
                (record_id, row["db_at"], row["kid"], row["mac"], row["leaf"], row["body"], *projected.values())
            )
            tiles.extend(head.edge.append(row["leaf"]))
        copy = conn.copy_records_to_table
        await copy("record", schema_name="audit", columns=_RECORD_COLUMNS, records=records)
        await copy(
            "leaf", schema_name="audit", columns=("seq", "id", "db_at", "leaf", "chain", "sealed_at"), records=places
        )
        if tiles:
            await copy("tile", schema_name="audit", columns=("level", "idx", "hashes"), records=tiles)
        if bad:
            await conn.executemany(
                _QUARANTINE,
                [
                    (
                        _id_of(row["body"]),
                        head.now,
                        code,
                        *(row[name] for name in ("n", "db_at", "kid", "mac", "leaf", "body")),
                    )
                    for row, code in bad
                ],
            )
        await self._count_writers(conn, head, [body for _, body, _ in good])
        return chain

    async def _count_writers(self, conn: asyncpg.Connection[Any], head: Head, bodies: Sequence[dict[str, Any]]) -> None:
        names = sorted({body["w"] for body in bodies})
        counts = {
            row["w"]: _Counts(row["settled"], row["high"], set(row["holes"]))
            for row in await conn.fetch(_WRITERS, names)
        }
        for body in bodies:
            counts.setdefault(body["w"], _Counts()).add(*numbers(body))
        rows = [(w, counts[w].settled, counts[w].high, sorted(counts[w].holes), head.now) for w in names]
        await conn.executemany(_KEEP_WRITER, rows)

    async def look_for_strays(self) -> int:
        """S0: records that no sealer filed go into quarantine, with an alarm."""
        strays = await (await self.connection()).fetch(_STRAYS)
        if strays:
            await self._alarm(
                "UNSEALED_RECORD", f"{len(strays)} record(s) were not filed by a sealer, the first is {strays[0]['id']}"
            )
        return len(strays)

    # ---------- anchoring ----------
    async def anchor_once(self) -> int:
        """A1-A6. Returns the size that is anchored now; raises ``LogConflictError`` when the log must not be signed."""
        conn = await self.connection()
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            head = await store.read_head(conn)
            await self._recognise(conn, head)
        if head.size == self._anchorer.size:
            return await self._anchorer.run(conn, head)
        with telemetry.span("audit anchor", {"countersign.tree.size": head.size}):
            return await self._anchorer.run(conn, head)

    # ---------- the loop ----------
    async def run(self, stop: asyncio.Event) -> None:
        """Seal and anchor until ``stop``; then once more, so that a clean end leaves nothing open.

        A conflict is alarmed once and stops sealing and signing; it is looked at again every ten seconds, so that a repaired
        log goes on by itself. A lost connection is opened again.
        """
        while not stop.is_set():
            try:
                await self._lead(stop)
            except LogConflictError as conflict:
                await self._alarm_once(conflict.code, conflict.text)
                await waited(stop, CONFLICT_SECONDS)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                log.warning("the sealer lost its step: %s", described(error))
                await waited(stop, RETRY_SECONDS)
            finally:
                await self._leave()

    async def _lead(self, stop: asyncio.Event) -> None:
        while not await (await self.connection()).fetchval("SELECT pg_try_advisory_lock($1)", locks.SEALER):
            if await waited(stop, RETRY_SECONDS):
                return
        # Before anything is sealed: a restored or rewritten database is not built upon.
        await self._anchor()
        while not stop.is_set():
            now = time.monotonic()
            if now - self._hourly_at >= HOURLY:
                await self._hourly()
                self._hourly_at = now
            if now - self._heartbeat_at >= self._heartbeat_seconds:
                await self._writer.append_now(await self.connection(), [_heartbeat()])
                self._heartbeat_at = now
            sealed = await self.run_once()
            if await self._is_due():
                await self._anchor()
            if sealed.records + sealed.quarantined < BATCH:
                await self._doze(stop)
        while (await self.run_once()).records:
            pass
        await self._anchor()

    async def _anchor(self) -> None:
        """Anchor; when the place of the anchor fails, sealing goes on and the fail-closed limit decides how long (FC-6)."""
        try:
            await self.anchor_once()
            self._alarmed.clear()
        except OSError as error:
            if (await self.connection()).is_closed() or isinstance(error, ConnectionError):
                raise
            await self._alarm_once("ANCHOR_UNAVAILABLE", f"the anchor cannot be written: {error.strerror}")
        finally:
            self._anchored_at = time.monotonic()

    async def _is_due(self) -> bool:
        """Every ten seconds when the log has grown; at once while a delivery waits for its record."""
        if self._known is None or self._known[0] == self._anchorer.size:
            return False
        since = time.monotonic() - self._anchored_at
        if "ANCHOR_UNAVAILABLE" in self._alarmed:
            return since >= RETRY_SECONDS
        return since >= self._anchor_seconds or bool(await (await self.connection()).fetchval(_URGENT))

    async def _alarm_once(self, code: str, text: str) -> None:
        if code not in self._alarmed:
            self._alarmed.add(code)
            await self._alarm(code, text)

    async def _hourly(self) -> None:
        conn = await self.connection()
        if strays := await conn.fetchval("SELECT audit.ensure_partitions()"):
            await self._alarm("PARTITION_MISSING", f"{strays} record(s) lie in the default partition")
        await self.look_for_strays()

    async def _doze(self, stop: asyncio.Event) -> None:
        self._wake.clear()
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._wake)]
        _, pending = await asyncio.wait(waits, timeout=SEAL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()

    async def _leave(self) -> None:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            await self.close()


def _heartbeat() -> dict[str, Any]:
    record_id = str(uuid7())
    return new_record(
        id=record_id,
        at=datetime.now(UTC),
        kind="heartbeat",
        action="audit.heartbeat",
        field="",
        actor=SYSTEM_ACTOR,
        request={"id": record_id},
    )


def _id_of(body: str) -> UUID | None:
    """The id that a refused body claims, if it has one."""
    try:
        return UUID(parse(body.encode())["id"])
    except (NotCanonicalError, ValueError, KeyError, TypeError, AttributeError):
        return None
