"""Effect and record commit together or neither; reads are durable before their data leaves; a log that is behind stops both."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.record import leaf
from audit.writer import Limits, Numbers, Writer
from db.unit_of_work import begin
from schema.errors import ConsoleError
from tests.audit.conftest import ORIGIN, Log, record
from tests.conftest import Pools

INSERT = "INSERT INTO case_skip (case_id, staff_id, until) VALUES ('c1', 'u1', now())"
FACTS = """
INSERT INTO staff (id, handle, display_name, email) VALUES ('u1', 'u1', 'U', 'u@example.test');
INSERT INTO sla_policy (id, name, kind, first_response_seconds, resolve_seconds) VALUES ('s1', 's', 'k', 1, 1);
INSERT INTO queue (id, name, kind, sla_policy_id) VALUES ('q1', 'q', 'k', 's1');
INSERT INTO subject (id, kind, city_id, display_name) VALUES ('sub_1', 'SELLER', 'lisbon', 'S');
INSERT INTO case_file (id, kind, subject_id, city_id, content_category, queue_id, created_at, sla_policy_id)
VALUES ('c1', 'k', 'sub_1', 'lisbon', 'SFW', 'q1', now(), 's1');
"""


async def _facts(log: Log) -> None:
    owner = await asyncpg.connect(**log.database.as_role("cs_owner"))
    await owner.execute(FACTS)  # the owner seeds without records
    await owner.close()


@pytest.mark.contract("AU-1")
async def test_effect_record_and_receipt_are_one(log: Log) -> None:
    await _facts(log)
    async with begin(log.app, log.writer.recorder, cities="*") as uow:
        await uow.execute(INSERT)
        uow.record(record(subject_id="sub_1"))
        uow.record(record(action="approval.execute"))
        await uow.commit()
    rows = await log.look("SELECT body, encode(leaf, 'hex') FROM audit.intake ORDER BY n")
    assert [(json.loads(body)["id"], value) for body, value in rows] == [(r.id, r.hash) for r in uow.receipts]
    assert [leaf(body.encode()).hex() for body, _ in rows] == [value for _, value in rows]
    assert await log.look("SELECT count(*) FROM case_skip") == [(1,)]


@pytest.mark.contract("AU-1", "FC-2")
@pytest.mark.parametrize("fault", ["REVOKE EXECUTE ON FUNCTION audit.append(text[], bytea[], bytea[], text[]) FROM cs_app",
                                   "ALTER TABLE audit.intake ADD CONSTRAINT full_disk CHECK (n < 0)",
                                   "ALTER FUNCTION audit.append(text[], bytea[], bytea[], text[]) RENAME TO gone"])  # fmt: skip
async def test_no_record_no_effect(log: Log, fault: str) -> None:
    await _facts(log)
    conn = await asyncpg.connect(**log.database.superuser)
    await conn.execute(fault)
    await conn.close()
    with pytest.raises(ConsoleError) as refusal:
        async with begin(log.app, log.writer.recorder, cities="*") as uow:
            await uow.execute(INSERT)
            uow.record(record())
            await uow.commit()
    assert (refusal.value.code, refusal.value.retryable) == ("AUDIT_UNAVAILABLE", True)
    assert await log.look("SELECT count(*) FROM case_skip") == [(0,)]
    with pytest.raises(ConsoleError, match="audit log"):
        await log.writer.reads(log.app, [record()])


@pytest.mark.contract("FC-2")
async def test_an_append_that_hangs_fails_within_two_seconds(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.writer.APPEND_SECONDS", 0.2)
    blocker = await asyncpg.connect(**log.database.superuser)
    await blocker.execute("BEGIN; LOCK TABLE audit.intake IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(ConsoleError) as refusal:
        await log.writer.reads(log.app, [record()])
    assert refusal.value.code == "AUDIT_UNAVAILABLE"
    await blocker.execute("ROLLBACK")
    await blocker.close()
    assert len(await log.writer.reads(log.app, [record()])) == 1


@pytest.mark.contract("AU-1")
async def test_the_completeness_net_refuses_a_change_without_a_record(log: Log) -> None:
    await _facts(log)
    for role in ("cs_app", "cs_worker"):
        conn = await asyncpg.connect(**log.database.as_role(role))
        with pytest.raises(
            asyncpg.IntegrityConstraintViolationError, match="case_skip was about to commit without an audit record"
        ):
            await conn.execute(INSERT)
        # An append of another transaction does not count.
        await Writer(log.keys, origin=ORIGIN).append_now(conn, [record()])
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await conn.execute(INSERT)
        await conn.close()
    assert await log.look("SELECT count(*) FROM case_skip") == [(0,)]


@pytest.mark.contract("AU-1")
async def test_every_domain_table_is_under_the_net_but_the_carriers(log: Log) -> None:
    rows = await log.look(
        "SELECT relname, EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND tgname = 'audited' AND tgdeferrable) "
        "FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    without = {name for name, covered in rows if not covered}
    assert without == {
        "alembic_version",
        "authz_version",
        "event",
        "outbox",
        "idempotency",
        "kernel_refund",
        "kernel_order",
        "help_message",
        "help_sim",
        "rate_counter",
    }


@pytest.mark.contract("AU-2")
async def test_a_read_is_durable_before_it_answers_and_many_share_a_commit(log: Log) -> None:
    before = await log.look("SELECT pg_current_wal_lsn(), txid_current()")
    receipts = await asyncio.gather(
        *(log.writer.reads(log.app, [record(kind="read"), record(kind="read")]) for _ in range(100))
    )
    after = await log.look("SELECT pg_current_wal_lsn(), txid_current()")
    ids = {receipt.id for pair in receipts for receipt in pair}
    assert len(ids) == 200
    assert await log.look("SELECT count(*) FROM audit.intake") == [(200,)]
    assert after[0][1] - before[0][1] < 20  # a transaction for each would be a hundred
    await log.seal()
    assert (await log.verify()).exit_code == 0


@pytest.mark.contract("AU-4")
async def test_a_caller_who_leaves_leaves_his_record_behind(log: Log) -> None:
    waiting = asyncio.create_task(log.writer.reads(log.app, [record()]))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await log.append(1)
    assert await log.look("SELECT count(*) FROM audit.intake") == [(2,)]


async def test_one_record_that_cannot_be_taken_does_not_refuse_the_others(log: Log) -> None:
    bad = record()
    bad["request"]["id"] = "x" * 40_000
    outcomes = await asyncio.gather(
        *(log.writer.reads(log.app, [one]) for one in (record(), bad, record())), return_exceptions=True
    )
    assert [isinstance(outcome, ConsoleError) for outcome in outcomes] == [False, True, False]
    assert await log.look("SELECT count(*) FROM audit.intake") == [(2,)]


async def test_too_many_waiting_are_refused(log: Log) -> None:
    with pytest.raises(ConsoleError) as refusal:
        await log.writer.reads(log.app, [record()] * 2_001)
    assert refusal.value.code == "AUDIT_UNAVAILABLE"


async def test_a_lost_connection_fails_all_that_wait_and_the_next_go_on(log: Log, pools: Pools) -> None:
    pool = await pools("cs_app", size=1)
    await log.writer.reads(pool, [record()])
    conn = await asyncpg.connect(**log.database.superuser)
    blocker = await asyncpg.connect(**log.database.superuser)
    await blocker.execute("BEGIN; LOCK TABLE audit.intake IN ACCESS EXCLUSIVE MODE")
    waiting = [asyncio.create_task(log.writer.reads(pool, [record()])) for _ in range(3)]
    for _ in range(100):
        if await conn.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'cs_app' AND wait_event_type = 'Lock'"
        ):
            break
        await asyncio.sleep(0.02)
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'cs_app' AND wait_event_type = 'Lock'"
    )
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(outcome, "code", None) for outcome in outcomes] == ["AUDIT_UNAVAILABLE"] * 3
    await blocker.execute("ROLLBACK")
    await blocker.close()
    await conn.close()
    assert len(await log.writer.reads(pool, [record()])) == 1


@pytest.mark.contract("FC-3")
@pytest.mark.parametrize("limits", [Limits(unanchored_seconds=0.0), Limits(intake_rows=2)])
async def test_a_log_that_is_behind_refuses_reads_and_mutations_until_it_has_caught_up(
    log: Log, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.writer.CHECK_SECONDS", 0.0)
    await _facts(log)
    await log.append(3)
    strict = Writer(log.keys, origin=ORIGIN, limits=limits)
    with pytest.raises(ConsoleError, match="too far behind"):
        await strict.reads(log.app, [record()])
    with pytest.raises(ConsoleError) as refusal:
        async with begin(log.app, strict.recorder, cities="*") as uow:
            await uow.execute(INSERT)
            uow.record(record())
            await uow.commit()
    assert refusal.value.code == "AUDIT_UNAVAILABLE"
    assert await log.look("SELECT count(*) FROM case_skip") == [(0,)]
    await log.seal()
    assert len(await strict.reads(log.app, [record()])) == 1
    await strict.close()


async def test_rolled_back_numbers_are_declared_void_and_leave_no_gap(log: Log) -> None:
    await _facts(log)
    await log.append(1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="after the append"):
            async with begin(log.app, log.writer.recorder, cities="*") as uow:
                await uow.execute(INSERT)
                uow.record(record())
                await uow.seal()
                raise RuntimeError("after the append")
    await log.append(2)
    await log.seal()
    bodies = [json.loads(row[0]) for row in await log.look("SELECT body FROM audit.record ORDER BY wn")]
    assert [(body["wn"], body["voided"], body["settled"]) for body in bodies] == [
        (1, [], 1),
        (4, [2, 3], 4),
        (5, [], 2),
    ]
    assert (await log.verify()).exit_code == 0
    assert await log.look("SELECT settled, high, holes FROM audit.writer") == [(4, 5, [])]


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_hole_below_settled_is_always_a_loss(steps: list[tuple[int, bool]]) -> None:
    """Whatever commits and rolls back in whatever order, no record that is there accuses a number that was never committed."""
    numbers, open_, there = Numbers(), [], []
    for pick, committed in steps:
        if open_ and pick < 5:
            drawn = open_.pop(pick % len(open_))
            numbers.end(drawn[0], committed=committed)
            if committed:
                there.append(drawn)
        else:
            open_.append(numbers.draw())
        present = {number for number, _, _ in there} | {void for _, voided, _ in there for void in voided}
        settled = max((bound for _, _, bound in there), default=1)
        assert set(range(1, settled)) <= present


async def test_the_database_takes_no_other_leaf_no_other_length_and_no_weaker_commit(log: Log) -> None:
    conn = await asyncpg.connect(**log.database.as_role("cs_app"))
    append = "SELECT audit.append($1::text[], $2::bytea[], $3::bytea[], $4::text[])"
    body = "{}"
    good: list[Any] = [["k"], [bytes(32)], [leaf(body.encode())], [body]]
    for wrong in (
        [good[0], good[1], [bytes(32)], good[3]],
        [good[0], [bytes(31)], good[2], good[3]],
        [good[0] * 2, good[1], good[2], good[3]],
        [[], [], [], []],
        [good[0], good[1], [leaf(b"x" * 32_769)], ["x" * 32_769]],
    ):
        with pytest.raises(asyncpg.DataError):
            await conn.execute(append, *wrong)
    await conn.execute("CREATE TEMP TABLE intake (n int)")  # a temp table of the same name is not hit
    await conn.execute("SET synchronous_commit = off")
    async with conn.transaction():
        await conn.execute(append, *good)
        assert await conn.fetchval("SHOW synchronous_commit") == "on"
    assert await conn.fetchval("SHOW synchronous_commit") == "off"
    await conn.close()
    assert await log.look("SELECT count(*) FROM audit.intake") == [(1,)]
