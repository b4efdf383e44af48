"""The live store's verification, proofs and checkpoints, read as ``cs_audit_reader`` and checked by ``audit.verify``."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg

from audit import store
from audit.bundle import anchored_notes, pinned, stale
from audit.checkpoint import proof_text, signers
from audit.formats import WIDTH, Checkpoint, leaf_hash
from audit.health import health
from audit.record import COLUMNS, MAX_INTEGER, timestamp
from audit.store import Head, LogConflictError
from audit.verify import Checker, Entry, Finding, Report, heads
from schema.errors import ConsoleError

MAX_RANGE: Final = 100_000
STALE_SECONDS: Final = 60
_TILES_AT_ONCE: Final = 4
_NOTES: Final = """
SELECT size, root, note FROM audit.checkpoint
 WHERE (size > $1 AND size <= $2) OR size = (SELECT max(size) FROM audit.checkpoint) ORDER BY size
"""
_TILES: Final = "SELECT idx, hashes FROM audit.tile WHERE level = 0 AND idx >= $1 AND idx < $2"
_UPPER: Final = "SELECT hashes FROM audit.tile WHERE level = $1 AND idx = $2"
_BEYOND: Final = "SELECT seq, id::text AS id, db_at FROM audit.leaf WHERE seq >= $1 ORDER BY seq LIMIT 100"
_UNSEALED: Final = """
SELECT r.id::text AS id, r.db_at, r.body, r.actor, r.action, r.obj_type, r.obj_id
  FROM audit.record r
 WHERE r.db_at >= coalesce($1, '-infinity'::timestamptz) AND r.db_at <= coalesce($2, 'infinity'::timestamptz)
   AND NOT EXISTS (SELECT 1 FROM audit.leaf l WHERE l.id = r.id AND l.db_at = r.db_at) ORDER BY r.db_at LIMIT 100
"""
_PENDING: Final = (
    "SELECT count(*) AS pending, extract(epoch FROM clock_timestamp() - min(db_at)) AS age FROM audit.intake"
)
_QUARANTINE: Final = "SELECT code, id::text AS id, n, found_at FROM audit.quarantine ORDER BY q LIMIT 100"
_CHECKPOINTS: Final = "SELECT size, root, note, made_at, anchored_at, anchor FROM audit.checkpoint"


@dataclass(frozen=True)
class Trust:
    """What a verification may rest on. Without pin and anchor a rolled-back database cannot be told from an old one."""

    origin: str
    vkeys: tuple[str, ...]
    writer_keys: Mapping[str, bytes] | None = None
    anchor: Path | None = None
    pin: Path | None = None


# ---------- verification ----------
async def verify(
    pool: asyncpg.Pool[Any],
    trust: Trust,
    from_seq: int | None = None,
    to_seq: int | None = None,
    *,
    require_independent: bool = False,
    max_age: timedelta | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Verify records from_seq..to_seq (default: all) in one snapshot, in whole tiles, with every checkpoint on the way."""
    outside = [*pinned(trust.pin), *(await asyncio.to_thread(anchored_notes, trust.anchor) if trust.anchor else [])]
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        run = _Run(conn, trust, Report(origin=trust.origin))
        return await run.check(from_seq, to_seq, outside, require_independent, max_age, progress)


class _Run:
    def __init__(self, conn: Any, trust: Trust, report: Report) -> None:
        self._conn: Final = conn
        self._trust: Final = trust
        self._report: Final = report

    async def check(
        self,
        from_seq: int | None,
        to_seq: int | None,
        outside: Sequence[tuple[str, str]],
        independent: bool,
        max_age: timedelta | None,
        progress: Callable[[int, int], None] | None,
    ) -> Report:
        report = self._report
        head, size, chain = await self._head()
        report.head_size = size
        report.from_seq = min(from_seq or 0, max(size - 1, 0))
        report.to_seq = size - 1 if to_seq is None else min(to_seq, size - 1)
        first = report.from_seq - report.from_seq % WIDTH
        end = min(size, report.to_seq + WIDTH - report.to_seq % WIDTH)
        trusted = await self._heads(first, end, outside)
        stale(report, trusted, independent, max_age, await self._newest_at())
        tiles = await self._upper_tiles(head, first, end, trusted)
        before = await self._conn.fetchval("SELECT chain FROM audit.leaf WHERE seq = $1", first - 1) if first else None
        checker = Checker(
            report,
            tiles,
            [c for c in trusted if c.size <= size],
            first,
            end,
            chain=before,
            writer_keys=self._trust.writer_keys,
        )
        if self._trust.writer_keys is not None:
            report.trusted.add("WRITER_MAC")
        bounds = await self._stream(checker, tiles, first, end, progress)
        whole = end == size
        checker.finish(head_root=report.head_root if whole and head else None, head_chain=chain if whole else None)
        everything = first == 0 and whole
        await self._count(checker, size, (None, None) if everything else bounds)
        return report.close()

    async def _head(self) -> tuple[Head | None, int, bytes | None]:
        """The head; one that contradicts itself is a finding, and the check goes on without its edge."""
        try:
            head = await store.read_head(self._conn)
        except LogConflictError as conflict:
            self._report.add(Finding(conflict.code, conflict.text))
            row = await self._conn.fetchrow("SELECT size, root, chain FROM audit.head")
            self._report.head_root = row["root"] if row else b""
            return None, row["size"] if row else 0, row["chain"] if row else None
        self._report.head_root = head.root
        return head, head.size, head.chain

    async def _heads(self, first: int, end: int, outside: Sequence[tuple[str, str]]) -> list[Checkpoint]:
        rows = await self._conn.fetch(_NOTES, first, end)
        trusted = heads(self._report, [*(("LOG", row["note"]) for row in rows), *outside], self._trust.vkeys)
        by_note = {row["note"]: row for row in rows}
        for head in trusted:
            row = by_note.get(head.note)
            if row is not None and (row["size"], row["root"]) != (head.size, head.root):
                detail = f"the row of checkpoint {row['size']} does not say what its note says"
                self._report.add(Finding("COLUMN_MISMATCH", detail, expected=str(head.size), found=str(row["size"])))
        newest = trusted[-1] if trusted else None
        if newest is not None and newest.size > self._report.head_size:
            detail = f"{newest.name}, is known ({newest.source}), and the database ends at {self._report.head_size}"
            self._report.add(
                Finding(
                    "ROLLBACK",
                    detail,
                    self._report.head_size,
                    newest.size - 1,
                    None,
                    str(newest.size),
                    str(self._report.head_size),
                )
            )
        return trusted

    async def _newest_at(self) -> str | None:
        at = await self._conn.fetchval("SELECT max(anchored_at) FROM audit.checkpoint")
        return None if at is None else at.isoformat()

    async def _upper_tiles(
        self, head: Head | None, first: int, end: int, trusted: Sequence[Checkpoint]
    ) -> dict[tuple[int, int], bytes]:
        beside = [c for c in trusted if not first < c.size <= end] + list(trusted[-1:])
        size = self._report.head_size
        wanted = store.over(first, end).union(
            *(store.edge_tiles(c.size) for c in beside if c.size <= size), store.edge_tiles(size)
        )
        tiles: dict[tuple[int, int], bytes] = {}
        for level, index in sorted(wanted):
            if head is not None and level < len(head.edge.levels) and index == size >> 8 * (level + 1):
                data: bytes | None = b"".join(head.edge.levels[level])
            else:
                data = await self._conn.fetchval(_UPPER, level, index)
            if data:
                tiles[level, index] = data
        return tiles

    async def _stream(
        self,
        checker: Checker,
        tiles: Mapping[tuple[int, int], bytes],
        first: int,
        end: int,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Any, Any]:
        earliest = latest = None
        for index in range(first // WIDTH, (end + WIDTH - 1) // WIDTH, _TILES_AT_ONCE):
            last = min(index + _TILES_AT_ONCE, (end + WIDTH - 1) // WIDTH)
            rows = await store.read_records(self._conn, index * WIDTH, min(end, last * WIDTH))
            stored = {row["idx"]: row["hashes"] for row in await self._conn.fetch(_TILES, index, last)}
            entries = {row["seq"]: _entry(row) for row in rows}
            # Hashing and parsing would hold the event loop for tens of milliseconds.
            await asyncio.to_thread(_feed, checker, range(index, last), stored, tiles, entries)
            times = [row["db_at"] for row in rows]
            if times:
                earliest = min(times) if earliest is None else min(earliest, *times)
                latest = max(times) if latest is None else max(latest, *times)
            if progress is not None:
                progress(min(end, last * WIDTH) - first, end - first)
        return earliest, latest

    async def _count(self, checker: Checker, size: int, bounds: tuple[Any, Any]) -> None:
        """What stands beside the tree: records and leaf rows without a place, the intake, the quarantine."""
        report = self._report
        for row in await self._conn.fetch(_UNSEALED, *bounds):
            who = f"{row['actor']} {row['action']}" + (f" {row['obj_type']}/{row['obj_id']}" if row["obj_type"] else "")
            lost = checker.missing.get(leaf_hash(row["body"].encode()))
            if lost is not None:  # one cause, one finding: its leaf row is gone or points elsewhere
                lost.record_id, lost.written_by = row["id"], who
                lost.detail += "; the record is still there, its leaf row is not"
                continue
            month = row["db_at"].strftime("%Y_%m")
            detail = "this record was not filed by a sealer: it has no place in the tree"
            report.add(Finding("UNSEALED_RECORD", detail, record_id=row["id"], written_by=who, partition=month))
        for row in await self._conn.fetch(_BEYOND, size):
            report.add(
                Finding("UNSEALED_RECORD", f"leaf row {row['seq']} lies beyond the head {size}", record_id=row["id"])
            )
        for row in await self._conn.fetch(_QUARANTINE):
            if row["n"] is not None:  # strays among the records are found above
                detail = f"intake row {row['n']} was no genuine record and is in quarantine since {row['found_at'].isoformat()}"
                report.add(Finding(row["code"], detail, record_id=row["id"]))
        pending = await self._conn.fetchrow(_PENDING)
        report.pending = pending["pending"]
        if report.pending and pending["age"] > STALE_SECONDS:
            detail = f"{report.pending} record(s) wait for the sealer, the oldest for {pending['age']:.0f} s; is the background process running?"
            report.add(Finding("STALE", detail))


def _feed(
    checker: Checker,
    indexes: range,
    stored: Mapping[int, bytes],
    tiles: Mapping[tuple[int, int], bytes],
    entries: Mapping[int, Entry],
) -> None:
    for index in indexes:
        checker.feed(index, stored.get(index, tiles.get((0, index))), entries)


def _entry(row: asyncpg.Record) -> Entry:
    if not row["filed"]:
        return Entry(
            row["seq"], None, row["id"], row["leaf"], row["chain"], db_at=row["db_at"], sealed_at=row["sealed_at"]
        )
    columns = {name: row[name] for name in COLUMNS} | {"leaf": row["record_leaf"]}
    return Entry(
        row["seq"],
        row["body"].encode(),
        row["id"],
        row["leaf"],
        row["chain"],
        columns,
        row["kid"],
        row["mac"],
        row["db_at"],
        row["sealed_at"],
    )


# ---------- GraphQL ----------
def position(number: float) -> int:
    """A place in the log or its size: Float in the schema, whole in fact. ``BAD_REQUEST`` for any other."""
    if not (math.isfinite(number) and number == int(number) and abs(number) <= MAX_INTEGER):
        raise ConsoleError("BAD_REQUEST", "A place in the log is a whole number below 2^53.")
    return int(number)


async def verification(
    pool: asyncpg.Pool[Any], trust: Trust, from_seq: float | None = None, to_seq: float | None = None
) -> dict[str, Any]:
    """``verifyAudit``: at most 100,000 records; without a range, the newest ones. Raises ``BAD_REQUEST`` for a wrong range."""
    size = await pool.fetchval("SELECT size FROM audit.head") or 0
    last = size - 1 if to_seq is None else position(to_seq)
    first = max(0, last - MAX_RANGE + 1) if from_seq is None else position(from_seq)
    if first < 0 or (size and first > min(last, size - 1)):
        raise ConsoleError("BAD_REQUEST", "There are no records in this range.")
    if last - first >= MAX_RANGE:
        raise ConsoleError("LIMIT_EXCEEDED", f"At most {MAX_RANGE} records are verified at once; give a shorter range.")
    report = await verify(pool, trust, first, last)
    return as_dict(report)


def as_dict(report: Report) -> dict[str, Any]:
    """A report with the fields of ``AuditVerification``."""
    return {
        "ok": report.exit_code == 0,
        "fromSeq": float(report.from_seq),
        "toSeq": float(report.to_seq),
        "checked": report.checked,
        "headSize": float(report.head_size),
        "headHash": report.head_root.hex(),
        "checkpointSize": None if report.checkpoint is None else float(report.checkpoint.size),
        "firstBadSeq": None if report.first_bad_seq is None else float(report.first_bad_seq),
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "seq": None if finding.seq is None else float(finding.seq),
                "fromSeq": None if finding.seq is None else float(finding.seq),
                "toSeq": None if finding.to_seq is None else float(finding.to_seq),
                "recordId": finding.record_id,
                "expected": finding.expected,
                "found": finding.found,
                "writtenBy": finding.written_by,
                "neighboursIntact": finding.neighbours_intact,
                "text": finding.text,
            }
            for finding in report.findings
        ],
        "findingCount": report.finding_count,
        "trusted": [
            name for name in ("KEY", "PIN", "ANCHOR", "WITNESS", "WRITER_MAC", "STATE") if name in report.trusted
        ],
        "notChecked": report.not_checked,
        "erasedFields": report.erased,
        "pending": report.pending,
    }


async def proof(
    pool: asyncpg.Pool[Any], record_id: str | None = None, *, seq: int | None = None
) -> dict[str, Any] | None:
    """``AuditProof`` of a record by id or place, under the newest checkpoint; None when there is none, or it is not anchored yet."""
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        if record_id is not None:
            try:
                seq = await conn.fetchval("SELECT seq FROM audit.leaf WHERE id = $1", UUID(record_id))
            except ValueError:
                return None
        leaf = await conn.fetchrow("SELECT id::text AS id, leaf FROM audit.leaf WHERE seq = $1", seq)
        newest = await conn.fetchrow(_CHECKPOINTS + " ORDER BY size DESC LIMIT 1")
        if leaf is None or seq is None or newest is None or newest["size"] <= seq:
            return None
        path = await store.inclusion(conn, await store.read_head(conn), seq, newest["size"])
    return {
        "recordId": leaf["id"],
        "seq": float(seq),
        "hash": leaf["leaf"].hex(),
        "size": float(newest["size"]),
        "rootHash": newest["root"].hex(),
        "path": [value.hex() for value in path],
        "checkpoint": newest["note"],
        "bundle": proof_text(seq, path, newest["note"]),
    }


async def checkpoint(pool: asyncpg.Pool[Any], size: float | None = None) -> dict[str, Any] | None:
    """``AuditCheckpoint`` of a size; the newest without one."""
    wanted = None if size is None else position(size)
    row = await pool.fetchrow(
        _CHECKPOINTS + " WHERE $1::bigint IS NULL OR size = $1 ORDER BY size DESC LIMIT 1", wanted
    )
    return None if row is None else _checkpoint(row)


async def checkpoints(
    pool: asyncpg.Pool[Any], *, limit: int = 100, after_size: int | None = None, descending: bool = True
) -> list[dict[str, Any]]:
    """A page of ``AuditCheckpoint``; ``after_size`` is the last size of the page before."""
    order = "DESC" if descending else "ASC"
    past = "<" if descending else ">"
    sql = f"{_CHECKPOINTS} WHERE $1::bigint IS NULL OR size {past} $1 ORDER BY size {order} LIMIT $2"
    return [_checkpoint(row) for row in await pool.fetch(sql, after_size, limit)]


def _checkpoint(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "size": float(row["size"]),
        "rootHash": row["root"].hex(),
        "note": row["note"],
        "signedBy": signers(row["note"]),
        "cosignedBy": [],
        "at": timestamp(row["made_at"]),
        "anchoredAt": timestamp(row["anchored_at"]),
        "anchor": row["anchor"],
        "worm": False,
    }


__all__ = ["Trust", "as_dict", "checkpoint", "checkpoints", "health", "proof", "verification", "verify"]
