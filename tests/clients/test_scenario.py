"""The main job, as people do it: unmodified Amplify clients against the server that the README's command starts."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.clients import operations as op
from tests.clients.amplify import Person
from tests.clients.conftest import Server, SignIn


def refund_input(order: str, amount: int, **more: Any) -> dict[str, Any]:
    return {
        "orderId": order,
        "amount": {"amountMinor": amount, "currency": "EUR"},
        "idempotencyKey": str(uuid.uuid4()),
        "reason": {"code": "SERVICE_NOT_PROVIDED"},
    } | more


async def settled(person: Person, refund_id: str, *states: str) -> dict[str, Any]:
    """The refund once it is in one of ``states``."""
    refund: dict[str, Any] = {}
    for _ in range(150):
        refund = (await person.ask(op.GET_REFUND, id=refund_id))["getRefund"]
        if refund["state"] in states:
            return refund
        await asyncio.sleep(0.2)
    raise AssertionError(f"still {refund}")


async def test_an_agent_claims_a_case_reads_it_and_decides_it(sign_in: SignIn) -> None:
    agent = await sign_in("ts-agent")
    claim = (await agent.ask(op.CLAIM, queueId="q_moderation_lisbon", idempotencyKey=str(uuid.uuid4())))[
        "claimNextCase"
    ]
    case = claim["case"]
    assert claim["outcome"] == "EXECUTED"
    assert case["state"] == "CLAIMED"
    assert case["cityId"] == "lisbon"
    assert case["lease"]["holder"]["id"] == "st_ts_agent"
    assert case["reports"]["items"], "a moderation case has reports"
    assert "Number" not in case["subject"]["displayNameMasked"], "the name is masked"
    assert not any("@" in (r["detail"] or "") for r in case["reports"]["items"]), "contacts in free text are redacted"
    assert {"opened", "claimed"} <= {entry["kind"] for entry in case["timeline"]["items"]}
    hints = {h["action"]: h for h in case["allowedActions"]}
    assert hints["case.decide"]["allowed"]

    await agent.subscribe("case", op.LIVE_CASES, caseId=case["id"])
    decided = (
        await agent.ask(
            op.DECIDE,
            input={
                "caseId": case["id"], "leaseToken": claim["leaseToken"], "expectedVersion": case["version"], "idempotencyKey": str(uuid.uuid4()), "kind": "REMOVE_CONTENT", "severity": 2,
                "reason": {"code": "OFF_PLATFORM_PAYMENT"}, "statement": op.STATEMENT,
            },
        )
    )["decideCase"]  # fmt: skip
    assert decided["outcome"] == "EXECUTED"
    assert decided["decision"]["state"] == "EFFECTIVE"
    assert decided["decision"]["strikes"] == 2
    assert decided["decision"]["statement"]["puid"] == decided["decision"]["id"]
    assert decided["case"]["state"] == "RESOLVED"
    event = await agent.heard("case")
    assert (event["caseId"], event["state"], event["version"]) == (case["id"], "RESOLVED", decided["case"]["version"])


@pytest.mark.contract("AZ-2", "AZ-5")
async def test_a_case_of_another_city_is_null_whichever_way_one_asks(sign_in: SignIn) -> None:
    berlin, everywhere = await sign_in("ts-agent-berlin"), await sign_in("ts-agent")
    listed = await everywhere.model(
        "Case", "list", filter={"cityId": {"eq": "lisbon"}, "kind": {"eq": "MODERATION"}}, limit=1
    )
    foreign = listed["data"][0]["id"]
    seen = await everywhere.ask(op.GET_CASE, id=foreign)
    assert seen["getCase"]["id"] == foreign
    subject, report = seen["getCase"]["subject"]["id"], seen["getCase"]["reports"]["items"][0]["id"]

    assert (await berlin.ask(op.GET_CASE, id=foreign))["getCase"] is None
    assert (await berlin.model("Case", "get", id=foreign))["data"] is None
    assert (
        await berlin.ask("query S($id: ID!) { getSubject(id: $id) { id decisions { items { caseId } } } }", id=subject)
    )["getSubject"] is None
    assert (await berlin.ask("query R($id: ID!) { getReport(id: $id) { id caseId } }", id=report))["getReport"] is None
    for filters in (
        {"id": {"eq": foreign}},
        {"subjectId": {"eq": subject}},
        {"cityId": {"eq": "lisbon"}},
        {"not": {"cityId": {"eq": "berlin"}}},
    ):
        assert (await berlin.model("Case", "list", filter=filters))["data"] == [], filters
    absent = await berlin.refused("mutation C($id: ID!) { claimCase(caseId: $id) { outcome } }", id="case_of_nobody")
    hidden = await berlin.refused("mutation C($id: ID!) { claimCase(caseId: $id) { outcome } }", id=foreign)
    assert absent == hidden, "absent and out of scope answer alike"
    assert hidden["errorType"] == "NOT_FOUND"


async def test_a_refund_is_requested_refused_to_its_requester_countersigned_and_settled(
    server: Server, sign_in: SignIn
) -> None:
    support, senior = await sign_in("support-agent"), await sign_in("finance-senior")
    await senior.subscribe("approvals", op.LIVE_APPROVALS, filter={"action": {"beginsWith": "refund."}})
    await senior.subscribe("alerts", op.LIVE_ALERTS)
    before = (await support.ask(op.GET_LEDGER, orderId="o_1042"))["getOrderLedger"]

    asked = (await support.ask(op.REQUEST_REFUND, input=refund_input("o_1042", 12_000)))["requestRefund"]
    request = asked["approvalRequest"]
    assert asked["outcome"] == "PENDING_APPROVAL"
    assert asked["refund"]["state"] == "PENDING_APPROVAL"
    assert asked["ledger"]["reserved"]["amountMinor"] == before["reserved"]["amountMinor"] + 12_000
    assert asked["ledger"]["refundable"]["amountMinor"] == before["refundable"]["amountMinor"] - 12_000
    event = await senior.heard("approvals", requestId=request["id"])
    alert = await senior.heard("alerts", targetId=request["id"])
    assert (event["requestId"], event["state"], event["execution"]) == (request["id"], "PENDING", "NOT_STARTED")
    assert (alert["kind"], alert["targetId"]) == ("APPROVAL_WAITING", request["id"])

    vote = {"requestId": request["id"], "vote": "APPROVE", "payloadHash": request["payloadHash"]}
    own = await support.refused(op.VOTE, input=vote)
    assert own["errorType"] in ("Unauthorized", "NOT_ELIGIBLE")
    support_lead, berlin, agent = (
        await sign_in("support-lead"),
        await sign_in("finance-senior-berlin"),
        await sign_in("finance-agent"),
    )
    assert (await berlin.refused(op.VOTE, input=vote))["errorType"] == "NOT_FOUND", "no right in this city"
    del support_lead, agent
    wrong_hash = await senior.refused(op.VOTE, input={**vote, "payloadHash": "0" * 64})
    assert wrong_hash["errorType"] == "PAYLOAD_MISMATCH"

    approved = (await senior.ask(op.VOTE, input=vote))["voteOnApproval"]
    assert approved["request"]["state"] == "APPROVED"
    assert approved["request"]["execution"] == "EXECUTED"
    assert [v["voter"]["id"] for v in approved["request"]["votes"]] == ["st_finance_senior"]
    steps = [await senior.heard("approvals", requestId=request["id"]) for _ in range(3)]
    assert [(e["state"], e["execution"]) for e in steps] == [
        ("PENDING", "NOT_STARTED"),
        ("APPROVED", "NOT_STARTED"),
        ("APPROVED", "EXECUTED"),
    ], "the vote, the quorum, the effect"

    refund = await settled(senior, asked["refund"]["id"], "SUCCEEDED")
    assert refund["externalRef"]
    assert [(d["port"], d["state"]) for d in refund["deliveries"]] == [("OrdersRefundKernel", "DELIVERED")]
    after = (await support.ask(op.GET_LEDGER, orderId="o_1042"))["getOrderLedger"]
    assert after["succeeded"]["amountMinor"] == before["succeeded"]["amountMinor"] + 12_000
    assert after["reserved"]["amountMinor"] == before["reserved"]["amountMinor"]
    again = (await senior.ask(op.VOTE, input=vote))["voteOnApproval"]
    assert again["outcome"] == "REPLAYED"

    auditor = await sign_in("auditor")
    trail: list[dict[str, Any]] = []
    for _ in range(50):
        trail = (await auditor.ask(op.LIST_AUDIT, filter={"approvalRequestId": {"eq": request["id"]}}, limit=100))[
            "listAudit"
        ]["items"]
        if any(r["approvalStep"] == "EXECUTED" for r in trail):
            break
        await asyncio.sleep(0.2)
    by = {(r["actor"]["id"], r["action"], r["verdict"]) for r in trail}
    assert ("st_support_agent", "refund.request", "ALLOWED") in by
    assert ("st_finance_senior", "approval.vote", "ALLOWED") in by
    assert {r["approvalStep"] for r in trail} >= {"REQUESTED", "VOTED", "EXECUTED"}
    assert all(r["policyVersion"] >= 1 and len(r["hash"]) == 64 for r in trail)
    denied = (
        await auditor.ask(
            op.LIST_AUDIT, filter={"targetId": {"eq": request["id"]}, "verdict": {"ne": "ALLOWED"}}, limit=100
        )
    )["listAudit"]["items"]
    assert {(r["actor"]["id"], r["code"]) for r in denied} >= {
        ("st_finance_senior", "PAYLOAD_MISMATCH"),
        ("st_finance_senior_berlin", "NOT_FOUND"),
    }
    reads = (
        await auditor.ask(op.LIST_AUDIT, filter={"targetId": {"eq": refund["id"]}, "read": {"eq": True}}, limit=5)
    )["listAudit"]["items"]
    assert reads
    assert {r["kind"] for r in reads} == {"READ"}
    assert server.cli("audit", "verify").returncode == 0


async def test_bad_refund_requests_are_refused_with_their_codes(sign_in: SignIn) -> None:
    support = await sign_in("support-agent")
    ledger = (await support.ask(op.GET_LEDGER, orderId="o_1045"))["getOrderLedger"]
    refused = {
        "REASON_REQUIRED": {"reason": {"code": ""}},
        "REASON_INVALID": {"reason": {"code": "SPAM"}},
        "VERSION_CONFLICT": {"expectedLedgerVersion": ledger["version"] + 7},
        "CURRENCY_MISMATCH": {"amount": {"amountMinor": 100, "currency": "USD"}},
        "AMOUNT_CEILING_EXCEEDED": {"amount": {"amountMinor": 60_000, "currency": "EUR"}},
        "AMOUNT_OUT_OF_RANGE": {"amount": {"amountMinor": 0, "currency": "EUR"}},
    }
    for code, change in refused.items():
        error = await support.refused(op.REQUEST_REFUND, input={**refund_input("o_1045", 100), **change})
        assert error["errorType"] == code, error
    small = ledger["refundable"]["amountMinor"]
    lead = await sign_in("finance-lead")
    error = await lead.refused(op.REQUEST_REFUND, input=refund_input("o_1045", small + 1))
    assert error["errorType"] == "REFUND_EXCEEDS_REFUNDABLE"
    assert (await support.ask(op.GET_LEDGER, orderId="o_1045"))["getOrderLedger"] == ledger, "a refusal changes nothing"


@pytest.mark.contract("ID-1")
async def test_an_idempotency_key_replays_and_is_not_reused(sign_in: SignIn) -> None:
    support = await sign_in("support-agent")
    one = refund_input("o_1048", 150)
    first = (await support.ask(op.REQUEST_REFUND, input=one))["requestRefund"]
    second = (await support.ask(op.REQUEST_REFUND, input=one))["requestRefund"]
    assert (first["outcome"], second["outcome"]) == ("EXECUTED", "REPLAYED")
    assert first["refund"]["id"] == second["refund"]["id"]
    other = await support.refused(op.REQUEST_REFUND, input={**one, "amount": {"amountMinor": 151, "currency": "EUR"}})
    assert other["errorType"] == "IDEMPOTENCY_KEY_REUSED"


@pytest.mark.contract("RL-6", "DC-4")
async def test_two_approvers_at_the_same_instant_execute_once(sign_in: SignIn) -> None:
    support, one, two = await sign_in("support-agent"), await sign_in("finance-senior"), await sign_in("finance-lead")
    asked = (await support.ask(op.REQUEST_REFUND, input=refund_input("o_1042", 7_000)))["requestRefund"]
    vote = {
        "requestId": asked["approvalRequest"]["id"],
        "vote": "APPROVE",
        "payloadHash": asked["approvalRequest"]["payloadHash"],
    }
    answers = await asyncio.gather(one.graphql(op.VOTE, input=vote), two.graphql(op.VOTE, input=vote))
    won = [a for a in answers if not a.get("errors")]
    lost = [a["errors"][0]["errorType"] for a in answers if a.get("errors")]
    assert len(won) == 1
    assert lost == ["APPROVAL_NOT_PENDING"]
    refund = await settled(one, asked["refund"]["id"], "SUCCEEDED")
    assert len(refund["approvedBy"]) == 1
    assert len(refund["deliveries"]) == 1


async def test_a_lead_asks_the_same_schema_for_approval_metrics(sign_in: SignIn) -> None:
    lead = await sign_in("finance-lead")
    now = datetime.now(UTC)
    at = {"from": (now - timedelta(days=31)).isoformat(), "to": (now + timedelta(minutes=1)).isoformat()}
    rows = (await lead.ask(op.METRICS, at=at))["approvalMetrics"]
    assert len(rows) >= 3
    assert all(0 <= r["share"] <= 1 and r["medianSeconds"] >= 0 for r in rows)
    pair = next(r for r in rows if r["approverId"] == "st_finance_senior")
    assert pair["approved"] + pair["rejected"] > 0
