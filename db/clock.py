"""The two clocks of a console: this process's judges tokens, the database's judges deadlines (security-contract FC-8)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

Clock = Callable[[], datetime]
NOTED_SECONDS: Final = 5.0  # a process further from the database than this is not ready, and somebody is told
REFUSED_SECONDS: Final = 60.0  # beyond this it approves nothing: it may take a token for valid that ended long ago

_NOW: Final = "SELECT clock_timestamp()"
_PATIENCE: Final = 2.0


def utc_now() -> datetime:
    """The one clock of this process; whoever needs another one for a test is given it."""
    return datetime.now(UTC)


def apart(before: datetime, theirs: datetime, after: datetime) -> float:
    """Seconds that this process is ahead of the database (below 0: behind), between two looks at our clock around one at theirs.

    However long the answer took, only what no delay explains counts.
    """
    if theirs > after:
        return (after - theirs).total_seconds()
    return max(0.0, (before - theirs).total_seconds())


async def measure(conn: asyncpg.Connection[Any], clock: Clock = utc_now) -> float:
    """Seconds that this process is ahead of the database."""
    before = clock()
    theirs: datetime = await conn.fetchval(_NOW, timeout=_PATIENCE)
    return apart(before, theirs, clock())
