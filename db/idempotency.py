"""Idempotency keys: the result of an effect, stored in the effect's own transaction (security-contract ID-1).

A key row is claimed before any other lock. Whoever claims it second waits for the first one's commit and then finds the
stored result; when the first rolled back, nothing is stored and the second does the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import asyncpg
import orjson

from db.unit_of_work import UnitOfWork
from schema.errors import ConsoleError

KEEP: Final = timedelta(days=7)
LONGEST_KEY: Final = 255

# A row that has outlived its seven days is no row: the same key starts anew.
_CLAIM = """
INSERT INTO idempotency (caller_id, mutation, key, arguments_hash, created_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (caller_id, mutation, key) DO UPDATE
SET arguments_hash = excluded.arguments_hash, result = NULL, created_at = excluded.created_at
WHERE idempotency.created_at < $6
RETURNING key
"""
_STORED = "SELECT arguments_hash, result FROM idempotency WHERE caller_id = $1 AND mutation = $2 AND key = $3"
_STORE = "UPDATE idempotency SET result = $4::jsonb WHERE caller_id = $1 AND mutation = $2 AND key = $3"
_FORGET = """
DELETE FROM idempotency WHERE (caller_id, mutation, key) IN (
  SELECT caller_id, mutation, key FROM idempotency WHERE created_at < console_now() - $1::interval LIMIT 1000)
"""


def arguments_hash(arguments: Mapping[str, Any]) -> bytes:
    """Digest of the canonical arguments; the key itself is no part of them."""
    plain = orjson.loads(orjson.dumps(arguments))
    for level in (plain, plain.get("input")):
        if isinstance(level, dict):
            level.pop("idempotencyKey", None)
    return hashlib.sha256(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).digest()


def check_key(key: str) -> None:
    """Refuse a key that is empty or too long."""
    if not 1 <= len(key) <= LONGEST_KEY:
        raise ConsoleError("BAD_REQUEST", f"idempotencyKey has 1 to {LONGEST_KEY} characters.", field="idempotencyKey")


async def claim(uow: UnitOfWork, caller_id: str, mutation: str, key: str, digest: bytes) -> Mapping[str, Any] | None:
    """Take the key for this unit of work, or return what is stored under it.

    ``IDEMPOTENCY_KEY_REUSED`` when it was used with other arguments; ``IDEMPOTENCY_IN_PROGRESS`` when its first use is
    still running after the lock timeout of three seconds.
    """
    try:
        claimed = await uow.fetchval(_CLAIM, caller_id, mutation, key, digest, uow.now, uow.now - KEEP)
    except asyncpg.LockNotAvailableError as error:
        raise ConsoleError("IDEMPOTENCY_IN_PROGRESS") from error
    if claimed is not None:
        return None
    row = await uow.fetchrow(_STORED, caller_id, mutation, key)
    if row is None or row["result"] is None:  # forgotten or being claimed anew in this very moment
        raise ConsoleError("IDEMPOTENCY_IN_PROGRESS")
    if row["arguments_hash"] != digest:
        raise ConsoleError("IDEMPOTENCY_KEY_REUSED")
    stored: Mapping[str, Any] = orjson.loads(row["result"])
    return stored


async def store(uow: UnitOfWork, caller_id: str, mutation: str, key: str, result: Mapping[str, Any]) -> None:
    """Keep the result under the key claimed by this unit of work."""
    await uow.execute(_STORE, caller_id, mutation, key, orjson.dumps(result).decode())


async def forget(conn: asyncpg.Connection[Any]) -> None:
    """Delete a batch of keys past their time; the background child's."""
    await conn.execute(_FORGET, KEEP)
