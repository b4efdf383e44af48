"""The one path of writes: order of checks, records of every attempt, keys, revoked rights, crashes at each point."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from authz.caller import Caller
from db import idempotency
from db.unit_of_work import UnitOfWork
from resolvers import registry
from resolvers.pipeline import Pipeline
from schema.build import console
from schema.errors import ConsoleError
from services.cases.claims import ClaimInput
from services.command import Act, Result, Target
from services.money.commands import RequestRefund
from tests import factories
from tests.services.bench import Bench, CrashError, bench

__all__ = ["bench"]

AGENT, FINANCE = "st_agent", "st_finance"


async def people(bench: Bench) -> None:
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id=AGENT)
    await factories.staff(bench.conn, "FINANCE", "SENIOR", id=FINANCE)


def refund(order: str, amount: int = 1_000, key: str = "k", code: str = "QUALITY_ISSUE", **more: Any) -> dict[str, Any]:
    money = {"amountMinor": amount, "currency": "EUR"}
    return {"orderId": order, "amount": money, "idempotencyKey": key, "reason": {"code": code}, **more}


async def code(bench: Bench, who: str, given: dict[str, Any], **how: Any) -> str:
    with pytest.raises(ConsoleError) as caught:
        await bench.do(who, "requestRefund", input=given, **how)
    return caught.value.code


async def count(bench: Bench, table: str) -> int:
    return int(await bench.conn.fetchval(f"SELECT count(*) FROM {table}"))


def test_commands_and_mutations_are_one_set() -> None:
    mutation = console().core.mutation_type
    assert mutation is not None
    assert registry.misfits(mutation.fields) == []
    assert registry.misfits([*mutation.fields, "holdPayout"]) == [
        "Mutation.holdPayout: no command of services/ runs it"
    ]
    assert registry.misfits(name for name in mutation.fields if name != "addNote") == [
        "addNote: a command whose mutation is not in the schema"
    ]


@pytest.mark.contract("AZ-5")
async def test_an_answer_never_depends_on_a_later_check(bench: Bench) -> None:
    """Each attempt breaks all that come later too, and hears of the first alone."""
    await people(bench)
    ops = await factories.staff(bench.conn, "TRUST_SAFETY", "LEAD")
    here = await factories.ledger(bench.conn, disputed_minor=100, charge_refundable=False)
    there = await factories.ledger(bench.conn, city_id="berlin")
    wrong = {"code": "SPAM", "expectedLedgerVersion": 9}
    await bench.do(AGENT, "requestRefund", input=refund(await factories.ledger(bench.conn), key="used"))
    assert await code(bench, ops, refund(there, 99_999_999, **wrong)) == "Unauthorized"
    assert await code(bench, AGENT, refund(there, 99_999_999, **wrong)) == "NOT_FOUND"
    assert await code(bench, AGENT, refund(here, 99_999_999, **wrong)) == "AMOUNT_CEILING_EXCEEDED"
    assert await code(bench, AGENT, refund(here, 40_000, key="used", **wrong)) == "REASON_INVALID"
    assert (
        await code(bench, AGENT, refund(here, 40_000, key="used", expectedLedgerVersion=9)) == "IDEMPOTENCY_KEY_REUSED"
    )
    assert await code(bench, AGENT, refund(here, 40_000, key="new", expectedLedgerVersion=9)) == "DISPUTE_OPEN"


@pytest.mark.contract("AU-3")
async def test_each_attempt_leaves_exactly_one_record(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    await bench.do(AGENT, "requestRefund", input=refund(order))
    await bench.do(AGENT, "requestRefund", input=refund(order))
    await code(bench, AGENT, refund(order, 2))
    await code(bench, AGENT, refund("o_none"))
    records = await bench.records()
    assert [(r["result"]["outcome"], r["decision"]["verdict"], r["decision"]["code"]) for r in records] == [
        ("EXECUTED", "ALLOWED", None),
        ("REPLAYED", "ALLOWED", None),
        ("FAILED", "FAILED", "IDEMPOTENCY_KEY_REUSED"),
        ("FAILED", "DENIED", "NOT_FOUND"),
    ]
    assert len({r["request"]["id"] for r in records}) == 4
    assert records[0]["policy"]["version"] == (await bench.authorizer.current()).version
    assert records[0]["policy"]["row"] is not None
    assert records[3]["object"] == {
        "type": "OrderLedger", "id": "o_none", "version": {"before": None, "after": None}, "city": None,
        "subject": None, "parents": [],
    }  # fmt: skip


class NoLog:
    """An audit log that cannot be written."""

    async def recorder(self, uow: UnitOfWork) -> None:
        raise asyncpg.PostgresError("intake is gone")

    async def reads(self, *_: Any) -> None:
        raise ConsoleError("AUDIT_UNAVAILABLE")


@pytest.mark.contract("FC-2", "AU-3")
async def test_without_the_log_nothing_happens_and_nobody_is_told_why_he_was_refused(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    pipeline = Pipeline(bench.app, bench.authorizer, NoLog(), bench.reader.find, console().rules)
    assert await code(bench, AGENT, refund(order), pipeline=pipeline) == "AUDIT_UNAVAILABLE"
    assert await code(bench, AGENT, refund("o_none"), pipeline=pipeline) == "AUDIT_UNAVAILABLE"
    assert await count(bench, "refund") == 0
    assert (await bench.row("order_ledger", order, column="order_id"))["reserved_minor"] == 0


@pytest.mark.contract("AU-1")
async def test_a_commit_without_a_record_is_refused_by_the_database(bench: Bench) -> None:
    order = await factories.ledger(bench.conn)
    async with bench.app.acquire() as conn:
        with pytest.raises(asyncpg.PostgresError):
            async with conn.transaction():
                await conn.execute("SELECT set_config('countersign.cities', '*', true)")
                await conn.execute("UPDATE order_ledger SET reserved_minor = 1 WHERE order_id = $1", order)


@pytest.mark.contract("ID-1")
async def test_a_crash_before_the_commit_leaves_nothing_and_the_retry_executes(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    bench.faults.armed["before_commit"] = CrashError()
    with pytest.raises(CrashError):
        await bench.do(AGENT, "requestRefund", input=refund(order))
    assert await count(bench, "refund") == await count(bench, "outbox") == await count(bench, "idempotency") == 0
    assert (await bench.do(AGENT, "requestRefund", input=refund(order))).outcome == "EXECUTED"


@pytest.mark.contract("ID-1", "ID-2")
async def test_a_crash_after_the_commit_leaves_it_all_and_the_retry_replays(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    bench.faults.armed["after_commit"] = CrashError()
    with pytest.raises(CrashError):
        await bench.do(AGENT, "requestRefund", input=refund(order))
    assert await count(bench, "refund") == await count(bench, "outbox") == 1
    assert (await bench.do(AGENT, "requestRefund", input=refund(order))).outcome == "REPLAYED"
    assert await count(bench, "refund") == 1


@pytest.mark.contract("AU-4")
async def test_a_client_who_hangs_up_does_not_stop_what_began(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str) -> None:
        if name == "before_commit":
            begun.set()
            await go_on.wait()

    pipeline = Pipeline(bench.app, bench.authorizer, bench.writer, bench.reader.find, console().rules, fault=hold)
    task = asyncio.create_task(bench.do(AGENT, "requestRefund", input=refund(order), pipeline=pipeline))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await pipeline.close()
    assert await count(bench, "refund") == await count(bench, "audit.intake") == 1


@pytest.mark.contract("ID-1", "QL-13")
async def test_the_second_use_of_a_running_key_waits_three_seconds_at_most(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str) -> None:
        if name == "before_commit":
            begun.set()
            await go_on.wait()

    slow = Pipeline(bench.app, bench.authorizer, bench.writer, bench.reader.find, console().rules, fault=hold)
    first = asyncio.create_task(bench.do(AGENT, "requestRefund", input=refund(order), pipeline=slow))
    await begun.wait()
    assert await code(bench, AGENT, refund(order)) == "IDEMPOTENCY_IN_PROGRESS"
    go_on.set()
    assert (await first).outcome == "EXECUTED"
    assert (await bench.do(AGENT, "requestRefund", input=refund(order))).outcome == "REPLAYED"


@pytest.mark.contract("ID-1")
async def test_keys_are_the_callers_own_and_forgotten_after_seven_days(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    await bench.do(AGENT, "requestRefund", input=refund(order))
    assert (await bench.do(FINANCE, "requestRefund", input=refund(order))).outcome == "EXECUTED"
    late = await bench.later(7 * 86_400 + 60)
    assert (await late.do(AGENT, "requestRefund", input=refund(order))).outcome == "EXECUTED"
    async with late.background.acquire() as conn:
        await idempotency.forget(conn)
    left = await bench.conn.fetch("SELECT caller_id FROM idempotency")
    assert [row["caller_id"] for row in left] == [AGENT]


@pytest.mark.contract("AZ-7", "TK-5")
async def test_a_right_revoked_before_the_statement_is_gone(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    await bench.authorizer.current()  # everything cached
    await bench.conn.execute("DELETE FROM staff_grant WHERE staff_id = $1", AGENT)
    assert await code(bench, AGENT, refund(order)) == "Unauthorized"
    await factories.grant(bench.conn, AGENT, "SUPPORT", "AGENT")
    assert (await bench.do(AGENT, "requestRefund", input=refund(order))).outcome == "EXECUTED"
    await bench.conn.execute("UPDATE staff SET state = 'LOCKED' WHERE id = $1", AGENT)
    assert await code(bench, AGENT, refund(order, key="k2")) == "UnauthorizedException"


class Aborting(RequestRefund):
    """Meets a certain abort some times before it goes through."""

    left = 0

    async def execute(self, act: Act[Any], target: Target, entity_id: str | None) -> Result:
        if Aborting.left > 0:
            Aborting.left -= 1
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        return await super().execute(act, target, entity_id)


@pytest.mark.contract("ID-2")
@pytest.mark.parametrize(("aborts", "expected"), [(3, "EXECUTED"), (4, "DEPENDENCY_UNAVAILABLE")])
async def test_certain_aborts_are_repeated_three_times(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, aborts: int, expected: str
) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    monkeypatch.setattr("resolvers.pipeline.COMMANDS", {"requestRefund": Aborting()})
    Aborting.left = aborts
    if expected == "EXECUTED":
        assert (await bench.do(AGENT, "requestRefund", input=refund(order))).outcome == expected
    else:
        assert await code(bench, AGENT, refund(order)) == expected
    assert await count(bench, "refund") == (1 if expected == "EXECUTED" else 0)
    assert await count(bench, "audit.intake") == 1


class Buggy(RequestRefund):
    """Fails in a way nobody foresaw."""

    async def execute(self, *_: Any) -> Result:
        raise LookupError("marker-51c2")


@pytest.mark.contract("AU-3", "BR-5")
async def test_a_bug_is_recorded_without_its_words_and_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    monkeypatch.setattr("resolvers.pipeline.COMMANDS", {"requestRefund": Buggy()})
    with pytest.raises(LookupError):
        await bench.do(AGENT, "requestRefund", input=refund(order))
    [record] = await bench.records()
    assert (record["decision"]["verdict"], record["decision"]["code"]) == ("FAILED", "INTERNAL")
    assert "marker-51c2" not in str(record)
    assert await count(bench, "refund") == 0


async def test_a_busy_row_is_a_retryable_refusal_and_recorded(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    async with bench.conn.transaction():
        await bench.conn.execute("SELECT FROM order_ledger WHERE order_id = $1 FOR UPDATE", order)
        assert await code(bench, AGENT, refund(order)) == "DEPENDENCY_UNAVAILABLE"
    [record] = await bench.records()
    assert record["decision"]["code"] == "DEPENDENCY_UNAVAILABLE"


@pytest.mark.contract("DB-1")
async def test_row_level_security_holds_where_the_first_line_is_removed(
    bench: Bench,
) -> None:
    await people(bench)
    there = await factories.ledger(bench.conn, city_id="berlin")

    async def unscoped(conn: Any, _caller: Caller, _snapshot: Any, _type_name: str, id_: str, _by: Any) -> Any:
        row = await conn.fetchrow("SELECT * FROM order_ledger WHERE order_id = $1", id_)
        if row is None:
            raise ConsoleError("NOT_FOUND")
        return row

    pipeline = Pipeline(bench.app, bench.authorizer, bench.writer, unscoped, console().rules)
    assert await code(bench, AGENT, refund(there), pipeline=pipeline) == "NOT_FOUND"


@pytest.mark.contract("AU-3", "PV-1")
async def test_a_refused_attempt_keeps_what_the_client_made_up_out_of_the_clear(bench: Bench) -> None:
    """A reason code of no list and an id of no object may be anything a person can type."""
    await people(bench)
    order = await factories.ledger(bench.conn)
    assert await code(bench, AGENT, refund(order, code="+351 912 345 678")) == "REASON_INVALID"
    assert await code(bench, AGENT, refund(order, code="SPAM")) == "REASON_INVALID"
    assert await code(bench, AGENT, refund("ana.souza@example.com")) == "NOT_FOUND"
    first, second, third = await bench.records()
    assert (first["reason"], second["reason"]["code"]) == (None, "SPAM")
    assert (third["object"]["type"], third["object"]["id"]) == ("OrderLedger", None)
    assert "object.id" in third["priv"]
    assert "object.id" not in first["priv"]


@pytest.mark.contract("FC-5")
async def test_the_systems_own_deeds_do_not_run_on_a_directory_that_cannot_be_read(bench: Bench) -> None:
    asked: list[bool] = []

    class Corrupt:
        async def current(self, _version: int | None = None, *, writing: bool = False) -> Any:
            asked.append(writing)
            raise ConsoleError("DEPENDENCY_UNAVAILABLE")

    pipeline = Pipeline(bench.background, Corrupt(), bench.writer, bench.reader.find, console().rules)
    with pytest.raises(ConsoleError):
        await pipeline.system("lease.expire", ClaimInput("case_1"))
    assert asked == [True]
