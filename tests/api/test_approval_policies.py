"""A change of an approval policy as people make it: over HTTP, with two processes, from the old request to the next one."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.api.conftest import MakeStage
from tests.api.stage import Stage
from tests.conftest import Database

ADMINS = """
INSERT INTO staff (id, handle, display_name, email) VALUES
 ('st_admin', 'admin', 'Ava', 'ava@example.com'), ('st_admin_2', 'admin-2', 'Abe', 'abe@example.com');
INSERT INTO staff_grant (id, staff_id, role, tier, city_ids, content_categories) VALUES
 ('g_admin', 'st_admin', 'ADMIN', 'LEAD', '{*}', '{SFW}'), ('g_admin_2', 'st_admin_2', 'ADMIN', 'LEAD', '{*}', '{SFW}');
INSERT INTO order_ledger (order_id, buyer_id, city_id, currency, captured_minor) VALUES
 ('o_1', 'b_1', 'lisbon', 'EUR', 50000), ('o_2', 'b_2', 'lisbon', 'EUR', 50000), ('o_3', 'b_3', 'lisbon', 'EUR', 50000);
"""
LOWER = {
    "any": [
        {"fact": "sum24hMinor", "op": "gt", "value": 1000},
        {"fact": "destination", "op": "eq", "value": "OTHER_INSTRUMENT"},
    ]
}
POLICY = "id action version condition approvals floor approverRoles minTier mustInclude approveWithinSeconds executeWithinSeconds enabled"
REFUND = """
mutation($order: ID!, $amount: Int!, $key: ID!) {
  requestRefund(input: {orderId: $order, amount: {amountMinor: $amount, currency: "EUR"}, idempotencyKey: $key, reason: {code: "QUALITY_ISSUE"}}) {
    outcome refund { state } ledger { reserved { amountMinor } } approvalRequest { id state } } }
"""
SAVE = f"mutation($input: ApprovalPolicyInput!) {{ saveApprovalPolicy(input: $input) {{ outcome policy {{ {POLICY} }} approvalRequest {{ id state diff }} audit {{ id }} }} }}"
REQUEST = "query($id: ID!) { getApprovalRequest(id: $id) { state execution invalidatedBecause payloadHash eligible ineligibleCode diff summary } }"
VOTE = "mutation($id: ID!, $hash: ID!) { voteOnApproval(input: {requestId: $id, vote: APPROVE, payloadHash: $hash}) { outcome request { state execution } } }"
GET = f"query($id: ID!, $version: Int) {{ getApprovalPolicy(id: $id, version: $version) {{ {POLICY} }} }}"
LIST = f"query($filter: ModelApprovalPolicyFilterInput) {{ listApprovalPolicies(filter: $filter) {{ items {{ {POLICY} }} nextToken }} }}"


@pytest_asyncio.fixture(loop_scope="session")
async def both(stages: MakeStage, database: Database) -> tuple[Stage, Stage]:
    conn = await asyncpg.connect(**database.as_role("cs_owner"))
    await conn.execute(ADMINS)  # before the processes start, so that both know them
    await conn.close()
    return await stages(), await stages()


async def data(stage: Stage, person: str, query: str, **variables: Any) -> Any:
    answer = (await stage.ask(person, query, variables)).json()
    assert "errors" not in answer, answer["errors"]
    (value,) = answer["data"].values()
    return value


async def error(stage: Stage, person: str, query: str, **variables: Any) -> Any:
    answer = (await stage.ask(person, query, variables)).json()
    return answer["errors"][0]


async def change(stage: Stage, person: str = "st_admin", id_: str = "refund.request/1", **said: Any) -> dict[str, Any]:
    """The policy as the form of a front end would send it back, with what was changed in it."""
    policy = await data(stage, person, GET, id=id_)
    policy["expectedVersion"] = policy.pop("version")
    del policy["floor"]
    return {**policy, "condition": json.dumps(LOWER), "reason": {"code": "INTERNAL_AUDIT"}, **said}


async def vote(stage: Stage, person: str, request_id: str) -> Any:
    seen = await data(stage, person, REQUEST, id=request_id)
    return await data(stage, person, VOTE, id=request_id, hash=seen["payloadHash"])


@pytest.mark.contract("DC-3", "DC-6", "AZ-7")
async def test_a_lower_threshold_from_proposal_to_the_next_refund_of_another_process(both: tuple[Stage, Stage]) -> None:
    here, there = both
    waiting = await data(here, "st_support", REFUND, order="o_1", amount=12_000, key="one")
    assert (waiting["outcome"], waiting["ledger"]["reserved"]["amountMinor"]) == ("PENDING_APPROVAL", 12_000)
    small = await data(there, "st_support", REFUND, order="o_2", amount=1_500, key="two")
    assert small["outcome"] == "EXECUTED"

    saved = await data(here, "st_admin", SAVE, input=await change(here, idempotencyKey="p"))
    assert saved["outcome"] == "PENDING_APPROVAL"
    assert saved["policy"]["version"] == 1  # what is to change is as before
    request = saved["approvalRequest"]["id"]
    seen = await data(there, "st_admin", REQUEST, id=request)
    assert (seen["eligible"], seen["ineligibleCode"]) == (False, "SELF_APPROVAL")
    own = await error(there, "st_admin", VOTE, id=request, hash=seen["payloadHash"])
    assert (own["errorType"], own["errorInfo"]["ineligibleCode"]) == ("NOT_ELIGIBLE", "SELF_APPROVAL")
    shown = json.loads((await data(there, "st_audit", REQUEST, id=request))["diff"])["policy"]
    assert (shown["before"]["version"], shown["after"]["condition"]) == (1, LOWER)

    assert (await vote(there, "st_admin_2", request))["request"]["state"] == "PENDING"
    done = await vote(there, "st_audit", request)
    assert done["request"] == {"state": "APPROVED", "execution": "EXECUTED"}

    ended = await data(here, "st_support", REQUEST, id=waiting["approvalRequest"]["id"])
    assert (ended["state"], ended["invalidatedBecause"]) == ("INVALIDATED", "POLICY_CHANGED")
    ledger = await data(
        here,
        "st_support",
        '{ getOrderLedger(orderId: "o_1") { reserved { amountMinor } refunds { items { state } } } }',
    )
    assert ledger == {"reserved": {"amountMinor": 0}, "refunds": {"items": [{"state": "CANCELED"}]}}
    for stage, order in ((here, "o_1"), (there, "o_3")):
        asked = await data(stage, "st_support", REFUND, order=order, amount=1_500, key=f"next-{order}")
        assert asked["outcome"] == "PENDING_APPROVAL"
    again = await data(here, "st_admin", SAVE, input={**await change(here, idempotencyKey="p"), "expectedVersion": 1})
    assert (again["outcome"], again["policy"]["version"]) == ("REPLAYED", 2)


async def test_policies_are_read_by_version_and_listed_as_they_stand(both: tuple[Stage, Stage]) -> None:
    here, there = both
    request = (await data(here, "st_admin", SAVE, input=await change(here)))["approvalRequest"]["id"]
    for person in ("st_admin_2", "st_audit"):
        await vote(here, person, request)
    old = await data(there, "st_audit", GET, id="refund.request/1", version=1)
    new = await data(there, "st_audit", GET, id="refund.request/1")
    assert (old["version"], new["version"]) == (1, 2)
    assert json.loads(new["condition"]) == LOWER
    assert new == await data(there, "st_audit", GET, id="refund.request/1", version=2)
    assert await data(there, "st_audit", GET, id="refund.request/1", version=3) is None
    assert (new["approvals"], new["floor"], new["approverRoles"], new["minTier"]) == (
        1,
        1,
        ["SUPPORT", "FINANCE"],
        "AGENT",
    )
    assert json.loads(new["mustInclude"]) == [["SUPPORT LEAD", "FINANCE AGENT"]]
    listed = (await data(there, "st_admin", LIST))["items"]
    assert [one["id"] for one in listed] == sorted({one["id"] for one in listed})
    assert {one["id"]: one["version"] for one in listed}["refund.request/1"] == 2
    of_macros = (await data(there, "st_admin", LIST, filter={"action": {"beginsWith": "macro."}}))["items"]
    assert [(one["id"], one["condition"], one["mustInclude"]) for one in of_macros] == [
        ("macro.publish/1", "null", None),
        ("macro.run/1", '{"fact": "stepApprovals", "op": "gt", "value": 0}', '"STEPS"'),
    ]
    for person in ("st_support", "st_finance", "st_ts"):
        assert (await error(here, person, LIST))["errorType"] == "Unauthorized"
        assert (await error(here, person, GET, id="refund.request/1"))["errorType"] == "Unauthorized"


@pytest.mark.parametrize(
    "id_", ["refund.request/1", "refund.request/2", "case.decide/1", "macro.publish/1", "macro.run/1"]
)
async def test_every_policy_can_be_sent_back_as_it_was_read(both: tuple[Stage, Stage], id_: str) -> None:
    here, _ = both
    read = await data(here, "st_admin", GET, id=id_)
    sent = await change(here, id_=id_, condition=read["condition"])
    same = await error(here, "st_admin", SAVE, input=sent)
    assert (same["errorType"], same["message"]) == ("BAD_REQUEST", "The policy says this already.")


@pytest.mark.contract("AZ-10")
async def test_a_hint_of_another_process_goes_by_the_new_policy_at_once(both: tuple[Stage, Stage]) -> None:
    here, there = both
    hints = '{ getOrderLedger(orderId: "o_1") { allowedActions { action needsApproval approvals approverRoles } } }'
    (before,) = (await data(there, "st_support", hints))["allowedActions"]
    assert (before["action"], before["needsApproval"]) == ("refund.request", False)
    request = (await data(here, "st_admin", SAVE, input=await change(here, condition="null")))["approvalRequest"]["id"]
    for person in ("st_admin_2", "st_audit"):
        await vote(here, person, request)
    (after,) = (await data(there, "st_support", hints))["allowedActions"]
    assert (after["needsApproval"], after["approvals"], after["approverRoles"]) == (True, 1, ["SUPPORT", "FINANCE"])


@pytest.mark.contract("DC-6")
async def test_what_is_refused_says_where(both: tuple[Stage, Stage]) -> None:
    here, _ = both
    wrong = json.dumps({"any": [LOWER, {"fact": "moonPhase", "op": "eq", "value": 1}]})
    found = await error(here, "st_admin", SAVE, input=await change(here, condition=wrong))
    assert (found["errorType"], found["errorInfo"]["field"]) == ("SCHEMA_VIOLATION", "condition.any.1")
    floor = await error(here, "st_admin", SAVE, input=await change(here, enabled=False))
    assert (floor["errorType"], floor["errorInfo"]["floor"]) == ("SCHEMA_VIOLATION", 1)
    stale = await error(here, "st_admin", SAVE, input=await change(here, expectedVersion=7))
    assert (stale["errorType"], stale["errorInfo"]["currentVersion"]) == ("VERSION_CONFLICT", 1)
    sent = await change(here)
    for person in ("st_audit", "st_finance"):
        assert (await error(here, person, SAVE, input=sent))["errorType"] == "Unauthorized"
