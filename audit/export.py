"""Export bundles: a contiguous part of the log as a static C2SP tlog-tiles log, verifiable with nothing but the public key.

Whole bundles of 256 records are exported, as the tree's tiles need them; the manifest says what was asked and what is in.
Every export is itself a record, which carries the digest of the manifest.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from audit import store
from audit.merkle import HASH, WIDTH, entry_bundle, tile_path
from audit.record import new_record, timestamp
from audit.store import Head
from db.unit_of_work import uuid7
from schema.errors import ConsoleError

_BUNDLES_AT_ONCE: Final = 4
_NEWEST: Final = "SELECT size, root, note FROM audit.checkpoint ORDER BY size DESC LIMIT 1"
_BETWEEN: Final = "SELECT size, note, anchored_at FROM audit.checkpoint WHERE size > $1 AND size <= $2 ORDER BY size"
_CHAIN: Final = "SELECT chain FROM audit.leaf WHERE seq = $1"

Recorder = Callable[[dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True)
class Exported:
    """What was written: the records in it, the checkpoint they are under, and the digest that the export's record carries."""

    from_seq: int
    to_seq: int
    size: int
    manifest_digest: str
    record_id: str


class _Directory:
    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)  # an existing one is not written into
        self._path: Final = path

    def add(self, name: str, data: bytes) -> None:
        file = self._path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def close(self) -> None:
        """Nothing is held open."""


class _Tar:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._tar: Final = tarfile.open(path, "x")  # noqa: SIM115  (closed by close)

    def add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()


async def export(
    pool: asyncpg.Pool[Any],
    out: Path,
    *,
    actor: Mapping[str, Any],
    recorder: Recorder,
    vkeys: Sequence[str] = (),
    from_seq: int | None = None,
    to_seq: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the records from_seq..to_seq (default: all that are anchored) to a directory, or to a tar when ``out`` ends so.

    ``recorder`` makes the export's own record durable and is awaited before this returns. Raises ``BAD_REQUEST`` for a
    range that is not anchored, and FileExistsError rather than write into something that is there.
    """
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        newest = await conn.fetchrow(_NEWEST)
        size = newest["size"] if newest else 0
        first, last = from_seq or 0, size - 1 if to_seq is None else to_seq
        if not 0 <= first <= last < size:
            raise ConsoleError(
                "BAD_REQUEST", f"Records 0..{size - 1} are anchored and can be exported; {first}..{last} cannot."
            )
        start, end = first - first % WIDTH, min(size, last + WIDTH - last % WIDTH)
        bundle = _Tar(out) if out.suffix == ".tar" else _Directory(out)
        try:
            head = await store.read_head(conn)
            job = _Job(conn, head, bundle, size, {})
            await job.tiles(start, end)
            await job.entries(start, end, progress)
            job.add("checkpoint", newest["note"].encode())
            notes = [
                {"size": row["size"], "note": row["note"], "anchoredAt": timestamp(row["anchored_at"])}
                for row in await conn.fetch(_BETWEEN, start, size)
            ]
            job.add("checkpoints.jsonl", "".join(json.dumps(note) + "\n" for note in notes).encode())
            job.add(
                "keys.txt", "".join(f"{key}\n" for key in vkeys).encode()
            )  # information: trust comes from elsewhere
            record_id = str(uuid7())
            before, after = await conn.fetchval(_CHAIN, start - 1), await conn.fetchval(_CHAIN, end - 1)
            manifest = {
                "version": 1,
                "at": timestamp(datetime.now(UTC)),
                "requested": {"from": first, "to": last},
                "entries": {"from": start, "to": end - 1, "count": end - start},
                "size": size,
                "filter": None,
                "record": record_id,
                "chain": {"before": before.hex() if before else None, "after": after.hex()},
                "files": job.digests,
            }
            data = json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"
            bundle.add("manifest.json", data)
        finally:
            bundle.close()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    await recorder(_record(record_id, actor, digest, start, end))
    return Exported(start, end - 1, size, digest, record_id)


@dataclass
class _Job:
    conn: Any
    head: Head
    bundle: _Tar | _Directory
    size: int
    digests: dict[str, str]

    def add(self, name: str, data: bytes) -> None:
        self.bundle.add(name, data)
        self.digests[name] = "sha256:" + hashlib.sha256(data).hexdigest()

    async def tiles(self, start: int, end: int) -> None:
        """The tiles over the range and the right edge of the tree, as wide as the checkpoint's size makes them."""
        lowest = {(0, index) for index in range(start // WIDTH, (end - 1) // WIDTH + 1)}
        for level, index in sorted(lowest | store.over(start, end) | set(store.edge_tiles(self.size))):
            if width := store.width_of(self.size, level, index):
                hashes = await store.read_tile(self.conn, self.head, level, index)
                self.add(tile_path(level, index, width), hashes[: HASH * width])

    async def entries(self, start: int, end: int, progress: Callable[[int, int], None] | None) -> None:
        for index in range(start // WIDTH, (end - 1) // WIDTH + 1, _BUNDLES_AT_ONCE):
            rows = await store.read_records(self.conn, index * WIDTH, min(end, (index + _BUNDLES_AT_ONCE) * WIDTH))
            await asyncio.to_thread(self._bundles, rows)
            if progress is not None:
                progress(min(end, (index + _BUNDLES_AT_ONCE) * WIDTH) - start, end - start)

    def _bundles(self, rows: Sequence[asyncpg.Record]) -> None:
        by_bundle: dict[int, list[bytes]] = {}
        for row in rows:  # what is missing here is missing in the bundle too, and found there
            by_bundle.setdefault(row["seq"] // WIDTH, []).append((row["body"] or "").encode())
        for index, bodies in by_bundle.items():
            self.add(tile_path("entries", index, store.width_of(self.size, 0, index)), entry_bundle(bodies))


def _record(record_id: str, actor: Mapping[str, Any], digest: str, start: int, end: int) -> dict[str, Any]:
    return new_record(
        id=record_id,
        at=datetime.now(UTC),
        kind="export",
        action="audit.export",
        field="",
        actor=actor,
        request={"id": record_id},
        object={"type": "AuditBundle", "id": f"{start}..{end - 1}"},
        objects={"ids": [], "count": end - start, "digest": digest},
        result={"count": end - start, "outcome": "EXECUTED"},
    )
