"""Dual control over the real store: who may vote, quorum re-judged, both clocks, what a failure leaves."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from resolvers import registry
from schema.errors import ConsoleError
from services.money.commands import RequestRefund
from tests import factories
from tests.services.bench import Bench, Done

AGENT, FINANCE, FINANCE_2, LEAD, SUPPORT_LEAD = "st_agent", "st_finance", "st_finance_2", "st_lead", "st_support_lead"


async def people(bench: Bench) -> None:
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id=AGENT)
    await factories.staff(bench.conn, "FINANCE", "SENIOR", id=FINANCE)
    await factories.staff(bench.conn, "FINANCE", "SENIOR", id=FINANCE_2)
    await factories.staff(bench.conn, "FINANCE", "LEAD", id=LEAD)
    await factories.staff(bench.conn, "SUPPORT", "LEAD", id=SUPPORT_LEAD)


async def asked(bench: Bench, amount: int = 12_000, *, who: str = AGENT, key: str = "k", **ledger: Any) -> Any:
    order = await factories.ledger(bench.conn, captured_minor=400_000, **ledger)
    given = {"orderId": order, "amount": {"amountMinor": amount, "currency": "EUR"}, "idempotencyKey": key}
    done = await bench.do(who, "requestRefund", input={**given, "reason": {"code": "QUALITY_ISSUE"}})
    assert done.outcome == "PENDING_APPROVAL"
    return await bench.row("approval_request", done.refs["approvalRequest"])


async def vote(bench: Bench, who: str, request: Any, ballot: str = "APPROVE", **more: Any) -> Done:
    given = {"requestId": request["id"], "vote": ballot, "payloadHash": request["payload_hash"], **more}
    return await bench.do(who, "voteOnApproval", input=given)


async def refusal(bench: Bench, who: str, request: Any, ballot: str = "APPROVE") -> ConsoleError:
    with pytest.raises(ConsoleError) as caught:
        await vote(bench, who, request, ballot)
    return caught.value


async def states(bench: Bench, request: Any) -> tuple[str, str, str | None, str, int]:
    row = await bench.row("approval_request", request["id"])
    refund = await bench.row("refund", row["entity_id"])
    ledger = await bench.row("order_ledger", refund["order_id"], column="order_id")
    return row["state"], row["execution"], row["invalidated_because"], refund["state"], ledger["reserved_minor"]


@pytest.mark.contract("DC-1")
async def test_the_payload_binds_arguments_target_requester_and_policy(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    payload = orjson.loads(request["payload"])
    assert payload["arguments"]["input"]["amount"] == {"amountMinor": 12_000, "currency": "EUR"}
    assert "idempotencyKey" not in payload["arguments"]["input"]
    assert (payload["requesterId"], payload["targetId"]) == (AGENT, request["target_id"])
    assert payload["policyId"] == request["policy_id"]
    with pytest.raises(Exception, match="bound"):
        await bench.conn.execute("UPDATE approval_request SET payload = '{}' WHERE id = $1", request["id"])


async def test_who_may_not_vote_hears_why_or_nothing(bench: Bench) -> None:
    await people(bench)
    berlin = await factories.staff(bench.conn, "FINANCE", "LEAD", cities=("berlin",))
    small = await factories.staff(bench.conn, "FINANCE", "AGENT")
    auditor = await factories.staff(bench.conn, "AUDITOR", cities=("*",))
    request = await asked(bench, 60_000, who=FINANCE)
    assert (await refusal(bench, FINANCE, request)).info["ineligibleCode"] == "SELF_APPROVAL"
    assert (await refusal(bench, auditor, request)).info["ineligibleCode"] == "TIER"
    assert (await refusal(bench, AGENT, request)).code == "Unauthorized"
    for who in (berlin, small, SUPPORT_LEAD):  # outside the city, outside the amount
        assert (await refusal(bench, who, request)).code == "NOT_FOUND"
    assert (await vote(bench, LEAD, request)).outcome == "EXECUTED"


@pytest.mark.contract("DC-2")
async def test_another_vote_of_the_same_person_is_refused_until_the_first_is_withdrawn(bench: Bench) -> None:
    await people(bench)
    requester = await factories.staff(bench.conn, "FINANCE", "AGENT")
    request = await asked(bench, 300_000, who=requester)
    await vote(bench, FINANCE, request)
    assert (await refusal(bench, FINANCE, request, "REJECT")).code == "ALREADY_VOTED"
    done = await bench.do(FINANCE, "withdrawVote", requestId=request["id"])
    assert done.outcome == "EXECUTED"
    assert (await bench.do(FINANCE, "withdrawVote", requestId=request["id"])).outcome == "REPLAYED"
    with pytest.raises(ConsoleError) as caught:
        await bench.do(FINANCE_2, "withdrawVote", requestId=request["id"])
    assert caught.value.code == "BAD_REQUEST"
    await vote(bench, FINANCE, request, "REJECT")
    assert (await states(bench, request))[0] == "REJECTED"


@pytest.mark.contract("DC-3")
async def test_a_voter_who_lost_the_right_does_not_count_and_the_request_waits_on(bench: Bench) -> None:
    await people(bench)
    requester = await factories.staff(bench.conn, "FINANCE", "AGENT")
    request = await asked(bench, 300_000, who=requester)
    await vote(bench, LEAD, request)
    await bench.conn.execute("UPDATE staff SET state = 'LOCKED' WHERE id = $1", LEAD)
    await vote(bench, FINANCE, request)
    assert (await states(bench, request))[:2] == ("PENDING", "NOT_STARTED")
    [gone] = await bench.conn.fetch("SELECT * FROM approval_vote WHERE voter_id = $1", LEAD)
    assert (gone["counts"], gone["voided_because"]) == (False, "TIER")
    assert await bench.conn.fetchval("SELECT count(*) FROM outbox") == 0


@pytest.mark.contract("DC-3")
async def test_a_requester_who_lost_the_right_invalidates_his_request(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    await bench.conn.execute("UPDATE staff SET state = 'OFFBOARDED' WHERE id = $1", AGENT)
    await vote(bench, FINANCE, request)
    assert await states(bench, request) == ("INVALIDATED", "NOT_STARTED", "Unauthorized", "CANCELED", 0)
    voted, failed = (await bench.records())[-2:]
    assert (failed["decision"]["verdict"], failed["decision"]["code"]) == ("FAILED", "Unauthorized")
    assert (failed["cause"], failed["approval"]["request"]) == (voted["id"], request["id"])


@pytest.mark.contract("DC-3")
async def test_a_changed_policy_file_invalidates(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    await bench.conn.execute(
        "SET session_replication_role = replica"
    )  # it is bound: made by a release before, as it were
    await bench.conn.execute(
        "UPDATE approval_request SET policy_id = 'refund.request/1@older' WHERE id = $1", request["id"]
    )
    await bench.conn.execute("SET session_replication_role = origin")
    await vote(bench, FINANCE, request)
    assert await states(bench, request) == ("INVALIDATED", "NOT_STARTED", "POLICY_CHANGED", "CANCELED", 0)


@pytest.mark.contract("DC-3")
async def test_a_dispute_opened_meanwhile_invalidates(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    await bench.conn.execute("UPDATE order_ledger SET disputed_minor = 100, charge_refundable = false")
    await vote(bench, FINANCE, request)
    assert await states(bench, request) == ("INVALIDATED", "NOT_STARTED", "DISPUTE_OPEN", "CANCELED", 0)


@pytest.mark.contract("DC-3")
async def test_what_needs_more_approvals_by_now_is_void(bench: Bench) -> None:
    await people(bench)
    buyer = await factories.subject(bench.conn)
    request = await asked(bench, buyer_id=buyer)
    await bench.conn.execute("UPDATE subject SET protected_tags = '{HIGH_PROFILE}'")
    await vote(bench, FINANCE, request)
    assert await states(bench, request) == ("INVALIDATED", "NOT_STARTED", "PLAN_STALE", "CANCELED", 0)


@pytest.mark.contract("DC-1", "DC-3")
async def test_a_payload_that_is_not_what_its_hash_says_is_never_executed(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    await bench.conn.execute("SET session_replication_role = replica")  # behind the trigger's back
    await bench.conn.execute("UPDATE approval_request SET payload = replace(payload, '12000', '11999')")
    await bench.conn.execute("SET session_replication_role = origin")
    await vote(bench, FINANCE, request)
    assert await states(bench, request) == ("INVALIDATED", "NOT_STARTED", "PAYLOAD_MISMATCH", "CANCELED", 0)


class Broken(RequestRefund):
    """A command whose effect breaks."""

    async def execute(self, *_: Any) -> Any:
        raise RuntimeError("a bug")


async def test_what_breaks_leaves_it_approved_and_retryable_by_the_requester(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people(bench)
    request = await asked(bench)
    with monkeypatch.context() as patch:
        patch.setattr("resolvers.inner.COMMANDS", {**registry.COMMANDS, "requestRefund": Broken()})
        assert (await vote(bench, FINANCE, request)).outcome == "EXECUTED"
    assert await states(bench, request) == ("APPROVED", "FAILED", None, "PENDING_APPROVAL", 12_000)
    row = await bench.row("approval_request", request["id"])
    assert row["execution_error"] == "INTERNAL"
    assert await bench.conn.fetchval("SELECT count(*) FROM approval_execution") == 0
    given = {"requestId": row["id"], "expectedVersion": row["version"], "reason": {"code": "SHIFT_END"}}
    with pytest.raises(ConsoleError) as caught:
        await bench.do(SUPPORT_LEAD, "retryApproval", input=given)
    assert caught.value.code == "Unauthorized"
    await bench.do(AGENT, "retryApproval", input=given)
    assert await states(bench, request) == ("APPROVED", "EXECUTED", None, "APPROVED", 12_000)


async def test_what_somebody_else_held_for_too_long_may_be_run_again(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    async with bench.conn.transaction():
        await bench.conn.execute("SELECT 1 FROM order_ledger WHERE order_id = $1 FOR UPDATE", request["target_id"])
        await vote(bench, FINANCE, request)
    row = await bench.row("approval_request", request["id"])
    assert (row["state"], row["execution"], row["execution_error"]) == ("APPROVED", "FAILED", "DEPENDENCY_UNAVAILABLE")
    given = {"requestId": row["id"], "expectedVersion": row["version"], "reason": {"code": "SHIFT_END"}}
    await bench.do(AGENT, "retryApproval", input=given)
    assert await states(bench, request) == ("APPROVED", "EXECUTED", None, "APPROVED", 12_000)


@pytest.mark.contract("DC-7")
async def test_a_retry_after_a_broken_quorum_waits_for_votes_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people(bench)
    request = await asked(bench)
    with monkeypatch.context() as patch:
        patch.setattr("resolvers.inner.COMMANDS", {**registry.COMMANDS, "requestRefund": Broken()})
        await vote(bench, FINANCE, request)
    await bench.conn.execute("DELETE FROM staff_grant WHERE staff_id = $1", FINANCE)
    row = await bench.row("approval_request", request["id"])
    given = {"requestId": row["id"], "expectedVersion": row["version"], "reason": {"code": "SHIFT_END"}}
    await bench.do(AGENT, "retryApproval", input=given)
    assert (await states(bench, request))[:2] == ("PENDING", "NOT_STARTED")
    await vote(bench, FINANCE_2, request)
    assert (await states(bench, request))[1] == "EXECUTED"


@pytest.mark.contract("DC-3")
async def test_silence_is_refusal_and_frees_the_sum(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    late = await bench.later(24 * 3600 + 5)
    with pytest.raises(ConsoleError) as caught:
        await vote(late, FINANCE, request)
    assert caught.value.code == "APPROVAL_NOT_PENDING"
    assert await late.worker.run_timers() == 1
    assert await states(bench, request) == ("EXPIRED", "NOT_STARTED", None, "EXPIRED", 0)


async def test_those_who_may_still_vote_are_warned_once(bench: Bench) -> None:
    await people(bench)
    requester = await factories.staff(bench.conn, "FINANCE", "AGENT")
    request = await asked(bench, 300_000, who=requester)
    await vote(bench, FINANCE, request)
    assert await bench.worker.run_timers() == 0
    late = await bench.later(24 * 3600 * 0.81)
    assert await late.worker.run_timers() == 1
    assert await late.worker.run_timers() == 0
    [alert] = await bench.alerts("APPROVAL_EXPIRING")
    assert alert["recipient_ids"] == [FINANCE_2, LEAD]


@pytest.mark.contract("DC-3")
async def test_an_execution_that_never_came_expires_by_the_second_clock(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people(bench)
    request = await asked(bench)
    with monkeypatch.context() as patch:
        patch.setattr("resolvers.inner.COMMANDS", {**registry.COMMANDS, "requestRefund": Broken()})
        await vote(bench, FINANCE, request)
    late = await bench.later(3600 + 5)
    assert await late.worker.run_timers() == 1
    assert await states(bench, request) == ("APPROVED", "EXPIRED", None, "EXPIRED", 0)


async def test_the_requester_or_a_lead_of_his_team_cancels(bench: Bench) -> None:
    await people(bench)
    for who in (AGENT, SUPPORT_LEAD):
        request = await asked(bench, 12_000 if who == AGENT else 13_000, key=who, buyer_id=who)
        given = {"requestId": request["id"], "expectedVersion": 1, "reason": {"code": "DUPLICATE"}}
        with pytest.raises(ConsoleError) as caught:
            await bench.do(FINANCE, "cancelApproval", input=given)
        assert caught.value.code == "Unauthorized"
        with pytest.raises(ConsoleError) as caught:
            await bench.do(who, "cancelApproval", input={**given, "expectedVersion": 9})
        assert caught.value.code == "VERSION_CONFLICT"
        await bench.do(who, "cancelApproval", input=given)
        assert await states(bench, request) == ("CANCELED", "NOT_STARTED", None, "CANCELED", 0)


async def test_an_executed_request_is_not_canceled(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    await vote(bench, FINANCE, request)
    version = (await bench.row("approval_request", request["id"]))["version"]
    given = {"requestId": request["id"], "expectedVersion": version, "reason": {"code": "DUPLICATE"}}
    with pytest.raises(ConsoleError) as caught:
        await bench.do(AGENT, "cancelApproval", input=given)
    assert caught.value.code == "APPROVAL_NOT_PENDING"


async def test_the_timeline_tells_each_step_with_its_record(bench: Bench) -> None:
    await people(bench)
    request = await asked(bench)
    await vote(bench, FINANCE, request)
    rows = await bench.conn.fetch("SELECT * FROM timeline WHERE target_id = $1 ORDER BY id", request["id"])
    assert [(row["kind"], row["actor_id"]) for row in rows] == [
        ("requested", AGENT),
        ("vote_approve", FINANCE),
        ("approved", FINANCE),
        ("executed", FINANCE),
    ]
    ids = {record["id"] for record in await bench.records()}
    assert {row["audit_id"] for row in rows} <= ids
