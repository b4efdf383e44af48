"""The outbox: calls to other systems, claimed by one deliverer at a time, backed off, and given up in the end.

``enqueue`` is the unit of work's. A claim is a lease: a deliverer that dies leaves the row to be claimed again once
``next_attempt_at`` has passed, so each call is made at least once; its key makes it one effect.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from db.unit_of_work import Row

ATTEMPTS: Final = 10
FIRST_DELAY: Final = timedelta(seconds=1)
LONGEST_DELAY: Final = timedelta(minutes=5)

# Only what is anchored leaves: a restored backup may lose a change with its record, never an effect without evidence
# (audit-design, decision 8).
_CLAIM = """
UPDATE outbox SET state = 'RETRYING', attempts = attempts + 1, next_attempt_at = $1::timestamptz + $2::interval
WHERE id IN (
  SELECT id FROM outbox
  WHERE state IN ('PENDING', 'RETRYING') AND next_attempt_at <= $1 AND audit.anchored(audit_id)
  ORDER BY next_attempt_at, id LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING *
"""
_DELIVERED = """
UPDATE outbox SET state = 'DELIVERED', delivered_at = $2, next_attempt_at = NULL, last_error_code = NULL
WHERE id = $1 AND state <> 'DELIVERED'
"""
_AGAIN = "UPDATE outbox SET next_attempt_at = $2, last_error_code = $3 WHERE id = $1 AND state = 'RETRYING'"
_DEAD = "UPDATE outbox SET state = 'DEAD', next_attempt_at = NULL, last_error_code = $2 WHERE id = $1 RETURNING *"


async def claim(conn: asyncpg.Connection[Any], now: datetime, *, lease: timedelta, limit: int) -> list[Row]:
    """Take due rows for ``lease``; nobody else sees them until then."""
    return list(await conn.fetch(_CLAIM, now, lease, limit))


async def delivered(conn: asyncpg.Connection[Any], delivery_id: str, now: datetime) -> None:
    """Note the delivery; in the transaction that notes its effect, where it has one."""
    await conn.execute(_DELIVERED, delivery_id, now)


async def again(conn: asyncpg.Connection[Any], row: Row, now: datetime, code: str) -> None:
    """Put a failed row back, later each time."""
    await conn.execute(_AGAIN, row["id"], now + delay(row["attempts"]), code)


async def dead(conn: asyncpg.Connection[Any], delivery_id: str, code: str) -> Row | None:
    """Give a row up."""
    row: Row | None = await conn.fetchrow(_DEAD, delivery_id, code)
    return row


def exhausted(row: Row) -> bool:
    """Whether the attempt just made was the last."""
    return bool(row["attempts"] >= ATTEMPTS)


def delay(attempts: int) -> timedelta:
    """Doubling from a second to five minutes, with a tenth of jitter so that a recovered system is not met by all at once."""
    whole = min(FIRST_DELAY.total_seconds() * 2.0 ** min(attempts, 16), LONGEST_DELAY.total_seconds())
    return timedelta(seconds=whole) * (1 + random.uniform(-0.1, 0.1))  # noqa: S311 (spreads load, guards nothing)
