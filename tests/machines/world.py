"""One console per machine, on an event loop of its own, with a real log and a clock that a step may move.

Hypothesis runs its steps without a loop, so ``World.run`` does. Examples share the database: each works in a city of its
own, so nobody of another example may see, vote on or claim what is its.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from audit.anchor import DirectoryAnchor
from audit.keys import Keys, Signer
from audit.live import Trust, verify
from audit.sealer import Sealer
from audit.writer import Writer
from db.pool import open_pool
from schema.errors import ConsoleError
from services.money.rules import RESERVING
from tests import factories
from tests.conftest import Database
from tests.services.bench import Bench, CrashError, Done, build

ORIGIN = "test/audit"
# What the console's clock says; a step replaces it, for every connection at once.
_CLOCK = """
CREATE OR REPLACE FUNCTION console_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT transaction_timestamp() + interval '{} seconds' $$
"""
_RECORDS = """
SELECT body FROM (SELECT i.n, i.body, 1 AS place FROM audit.intake i
UNION ALL SELECT l.seq, r.body, 0 FROM audit.record r JOIN audit.leaf l ON l.id = r.id) AS every ORDER BY place, n
"""
_DEEDS = """
SELECT (SELECT count(*) FROM refund) AS "refund.request", (SELECT count(*) FROM note) AS "case.note",
  (SELECT count(*) FROM macro_run) AS "macro.run",
  (SELECT count(*) FROM timeline WHERE kind IN ('message_delivered', 'message_failed')) AS "message.settle"
"""
TIMED = frozenset({"lease.expire", "approval.expire", "approval.warn", "decision.expire"})


def _approved(record: Mapping[str, Any]) -> bool:
    """Whether the record is of an approved request's execution."""
    return (record["approval"] or {}).get("step") == "EXECUTED"


@dataclass(frozen=True)
class Said:
    """What an attempt was told: a code of refusal, or the outcome with what was done."""

    outcome: str
    done: Done | None = None

    @property
    def ok(self) -> bool:
        return self.done is not None


@dataclass
class World:
    """The console, its sealer, and what was asked of it so far."""

    loop: asyncio.AbstractEventLoop
    bench: Bench
    sealer: Sealer
    trust: Trust
    reader: asyncpg.Pool[Any]
    clock: int = 0  # seconds ahead of the machine's
    attempts: int = 0
    timed: int = 0  # deeds the timers said they did
    cities: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def run(self, work: Awaitable[Any]) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(60):
                return await work

        return self.loop.run_until_complete(limited())

    # ---------- what people do ----------
    async def ask(self, who: str, name: str, **arguments: Any) -> Said:
        """One attempt; a refusal is an answer, anything but a ``ConsoleError`` is a bug and ends the example."""
        self.attempts += 1
        try:
            done = await self.bench.do(who, name, **arguments)
        except ConsoleError as error:
            if error.code == "INTERNAL":
                raise
            return Said(error.code)
        return Said(done.outcome, done)

    def at_once(self, *attempts: Coroutine[Any, Any, Any]) -> list[Any]:
        """Interleave attempts on two connections, as the database happens to."""

        async def both() -> list[Any]:
            return list(await asyncio.gather(*attempts))

        found: list[Any] = self.run(both())
        return found

    # ---------- time and the background ----------
    def tick(self, seconds: int) -> None:
        self.clock += seconds
        self.run(self.bench.conn.execute(_CLOCK.format(self.clock)))

    def now(self) -> datetime:
        found: datetime = self.run(self.bench.conn.fetchval("SELECT console_now()"))
        return found

    def timers(self) -> None:
        self.timed += self.run(self.bench.worker.run_timers())

    async def seal(self) -> None:
        while (await self.sealer.run_once()).records:
            pass
        await self.sealer.anchor_once()

    async def deliver(self, *, crash: bool = False, point: str = "after_kernel_effect") -> None:
        """A round of the outbox; ``crash``: the process dies after the other system's effect and before our note."""
        if crash:
            self.bench.faults.armed[point] = CrashError()
        before = asyncio.all_tasks()
        try:
            await self.bench.worker.deliver()
        except CrashError:
            # In this process the deliveries beside the one that died go on: their end belongs to this step.
            if beside := asyncio.all_tasks() - before:
                await asyncio.wait(beside)
        finally:
            self.bench.faults.armed.clear()

    # ---------- what must hold ----------
    async def look(self, sql: str, *args: object) -> list[Any]:
        return list(await self.bench.conn.fetch(sql, *args))

    async def records(self) -> list[dict[str, Any]]:
        return [orjson.loads(row["body"]) for row in await self.look(_RECORDS)]

    async def check_log(self) -> None:
        """Seal, anchor and verify everything; each attempt left one record of its own, each system deed one."""
        await self.seal()
        if self.attempts + self.timed == 0:
            return  # the first example may be over before anything was asked: an empty log proves nothing
        report = await verify(self.reader, self.trust)
        assert (report.exit_code, report.pending) == (0, 0), report.lines()
        assert {finding.code for finding in report.findings} <= {"CLOCK_SKEW"}, report.lines()
        records = await self.records()
        assert report.checked == report.head_size == len(records), (report.checked, report.head_size, len(records))
        own = [one for one in records if one["kind"] in ("mutation", "denied") and one["cause"] is None]
        assert len({one["request"]["id"] for one in own}) == len(own) == self.attempts
        system = [one["action"] for one in records if one["kind"] == "system"]
        assert sum(action in TIMED for action in system) == self.timed
        settled = await self.look(
            "SELECT sum(version - 2 - (approval_request_id IS NOT NULL)::int) AS moves FROM refund"
            " WHERE id IN (SELECT key FROM outbox)"
        )
        assert system.count("refund.settle") == (settled[0]["moves"] or 0)
        allowed = [one for one in records if one["decision"]["verdict"] == "ALLOWED"]
        assert sum(_approved(one) for one in allowed) == await self.bench.conn.fetchval(
            "SELECT count(*) FROM approval_execution"
        )
        await self._check_deeds(allowed)

    async def _check_deeds(self, allowed: list[dict[str, Any]]) -> None:
        """Each row that somebody made has the one record that made it, whether he made it himself or a macro's step did."""
        made = Counter(
            one["action"]
            for one in allowed
            if one["result"]["outcome"] in ("EXECUTED", "PENDING_APPROVAL") and not _approved(one)
        )
        (rows,) = await self.look(_DEEDS)
        assert dict(rows) == {action: made[action] for action in rows.keys()}  # noqa: SIM118  a Record


@asynccontextmanager
async def opened(database: Database, folder: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:

        async def pools(role: str, *, size: int = 4, clock_offset_seconds: int = 0) -> asyncpg.Pool[Any]:
            pool = await open_pool(database.dsn(role, clock_offset_seconds), size=size)
            stack.push_async_callback(pool.close)
            return pool

        # A pool in the place of the bench's one connection: two attempts at once also look at the same time.
        looking: Any = await asyncpg.create_pool(min_size=1, max_size=3, **database.superuser)
        stack.push_async_callback(looking.close)
        bench = await build(database, pools, folder, looking)
        keys, signer = Keys.open(folder), Signer.open(folder / "signer", ORIGIN)
        anchor = DirectoryAnchor(folder / "anchor")
        sealer = Sealer(
            database.dsn("cs_sealer"), keys=keys, signer=signer, anchor=anchor, writer=Writer(keys, origin=ORIGIN)
        )
        stack.push_async_callback(sealer.close)
        stack.push_async_callback(bench.writer.close)
        stack.push_async_callback(bench.pipeline.close)
        trust = Trust(ORIGIN, (signer.vkey,), keys.writer_keys, anchor.directory)
        yield World(asyncio.get_running_loop(), bench, sealer, trust, await pools("cs_audit_reader"))


# ---------- money, asked by two machines ----------
_SUMS = """
SELECT l.order_id, l.captured_minor - l.succeeded_minor - l.reserved_minor - l.disputed_minor AS refundable,
  l.captured_minor AS captured, l.succeeded_minor AS succeeded, l.reserved_minor AS reserved,
  coalesce(sum(r.amount_minor) FILTER (WHERE r.state = ANY ($2)), 0) AS held,
  coalesce(sum(r.amount_minor) FILTER (WHERE r.state = 'SUCCEEDED'), 0) AS paid
FROM order_ledger l LEFT JOIN refund r ON r.order_id = l.order_id WHERE l.city_id = $1 GROUP BY l.order_id
"""
# What one caller did alone, within any 24 hours that end with one of these deeds, for one buyer.
_ALONE = """
SELECT r.requester_id, (SELECT sum(e.amount_minor) FROM refund e
  WHERE e.requester_id = r.requester_id AND e.buyer_id = r.buyer_id
    AND e.approval_request_id IS NULL AND e.approved_by_ids = '{}'
    AND e.state NOT IN ('FAILED', 'CANCELED') AND e.created_at > r.created_at - interval '24 hours'
    AND e.created_at <= r.created_at) AS lately
FROM refund r WHERE r.city_id = $1 AND r.approval_request_id IS NULL AND r.approved_by_ids = '{}'
  AND r.state NOT IN ('FAILED', 'CANCELED')
"""
_REQUESTS = """
SELECT a.*, r.state AS refund, r.approved_by_ids, r.requester_id AS asked_by, r.amount_minor AS refunded,
  (SELECT count(*) FROM approval_execution e WHERE e.request_id = a.id) AS executions,
  (SELECT count(*) FROM outbox o WHERE o.key = a.entity_id) AS departures,
  ARRAY (SELECT v.voter_id FROM approval_vote v WHERE v.request_id = a.id AND v.vote = 'APPROVE'
    AND v.counts AND v.withdrawn_at IS NULL) AS quorum
FROM approval_request a JOIN refund r ON r.id = a.entity_id WHERE a.city_id = $1
"""
ENDED = {"REJECTED": "REJECTED", "CANCELED": "CANCELED", "EXPIRED": "EXPIRED", "INVALIDATED": "CANCELED"}
LARGE = 200_000


def ask_refund(order_id: str, amount: int, key: str) -> dict[str, Any]:
    return {
        "orderId": order_id,
        "amount": {"amountMinor": amount, "currency": "EUR"},
        "idempotencyKey": key,
        "reason": {"code": "QUALITY_ISSUE"},
    }


async def check_sums(world: World, city: str) -> None:
    """Money never negative, and the ledger says what its refunds' states add up to."""
    for row in await world.look(_SUMS, city, sorted(RESERVING)):
        assert row["refundable"] >= 0, row
        assert (row["reserved"], row["succeeded"]) == (row["held"], row["paid"]), row
        assert row["reserved"] + row["succeeded"] <= row["captured"], row


async def check_alone(world: World, city: str, ceilings: Mapping[str, int]) -> None:
    """Nobody did more alone, within 24 hours and for one buyer, than his ceiling (by person)."""
    for row in await world.look(_ALONE, city):
        assert row["lately"] <= ceilings[row["requester_id"]], row


async def check_requests(world: World, city: str) -> list[Any]:
    """An approved request executes once, by a quorum without its requester; one that ended moved nothing."""
    rows = await world.look(_REQUESTS, city)
    for row in rows:
        executed = row["execution"] == "EXECUTED"
        assert row["executions"] == row["departures"] == executed, row
        if executed:
            quorum = set(row["approved_by_ids"])
            assert len(quorum) == len(row["approved_by_ids"]) >= (2 if row["window_sum_minor"] > LARGE else 1), row
            assert row["requester_id"] == row["asked_by"] not in quorum, row
            assert quorum <= set(row["quorum"]), row
            assert row["created_at"] <= row["executed_at"] < row["execute_by"], row
            assert row["closed_at"] < row["approve_by"], row
        # What a request is about moves only with the request: nothing else ever stood in its way.
        assert row["invalidated_because"] != "INVALID_TRANSITION", row
        if not executed and row["execution"] != "EXPIRED":
            assert row["refund"] == ENDED.get(row["state"], "PENDING_APPROVAL"), row
    return rows


async def ballot(world: World, who: str, request_id: str, vote: str) -> Said:
    shown = await world.bench.row("approval_request", request_id)
    given = {"requestId": request_id, "vote": vote, "payloadHash": shown["payload_hash"]}
    said = await world.ask(who, "voteOnApproval", input=given)
    assert said.outcome != "INVALID_TRANSITION", "a vote met a request that somebody was just ending"
    return said


async def hire(world: World, city: str, *grants: tuple[str, str]) -> list[str]:
    """One person per (role, tier), with rights in this city only."""
    people = [await factories.staff(world.bench.conn, role, tier, cities=(city,)) for role, tier in grants]
    await world.bench.authorizer.current(await world.bench.conn.fetchval("SELECT version FROM authz_version"))
    return people
