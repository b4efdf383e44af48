"""The background child's work but for sealing: numbering events, delivering the outbox, timers, the ports' own word.

Any number of workers may run; each piece of work is taken by one of them (advisory lock, SKIP LOCKED, state checks).
Every change goes through the pipeline with actor ``system``, by the same rules as a person's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from authz.approval_states import EXPIRING_PERCENT
from db import counters, idempotency, locks
from db.pool import Dsn, connection
from db.waiting import waited
from resolvers.deliveries import Deliveries
from resolvers.pipeline import Fault, Pipeline, no_fault
from schema import telemetry
from schema.errors import ConsoleError, described
from services.approvals.commands import RequestInput
from services.cases.claims import ClaimInput
from services.cases.decide import DecisionInput

logger: Final = logging.getLogger(__name__)

WORK_CHANNEL: Final = "countersign_work"  # a commit left something to do
EVENT_CHANNEL: Final = "countersign_event"  # the hubs': the highest position that is there now
EVENTS_AT_ONCE: Final = 500
TIMERS_AT_ONCE: Final = 50
TICK_SECONDS: Final = 1.0  # timers, a port's own word, and what a lost notification would have said
FORGET_EVERY: Final = 600  # ticks between deletions of old idempotency keys and rates

# One sequencer at a time, and only over what is committed: a follower who has seen position n will never find a smaller
# one later (security-contract ID-3). The lock ends with the transaction, so positions appear in order.
_SEQUENCE = "SELECT pg_try_advisory_xact_lock($1)"
_NUMBER = """
WITH top AS (SELECT coalesce(max(position), 0) AS position FROM event),
fresh AS (
  SELECT id, row_number() OVER (ORDER BY id) AS place
  FROM (SELECT id FROM event WHERE position IS NULL ORDER BY id LIMIT $1) AS unnumbered)
UPDATE event SET position = top.position + fresh.place FROM top, fresh WHERE event.id = fresh.id
RETURNING event.position
"""
_NOTIFY = "SELECT pg_notify($1, $2)"

_LEASES = """
SELECT id FROM case_file WHERE lease_token IS NOT NULL AND lease_expires_at <= console_now()
ORDER BY lease_expires_at LIMIT $1
"""
_UNAPPROVED = """
SELECT id FROM approval_request WHERE state = 'PENDING' AND approve_by <= console_now() ORDER BY approve_by LIMIT $1
"""
_UNEXECUTED = """
SELECT id FROM approval_request
WHERE state = 'APPROVED' AND execution IN ('NOT_STARTED', 'FAILED') AND execute_by <= console_now()
ORDER BY execute_by LIMIT $1
"""
_EXPIRING = f"""
SELECT id FROM approval_request
WHERE state = 'PENDING' AND NOT expiring_alerted
  AND created_at + (approve_by - created_at) * {EXPIRING_PERCENT} / 100 <= console_now()
ORDER BY approve_by LIMIT $1
"""  # noqa: S608  a number of ours
_RUN_OUT = """
SELECT id FROM decision WHERE state = 'EFFECTIVE' AND expires_at <= console_now() ORDER BY expires_at LIMIT $1
"""


@dataclass(frozen=True)
class Timer:
    """What is due (ids) and the system's deed for each."""

    due: str
    deed: str
    wanted: Callable[[str], Any]


TIMERS: Final = (
    Timer(_LEASES, "lease.expire", ClaimInput),
    Timer(_UNAPPROVED, "approval.expire", RequestInput),
    Timer(_UNEXECUTED, "approval.expire", RequestInput),
    Timer(_EXPIRING, "approval.warn", RequestInput),
    Timer(_RUN_OUT, "decision.expire", DecisionInput),
)


class Worker:
    """One background process's share of the work."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        pipeline: Pipeline,
        deliveries: Deliveries,
        *,
        listen: Dsn | None = None,
        fault: Fault = no_fault,
    ) -> None:
        """``pool`` and the pipeline's pool are of role cs_worker; ``listen`` is where the wake-up call is heard."""
        self._pool = pool
        self._pipeline = pipeline
        self._deliveries = deliveries
        self._listen = listen
        self._fault = fault
        self._wake = asyncio.Event()
        self._ticks = 0

    # ---------- one round each ----------
    async def number_events(self) -> int:
        """Give the committed events their positions and tell the hubs; how many."""
        await self._fault("before_numbering")
        done = 0
        while True:
            async with connection(self._pool) as conn, conn.transaction():
                if not await conn.fetchval(_SEQUENCE, locks.SEQUENCER):
                    return done  # another worker is the sequencer right now
                positions = [row["position"] for row in await conn.fetch(_NUMBER, EVENTS_AT_ONCE)]
                if positions:
                    await conn.execute(_NOTIFY, EVENT_CHANNEL, str(max(positions)))
            done += len(positions)
            if len(positions) < EVENTS_AT_ONCE:
                return done

    async def deliver(self) -> int:
        """Take what is due and anchored to its port; how many."""
        return await self._deliveries.run_once()

    async def run_timers(self) -> int:
        """Do what the clock calls for; how many deeds were done. One that fails holds up none of the others."""
        done, failures = 0, []
        for timer in TIMERS:
            async with connection(self._pool) as conn:
                ids = [row["id"] for row in await conn.fetch(timer.due, TIMERS_AT_ONCE)]
            for identity in ids:
                try:
                    done += await self._pipeline.system(timer.deed, timer.wanted(identity)) is not None
                except Exception as error:  # noqa: BLE001 - told below, once the others have had their turn
                    failures.append(error)
        if failures:
            raise failures[0]
        return done

    async def settle(self) -> int:
        """Take note of what ports say by themselves; how many words."""
        return await self._deliveries.poll_once()

    # ---------- the loop ----------
    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``: at once when a commit says so, and each second whatever was heard."""
        async with contextlib.AsyncExitStack() as stack:
            loops = [self._events(stop), self._clock(stop)]
            loops += [self._outbox(port, stop) for port in self._deliveries.ports]
            loops += [self._words(port, stop) for port in self._deliveries.speaking]
            tasks = [asyncio.create_task(loop) for loop in loops]
            stack.push_async_callback(_ended, tasks)
            stack.push_async_callback(self._hang_up, await self._hear())
            await stop.wait()
            self._wake.set()

    async def _events(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._safely(self.number_events)
            await waited(self._wake, TICK_SECONDS)
            self._wake.clear()

    # A loop for each port: one that is slow holds up neither another's deliveries nor the timers (FC-11).
    async def _outbox(self, port: str, stop: asyncio.Event) -> None:
        # A delivery waits for its record's anchor, which no notification announces: hence a look every fraction of a tick.
        while not stop.is_set():
            taken = await self._safely(lambda: self._deliveries.run_once(port))
            if not taken:
                await waited(stop, TICK_SECONDS / 4)

    async def _words(self, port: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._safely(lambda: self._deliveries.poll_once(port))
            await waited(stop, TICK_SECONDS)

    async def _clock(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._safely(self.run_timers)
            self._ticks += 1
            if self._ticks % FORGET_EVERY == 0:
                await self._safely(self.forget)
            await waited(stop, TICK_SECONDS)

    async def forget(self) -> int:
        """Delete a batch of what is past its time: idempotency keys, and rates that are full again."""
        async with connection(self._pool) as conn:
            await idempotency.forget(conn)
            await counters.forget(conn)
        return 0

    async def _safely(self, work: Callable[[], Awaitable[int]]) -> int:
        """One round; what fails is logged and comes up again in the next, since it is still in the tables."""
        try:
            return await work()
        except ConsoleError as error:  # the database or the audit log is away: they come back or readiness says so
            logger.warning("background work paused: %s", error.code)
        except Exception as error:  # noqa: BLE001 - the loop goes on: what failed is still in the tables
            logger.error("background work failed: %s", described(error))  # noqa: TRY400 - without the message (PV-1)
        return 0

    async def _hear(self) -> asyncpg.Connection[Any] | None:
        if self._listen is None:
            return None
        try:
            conn: asyncpg.Connection[Any] = await asyncpg.connect(**self._listen.connect_kwargs())
        except (OSError, asyncpg.PostgresError):  # each tick looks anyway
            telemetry.count(telemetry.LISTEN_LOST, labels={"countersign.listener": "work"})
            logger.warning("not listening for work; looking each second instead")
            return None
        await conn.add_listener(WORK_CHANNEL, self._woken)
        return conn

    def _woken(self, *_: object) -> None:
        self._wake.set()

    @staticmethod
    async def _hang_up(conn: asyncpg.Connection[Any] | None) -> None:
        if conn is not None and not conn.is_closed():
            await conn.close(timeout=1)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Let each loop end its round: a deed once begun is not broken off."""
    await asyncio.gather(*tasks)
