"""Steps that need approval by themselves: who may agree to the whole of which they are a part, and that none runs without."""

from __future__ import annotations

from typing import Any

import pytest

from schema.errors import ConsoleError
from services.approvals import request as requests
from services.command import Act, Step
from tests import factories
from tests.services.bench import Bench
from tests.services.test_macros import (
    AGENT,
    FINANCE,
    LEAD,
    SAFETY_LEAD,
    STATEMENT,
    Desk,
    asked,
    desk,
    people,
    refused,
    standing,
    vote,
)


async def stepped(bench: Bench, order: str, amount: int, *, rehearsing: bool) -> Step:
    """A refund as a step of something that nobody has agreed to."""
    snapshot = await bench.authorizer.current()

    async def work(act: Act[Any]) -> Step:
        money = {"amountMinor": amount, "currency": "EUR"}
        given = {"orderId": order, "amount": money, "idempotencyKey": "k", "reason": {"code": "QUALITY_ISSUE"}}
        return await act.steps.run(act, "requestRefund", {"input": given}, rehearsing=rehearsing)

    return await bench.pipeline.rehearse(factories.caller(snapshot, AGENT), snapshot, work)


@pytest.mark.contract("DC-7")
async def test_a_step_that_needs_approval_does_not_run_on_nobodys_word(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=12_000)
    with pytest.raises(ConsoleError) as caught:
        await stepped(bench, order, 12_000, rehearsing=False)
    assert caught.value.code == "PLAN_STALE"
    tried = await stepped(bench, order, 12_000, rehearsing=True)
    assert tried.gate is not None
    assert (tried.gate.key, tried.gate.requirement.approvals) == ("refund.request", 1)
    assert (await stepped(bench, order, 4_000, rehearsing=False)).gate is None


async def test_only_what_says_so_of_itself_is_a_step(bench: Bench) -> None:
    at = await desk(bench)
    snapshot = await bench.authorizer.current()

    async def work(act: Act[Any]) -> bool:
        assert not act.steps.offers("claimCase")
        await act.steps.run(act, "claimCase", {"caseId": at.case["id"]})
        return True

    with pytest.raises(ConsoleError) as caught:
        await bench.pipeline.rehearse(factories.caller(snapshot, AGENT), snapshot, work)
    assert caught.value.code == "BAD_REQUEST"


@pytest.mark.contract("DC-2", "DC-7")
async def test_whoever_could_not_approve_a_step_alone_does_not_approve_the_whole(bench: Bench) -> None:
    """A lead of support sits on the seat of the whole, and approves refunds up to 200.00."""
    at, done = await asked(bench, 25_000)
    row = await bench.row("approval_request", done.refs["approvalRequest"])
    snapshot = await bench.authorizer.current()
    assert snapshot.ballot(LEAD, requests.bound(row), factories.NOW).code == "TIER"
    assert snapshot.ballot(FINANCE, requests.bound(row), factories.NOW).code is None
    given = {"requestId": row["id"], "vote": "APPROVE", "payloadHash": row["payload_hash"]}
    assert (await refused(bench, LEAD, "voteOnApproval", input=given)).code in ("NOT_ELIGIBLE", "NOT_FOUND")
    assert (await standing(at, done))[0] == "PENDING"


@pytest.mark.contract("DC-2")
async def test_whose_account_a_step_is_about_does_not_approve_the_whole(bench: Bench) -> None:
    at = await desk(bench, 12_000)
    buyer = await factories.subject(bench.conn)
    await bench.conn.execute("UPDATE subject SET staff_id = $2 WHERE id = $1", buyer, FINANCE)
    await bench.conn.execute("UPDATE order_ledger SET buyer_id = $1", buyer)
    done = await at.run(await at.preview())
    with pytest.raises(ConsoleError) as caught:
        await vote(bench, FINANCE, done.refs["approvalRequest"])
    assert (caught.value.code, caught.value.info["ineligibleCode"]) == ("NOT_ELIGIBLE", "CONFLICT")
    pool = (await bench.alerts("APPROVAL_WAITING"))[0]["recipient_ids"]
    assert FINANCE not in pool
    await vote(bench, LEAD, done.refs["approvalRequest"])
    assert (await standing(at, done))[1] == "EXECUTED"


@pytest.mark.contract("DB-1")
async def test_a_run_is_seen_by_the_cities_of_the_transaction(bench: Bench) -> None:
    at = await desk(bench)
    await at.run(await at.preview())
    seen = {}
    async with bench.app.acquire() as conn:
        for cities in ("lisbon", "berlin", "*"):
            await conn.execute(f"BEGIN; SET LOCAL countersign.cities = '{cities}'")
            seen[cities] = await conn.fetchval("SELECT count(*) FROM macro_run")
            await conn.execute("ROLLBACK")
    assert seen == {"lisbon": 1, "berlin": 0, "*": 1}


BAN: dict[str, Any] = {
    "key": "ban",
    "action": "decideCase",
    "argsTemplate": {"kind": "BAN", "severity": 3, "reason": {"code": "SPAM"}, "statement": STATEMENT},
    "when": None,
}


@pytest.mark.contract("DC-2")
async def test_whoever_could_not_approve_a_step_is_not_shown_the_whole_where_no_amount_hides_it(bench: Bench) -> None:
    """Finance approves macros by what is in them, and bans are not its business."""
    await people(bench)
    await factories.staff(bench.conn, "TRUST_SAFETY", "SENIOR", id="st_senior")
    case = await factories.case(bench.conn)
    await bench.do("st_senior", "claimCase", caseId=case)
    named: dict[str, Any] = {
        "allowed_roles": ["TRUST_SAFETY"],
        "case_kinds": ["MODERATION"],
        "parameters": {"type": "object"},
    }
    macro = await factories.macro(bench.conn, SAFETY_LEAD, steps=[BAN], **named)
    at = Desk(bench, await bench.row("case_file", case), "none", macro)
    plan = await at.preview("st_senior", parameters={})
    assert [step["verdict"] for step in plan["steps"]] == ["NEEDS_APPROVAL"]
    done = await at.run(plan, who="st_senior", parameters={}, reason={"code": "SPAM"})
    for who in (FINANCE, LEAD):
        with pytest.raises(ConsoleError) as caught:
            await vote(bench, who, done.refs["approvalRequest"])
        assert caught.value.code == "NOT_FOUND"
    await vote(bench, SAFETY_LEAD, done.refs["approvalRequest"])
    assert (await standing(at, done))[1] == "EXECUTED"
