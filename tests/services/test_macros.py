"""Macros over the real pipeline: drafts and what is in force, plans that leave nothing, runs of all steps or none, approval of the whole."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resolvers import macro_preview, registry
from resolvers.computed import Call
from schema.errors import ConsoleError
from services.cases.commands import ResolveCase
from tests import factories
from tests.services.bench import Bench, Done

AGENT, OTHER, LEAD, FINANCE, FINANCE_LEAD, SAFETY_LEAD = (
    "st_agent",
    "st_other",
    "st_lead",
    "st_finance",
    "st_finance_lead",
    "st_safety_lead",
)
EVERYWHERE = ("*",)


async def people(bench: Bench) -> None:
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id=AGENT)
    await factories.staff(bench.conn, "SUPPORT", "AGENT", id=OTHER)
    await factories.staff(bench.conn, "SUPPORT", "LEAD", id=LEAD, cities=EVERYWHERE)
    await factories.staff(bench.conn, "FINANCE", "SENIOR", id=FINANCE)
    await factories.staff(bench.conn, "FINANCE", "LEAD", id=FINANCE_LEAD, cities=EVERYWHERE)
    await factories.staff(bench.conn, "TRUST_SAFETY", "LEAD", id=SAFETY_LEAD, cities=EVERYWHERE)


async def refused(bench: Bench, who: str, name: str, **arguments: Any) -> ConsoleError:
    with pytest.raises(ConsoleError) as caught:
        await bench.do(who, name, **arguments)
    return caught.value


# ---------- a macro to run ----------
class Desk:
    """A case that the agent holds, an order, and a macro that refunds it."""

    def __init__(self, bench: Bench, case: Any, order: str, macro: str) -> None:
        self.bench, self.case, self.order, self.macro = bench, case, order, macro

    def given(self, **more: Any) -> dict[str, Any]:
        return {
            "macroId": self.macro,
            "caseId": self.case["id"],
            "leaseToken": self.case["lease_token"],
            "parameters": {"orderId": self.order},
            **more,
        }

    async def preview(self, who: str = AGENT, **more: Any) -> dict[str, Any]:
        return await preview(self.bench, who, self.given(**more))

    async def run(self, plan: dict[str, Any], *, key: str = "k", who: str = AGENT, **more: Any) -> Done:
        given = self.given(planHash=plan["planHash"], idempotencyKey=key)
        reason = {"reason": {"code": "CANCELED_BY_STUDIO", "note": "The studio closed for good."}}
        return await self.bench.do(who, "runMacro", input={**given, **reason, **more})

    async def fails(self, plan: dict[str, Any], **more: Any) -> ConsoleError:
        with pytest.raises(ConsoleError) as caught:
            await self.run(plan, **more)
        return caught.value

    async def state(self) -> str:
        row = await self.bench.row("case_file", self.case["id"])
        return str(row["state"])


async def preview(bench: Bench, who: str, given: dict[str, Any]) -> dict[str, Any]:
    snapshot = await bench.authorizer.current()
    answer = macro_preview.functions(lambda: bench.pipeline)["previewMacro"]
    plan: dict[str, Any] = await answer(Call(factories.caller(snapshot, who), snapshot, {"input": given}))
    return plan


async def desk(bench: Bench, captured: int = 4_900, *, who: str = AGENT, **macro: Any) -> Desk:
    await people(bench)
    case_id = await factories.case(bench.conn, kind="REFUND")
    await bench.do(who, "claimCase", caseId=case_id)
    order = await factories.ledger(bench.conn, captured_minor=captured)
    made = await factories.macro(bench.conn, LEAD, **macro)
    return Desk(bench, await bench.row("case_file", case_id), order, made)


async def counts(bench: Bench) -> dict[str, int]:
    """Rows of every table of the console and its log."""
    tables = await bench.conn.fetch(
        "SELECT schemaname || '.' || tablename AS name FROM pg_tables WHERE schemaname IN ('public', 'audit') ORDER BY 1"
    )
    return {row["name"]: await bench.conn.fetchval(f"SELECT count(*) FROM {row['name']}") for row in tables}


async def test_a_preview_says_what_each_step_would_do_and_leaves_nothing(bench: Bench) -> None:
    at = await desk(bench)
    before = await counts(bench)
    plan = await at.preview()
    assert await counts(bench) == before
    assert (await bench.row("case_file", at.case["id"])) == at.case
    assert (plan["executable"], plan["needsApproval"], plan["approvals"]) == (True, False, 0)
    assert [(step["key"], step["verdict"]) for step in plan["steps"]] == [
        ("refund", "OK"),
        ("note", "OK"),
        ("resolve", "OK"),
    ]
    refund, note, resolve = plan["steps"]
    assert refund["before"] == {"reservedMinor": 0, "version": 1}
    assert refund["after"]["refund"] == {
        "state": "APPROVED",
        "amountMinor": 4_900,
        "currency": "EUR",
        "destination": "ORIGINAL",
    }
    assert refund["externalEffects"] == ["OrdersRefundKernel.submit_refund"]
    assert (note["before"], note["after"]) == (None, {"note": {"internal": True, "templateId": None}})
    assert (resolve["before"]["state"], resolve["after"]["state"]) == ("CLAIMED", "RESOLVED")


async def test_a_run_does_all_steps_in_one_transaction_with_a_record_each(bench: Bench) -> None:
    at = await desk(bench)
    done = await at.run(await at.preview())
    assert done.outcome == "EXECUTED"
    run = await bench.row("macro_run", done.refs["run"])
    assert (run["state"], run["macro_version"], run["case_id"]) == ("EXECUTED", 1, at.case["id"])
    assert await at.state() == "RESOLVED"
    [refund] = await bench.conn.fetch("SELECT * FROM refund")
    assert (refund["state"], refund["amount_minor"], refund["case_id"]) == ("APPROVED", 4_900, at.case["id"])
    assert refund["reason_note"] == "The studio closed for good."
    [note] = await bench.conn.fetch("SELECT body FROM note")
    assert note["body"] == f"Refunded 4900 on {at.order}."
    whole, *steps = (await bench.records())[-4:]
    assert [one["action"] for one in (whole, *steps)] == ["macro.run", "refund.request", "case.note", "case.resolve"]
    assert {one["cause"] for one in steps} == {whole["id"]}
    assert whole["object"]["id"] == run["id"]
    assert await bench.conn.fetchval("SELECT count(*) FROM outbox WHERE operation = 'submit_refund'") == 1


# ---------- plans go stale ----------
async def test_whoever_was_faster_makes_the_plan_stale_and_the_fresh_one_comes_with_the_refusal(bench: Bench) -> None:
    at = await desk(bench, 9_000)
    plan = await at.preview(parameters={"orderId": at.order})
    await bench.do(
        FINANCE,
        "requestRefund",
        input={
            "orderId": at.order,
            "amount": {"amountMinor": 6_000, "currency": "EUR"},
            "idempotencyKey": "other",
            "reason": {"code": "DUPLICATE"},
        },
    )
    error = await at.fails(plan)
    assert error.code == "PLAN_STALE"
    fresh = error.info["plan"]
    assert fresh["planHash"] != plan["planHash"]
    assert fresh["steps"][0]["after"]["refund"]["amountMinor"] == 3_000
    assert (await at.state(), await bench.conn.fetchval("SELECT count(*) FROM macro_run")) == ("CLAIMED", 0)
    assert (await at.run(fresh, key="k2")).outcome == "EXECUTED"


async def test_a_plan_holds_ten_minutes_and_no_longer(bench: Bench) -> None:
    at = await desk(bench)
    plan = await at.preview()
    late = await bench.later(601)
    error = await Desk(late, at.case, at.order, at.macro).fails(plan)
    assert error.code == "PLAN_STALE"
    in_time = await bench.later(590)
    assert (await Desk(in_time, at.case, at.order, at.macro).run(plan)).outcome == "EXECUTED"


@pytest.mark.parametrize("presented", ["", "x", "0.0", "5.".ljust(66, "a"), "ffffffffff." + "a" * 64])
async def test_what_is_no_plans_hash_is_answered_like_a_stale_one(bench: Bench, presented: str) -> None:
    at = await desk(bench)
    assert (await at.fails({"planHash": presented})).code == "PLAN_STALE"


async def test_other_parameters_than_were_previewed_are_another_plan(bench: Bench) -> None:
    at = await desk(bench)
    plan = await at.preview()
    other = await factories.ledger(bench.conn, captured_minor=4_900)
    assert (await at.fails(plan, parameters={"orderId": other})).code == "PLAN_STALE"


async def test_a_new_version_in_force_makes_the_plan_of_the_old_one_stale(bench: Bench) -> None:
    at = await desk(bench)
    plan = await at.preview()
    await bench.conn.execute("UPDATE macro SET state = 'RETIRED', current = false")
    await factories.macro(bench.conn, LEAD, id=at.macro, version=2)
    assert (await at.fails(plan)).code == "PLAN_STALE"


# ---------- all steps or none ----------
WITHOUT_AN_ORDER = {
    "key": "late",
    "action": "requestRefund",
    "argsTemplate": {
        "orderId": "{{param.orderId}}",
        "amount": {"amountMinor": 1, "currency": "EUR"},
        "reason": {"code": "DUPLICATE"},
    },
    "when": None,
}


async def test_a_step_that_cannot_be_done_is_named_and_those_behind_it_are_not_reached(bench: Bench) -> None:
    refund, note, resolve = factories.REFUND_STEPS
    at = await desk(bench, steps=[refund, WITHOUT_AN_ORDER, note, resolve])
    plan = await at.preview()
    assert plan["executable"] is False
    assert [(step["verdict"], step["errorCode"]) for step in plan["steps"]] == [
        ("OK", None),
        ("INVALID", "REFUND_EXCEEDS_REFUNDABLE"),
        ("INVALID", "NOT_REACHED"),
        ("INVALID", "NOT_REACHED"),
    ]
    error = await at.fails(plan)
    assert (error.code, error.info["stepKey"]) == ("REFUND_EXCEEDS_REFUNDABLE", "late")
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 0
    assert await at.state() == "CLAIMED"


class RefusesInEarnest(ResolveCase):
    """Does in the rehearsal what it then refuses to do."""

    def __init__(self) -> None:
        self.rehearsed = False

    async def execute(self, act: Any, target: Any, entity_id: str | None) -> Any:
        if self.rehearsed:
            raise ConsoleError("LEGAL_HOLD")
        self.rehearsed = True
        return await super().execute(act, target, entity_id)


async def test_a_step_that_fails_when_it_is_done_takes_back_those_before_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = await desk(bench)
    plan, before = await at.preview(), await counts(bench)
    monkeypatch.setattr("resolvers.inner.COMMANDS", {**registry.COMMANDS, "resolveCase": RefusesInEarnest()})
    error = await at.fails(plan)
    assert (error.code, error.info["stepKey"]) == ("LEGAL_HOLD", "resolve")
    after = await counts(bench)
    assert {name for name, count in after.items() if before[name] != count} == {"audit.intake"}
    assert (await bench.records())[-1]["decision"]["code"] == "LEGAL_HOLD"


async def test_a_condition_leaves_a_step_out(bench: Bench) -> None:
    refund, note, resolve = factories.REFUND_STEPS
    at = await desk(
        bench, steps=[refund, {**note, "when": "param.amountMinor"}, {**resolve, "when": "!param.amountMinor"}]
    )
    plan = await at.preview()
    assert [step["verdict"] for step in plan["steps"]] == ["OK", "NO_OP", "OK"]
    await at.run(plan)
    assert await bench.conn.fetchval("SELECT count(*) FROM note") == 0
    assert await at.state() == "RESOLVED"


async def test_a_later_step_names_what_an_earlier_one_made(bench: Bench) -> None:
    refund, note, _ = factories.REFUND_STEPS
    body = "Refund {{step.refund.refund}} of {{reason.code}}: {{reason.note}}"
    at = await desk(bench, steps=[refund, {**note, "argsTemplate": {"body": body, "internal": True}}])
    await at.run(await at.preview())
    refund_id = await bench.conn.fetchval("SELECT id FROM refund")
    assert (
        await bench.conn.fetchval("SELECT body FROM note")
        == f"Refund {refund_id} of CANCELED_BY_STUDIO: The studio closed for good."
    )


# ---------- who may ----------
async def test_a_macro_adds_no_right_and_its_roles_come_on_top(bench: Bench) -> None:
    at = await desk(bench, allowed_roles=["FINANCE"])
    with pytest.raises(ConsoleError) as caught:
        await at.preview()
    assert caught.value.code == "Unauthorized"
    assert (await at.fails({"planHash": "0.0"})).code == "Unauthorized"
    await bench.conn.execute("DELETE FROM macro")
    decide = {
        "key": "decide",
        "action": "decideCase",
        "argsTemplate": {"kind": "BAN", "severity": 3, "reason": {"code": "SPAM"}, "statement": STATEMENT},
        "when": None,
    }
    macro = await factories.macro(bench.conn, LEAD, steps=[decide])
    plan = await Desk(bench, at.case, at.order, macro).preview()
    assert [(step["verdict"], step["errorCode"]) for step in plan["steps"]] == [("DENIED", "Unauthorized")]


STATEMENT = {
    "ground": "INCOMPATIBLE_CONTENT",
    "groundReference": "Rules 4",
    "facts": "Seen.",
    "explanation": "Because.",
    "category": "SCAM_AND_FRAUD",
    "contentType": ["TEXT"],
    "automatedDetection": False,
}


async def test_the_lease_is_the_callers_and_still_runs(bench: Bench) -> None:
    at = await desk(bench)
    plan = await at.preview()
    assert (await at.fails(plan, leaseToken="other")).code == "LEASE_LOST"
    assert (await at.fails(plan, who=OTHER)).code == "LEASE_LOST"
    late = await bench.later(15 * 60 + 1)
    assert (await Desk(late, at.case, at.order, at.macro).fails(plan)).code == "LEASE_LOST"
    with pytest.raises(ConsoleError) as caught:
        await at.preview(leaseToken="other")
    assert caught.value.code == "LEASE_LOST"


async def test_a_case_or_order_of_another_city_is_absent(bench: Bench) -> None:
    at = await desk(bench)
    elsewhere = await factories.case(bench.conn, kind="REFUND", city_id="berlin", state="CLAIMED", assignee_id=AGENT)
    with pytest.raises(ConsoleError) as caught:
        await at.preview(caseId=elsewhere, leaseToken="lease")
    assert caught.value.code == "NOT_FOUND"
    foreign = await factories.ledger(bench.conn, city_id="berlin")
    plan = await at.preview(parameters={"orderId": foreign})
    missing = await at.preview(parameters={"orderId": "o_nowhere"})
    assert plan["steps"] == missing["steps"]
    assert plan["steps"][0]["verdict"] == "INVALID"


@pytest.mark.parametrize(
    ("macro", "code"),
    [
        ({"state": "DRAFT"}, "INVALID_TRANSITION"),
        ({"state": "RETIRED"}, "INVALID_TRANSITION"),
        ({"case_kinds": ["MODERATION"]}, "BAD_REQUEST"),
    ],
)
async def test_only_what_is_in_force_and_for_such_a_case_runs(bench: Bench, macro: dict[str, Any], code: str) -> None:
    at = await desk(bench, **macro)
    with pytest.raises(ConsoleError) as caught:
        await at.preview()
    assert caught.value.code == code
    assert (await at.fails({"planHash": "0.0"})).code == code


async def test_parameters_are_those_of_the_schema_and_the_place_is_named(bench: Bench) -> None:
    at = await desk(bench)
    error = await at.fails({"planHash": "0.0"}, parameters={"orderId": at.order, "amountMinor": "secret"})
    assert (error.code, error.info["field"]) == ("SCHEMA_VIOLATION", "parameters.amountMinor")
    assert "secret" not in str(error.info) + error.message
    assert (await at.fails({"planHash": "0.0"}, parameters=[])).code == "BAD_REQUEST"
    assert (await at.fails({"planHash": "0.0"}, reason={"code": "SPAM"})).code == "REASON_INVALID"


# ---------- twice, and at once ----------
async def test_the_same_key_is_answered_with_the_same_run(bench: Bench) -> None:
    at = await desk(bench)
    plan = await at.preview()
    first, again = await at.run(plan), await at.run(plan)
    assert (first.outcome, again.outcome) == ("EXECUTED", "REPLAYED")
    assert again.refs["run"] == first.refs["run"]
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 1
    assert (await at.fails(plan, key="k2")).code == "INVALID_TRANSITION"


async def test_of_two_runs_at_once_one_runs(bench: Bench) -> None:
    at = await desk(bench)
    plan = await at.preview()
    answers = await asyncio.gather(at.run(plan, key="a"), at.run(plan, key="b"), return_exceptions=True)
    assert [one.code for one in answers if isinstance(one, ConsoleError)] == ["INVALID_TRANSITION"]
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 1
    assert await bench.conn.fetchval("SELECT count(*) FROM macro_run") == 1


# ---------- approval of the whole ----------
async def vote(bench: Bench, who: str, request_id: str, ballot: str = "APPROVE") -> Done:
    request = await bench.row("approval_request", request_id)
    given = {"requestId": request_id, "vote": ballot, "payloadHash": request["payload_hash"]}
    return await bench.do(who, "voteOnApproval", input=given)


async def asked(bench: Bench, captured: int = 12_000, **macro: Any) -> tuple[Desk, Done]:
    at = await desk(bench, captured, **macro)
    plan = await at.preview()
    assert (plan["needsApproval"], plan["approvals"]) == (True, 1)
    assert plan["steps"][0]["verdict"] == "NEEDS_APPROVAL"
    done = await at.run(plan)
    assert done.outcome == "PENDING_APPROVAL"
    return at, done


async def standing(at: Desk, done: Done) -> tuple[str, str, str, str]:
    """(request, its execution, the run, the case)."""
    request = await at.bench.row("approval_request", done.refs["approvalRequest"])
    run = await at.bench.row("macro_run", done.refs["run"])
    return request["state"], request["execution"], run["state"], await at.state()


async def test_a_gated_step_makes_one_request_of_the_whole_and_nothing_runs_before(bench: Bench) -> None:
    at, done = await asked(bench)
    assert await standing(at, done) == ("PENDING", "NOT_STARTED", "PENDING_APPROVAL", "PENDING_APPROVAL")
    request = await bench.row("approval_request", done.refs["approvalRequest"])
    assert (request["action"], request["target_id"], request["amount_minor"]) == ("macro.run", at.case["id"], 12_000)
    assert at.case["lease_token"] not in request["payload"]
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 0
    assert await bench.conn.fetchval("SELECT count(*) FROM outbox") == 0
    case = await bench.row("case_file", at.case["id"])
    assert (case["lease_token"], case["assignee_id"]) == (None, AGENT)


async def test_the_approved_run_is_done_once_as_its_requester_and_names_who_approved(bench: Bench) -> None:
    at, done = await asked(bench)
    await vote(bench, FINANCE, done.refs["approvalRequest"])
    assert await standing(at, done) == ("APPROVED", "EXECUTED", "EXECUTED", "RESOLVED")
    [refund] = await bench.conn.fetch("SELECT * FROM refund")
    assert (refund["state"], refund["requester_id"], refund["approved_by_ids"]) == ("APPROVED", AGENT, [FINANCE])
    assert await bench.conn.fetchval("SELECT count(*) FROM outbox WHERE operation = 'submit_refund'") == 1
    assert (await vote(bench, FINANCE, done.refs["approvalRequest"])).outcome == "REPLAYED"
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 1
    voted, *run = (await bench.records())[-6:-1]
    actions = [one["action"] for one in (voted, *run)]
    assert actions[0] == "approval.vote"
    assert sorted(actions[1:]) == ["case.note", "case.resolve", "macro.run", "refund.request"]
    whole = next(one for one in run if one["action"] == "macro.run")
    assert whole["cause"] == voted["id"]
    assert {one["cause"] for one in run if one is not whole} == {whole["id"]}


async def test_who_asked_or_lacks_the_vote_of_a_gated_step_does_not_approve_the_whole(bench: Bench) -> None:
    _, done = await asked(bench)
    await factories.grant(bench.conn, AGENT, "FINANCE", "LEAD")
    await factories.staff(bench.conn, "CITY_OPS", "LEAD", id="st_ops")
    request = done.refs["approvalRequest"]
    for who, code in ((AGENT, "NOT_ELIGIBLE"), (SAFETY_LEAD, "NOT_FOUND"), ("st_ops", "NOT_FOUND")):
        with pytest.raises(ConsoleError) as caught:
            await vote(bench, who, request)
        assert caught.value.code == code, who
    row = await bench.row("approval_request", request)
    pool = (await bench.alerts("APPROVAL_WAITING"))[0]["recipient_ids"]
    assert (sorted(pool), row["state"]) == (sorted([LEAD, FINANCE, FINANCE_LEAD]), "PENDING")


async def test_a_requester_who_lost_the_right_to_a_step_makes_the_run_fail(bench: Bench) -> None:
    at, done = await asked(bench)
    await bench.conn.execute("UPDATE staff SET state = 'OFFBOARDED' WHERE id = $1", AGENT)
    await vote(bench, FINANCE, done.refs["approvalRequest"])
    assert await standing(at, done) == ("INVALIDATED", "NOT_STARTED", "FAILED", "OPEN")
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 0


@pytest.mark.parametrize(
    "meanwhile",
    [
        "UPDATE order_ledger SET captured_minor = 11000",
        "UPDATE macro SET state = 'RETIRED'",
        "UPDATE case_file SET version = version + 1",
    ],
)
async def test_what_is_no_longer_what_was_approved_does_not_run(bench: Bench, meanwhile: str) -> None:
    at, done = await asked(bench)
    await bench.conn.execute(meanwhile)
    await vote(bench, FINANCE, done.refs["approvalRequest"])
    assert await standing(at, done) == ("INVALIDATED", "NOT_STARTED", "FAILED", "OPEN")
    assert await bench.conn.fetchval("SELECT count(*) FROM refund") == 0


async def test_another_refund_that_asks_for_more_approvals_makes_the_approved_run_void(bench: Bench) -> None:
    at, done = await asked(bench)
    buyer = await bench.conn.fetchval("SELECT buyer_id FROM order_ledger")
    other = await factories.ledger(bench.conn, captured_minor=400_000, buyer_id=buyer)
    await factories.refund(bench.conn, other, AGENT, amount_minor=195_000, state="SUCCEEDED")
    await vote(bench, FINANCE, done.refs["approvalRequest"])
    assert await standing(at, done) == ("INVALIDATED", "NOT_STARTED", "FAILED", "OPEN")


@pytest.mark.parametrize(("ballot", "ends"), [("REJECT", "REJECTED"), ("CANCEL", "REJECTED"), ("SILENCE", "EXPIRED")])
async def test_a_run_that_is_not_approved_gives_the_case_back(bench: Bench, ballot: str, ends: str) -> None:
    at, done = await asked(bench)
    request = await bench.row("approval_request", done.refs["approvalRequest"])
    if ballot == "REJECT":
        await vote(bench, FINANCE, request["id"], "REJECT")
    elif ballot == "CANCEL":
        given = {"requestId": request["id"], "expectedVersion": request["version"], "reason": {"code": "DUPLICATE"}}
        await bench.do(AGENT, "cancelApproval", input=given)
    else:
        late = await bench.later(73 * 3600)
        await late.worker.run_timers()
    assert (await standing(at, done))[2:] == (ends, "OPEN")
    case = await bench.row("case_file", at.case["id"])
    assert (case["assignee_id"], case["approval_request_id"]) == (AGENT, None)
    assert (await bench.do(AGENT, "claimCase", caseId=case["id"])).outcome == "EXECUTED"


async def test_a_case_that_no_step_resolves_is_open_again_after_the_approved_run(bench: Bench) -> None:
    at, done = await asked(bench, steps=factories.REFUND_STEPS[:2])
    await vote(bench, FINANCE, done.refs["approvalRequest"])
    assert await standing(at, done) == ("APPROVED", "EXECUTED", "EXECUTED", "OPEN")
    case = await bench.row("case_file", at.case["id"])
    assert (case["lease_token"], case["approval_request_id"]) == (None, None)
