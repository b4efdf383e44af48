"""Rates that processes share: a bucket of tokens is one row, by the database's clock, and outlives them all (RT-1).

A row says when its bucket will be full again. Taking is one statement in a transaction of its own: what is refused afterwards
was tried nevertheless.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import asyncpg

# Under the row's lock, so two who take at once take one after the other.
_TAKE: Final = """
INSERT INTO rate_counter AS c (name, person_id, full_at) VALUES ($1, $2, console_now() + $3)
ON CONFLICT (name, person_id) DO UPDATE SET full_at = greatest(c.full_at, console_now()) + $3
WHERE greatest(c.full_at, console_now()) + $3 <= console_now() + $4
RETURNING full_at
"""
_WAIT: Final = """
SELECT extract(epoch FROM full_at + $3::interval - $4::interval - console_now()) * 1000 FROM rate_counter WHERE name = $1 AND person_id = $2
"""
# A bucket that is full says no more than one that is not there. The time is asked of the row itself too: somebody may be taking.
_FORGET: Final = """
DELETE FROM rate_counter WHERE full_at < console_now() AND (name, person_id) IN (
  SELECT name, person_id FROM rate_counter WHERE full_at < console_now() LIMIT 1000)
"""


async def take(
    conn: asyncpg.Connection[Any], name: str, person_id: str, count: int, *, rate: tuple[float, int]
) -> int | None:
    """Take ``count`` tokens of so many a second up to a burst; None when they were there, else the milliseconds until they will be."""
    per_second, burst = rate
    cost, whole = timedelta(seconds=count / per_second), timedelta(seconds=burst / per_second)
    if cost <= whole and await conn.fetchval(_TAKE, name, person_id, cost, whole) is not None:
        return None
    waiting = await conn.fetchval(_WAIT, name, person_id, cost, whole)
    return max(0, int(waiting or 0)) + 1


async def forget(conn: asyncpg.Connection[Any]) -> None:
    """Delete a batch of full buckets; the background child's."""
    await conn.execute(_FORGET)
