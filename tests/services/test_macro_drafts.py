"""saveMacro, publishMacro, retireMacro: what may be said, which version is in force, who puts it there."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from resolvers.registry import COMMANDS
from schema.errors import ConsoleError
from tests import factories
from tests.services.bench import Bench, Done
from tests.services.test_macros import FINANCE_LEAD, LEAD, SAFETY_LEAD, people, refused, vote

DECIDE = {
    "key": "decide",
    "action": "decideCase",
    "argsTemplate": {"kind": "WARN", "severity": 1, "reason": {"code": "SPAM"}},
    "when": None,
}


def draft(**more: Any) -> dict[str, Any]:
    return {
        "name": "Refund and apologise",
        "description": "For orders that a studio canceled.",
        "allowedRoles": ["SUPPORT"],
        "caseKinds": ["REFUND"],
        "parameters": factories.REFUND_PARAMETERS,
        "steps": list(factories.REFUND_STEPS),
        "reason": {"code": "PLANNED_RELEASE"},
        **more,
    }


async def saved(bench: Bench, who: str = LEAD, **more: Any) -> str:
    done = await bench.do(who, "saveMacro", input=draft(**more))
    return str(done.refs["macro"])


async def publish(bench: Bench, macro: str, version: int, who: str = LEAD) -> Done:
    given = {"macroId": macro, "expectedVersion": version, "reason": {"code": "PLANNED_RELEASE"}}
    return await bench.do(who, "publishMacro", input=given)


async def versions(bench: Bench, macro: str) -> list[tuple[int, str, bool]]:
    rows = await bench.conn.fetch("SELECT version, state, current FROM macro WHERE id = $1 ORDER BY version", macro)
    return [tuple(row) for row in rows]


def test_the_mutations_that_may_be_steps_are_these() -> None:
    offered = {name for name, command in COMMANDS.items() if command.step}
    assert offered == {"addNote", "decideCase", "escalateCase", "releaseCase", "requestRefund", "resolveCase"}


async def test_a_macro_begins_as_a_draft_and_is_the_current_one_until_it_is_published(bench: Bench) -> None:
    await people(bench)
    macro = await saved(bench)
    assert await versions(bench, macro) == [(1, "DRAFT", True)]
    row = await bench.row("macro", macro)
    assert (row["author_id"], row["allowed_roles"], row["case_kinds"]) == (LEAD, ["SUPPORT"], ["REFUND"])
    assert (await bench.records())[-1]["action"] == "macro.save"


async def test_a_version_comes_into_force_by_a_second_person_and_retires_the_one_before(bench: Bench) -> None:
    await people(bench)
    macro = await saved(bench)
    done = await publish(bench, macro, 1)
    assert (done.outcome, await versions(bench, macro)) == ("PENDING_APPROVAL", [(1, "DRAFT", True)])
    await vote(bench, FINANCE_LEAD, done.refs["approvalRequest"])
    assert await versions(bench, macro) == [(1, "PUBLISHED", True)]
    again = await bench.do(LEAD, "saveMacro", input=draft(id=macro, expectedVersion=1, name="Second"))
    assert (again.refs["macro"], again.refs["macroVersion"]) == (macro, "2")
    assert await versions(bench, macro) == [(1, "PUBLISHED", True), (2, "DRAFT", False)]
    done = await publish(bench, macro, 2)
    await vote(bench, FINANCE_LEAD, done.refs["approvalRequest"])
    assert await versions(bench, macro) == [(1, "RETIRED", False), (2, "PUBLISHED", True)]


async def test_who_countersigns_is_the_lead_of_its_domain(bench: Bench) -> None:
    await people(bench)
    money = (await publish(bench, await saved(bench), 1)).refs["approvalRequest"]
    safety = (await publish(bench, await saved(bench, steps=[DECIDE]), 1)).refs["approvalRequest"]
    both = (await publish(bench, await saved(bench, steps=[factories.REFUND_STEPS[1]]), 1)).refs["approvalRequest"]
    for who, request in ((SAFETY_LEAD, money), (FINANCE_LEAD, safety)):
        with pytest.raises(ConsoleError) as caught:
            await vote(bench, who, str(request))
        assert caught.value.code == "NOT_FOUND"
    for who, request in ((FINANCE_LEAD, money), (SAFETY_LEAD, safety), (SAFETY_LEAD, both)):
        await vote(bench, who, str(request))
        assert (await bench.row("approval_request", str(request)))["execution"] == "EXECUTED"


async def test_who_wrote_the_draft_does_not_countersign_it(bench: Bench) -> None:
    await people(bench)
    macro = await saved(bench, FINANCE_LEAD)
    await factories.staff(bench.conn, "FINANCE", "LEAD", id="st_finance_lead_2", cities=("*",))
    request = (await publish(bench, macro, 1)).refs["approvalRequest"]
    with pytest.raises(ConsoleError) as caught:
        await vote(bench, FINANCE_LEAD, str(request))
    assert (caught.value.code, caught.value.info["ineligibleCode"]) == ("NOT_ELIGIBLE", "CONTRIBUTOR")
    await vote(bench, "st_finance_lead_2", str(request))
    assert await versions(bench, macro) == [(1, "PUBLISHED", True)]


async def test_a_newer_draft_makes_the_request_for_the_older_void(bench: Bench) -> None:
    await people(bench)
    macro = await saved(bench)
    request = (await publish(bench, macro, 1)).refs["approvalRequest"]
    await saved(bench, id=macro, expectedVersion=1)
    await vote(bench, FINANCE_LEAD, str(request))
    row = await bench.row("approval_request", str(request))
    assert (row["state"], row["invalidated_because"]) == ("INVALIDATED", "VERSION_CONFLICT")
    assert await versions(bench, macro) == [(1, "DRAFT", False), (2, "DRAFT", True)]


async def test_retired_is_out_of_force_and_nothing_takes_its_place(bench: Bench) -> None:
    await people(bench)
    macro = await factories.macro(bench.conn, LEAD)
    given = {"macroId": macro, "expectedVersion": 1, "reason": {"code": "CLEANUP"}}
    assert (await refused(bench, LEAD, "retireMacro", input={**given, "expectedVersion": 2})).code == "VERSION_CONFLICT"
    await bench.do(LEAD, "retireMacro", input=given)
    assert await versions(bench, macro) == [(1, "RETIRED", True)]
    assert (await refused(bench, LEAD, "retireMacro", input=given)).code == "INVALID_TRANSITION"
    assert await saved(bench, id=macro, expectedVersion=1) == macro
    assert await versions(bench, macro) == [(1, "RETIRED", False), (2, "DRAFT", True)]


async def test_two_drafts_at_once_are_one_draft_and_a_conflict(bench: Bench) -> None:
    await people(bench)
    macro = await saved(bench)
    answers = await asyncio.gather(
        *(saved(bench, who, id=macro, expectedVersion=1) for who in (LEAD, FINANCE_LEAD)), return_exceptions=True
    )
    assert [one.code for one in answers if isinstance(one, ConsoleError)] == ["VERSION_CONFLICT"]
    assert len(await versions(bench, macro)) == 2


async def test_the_same_key_is_one_macro(bench: Bench) -> None:
    await people(bench)
    first = await bench.do(LEAD, "saveMacro", input=draft(idempotencyKey="k"))
    again = await bench.do(LEAD, "saveMacro", input=draft(idempotencyKey="k"))
    assert (again.outcome, again.refs["macro"]) == ("REPLAYED", first.refs["macro"])
    assert await bench.conn.fetchval("SELECT count(*) FROM macro") == 1


async def test_who_may_not_write_macros(bench: Bench) -> None:
    await people(bench)
    await factories.staff(bench.conn, "SUPPORT", "LEAD", id="st_local", cities=("lisbon",))
    await factories.staff(bench.conn, "ADMIN", id="st_admin", cities=("*",))
    await factories.staff(bench.conn, "AUDITOR", id="st_auditor", cities=("*",))
    for who in ("st_agent", "st_local", "st_admin", "st_auditor"):  # a macro is for every city
        assert (await refused(bench, who, "saveMacro", input=draft())).code == "Unauthorized", who
    macro = await factories.macro(bench.conn, LEAD)
    given = {"macroId": macro, "expectedVersion": 1, "reason": {"code": "CLEANUP"}}
    assert (await refused(bench, "st_agent", "retireMacro", input=given)).code == "Unauthorized"
    assert (await refused(bench, LEAD, "retireMacro", input={**given, "macroId": "mac_0"})).code == "NOT_FOUND"


async def test_what_was_saved_never_changes_and_two_are_never_in_force(bench: Bench) -> None:
    await people(bench)
    macro = await factories.macro(bench.conn, LEAD)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await bench.conn.execute("UPDATE macro SET steps = '[1]'")
    with pytest.raises(asyncpg.UniqueViolationError):
        await factories.macro(bench.conn, LEAD, id=macro, version=2, current=False)


# ---------- what may be said ----------
def step(**more: Any) -> dict[str, Any]:
    return {**factories.REFUND_STEPS[1], **more}


def refund(**more: Any) -> dict[str, Any]:
    template = {**factories.REFUND_STEPS[0]["argsTemplate"], **more}  # type: ignore[dict-item]
    return {**factories.REFUND_STEPS[0], "argsTemplate": template}


NOTED = {"body": "x", "internal": True}


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"name": " "}, "BAD_REQUEST", "name"),
        ({"allowedRoles": []}, "BAD_REQUEST", "allowedRoles"),
        ({"caseKinds": ["REFUND", "REFUND"]}, "BAD_REQUEST", "caseKinds"),
        ({"steps": []}, "BAD_REQUEST", "steps"),
        ({"steps": [step(key=f"k{n}") for n in range(13)]}, "BAD_REQUEST", "steps"),
        ({"steps": [step(), step()]}, "BAD_REQUEST", "steps.1.key"),
        ({"steps": [step(key="a.b")]}, "BAD_REQUEST", "steps.0.key"),
        ({"steps": [step(action="runMacro")]}, "BAD_REQUEST", "steps.0.action"),
        ({"steps": [step(action="voteOnApproval")]}, "BAD_REQUEST", "steps.0.action"),
        ({"steps": [step(action="skipCase")]}, "BAD_REQUEST", "steps.0.action"),
        ({"steps": [step(action="noSuchThing")]}, "BAD_REQUEST", "steps.0.action"),
        ({"steps": [step(argsTemplate=[])]}, "BAD_REQUEST", "steps.0.argsTemplate"),
        ({"steps": [step(argsTemplate={**NOTED, "bodie": "x"})]}, "BAD_REQUEST", "steps.0.argsTemplate.bodie"),
        ({"steps": [step(argsTemplate={"internal": True})]}, "BAD_REQUEST", "steps.0.argsTemplate.body"),
        ({"steps": [step(argsTemplate={**NOTED, "internal": "yes"})]}, "BAD_REQUEST", "steps.0.argsTemplate.internal"),
        ({"steps": [step(argsTemplate={**NOTED, "body": None})]}, "BAD_REQUEST", "steps.0.argsTemplate.body"),
        ({"steps": [step(argsTemplate={**NOTED, "mentionIds": "x"})]}, "BAD_REQUEST", "steps.0.argsTemplate.mentionIds"),
        ({"steps": [step(argsTemplate={**NOTED, "body": "{{param.nobody}}"})]}, "BAD_REQUEST", "steps.0.argsTemplate"),
        ({"steps": [step(argsTemplate={**NOTED, "body": "{{case.leaseToken}}"})]}, "BAD_REQUEST", "steps.0.argsTemplate"),
        ({"steps": [step(argsTemplate={**NOTED, "body": "{{ case.id | x }}"})]}, "BAD_REQUEST", "steps.0.argsTemplate"),
        ({"steps": [step(argsTemplate={**NOTED, "body": "{{step.note.note}}"})]}, "BAD_REQUEST", "steps.0.argsTemplate"),
        ({"steps": [step(argsTemplate={**NOTED, "idempotencyKey": "k"})]}, "BAD_REQUEST", "steps.0.argsTemplate.idempotencyKey"),
        ({"steps": [step(when="case.id == 'x'")]}, "BAD_REQUEST", "steps.0.when"),
        ({"steps": [step(when="param.nobody")]}, "BAD_REQUEST", "steps.0.when"),
        ({"steps": [refund(amount={"amountMinor": "x", "currency": "EUR"})]}, "BAD_REQUEST", "steps.0.argsTemplate.amount.amountMinor"),
        ({"steps": [refund(amount={"amountMinor": "{{order.refundableMinor}} cents", "currency": "EUR"})]}, "BAD_REQUEST", "steps.0.argsTemplate.amount.amountMinor"),
        ({"steps": [refund(destination="NOWHERE")]}, "BAD_REQUEST", "steps.0.argsTemplate.destination"),
        ({"steps": [refund(reason={})]}, "BAD_REQUEST", "steps.0.argsTemplate.reason.code"),
        ({"steps": [refund(reason={"code": "SPAM"})]}, "REASON_INVALID", "steps.0.argsTemplate.reason.code"),
        ({"steps": [refund()], "parameters": {"type": "object", "properties": {}}}, "BAD_REQUEST", "steps.0.argsTemplate"),
        ({"parameters": {"type": "string"}}, "SCHEMA_VIOLATION", "parameters"),
        ({"expectedVersion": 1}, "BAD_REQUEST", "expectedVersion"),
    ],
)  # fmt: skip
async def test_what_could_never_run_is_not_saved(bench: Bench, given: dict[str, Any], code: str, field: str) -> None:
    await people(bench)
    error = await refused(bench, LEAD, "saveMacro", input=draft(**given))
    assert (error.code, error.info["field"]) == (code, field)
    assert await bench.conn.fetchval("SELECT count(*) FROM macro") == 0


async def test_templates_may_fill_what_they_name(bench: Bench) -> None:
    await people(bench)
    steps = [
        refund(reason={"code": "{{reason.code}}"}),
        step(
            argsTemplate={
                **NOTED,
                "body": "{{step.refund.refund}} {{ case.subjectId }}",
                "mentionIds": ["{{param.orderId}}"],
            }
        ),
        {**factories.REFUND_STEPS[2], "when": "!param.amountMinor"},
    ]
    assert await saved(bench, steps=steps)
