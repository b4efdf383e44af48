"""How the log lies in PostgreSQL: head, tiles and bodies, read alike by sealer, anchor, verifier and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from audit.merkle import WIDTH, Edge, with_tiles

_HEAD: Final = "SELECT size, root, chain, edge, clock_timestamp() AS now FROM audit.head"
_TILE: Final = "SELECT hashes FROM audit.tile WHERE level = $1 AND idx = $2"
_BODIES: Final = """
SELECT l.seq, l.id::text AS id, l.leaf, l.chain, l.sealed_at, l.db_at, r.body, r.kid, r.mac, r.leaf AS record_leaf,
       r.id IS NOT NULL AS filed, r.w, r.wn, r.kind, r.actor, r.action, r.obj_type, r.obj_id, r.subject, r.city, r.decision,
       r.code, r.policy, r.approval, r.request
  FROM audit.leaf l LEFT JOIN audit.record r ON r.id = l.id AND r.db_at = l.db_at
 WHERE l.seq >= $1 AND l.seq < $2 ORDER BY l.seq
"""


class LogConflictError(Exception):
    """The log is not what was signed or sealed before: ``HEAD_CONFLICT``, ``ROLLBACK``, ``FORK``, … Nothing is signed on it."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code: Final = code
        self.text: Final = text


@dataclass(frozen=True)
class Head:
    """The tree as the database has it. ``root`` is recomputed from the edge, never taken on trust."""

    size: int
    root: bytes
    chain: bytes | None
    edge: Edge
    now: Any  # the database's clock, timestamptz


async def read_head(conn: asyncpg.Connection[Any], *, lock: bool = False) -> Head:
    """The head; with ``lock`` its row is held until the transaction ends. Raises ``HEAD_CONFLICT`` when it contradicts itself."""
    row = await conn.fetchrow(_HEAD + (" FOR UPDATE" if lock else ""))
    if row is None:
        raise LogConflictError("HEAD_CONFLICT", "the head is gone")
    try:
        edge = Edge.load(row["size"], row["edge"])
    except ValueError as error:
        raise LogConflictError("HEAD_CONFLICT", f"{error} {row['size']}") from error
    if edge.root() != row["root"]:
        raise LogConflictError("HEAD_CONFLICT", f"the root of head {row['size']} is not that of its edge")
    return Head(row["size"], row["root"], row["chain"], edge, row["now"])


async def read_tile(conn: asyncpg.Connection[Any], head: Head, level: int, index: int) -> bytes:
    """A tile as far as it is filled; raises ``HEAD_CONFLICT`` when the tree should have it and does not."""
    if level < len(head.edge.levels) and index == head.size >> 8 * (level + 1):
        return b"".join(head.edge.levels[level])
    hashes: bytes | None = await conn.fetchval(_TILE, level, index)
    if hashes is None:
        raise LogConflictError("HEAD_CONFLICT", f"tile {level}/{index} of a tree of {head.size} is missing")
    return hashes


async def root_at(conn: asyncpg.Connection[Any], head: Head, size: int) -> bytes:
    """The root that the tree had at an earlier size."""
    return await with_tiles(_fetcher(conn, head), lambda tiles: tiles.root(size))


async def inclusion(conn: asyncpg.Connection[Any], head: Head, seq: int, size: int) -> list[bytes]:
    return await with_tiles(_fetcher(conn, head), lambda tiles: tiles.inclusion(seq, size))


async def consistency(conn: asyncpg.Connection[Any], head: Head, first: int, second: int) -> list[bytes]:
    return await with_tiles(_fetcher(conn, head), lambda tiles: tiles.consistency(first, second))


def _fetcher(conn: asyncpg.Connection[Any], head: Head) -> Any:
    async def fetch(level: int, index: int) -> bytes:
        return await read_tile(conn, head, level, index)

    return fetch


async def read_records(conn: asyncpg.Connection[Any], start: int, end: int) -> Sequence[asyncpg.Record]:
    """Leaf rows of [start, end) in order, with their records where there are any."""
    rows: Sequence[asyncpg.Record] = await conn.fetch(_BODIES, start, end)
    return rows


def width_of(size: int, level: int, index: int) -> int:
    """How many hashes the tile has in a tree of this size."""
    return max(0, min(WIDTH, (size >> 8 * level) - index * WIDTH))


def edge_tiles(size: int) -> list[tuple[int, int]]:
    """Coordinates of the unfinished tiles of a tree of this size."""
    levels = range((size.bit_length() + 7) // 8)
    return [(level, size >> 8 * (level + 1)) for level in levels if (size >> 8 * level) % WIDTH]


def over(first: int, end: int) -> set[tuple[int, int]]:
    """Coordinates of all tiles of level 1 and up over the records [first, end)."""
    levels = range(1, max(2, (end.bit_length() + 7) // 8 + 1))
    return {(k, i) for k in levels for i in range(first >> 8 * (k + 1), (max(first, end - 1) >> 8 * (k + 1)) + 1)}
