"""Migrations while people work: no request fails, no lock is held over a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from authz import approval_book
from db import migrate
from tests import factories
from tests.conftest import Database
from tests.machines.workers import Process, process
from tests.machines.world import ask_refund, opened
from tests.services.bench import Bench, bench
from tests.services.test_approvals import FINANCE, asked, people, vote

__all__ = ["bench"]

pytestmark = pytest.mark.contract("RL-8")
CITY, AGENTS = "lisbon", 3
# From which revision on a deed of this release finds everything it needs; before that its people only read.
DEEDS_SINCE = {"claim": "0005", "refund": "0005", "note": "0005", "vote": "0007"}
FIRST = "0003"  # below it lie the tables and the log themselves, which nothing can serve without
LONGEST_LOCK_SECONDS = 1.0
_HELD = """
SELECT DISTINCT l.virtualtransaction || ' ' || l.relation::regclass AS lock FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.locktype = 'relation' AND a.usename = 'cs_owner' AND a.datname = current_database()
  AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


async def test_a_column_that_arrives_between_two_requests_fails_none(bench: Bench) -> None:
    """Each connection has its statements prepared by then: the unit that meets the new table is run once more."""
    await people(bench)
    await vote(bench, FINANCE, await asked(bench, key="before"))
    request = await asked(bench, key="between")
    owner = await asyncpg.connect(**bench.database.as_role("cs_owner"))
    for table in (
        "approval_request",
        "approval_vote",
        "refund",
        "order_ledger",
        "alert",
        "timeline",
        "outbox",
        "event",
    ):
        await owner.execute(f"ALTER TABLE {table} ADD COLUMN arrived text")
    await owner.close()
    assert (await vote(bench, FINANCE, request)).outcome == "EXECUTED"
    assert (await bench.row("approval_request", request["id"]))["execution"] == "EXECUTED"
    await asked(bench, key="after")


@dataclass
class Load:
    """People who work without a pause, each at his own things; what they did and what they were refused."""

    process: Process
    bench: Bench
    agents: list[str]
    cases: list[str]
    order: str
    money: str
    deeds: set[str] = field(default_factory=set)
    done: int = 0
    slowest: float = 0.0
    failed: list[str] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for agent, case in zip(self.agents, self.cases, strict=True):
                group.create_task(self._work(lambda agent=agent, case=case: self._case(agent, case)))  # type: ignore[misc]
            group.create_task(self._work(self._read))
            group.create_task(self._work(self._refund))

    async def _work(self, deed: Callable[[], Awaitable[None]]) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            try:
                await deed()
            except Exception as error:  # noqa: BLE001 - whatever it is: a request that failed
                self.failed.append(f"{sorted(self.deeds)}: {type(error).__name__}: {error}")
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.done += 1
            await asyncio.sleep(0.005)

    async def _read(self) -> None:
        assert await self.process.listed(self.agents[0]) >= set(self.cases)

    async def _case(self, agent: str, case: str) -> None:
        if "claim" not in self.deeds:
            return
        await self.process.attempt(agent, "claimCase", caseId=case)
        row = await self.bench.row("case_file", case)
        if "note" in self.deeds:
            note = {"caseId": case, "body": "Seen.", "internal": True, "idempotencyKey": f"n{factories.number()}"}
            await self.process.attempt(agent, "addNote", input=note)
            row = await self.bench.row("case_file", case)
        given = {"caseId": case, "leaseToken": row["lease_token"], "expectedVersion": row["version"]}
        await self.process.attempt(agent, "releaseCase", input={**given, "reason": {"code": "SHIFT_END"}})

    async def _refund(self) -> None:
        if "refund" not in self.deeds:
            return
        number = factories.number()
        await self.process.attempt(self.money, "requestRefund", input=ask_refund(self.order, 1, f"r{number}"))
        if "vote" in self.deeds:
            request = await asked(self.bench, key=f"v{number}", buyer_id=f"b{number}")
            await vote(self.bench, FINANCE, request)


async def _hired(bench: Bench, world: Any) -> Load:
    conn = bench.conn
    await people(bench)
    queue = await factories.queue(conn)
    return Load(
        process(world),
        bench,
        [await factories.staff(conn, "TRUST_SAFETY") for _ in range(AGENTS)],
        [await factories.case(conn, queue_id=queue) for _ in range(AGENTS)],
        await factories.ledger(conn, captured_minor=50_000_000, buyer_id="buyer"),
        await factories.staff(conn, "FINANCE", "LEAD"),
    )


@pytest.mark.slow
async def test_each_migration_goes_down_and_up_under_load(database: Database, tmp_path: Path) -> None:
    owner = database.as_role("cs_owner")
    held: dict[str, tuple[float, float]] = {}  # lock -> first and last time it was seen
    async with opened(database, tmp_path) as world:
        load = await _hired(world.bench, world)

        async def watch() -> None:
            while not load.over.is_set():
                seen, now = await world.bench.conn.fetch(_HELD), time.monotonic()
                for row in seen:
                    held[row["lock"]] = (held.get(row["lock"], (now, now))[0], now)
                await asyncio.sleep(0.01)

        load.deeds = set(DEEDS_SINCE)
        working = asyncio.gather(load.run(), watch())
        known = migrate.revisions()
        for revision, before in reversed([*zip(known[1:], known, strict=False)]):
            if revision < FIRST:
                break
            load.deeds = {deed for deed, since in DEEDS_SINCE.items() if before >= since}
            await asyncio.sleep(0.5)  # who is at a deed that will not be possible ends it
            done = load.done
            await migrate.downgrade(owner, before)
            await asyncio.sleep(0.3)
            await migrate.upgrade(owner, revision)
            await asyncio.sleep(0.3)
            assert load.done > done, "people worked on"
            assert load.failed == [], revision
            await migrate.downgrade(owner, before)
        load.deeds = set()
        await migrate.upgrade(owner)
        await approval_book.bring(owner)
        load.deeds = set(DEEDS_SINCE)
        await asyncio.sleep(0.5)
        load.over.set()
        await working
        assert load.failed == []
        assert {lock: last - first for lock, (first, last) in held.items() if last - first > LONGEST_LOCK_SECONDS} == {}
        assert load.slowest < LONGEST_LOCK_SECONDS + 2.0
