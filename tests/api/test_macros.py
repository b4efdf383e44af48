"""Macros over HTTP: written, read in versions, previewed without a trace but its record, run, and read back."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from tests import factories
from tests.api.stage import Stage

AGENT, LEAD, FINANCE_LEAD, CASHIER, ELSEWHERE = (
    *("st_mac_agent", "st_mac_lead", "st_mac_finance"),
    *("st_mac_cashier", "st_mac_berlin"),
)
SAVE = """mutation($input: SaveMacroInput!) {
  saveMacro(input: $input) { outcome macro { id version state steps { key action argsTemplate when } parameters } run { id } }
}"""
GET = "query($id: ID!, $version: Int) { getMacro(id: $id, version: $version) { version state name } }"
PREVIEW = """query($input: PreviewMacroInput!) {
  previewMacro(input: $input) {
    planHash macroId macroVersion expiresAt executable needsApproval approvals
    steps { key action verdict errorCode before after externalEffects }
  }
}"""
RUN = """mutation($input: RunMacroInput!) {
  runMacro(input: $input) {
    outcome macro { id version } run { id state planHash approvalRequestId steps { key verdict after } }
    approvalRequest { id action payloadHash } audit { id }
  }
}"""


class Place:
    """Rows to work on, and the superuser's connection that made them."""

    def __init__(self, stage: Stage, conn: asyncpg.Connection[Any]) -> None:
        self.stage, self.conn = stage, conn
        self.macro = self.order = self.case = ""

    async def arrange(self) -> None:
        everywhere = ("*",)
        await factories.staff(self.conn, "SUPPORT", "AGENT", id=AGENT)
        await factories.staff(self.conn, "SUPPORT", "LEAD", id=LEAD, cities=everywhere)
        await factories.staff(self.conn, "FINANCE", "LEAD", id=FINANCE_LEAD, cities=everywhere)
        await factories.staff(self.conn, "SUPPORT", "AGENT", id=ELSEWHERE, cities=("berlin",))
        await factories.staff(self.conn, "FINANCE", "AGENT", id=CASHIER)
        version = await self.conn.fetchval("SELECT version FROM authz_version")
        await self.stage.parts.authorizer.current(version)  # else the first token may be of somebody not yet known
        self.macro = await factories.macro(self.conn, LEAD)
        self.order = await factories.ledger(self.conn, captured_minor=4_900)
        self.case = await factories.case(self.conn, kind="REFUND", state="CLAIMED", assignee_id=AGENT)

    def given(self, **more: Any) -> dict[str, Any]:
        parameters = json.dumps({"orderId": self.order})
        given = {"macroId": self.macro, "caseId": self.case, "leaseToken": "lease", "parameters": parameters}
        return {"input": {**given, **more}}

    async def data(self, who: str, query: str, variables: Any) -> Any:
        body = (await self.stage.ask(who, query, variables)).json()
        assert body.get("errors") is None, body
        return body["data"]

    async def error(self, who: str, query: str, variables: Any) -> Any:
        (error,) = (await self.stage.ask(who, query, variables)).json()["errors"]
        return error

    async def counts(self) -> dict[str, int]:
        names = await self.conn.fetch(
            "SELECT schemaname || '.' || tablename AS name FROM pg_tables WHERE schemaname IN ('public', 'audit')"
        )
        return {row["name"]: await self.conn.fetchval(f"SELECT count(*) FROM {row['name']}") for row in names}


async def place(stage: Stage) -> Place:
    made = Place(stage, await asyncpg.connect(**stage.database.superuser))
    await made.arrange()
    return made


async def test_a_preview_leaves_one_record_and_nothing_else(stage: Stage) -> None:
    at = await place(stage)
    before = await at.counts()
    plan = (await at.data(AGENT, PREVIEW, at.given()))["previewMacro"]
    after = await at.counts()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {"audit.intake": 1}
    assert (plan["macroVersion"], plan["executable"], plan["needsApproval"], plan["approvals"]) == (1, True, False, 0)
    assert json.loads(plan["steps"][2]["after"])["state"] == "RESOLVED"
    assert plan["steps"][0]["externalEffects"] == ["OrdersRefundKernel.submit_refund"]
    record = (await stage.records())[-1]
    assert (record["kind"], record["action"], record["field"]) == ("read", "macro.preview", "Query.previewMacro")
    assert (record["object"]["type"], record["object"]["id"]) == ("MacroPlan", plan["planHash"])
    assert "lease" not in json.dumps(record)
    await at.conn.close()


async def test_a_refused_preview_is_recorded_too(stage: Stage) -> None:
    at = await place(stage)
    denied = await at.error(FINANCE_LEAD, PREVIEW, at.given())
    assert (denied["errorType"], denied["message"]) == (
        "Unauthorized",
        "Not Authorized to access previewMacro on type Query",
    )
    assert (await at.error(ELSEWHERE, PREVIEW, at.given()))["errorType"] == "NOT_FOUND"
    wrong = await at.error(AGENT, PREVIEW, at.given(parameters='{"amountMinor": "x"}'))
    assert (wrong["errorType"], wrong["errorInfo"]["field"]) == ("SCHEMA_VIOLATION", "parameters.amountMinor")
    verdicts = [(r["action"], r["decision"]["verdict"], r["decision"]["code"]) for r in (await stage.records())[-3:]]
    assert verdicts == [
        ("macro.preview", "DENIED", "Unauthorized"),
        ("macro.preview", "DENIED", "NOT_FOUND"),
        ("macro.preview", "FAILED", "SCHEMA_VIOLATION"),
    ]
    await at.conn.close()


async def test_what_was_previewed_is_run_and_read_back_by_the_city(stage: Stage) -> None:
    at = await place(stage)
    plan = (await at.data(AGENT, PREVIEW, at.given()))["previewMacro"]
    reason = {"code": "CANCELED_BY_STUDIO"}
    wanted = at.given(planHash=plan["planHash"], idempotencyKey="k", reason=reason)
    done = (await at.data(AGENT, RUN, wanted))["runMacro"]
    assert (done["outcome"], done["approvalRequest"]) == ("EXECUTED", None)
    assert done["macro"] == {"id": at.macro, "version": 1}
    run = done["run"]
    assert (run["state"], run["planHash"], run["approvalRequestId"]) == ("EXECUTED", plan["planHash"], None)
    # The run is read by more than who may read its ledger, so it says what was done and no values.
    assert run["steps"] == [{"key": step["key"], "verdict": step["verdict"], "after": None} for step in plan["steps"]]
    listed = "query($id: ID!) { listMacroRuns(filter: { caseId: { eq: $id } }) { items { id state macroId } } }"
    items = (await at.data(LEAD, listed, {"id": at.case}))["listMacroRuns"]["items"]
    assert items == [{"id": run["id"], "state": "EXECUTED", "macroId": at.macro}]
    assert (await at.data(ELSEWHERE, listed, {"id": at.case}))["listMacroRuns"]["items"] == []
    one = "query($id: ID!) { getMacroRun(id: $id) { id } }"
    assert (await at.data(ELSEWHERE, one, {"id": run["id"]}))["getMacroRun"] is None
    stale = await at.error(AGENT, RUN, at.given(planHash=plan["planHash"], idempotencyKey="k2", reason=reason))
    assert stale["errorType"] == "INVALID_TRANSITION"
    await at.conn.close()


async def test_a_stale_plan_brings_the_fresh_one(stage: Stage) -> None:
    at = await place(stage)
    plan = (await at.data(AGENT, PREVIEW, at.given()))["previewMacro"]
    await at.conn.execute("UPDATE order_ledger SET captured_minor = 12000, version = version + 1")
    reason = {"code": "CANCELED_BY_STUDIO"}
    stale = await at.error(AGENT, RUN, at.given(planHash=plan["planHash"], idempotencyKey="k", reason=reason))
    assert (stale["errorType"], stale["errorInfo"]["retryable"]) == ("PLAN_STALE", False)
    fresh = stale["errorInfo"]["plan"]
    assert (fresh["needsApproval"], fresh["steps"][0]["verdict"]) == (True, "NEEDS_APPROVAL")
    wanted = at.given(planHash=fresh["planHash"], idempotencyKey="k", reason=reason)
    done = (await at.data(AGENT, RUN, wanted))["runMacro"]
    assert (done["outcome"], done["run"]["state"]) == ("PENDING_APPROVAL", "PENDING_APPROVAL")
    assert done["approvalRequest"]["id"] == done["run"]["approvalRequestId"]
    await at.conn.close()


async def test_versions_are_read_by_number_and_the_current_one_by_the_id_alone(stage: Stage) -> None:
    at = await place(stage)
    steps = [
        {
            "key": "note",
            "action": "addNote",
            "argsTemplate": '{"body": "{{case.id}}", "internal": true}',
            "when": "case.id",
        }
    ]
    wanted = {
        "id": at.macro,
        "expectedVersion": 1,
        "name": "Second thoughts",
        "description": "",
        "allowedRoles": ["SUPPORT", "FINANCE"],
        "caseKinds": ["REFUND"],
        "parameters": '{"type": "object"}',
        "steps": steps,
        "reason": {"code": "PLANNED_RELEASE"},
    }
    macro = (await at.data(LEAD, SAVE, {"input": wanted}))["saveMacro"]["macro"]
    assert (macro["id"], macro["version"], macro["state"]) == (at.macro, 2, "DRAFT")
    assert json.loads(macro["parameters"]) == {"type": "object"}
    [step] = macro["steps"]
    assert json.loads(step.pop("argsTemplate")) == {"body": "{{case.id}}", "internal": True}
    assert step == {"key": "note", "action": "addNote", "when": "case.id"}
    for version, found in (
        (None, {"version": 1, "state": "PUBLISHED", "name": "Refund and apologise"}),
        (1, {"version": 1, "state": "PUBLISHED", "name": "Refund and apologise"}),
        (2, {"version": 2, "state": "DRAFT", "name": "Second thoughts"}),
        (3, None),
    ):
        assert (await at.data(AGENT, GET, {"id": at.macro, "version": version}))["getMacro"] == found
    listed = "query($f: ModelMacroFilterInput) { listMacros(filter: $f) { items { id version } nextToken } }"
    for where, count in (
        ({"allowedRoles": {"contains": "SUPPORT"}}, 1),
        ({"allowedRoles": {"contains": "FINANCE"}}, 0),
        ({"state": {"eq": "PUBLISHED"}, "caseKinds": {"contains": "REFUND"}}, 1),
    ):
        items = (await at.data(AGENT, listed, {"f": where}))["listMacros"]["items"]
        assert items == [{"id": at.macro, "version": 1}] * count, where
    await at.conn.close()


@pytest.mark.contract("AZ-2")
async def test_a_run_of_a_macro_needs_the_right_to_each_of_its_steps(stage: Stage) -> None:
    at = await place(stage)
    await at.conn.execute("UPDATE macro SET current = false, state = 'RETIRED'")
    decide = {
        "key": "decide",
        "action": "decideCase",
        "argsTemplate": {"kind": "WARN", "severity": 1, "reason": {"code": "SPAM"}},
        "when": None,
    }
    at.macro = await factories.macro(at.conn, LEAD, steps=[decide], allowed_roles=["FINANCE"])
    case = await factories.case(at.conn, kind="REFUND", state="CLAIMED", assignee_id=CASHIER)
    plan = (await at.data(CASHIER, PREVIEW, at.given(caseId=case)))["previewMacro"]
    assert [(step["verdict"], step["errorCode"]) for step in plan["steps"]] == [("DENIED", "Unauthorized")]
    reason = {"code": "SPAM"}
    wanted = at.given(caseId=case, planHash=plan["planHash"], idempotencyKey="k", reason=reason)
    error = await at.error(CASHIER, RUN, wanted)
    assert (error["errorType"], error["errorInfo"]["stepKey"]) == ("Unauthorized", "decide")
    await at.conn.close()


async def test_neither_lease_nor_parameters_stand_in_a_record_not_even_as_a_digest(stage: Stage) -> None:
    at = await place(stage)
    digests = []
    for token, order in (("lease", at.order), ("other", "o_elsewhere")):
        parameters = json.dumps({"orderId": order})
        await stage.ask(AGENT, PREVIEW, at.given(leaseToken=token, parameters=parameters))
        record = (await stage.records())[-1]
        digests.append((record["operation"]["arguments"], (record["objects"] or {}).get("filter")))
    assert digests[0] == digests[1]
    await at.conn.close()
