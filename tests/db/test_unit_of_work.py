"""A unit of work commits with its record or not at all, and what leaves carries the record's id."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from db.unit_of_work import Delivery, Event, UnitOfWork, begin, new_id, uuid7
from schema.errors import ConsoleError
from tests.conftest import Database, Pools

INSERT_SUBJECT = "INSERT INTO subject (id, kind, city_id, display_name) VALUES ($1, 'SELLER', 'berlin', $1)"
RECORD_ID = "019a0000-0000-7000-8000-000000000001"


async def _kept(uow: UnitOfWork) -> None:
    """A recorder that keeps its records in the same transaction, where the rollback reaches them."""
    await uow.execute(
        "SELECT set_config('countersign.appended', pg_current_xact_id()::text, true)"
    )  # as audit.append leaves it
    for record in uow.records:
        await uow.execute(
            "INSERT INTO idempotency (caller_id, mutation, key, arguments_hash, created_at) VALUES ('r', 'r', $1, '', now())",
            record["id"],
        )


async def _refuses(_: UnitOfWork) -> None:
    raise asyncpg.PostgresError("the log is full")


async def _look(database: Database, sql: str) -> list[tuple[Any, ...]]:
    conn = await asyncpg.connect(**database.superuser)
    rows = [tuple(row) for row in await conn.fetch(sql)]
    await conn.close()
    return rows


async def test_without_commit_everything_rolls_back(database: Database, pools: Pools) -> None:
    pool = await pools("cs_worker", size=1)
    async with begin(pool, _kept, cities="berlin") as uow:
        await uow.execute(INSERT_SUBJECT, "sub_1")
        uow.record({"id": RECORD_ID})
    with pytest.raises(ValueError, match="a bug"):
        async with begin(pool, _kept, cities="berlin") as uow:
            await uow.execute(INSERT_SUBJECT, "sub_1")
            raise ValueError("a bug")
    assert await _look(database, "SELECT id FROM subject") == []
    async with pool.acquire() as conn:
        assert not conn.is_in_transaction()


@pytest.mark.contract("AU-1")
async def test_no_commit_without_a_record(database: Database, pools: Pools) -> None:
    pool = await pools("cs_worker", size=1)
    with pytest.raises(ConsoleError) as refusal:
        async with begin(pool, _kept, cities="berlin") as uow:
            await uow.execute(INSERT_SUBJECT, "sub_1")
            await uow.commit()
    assert refusal.value.code == "INTERNAL"
    assert await _look(database, "SELECT id FROM subject") == []


@pytest.mark.contract("AU-1")
async def test_a_log_that_refuses_takes_everything_back(database: Database, pools: Pools) -> None:
    pool = await pools("cs_worker", size=1)
    with pytest.raises(ConsoleError) as refusal:
        async with begin(pool, _refuses, cities="berlin") as uow:
            await uow.execute(INSERT_SUBJECT, "sub_1")
            uow.publish(Event("CaseEvent", "berlin", {}, {}))
            uow.record({"id": RECORD_ID})
            await uow.commit()
    assert refusal.value.code == "AUDIT_UNAVAILABLE"
    assert refusal.value.retryable
    assert await _look(database, "SELECT id FROM subject") == []
    assert await _look(database, "SELECT id FROM event") == []


@pytest.mark.contract("ID-3")
async def test_events_and_deliveries_leave_with_the_record(database: Database, pools: Pools) -> None:
    pool = await pools("cs_worker", size=1)
    async with begin(pool, _kept, cities="*") as uow:
        uow.record({"id": RECORD_ID})
        uow.publish(Event("CaseEvent", "berlin", {"caseId": "case_1"}, {"caseKind": "SUPPORT"}))
        delivery = Delivery("kernel", "refund", "rfd_1", ("Refund", "rfd_1"), "berlin", {"amount": 5})
        uow.enqueue(delivery)
        uow.enqueue(delivery)
        now = uow.now
        await uow.commit()
    [(topic, city, payload, facts, at, position)] = await _look(
        database, "SELECT topic, city_id, payload, facts, created_at, position FROM event"
    )
    assert (topic, city, orjson.loads(payload), orjson.loads(facts), at) == (
        "CaseEvent",
        "berlin",
        {"caseId": "case_1"},
        {"caseKind": "SUPPORT"},
        now,
    )
    assert position is None
    rows = await _look(
        database, "SELECT port, operation, key, target_id, audit_id::text, state, next_attempt_at FROM outbox"
    )
    assert rows == [("kernel", "refund", "rfd_1", "rfd_1", RECORD_ID, "PENDING", now)]


async def test_its_clock_is_the_databases_and_tests_can_move_it(pools: Pools) -> None:
    plain, ahead = await pools("cs_app", size=1), await pools("cs_app", size=1, clock_offset_seconds=7200)
    async with begin(plain, _kept, cities="*") as now, begin(ahead, _kept, cities="*") as later:
        assert timedelta(hours=2) <= later.now - now.now < timedelta(hours=2, seconds=5)
        assert now.authz_version == later.authz_version == await now.fetchval("SELECT version FROM authz_version")


@pytest.mark.contract("DB-2")
async def test_two_people_on_one_connection_never_see_each_others_rows(database: Database, pools: Pools) -> None:
    conn = await asyncpg.connect(**database.as_role("cs_owner"))
    for city in ("berlin", "lisbon"):
        await conn.execute("INSERT INTO subject (id, kind, city_id, display_name) VALUES ($1, 'SELLER', $1, $1)", city)
    await conn.close()
    pool = await pools("cs_app", size=1)

    async def look(city: str, *, cancel: bool) -> list[str] | None:
        async def run() -> list[str]:
            async with begin(pool, _kept, cities=city) as uow:
                if cancel:
                    await uow.execute("SELECT pg_sleep(0.02)")
                return [row["id"] for row in await uow.fetch("SELECT id FROM subject")]

        try:
            return await asyncio.wait_for(run(), 0.005 if cancel else 5)
        except TimeoutError:
            return None

    for turn in range(60):
        city = ("berlin", "lisbon")[turn % 2]
        seen = await look(city, cancel=turn % 5 == 4)
        assert seen in ([city], None)
    assert await look("berlin", cancel=False) == ["berlin"]


async def test_what_is_only_tried_leaves_nothing_and_the_deed_around_it_stays_whole(
    database: Database, pools: Pools
) -> None:
    pool = await pools("cs_worker", size=1)
    async with begin(pool, _kept, cities="*") as uow:
        await uow.execute(INSERT_SUBJECT, "kept")
        with pytest.raises(ValueError, match="the step fails"):
            async with uow.savepoint():
                await uow.execute(INSERT_SUBJECT, "undone by the failure")
                async with uow.undone():
                    await uow.execute(INSERT_SUBJECT, "tried")
                    uow.record({"id": "tried"})
                    uow.enqueue(Delivery("Kernel", "submit", "tried", ("Refund", "tried"), None, {}))
                    assert await uow.fetchval("SELECT count(*) FROM subject") == 3
                assert await uow.fetchval("SELECT count(*) FROM subject") == 2
                raise ValueError("the step fails")
        uow.record({"id": RECORD_ID})
        assert (len(uow.records), len(uow.deliveries)) == (1, 0)
        await uow.commit()
    assert await _look(database, "SELECT id FROM subject") == [("kept",)]


@pytest.mark.contract("FC-1")
async def test_a_database_that_is_gone_is_a_dependency_that_does_not_answer(database: Database, pools: Pools) -> None:
    pool = await pools("cs_app", size=1)
    killer = await asyncpg.connect(**database.superuser)
    with pytest.raises(ConsoleError) as refusal:
        async with begin(pool, _kept, cities="*") as uow:
            await killer.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'cs_app'")
            await uow.fetch("SELECT 1")
    await killer.close()
    assert refusal.value.code == "DEPENDENCY_UNAVAILABLE"
    async with begin(pool, _kept, cities="*") as uow:  # the next one has a new connection
        assert await uow.fetchval("SELECT 1") == 1


@pytest.mark.contract("FC-13")
async def test_a_busy_pool_answers_rate_limited(pools: Pools) -> None:
    pool = await pools("cs_app", size=1)
    async with begin(pool, _kept, cities="*"):
        with pytest.raises(ConsoleError) as refusal:
            async with begin(pool, _kept, cities="*"):
                pass
    assert refusal.value.code == "RATE_LIMITED"


def test_ids_are_version_7_and_ordered_by_time() -> None:
    first = uuid7()
    assert (first.version, first.variant) == (7, "specified in RFC 4122")
    assert new_id("ref").startswith("ref_")
    assert len({new_id("ref") for _ in range(1000)}) == 1000
