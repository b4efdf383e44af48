"""Refunds: alone within the ceiling, countersigned beyond it, never more than is left, and never twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from schema.errors import ConsoleError
from tests import factories
from tests.services.bench import Bench, Done


def refund(
    order_id: str, amount: int, *, key: str = "k1", code: str = "SERVICE_NOT_PROVIDED", **more: Any
) -> dict[str, Any]:
    return {
        "orderId": order_id,
        "amount": {"amountMinor": amount, "currency": more.pop("currency", "EUR")},
        "idempotencyKey": key,
        "reason": {"code": code, "note": more.pop("note", None)},
        **more,
    }


class People:
    """An agent who asks, and two who may agree."""

    agent = "st_agent"
    approver = "st_finance"
    second = "st_finance_2"
    lead = "st_lead"


async def people(bench: Bench) -> None:
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id=People.agent)
    await factories.staff(bench.conn, "FINANCE", "SENIOR", id=People.approver)
    await factories.staff(bench.conn, "FINANCE", "SENIOR", id=People.second)
    await factories.staff(bench.conn, "FINANCE", "LEAD", id=People.lead)


async def refused(bench: Bench, who: str, name: str, **arguments: Any) -> ConsoleError:
    with pytest.raises(ConsoleError) as caught:
        await bench.do(who, name, **arguments)
    return caught.value


async def vote(bench: Bench, who: str, request_id: str, *, ballot: str = "APPROVE") -> Done:
    request = await bench.row("approval_request", request_id)
    return await bench.do(
        who, "voteOnApproval", input={"requestId": request_id, "vote": ballot, "payloadHash": request["payload_hash"]}
    )


async def test_a_small_refund_is_approved_at_once_and_leaves_by_the_outbox(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=10_000)
    done = await bench.do(People.agent, "requestRefund", input=refund(order, 4_900))
    assert done.outcome == "EXECUTED"
    row = await bench.row("refund", done.refs["refund"])
    assert (row["state"], row["amount_minor"], row["requester_id"]) == ("APPROVED", 4_900, People.agent)
    ledger = await bench.row("order_ledger", order, column="order_id")
    assert (ledger["reserved_minor"], ledger["succeeded_minor"]) == (4_900, 0)
    outbox = await bench.row("outbox", row["id"], column="key")
    assert (outbox["port"], outbox["operation"], outbox["state"]) == ("OrdersRefundKernel", "submit_refund", "PENDING")
    [record] = await bench.records()
    assert record["id"] == done.audit["id"] == str(outbox["audit_id"])
    assert (record["action"], record["decision"]["verdict"]) == ("refund.request", "ALLOWED")
    assert (record["object"]["type"], record["object"]["id"]) == ("Refund", row["id"])
    assert record["reason"] == {"code": "SERVICE_NOT_PROVIDED", "ticket": None}


async def test_a_refund_above_the_ceiling_waits_and_executes_once_with_the_second_person(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=20_000)
    asked = await bench.do(People.agent, "requestRefund", input=refund(order, 12_000))
    assert asked.outcome == "PENDING_APPROVAL"
    request_id = asked.refs["approvalRequest"]
    held = await bench.row("refund", asked.refs["refund"])
    assert (held["state"], held["approval_request_id"]) == ("PENDING_APPROVAL", request_id)
    ledger = await bench.row("order_ledger", order, column="order_id")
    assert ledger["reserved_minor"] == 12_000
    [alert] = await bench.alerts("APPROVAL_WAITING")
    assert set(alert["recipient_ids"]) == {People.approver, People.second, People.lead}

    done = await vote(bench, People.approver, request_id)
    assert done.outcome == "EXECUTED"
    row = await bench.row("refund", asked.refs["refund"])
    assert (row["state"], row["approved_by_ids"]) == ("APPROVED", [People.approver])
    request = await bench.row("approval_request", request_id)
    assert (request["state"], request["execution"]) == ("APPROVED", "EXECUTED")
    assert await bench.conn.fetchval("SELECT count(*) FROM approval_execution") == 1
    assert await bench.conn.fetchval("SELECT count(*) FROM outbox") == 1
    first, voted, executed = await bench.records()
    assert first["result"]["outcome"] == "PENDING_APPROVAL"
    assert (voted["action"], voted["approval"]["step"]) == ("approval.vote", "VOTED")
    assert (executed["action"], executed["approval"]["step"]) == ("refund.request", "EXECUTED")
    assert executed["cause"] == voted["id"] == done.audit["id"]
    assert executed["actor"]["sub"] == People.agent
    events = [(e["state"], e["execution"]) for e in await bench.events("ApprovalEvent")]
    assert events == [
        ("PENDING", "NOT_STARTED"),
        ("PENDING", "NOT_STARTED"),
        ("APPROVED", "NOT_STARTED"),
        ("APPROVED", "EXECUTED"),
    ]


@pytest.mark.contract("DC-2")
async def test_nobody_approves_his_own_request(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=200_000)
    asked = await bench.do(People.approver, "requestRefund", input=refund(order, 120_000))
    error = await refused(
        bench,
        People.approver,
        "voteOnApproval",
        input={
            "requestId": asked.refs["approvalRequest"],
            "vote": "APPROVE",
            "payloadHash": (await bench.row("approval_request", asked.refs["approvalRequest"]))["payload_hash"],
        },
    )
    assert (error.code, error.info["ineligibleCode"]) == ("NOT_ELIGIBLE", "SELF_APPROVAL")
    assert (await bench.records())[-1]["decision"]["verdict"] == "DENIED"


@pytest.mark.contract("DC-4")
async def test_two_approvers_at_once_execute_once(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=20_000)
    asked = await bench.do(People.agent, "requestRefund", input=refund(order, 12_000))
    request_id = asked.refs["approvalRequest"]
    payload_hash = (await bench.row("approval_request", request_id))["payload_hash"]
    ballot = {"requestId": request_id, "vote": "APPROVE", "payloadHash": payload_hash}

    async def answer(who: str) -> str:
        try:
            return (await bench.do(who, "voteOnApproval", input=ballot)).outcome
        except ConsoleError as error:
            return error.code

    answers = await asyncio.gather(answer(People.approver), answer(People.second), answer(People.lead))
    assert sorted(answers) == ["APPROVAL_NOT_PENDING", "APPROVAL_NOT_PENDING", "EXECUTED"]
    assert await bench.conn.fetchval("SELECT count(*) FROM approval_execution") == 1
    assert await bench.conn.fetchval("SELECT count(*) FROM outbox") == 1
    assert len((await bench.row("refund", asked.refs["refund"]))["approved_by_ids"]) == 1


async def test_the_same_vote_again_is_the_stored_result_also_after_the_execution(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=20_000)
    request_id = (await bench.do(People.agent, "requestRefund", input=refund(order, 12_000))).refs["approvalRequest"]
    await vote(bench, People.approver, request_id)
    again = await vote(bench, People.approver, request_id)
    assert again.outcome == "REPLAYED"
    assert await bench.conn.fetchval("SELECT count(*) FROM approval_vote") == 1


@pytest.mark.contract("DC-1")
async def test_a_vote_on_another_payload_is_refused(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=20_000)
    request_id = (await bench.do(People.agent, "requestRefund", input=refund(order, 12_000))).refs["approvalRequest"]
    error = await refused(
        bench,
        People.approver,
        "voteOnApproval",
        input={"requestId": request_id, "vote": "APPROVE", "payloadHash": "00"},
    )
    assert error.code == "PAYLOAD_MISMATCH"


async def test_one_rejection_ends_the_request_and_frees_the_sum(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=20_000)
    asked = await bench.do(People.agent, "requestRefund", input=refund(order, 12_000))
    await vote(bench, People.approver, asked.refs["approvalRequest"], ballot="REJECT")
    assert (await bench.row("refund", asked.refs["refund"]))["state"] == "REJECTED"
    assert (await bench.row("order_ledger", order, column="order_id"))["reserved_minor"] == 0
    assert (await bench.row("approval_request", asked.refs["approvalRequest"]))["state"] == "REJECTED"


@pytest.mark.contract("ID-1")
async def test_the_same_key_and_arguments_replay_and_other_arguments_are_refused(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=10_000)
    first = await bench.do(People.agent, "requestRefund", input=refund(order, 1_000))
    again = await bench.do(People.agent, "requestRefund", input=refund(order, 1_000))
    assert (again.outcome, again.refs, again.audit) == ("REPLAYED", first.refs, first.audit)
    assert again.receipt["id"] != first.receipt["id"]
    error = await refused(bench, People.agent, "requestRefund", input=refund(order, 1_001))
    assert error.code == "IDEMPOTENCY_KEY_REUSED"
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 1
    assert (await bench.row("order_ledger", order, column="order_id"))["reserved_minor"] == 1_000


@pytest.mark.contract("ID-1")
async def test_two_equal_requests_at_once_have_one_effect(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=10_000)
    answers = await asyncio.gather(
        *(bench.do(People.agent, "requestRefund", input=refund(order, 1_000)) for _ in range(4))
    )
    assert sorted(a.outcome for a in answers) == ["EXECUTED", "REPLAYED", "REPLAYED", "REPLAYED"]
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"code": ""}, "REASON_REQUIRED"),
        ({"code": "SPAM"}, "REASON_INVALID"),
        ({"code": "GOODWILL"}, "BAD_REQUEST"),
        ({"currency": "USD"}, "CURRENCY_MISMATCH"),
        ({"amount": 0}, "AMOUNT_OUT_OF_RANGE"),
        ({"amount": -5}, "AMOUNT_OUT_OF_RANGE"),
        ({"amount": 10_001}, "REFUND_EXCEEDS_REFUNDABLE"),
        ({"amount": 50_001}, "AMOUNT_CEILING_EXCEEDED"),
        ({"expectedLedgerVersion": 7}, "VERSION_CONFLICT"),
        ({"order": "o_none"}, "NOT_FOUND"),
        ({"key": ""}, "BAD_REQUEST"),
        ({"key": "x" * 256}, "BAD_REQUEST"),
    ],
)
async def test_a_refund_is_refused_by_its_code_and_nothing_but_the_attempt_is_left(
    bench: Bench, change: dict[str, Any], code: str
) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=10_000)
    wanted = dict(change)
    given = refund(wanted.pop("order", order), wanted.pop("amount", 1_000), **wanted)
    error = await refused(bench, People.agent, "requestRefund", input=given)
    assert error.code == code
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 0
    assert await bench.conn.fetchval("SELECT count(*) FROM idempotency") == 0
    [record] = await bench.records()
    denied = code in ("NOT_FOUND", "AMOUNT_CEILING_EXCEEDED")
    assert (record["decision"]["verdict"], record["decision"]["code"]) == ("DENIED" if denied else "FAILED", code)


@pytest.mark.contract("AZ-5")
async def test_another_city_is_as_if_absent(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, city_id="berlin")
    error = await refused(bench, People.agent, "requestRefund", input=refund(order, 1_000))
    absent = await refused(bench, People.agent, "requestRefund", input=refund("o_none", 1_000))
    assert (error.code, error.message, error.error_info) == (absent.code, absent.message, absent.error_info)


async def test_a_refund_without_the_role_is_not_authorized(bench: Bench) -> None:
    await factories.staff(bench.conn, "TRUST_SAFETY", "LEAD", id="st_ts")
    order = await factories.ledger(bench.conn)
    error = await refused(bench, "st_ts", "requestRefund", input=refund(order, 1_000))
    assert error.message == "Not Authorized to access requestRefund on type Mutation"


async def test_a_dispute_holds_the_charge(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, disputed_minor=2_000, charge_refundable=False)
    assert (await refused(bench, People.agent, "requestRefund", input=refund(order, 1_000))).code == "DISPUTE_OPEN"


@pytest.mark.contract("DC-5")
async def test_small_refunds_on_two_orders_of_one_buyer_add_up(bench: Bench) -> None:
    await people(bench)
    first = await factories.ledger(bench.conn, buyer_id="buyer_9")
    second = await factories.ledger(bench.conn, buyer_id="buyer_9")
    other = await factories.ledger(bench.conn, buyer_id="buyer_8")
    assert (await bench.do(People.agent, "requestRefund", input=refund(first, 4_900, key="a"))).outcome == "EXECUTED"
    assert (await bench.do(People.agent, "requestRefund", input=refund(other, 200, key="b"))).outcome == "EXECUTED"
    split = await bench.do(People.agent, "requestRefund", input=refund(second, 200, key="c"))
    assert split.outcome == "PENDING_APPROVAL"
    request = await bench.row("approval_request", split.refs["approvalRequest"])
    assert (request["amount_minor"], request["window_sum_minor"]) == (200, 5_100)


@pytest.mark.contract("DC-5", "DB-5")
async def test_two_orders_of_one_buyer_at_once_do_not_both_pass_alone(bench: Bench) -> None:
    await people(bench)
    first = await factories.ledger(bench.conn, buyer_id="buyer_9")
    second = await factories.ledger(bench.conn, buyer_id="buyer_9")
    answers = await asyncio.gather(
        bench.do(People.agent, "requestRefund", input=refund(first, 3_000, key="a")),
        bench.do(People.agent, "requestRefund", input=refund(second, 3_000, key="b")),
    )
    assert sorted(a.outcome for a in answers) == ["EXECUTED", "PENDING_APPROVAL"]


@pytest.mark.contract("DC-5", "DC-7")
@pytest.mark.parametrize("elsewhere", ["berlin", None])
async def test_who_the_buyer_is_does_not_depend_on_the_cities_of_the_asker(bench: Bench, elsewhere: str | None) -> None:
    await people(bench)
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id="st_local", cities=("lisbon",))
    await factories.subject(bench.conn, id="buyer_self", city_id=elsewhere, staff_id="st_local")
    await factories.subject(bench.conn, id="buyer_known", city_id=elsewhere, protected_tags=["HIGH_PROFILE"])
    own = await factories.ledger(bench.conn, buyer_id="buyer_self")
    protected = await factories.ledger(bench.conn, buyer_id="buyer_known")
    assert (await refused(bench, "st_local", "requestRefund", input=refund(own, 100))).code == "SELF_SUBJECT"
    done = await bench.do("st_local", "requestRefund", input=refund(protected, 100, key="k2"))
    assert done.outcome == "PENDING_APPROVAL"


@pytest.mark.contract("DC-5")
async def test_refunds_in_a_city_one_no_longer_holds_still_add_up(bench: Bench) -> None:
    await people(bench)
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id="st_moved", cities=("lisbon", "berlin"))
    first = await factories.ledger(bench.conn, buyer_id="buyer_9", city_id="berlin")
    second = await factories.ledger(bench.conn, buyer_id="buyer_9", city_id="lisbon")
    assert (await bench.do("st_moved", "requestRefund", input=refund(first, 4_900, key="a"))).outcome == "EXECUTED"
    await bench.conn.execute("UPDATE staff_grant SET city_ids = '{lisbon}' WHERE staff_id = 'st_moved'")
    assert (
        await bench.do("st_moved", "requestRefund", input=refund(second, 200, key="b"))
    ).outcome == "PENDING_APPROVAL"


async def test_a_refund_belongs_to_a_case_of_its_own_city(bench: Bench) -> None:
    await people(bench)
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id="st_two", cities=("lisbon", "berlin"))
    order = await factories.ledger(bench.conn, city_id="lisbon")
    foreign = await factories.case(bench.conn, kind="REFUND", city_id="berlin")
    own = await factories.case(bench.conn, kind="REFUND", city_id="lisbon")
    assert (
        await refused(bench, "st_two", "requestRefund", input=refund(order, 100, caseId=foreign))
    ).code == "BAD_REQUEST"
    assert (
        await bench.do("st_two", "requestRefund", input=refund(order, 100, key="k2", caseId=own))
    ).outcome == "EXECUTED"


async def test_goodwill_beyond_its_bound_needs_a_second_person(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    note = "The studio was closed on the day."
    small = await bench.do(
        People.agent, "requestRefund", input=refund(order, 2_500, key="a", code="GOODWILL", note=note)
    )
    assert small.outcome == "EXECUTED"
    more = await bench.do(People.agent, "requestRefund", input=refund(order, 1, key="b", code="GOODWILL", note=note))
    assert more.outcome == "PENDING_APPROVAL"


async def test_a_large_refund_needs_two_with_a_finance_lead(bench: Bench) -> None:
    await people(bench)
    await factories.staff(bench.conn, "FINANCE", "AGENT", id="st_asks")
    order = await factories.ledger(bench.conn, captured_minor=500_000)
    asked = await bench.do("st_asks", "requestRefund", input=refund(order, 300_000))
    request_id = asked.refs["approvalRequest"]
    await vote(bench, People.approver, request_id)
    await vote(bench, People.second, request_id)
    assert (await bench.row("approval_request", request_id))["state"] == "PENDING"
    await vote(bench, People.lead, request_id)
    assert (await bench.row("approval_request", request_id))["execution"] == "EXECUTED"


@pytest.mark.contract("DC-9")
async def test_too_small_a_pool_is_said_at_once(bench: Bench) -> None:
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id=People.agent)
    order = await factories.ledger(bench.conn, captured_minor=20_000)
    assert (
        await refused(bench, People.agent, "requestRefund", input=refund(order, 12_000))
    ).code == "NO_ELIGIBLE_APPROVERS"
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 0


async def test_the_requester_cancels_what_waits_and_the_request_ends_with_it(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn, captured_minor=20_000)
    asked = await bench.do(People.agent, "requestRefund", input=refund(order, 12_000))
    row = await bench.row("refund", asked.refs["refund"])
    given = {"refundId": row["id"], "expectedVersion": row["version"] + 1, "reason": {"code": "DUPLICATE"}}
    stale = await refused(bench, People.agent, "cancelRefund", input=given)
    assert (stale.code, stale.info["currentVersion"]) == ("VERSION_CONFLICT", row["version"])
    other = await refused(bench, People.approver, "cancelRefund", input={**given, "expectedVersion": row["version"]})
    assert other.code == "Unauthorized"
    await bench.do(People.agent, "cancelRefund", input={**given, "expectedVersion": row["version"]})
    assert (await bench.row("refund", row["id"]))["state"] == "CANCELED"
    assert (await bench.row("approval_request", asked.refs["approvalRequest"]))["state"] == "CANCELED"
    assert (await bench.row("order_ledger", order, column="order_id"))["reserved_minor"] == 0


async def test_an_approved_refund_is_not_canceled(bench: Bench) -> None:
    await people(bench)
    order = await factories.ledger(bench.conn)
    done = await bench.do(People.agent, "requestRefund", input=refund(order, 1_000))
    row = await bench.row("refund", done.refs["refund"])
    given = {"refundId": row["id"], "expectedVersion": row["version"], "reason": {"code": "DUPLICATE"}}
    assert (await refused(bench, People.agent, "cancelRefund", input=given)).code == "INVALID_TRANSITION"
