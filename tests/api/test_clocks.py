"""A process whose clock is wrong: deadlines stay the database's, approvals wait, readiness tells, somebody is alerted once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from db import clock
from db.clock import apart, utc_now
from resolvers.clock_watch import ClockWatch
from resolvers.pipeline import Pipeline
from schema.build import console
from schema.errors import ConsoleError
from services.alerts.chain import AlarmInput
from tests import factories
from tests.api.stage import Stage
from tests.api.tally import TALLY
from tests.services.bench import Bench, bench
from tests.services.test_approvals import FINANCE, asked, people, vote

__all__ = ["bench"]

REFUND = """mutation($order: ID!) {
  requestRefund(input: {orderId: $order, amount: {amountMinor: 12000, currency: "EUR"}, idempotencyKey: "k", reason: {code: "QUALITY_ISSUE"}}) {
    outcome approvalRequest { id payloadHash } } }"""
VOTE = "mutation($id: ID!, $hash: ID!) { voteOnApproval(input: {requestId: $id, vote: APPROVE, payloadHash: $hash}) { outcome request { execution } } }"
CLAIM = "mutation($id: ID!) { claimCase(caseId: $id) { outcome } }"


@asynccontextmanager
async def shifted(stage: Stage, folder: Path, seconds: int) -> AsyncIterator[Stage]:
    """Another process on the stage's database, with its clock off."""
    TALLY.elsewhere.add(stage.database.name)
    given = json.dumps({"name": stage.database.name, "server": dict(stage.database.server)})
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.api.shifted", str(seconds), str(folder), given,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        async with asyncio.timeout(30):
            address = (await child.stdout.readline()).decode().strip()
        assert address, "the child did not start"
        yield replace(stage, address=address)
    finally:
        child.stdin.close()
        async with asyncio.timeout(30):
            await child.wait()


@pytest.mark.contract("RL-9", "FC-8")
@pytest.mark.parametrize("seconds", [3600, pytest.param(-3600, marks=pytest.mark.slow)])
async def test_an_hour_off_moves_no_deadline_and_approves_nothing(stage: Stage, tmp_path: Path, seconds: int) -> None:
    conn = await asyncpg.connect(**stage.database.superuser)
    try:
        order = await factories.ledger(conn, captured_minor=50_000)
        case = await factories.case(conn)
        async with shifted(stage, tmp_path, seconds) as wrong:
            await _ask_and_vote(conn, stage, wrong, order, case, seconds)
    finally:
        await conn.close()


async def _ask_and_vote(
    conn: asyncpg.Connection[Any], right: Stage, wrong: Stage, order: str, case: str, seconds: int
) -> None:
    # A token that both take for valid: tokens are judged by the process's own clock.
    issued = datetime.now(UTC) + timedelta(seconds=min(seconds, 0))

    async def ask(stage: Stage, who: str, text: str, **given: str) -> Any:
        token = stage.token(who, timedelta(hours=6), now=issued)
        return (await stage.ask(None, text, given, headers={"authorization": token})).json()

    request = (await ask(wrong, "st_support", REFUND, order=order))["data"]["requestRefund"]["approvalRequest"]
    assert (await ask(wrong, "st_ts", CLAIM, id=case))["data"]["claimCase"]["outcome"] == "EXECUTED"
    row = await conn.fetchrow(
        "SELECT r.created_at, r.approve_by, c.lease_expires_at, now() AS now FROM approval_request r, case_file c"
        " WHERE r.id = $1 AND c.id = $2",
        request["id"], case,
    )  # fmt: skip
    assert row is not None
    assert abs(row["now"] - row["created_at"]) < timedelta(seconds=10)
    assert row["approve_by"] - row["created_at"] == timedelta(days=1)
    assert timedelta(minutes=14) < row["lease_expires_at"] - row["now"] <= timedelta(minutes=15)

    ballot = {"id": request["id"], "hash": request["payloadHash"]}
    (refused,) = (await ask(wrong, "st_finance", VOTE, **ballot))["errors"]
    assert refused["errorType"] == "DEPENDENCY_UNAVAILABLE"
    assert refused["message"].startswith("The server's clock is more than 60 s from the database's")
    assert await conn.fetchval("SELECT count(*) FROM approval_vote") == 0
    async with httpx2.AsyncClient() as client:
        ready = await client.get(f"http://{wrong.address}/readyz")
    assert ready.status_code == 503
    side = "ahead of" if seconds > 0 else "behind"
    assert f"s {side} the database's. Set both by one source of time." in ready.json()["parts"]["clock"]
    done = (await ask(right, "st_finance", VOTE, **ballot))["data"]["voteOnApproval"]
    assert done == {"outcome": "EXECUTED", "request": {"execution": "EXECUTED"}}


def test_only_what_no_delay_explains_counts() -> None:
    at = datetime(2026, 11, 25, tzinfo=UTC)
    second = timedelta(seconds=1)
    assert apart(at, at + second, at + 3 * second) == 0.0, "the answer took three seconds"
    assert apart(at + 7 * second, at, at + 9 * second) == 7.0
    assert apart(at, at + 9 * second, at + 2 * second) == -7.0


def off(seconds: float) -> clock.Clock:
    return lambda: utc_now() + timedelta(seconds=seconds)


@pytest.mark.contract("FC-8")
@pytest.mark.parametrize("seconds", [-61, 61, 59])
async def test_votes_and_retries_are_refused_from_a_minute_on(bench: Bench, seconds: int) -> None:
    await people(bench)
    given = (bench.app, bench.authorizer, bench.writer, bench.reader.find, console().rules)
    there = replace(bench, pipeline=Pipeline(*given, clock=off(seconds)))
    request = await asked(there)
    if seconds == 59:
        assert (await vote(there, FINANCE, request)).outcome == "EXECUTED"
        return
    with pytest.raises(ConsoleError) as refused:
        await vote(there, FINANCE, request)
    assert (refused.value.code, refused.value.retryable) == ("DEPENDENCY_UNAVAILABLE", True)
    await bench.conn.execute(
        "UPDATE approval_request SET state = 'APPROVED', execution = 'FAILED', execute_by = now() + '1 h'"
    )
    retry = {"requestId": request["id"], "expectedVersion": request["version"], "reason": {"code": "SHIFT_END"}}
    with pytest.raises(ConsoleError) as refused:
        await there.do(request["requester_id"], "retryApproval", input=retry)
    assert refused.value.code == "DEPENDENCY_UNAVAILABLE"
    failed = [record for record in await bench.records() if record["decision"]["code"] == "DEPENDENCY_UNAVAILABLE"]
    assert len(failed) == 2, "the attempts are on record"


@pytest.mark.contract("FC-8")
async def test_five_seconds_apart_is_told_by_readiness_and_alerted_once_until_it_is_right_again(bench: Bench) -> None:
    await factories.staff(bench.conn, "ADMIN", id="st_admin", cities=("*",))
    told: list[str] = []

    async def alarm(code: str, text: str) -> None:
        told.append(text)
        assert await bench.pipeline.system("audit.alarm", AlarmInput(code, text)) is not None

    wrong = [0.0]
    watch = ClockWatch(bench.app, alarm, lambda: utc_now() + timedelta(seconds=wrong[0]))
    assert await watch.probe() is None
    wrong[0] = -8.0
    assert (await watch.probe() or "").endswith("behind the database's. Set both by one source of time.")
    for _ in range(3):
        await watch.look()
    (alert,) = await bench.alerts("AUDIT_CHAIN")
    assert (alert["target_id"], alert["recipient_ids"]) == ("CLOCK_SKEW", ["st_admin"])
    assert alert["summary"] == "CLOCK_SKEW: The clock of a process is 8 s behind the database's."
    wrong[0] = 0.0
    await watch.look()
    wrong[0] = 300.0
    await bench.conn.execute("UPDATE alert SET created_at = created_at - interval '1 hour'")
    await watch.look()
    assert len(told) == 2


@pytest.mark.contract("FC-8")
async def test_a_watch_survives_a_database_that_is_away(bench: Bench) -> None:
    async def alarm(code: str, text: str) -> None:
        raise AssertionError(text)

    watch = ClockWatch(bench.app, alarm)
    await bench.app.close()
    async with watch.watching():
        await asyncio.sleep(0.05)
    assert await watch.probe() == "The database does not answer; try again."
