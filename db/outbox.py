"""The outbox: calls to other systems, claimed by one deliverer at a time, backed off, and given up in the end.

``enqueue`` is the unit of work's. A claim is a lease: a deliverer that dies leaves the row to be claimed again once
``next_attempt_at`` has passed, so each call is made at least once; its key makes it one effect. Of each lane only the
oldest open row is ever claimed, so two calls about one thing never overtake each other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from db.unit_of_work import Row

ATTEMPTS: Final = 10
FIRST_DELAY: Final = timedelta(seconds=1)
LONGEST_DELAY: Final = timedelta(minutes=5)
OPEN: Final = frozenset(
    {"PENDING", "RETRYING"}
)  # on its way; the other two states are ends, and DEAD may be taken up again

# Only what is anchored leaves: a restored backup may lose a change with its record, never an effect without evidence
# (audit-design, decision 8). A row that somebody else is just claiming still stands open in this statement's snapshot, so
# the ones behind it in its lane wait. What is DEAD holds nobody up; taken up again, it waits for the one that passed it.
_CLAIM = """
UPDATE outbox SET state = 'RETRYING', attempts = attempts + 1, next_attempt_at = $1::timestamptz + $2::interval
WHERE id IN (
  SELECT o.id FROM outbox o
  WHERE o.port = $3 AND o.operation = ANY ($4) AND o.state IN ('PENDING', 'RETRYING') AND o.next_attempt_at <= $1 AND audit.anchored(o.audit_id)
    AND NOT EXISTS (
      SELECT 1 FROM outbox e
      WHERE e.port = o.port AND e.lane = o.lane AND e.state IN ('PENDING', 'RETRYING')
        AND ((e.created_at, e.id) < (o.created_at, o.id)
          OR e.id <> o.id AND e.state = 'RETRYING' AND e.next_attempt_at > $1))
  ORDER BY o.next_attempt_at, o.id LIMIT $5 FOR UPDATE OF o SKIP LOCKED)
RETURNING *
"""
_DELIVERED = """
UPDATE outbox SET state = 'DELIVERED', delivered_at = $2, next_attempt_at = NULL, last_error_code = NULL
WHERE id = $1 AND state <> 'DELIVERED'
"""
_AGAIN = "UPDATE outbox SET next_attempt_at = $2, last_error_code = $3 WHERE id = $1 AND state = 'RETRYING'"
_DEAD = "UPDATE outbox SET state = 'DEAD', next_attempt_at = NULL, last_error_code = $2 WHERE id = $1 RETURNING *"
# The call of a person who takes it up again waits for the record of that, like the first one for its own.
_RETRY = """
UPDATE outbox SET state = 'PENDING', attempts = 0, next_attempt_at = $2, audit_id = $3 WHERE id = $1 AND state = 'DEAD'
RETURNING *
"""


async def claim(
    conn: asyncpg.Connection[Any],
    port: str,
    operations: Sequence[str],
    now: datetime,
    *,
    lease: timedelta,
    limit: int,
) -> list[Row]:
    """Take due rows of one port for ``lease``; nobody else sees them until then."""
    return list(await conn.fetch(_CLAIM, now, lease, port, operations, limit))


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


async def retried(conn: asyncpg.Connection[Any], delivery_id: str, now: datetime, audit_id: str) -> Row | None:
    """Put a row that was given up at the start again, under its old key; None when it was not given up."""
    row: Row | None = await conn.fetchrow(_RETRY, delivery_id, now, audit_id)
    return row


def exhausted(row: Row) -> bool:
    """Whether the attempt just made was the last."""
    return bool(row["attempts"] >= ATTEMPTS)


def worn_out(row: Row) -> bool:
    """Whether every attempt was claimed and none of them ended: whoever makes this call does not survive it."""
    return bool(row["attempts"] > ATTEMPTS)


def delay(attempts: int) -> timedelta:
    """Doubling from a second to five minutes, with a tenth of jitter so that a recovered system is not met by all at once."""
    whole = min(FIRST_DELAY.total_seconds() * 2.0 ** min(attempts, 16), LONGEST_DELAY.total_seconds())
    return timedelta(seconds=whole) * (1 + random.uniform(-0.1, 0.1))  # noqa: S311 (spreads load, guards nothing)
