"""How far this process's clock is from the database's: readiness tells it, and whoever answers for the console is alerted once.

A process whose clock is wrong goes on with what the database judges (deadlines) and approves nothing (security-contract FC-8).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

import asyncpg

from db.clock import NOTED_SECONDS, Clock, measure, utc_now
from db.pool import connection
from db.waiting import waited
from schema.errors import ConsoleError

# A code, and a sentence without personal data.
Alarm = Callable[[str, str], Awaitable[None]]
CODE: Final = "CLOCK_SKEW"
LOOK_SECONDS: Final = 30.0


class ClockWatch:
    """Looks every half minute until ``stop``; ``probe`` looks when it is asked."""

    def __init__(self, pool: asyncpg.Pool[Any], alarm: Alarm, clock: Clock = utc_now) -> None:
        self._pool = pool
        self._alarm = alarm
        self._clock = clock
        self._told = False  # once until it is right again

    async def probe(self) -> str | None:
        """Why this process is not ready, by its clock."""
        try:
            async with connection(self._pool) as conn:
                ahead = await measure(conn, self._clock)
        except ConsoleError as error:
            return error.message
        except (asyncpg.PostgresError, TimeoutError) as error:
            return f"The database cannot be asked for the time ({type(error).__name__})."
        return f"{_said(ahead)} Set both by one source of time." if abs(ahead) > NOTED_SECONDS else None

    async def look(self) -> None:
        """Measure once, and alert when the clocks have just come apart."""
        async with connection(self._pool) as conn:
            ahead = await measure(conn, self._clock)
        if abs(ahead) <= NOTED_SECONDS:
            self._told = False
        elif not self._told:
            await self._alarm(CODE, _said(ahead))
            self._told = True

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncGenerator[None, None]:
        """Look as long as the block runs."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.run(stop), name="clock watch")
        try:
            yield
        finally:
            stop.set()
            await task

    async def run(self, stop: asyncio.Event) -> None:
        """Look until ``stop``; a database that is away is looked at again."""
        while not stop.is_set():
            with contextlib.suppress(ConsoleError, asyncpg.PostgresError, TimeoutError):
                await self.look()
            await waited(stop, LOOK_SECONDS)


def _said(ahead: float) -> str:
    return f"The clock of a process is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the database's."
