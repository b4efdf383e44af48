"""Cases: leases, reports, decisions, notes; what others hear of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import orjson
import pytest

from schema.errors import ConsoleError
from tests import factories
from tests.services.bench import Bench

AGENT, OTHER, SENIOR, LEAD, LEAD_2 = "st_ts", "st_ts_2", "st_senior", "st_lead", "st_lead_2"
STATEMENT = {
    "ground": "INCOMPATIBLE_CONTENT",
    "groundReference": "Community rules 4",
    "facts": "The listing asks for payment outside.",
    "explanation": "It takes away the buyer's protection.",
    "category": "SCAM_AND_FRAUD",
    "contentType": ["TEXT"],
    "automatedDetection": False,
}


async def people(bench: Bench) -> None:
    for who, tier in ((AGENT, "AGENT"), (OTHER, "AGENT"), (SENIOR, "SENIOR"), (LEAD, "LEAD"), (LEAD_2, "LEAD")):
        await factories.staff(bench.conn, "TRUST_SAFETY", tier, id=who)


async def refused(bench: Bench, who: str, name: str, **arguments: Any) -> ConsoleError:
    with pytest.raises(ConsoleError) as caught:
        await bench.do(who, name, **arguments)
    return caught.value


def step(case: Any, code: str = "SHIFT_END", **more: Any) -> dict[str, Any]:
    given = {"caseId": case["id"], "leaseToken": case["lease_token"], "expectedVersion": case["version"]}
    return {**given, "reason": {"code": code}, **more}


async def claimed(bench: Bench, who: str = AGENT, **row: Any) -> Any:
    case_id = await factories.case(bench.conn, **row)
    await bench.do(who, "claimCase", caseId=case_id)
    return await bench.row("case_file", case_id)


def decision(case: Any, kind: str, *, key: str = "k", severity: int = 2, **more: Any) -> dict[str, Any]:
    given = step(case, more.pop("code", "SCAM_FRAUD"), kind=kind, severity=severity, idempotencyKey=key)
    return {**given, "statement": STATEMENT, **more}


# ---------- claims ----------
async def test_the_next_case_is_the_most_urgent_one_that_the_caller_may_claim(bench: Bench) -> None:
    await people(bench)
    queue = await factories.queue(bench.conn)
    at = {"queue_id": queue}
    await factories.case(bench.conn, priority=10, id="low", **at)
    await factories.case(bench.conn, priority=400, id="escalated", state="ESCALATED", **at)
    await factories.case(bench.conn, priority=300, id="high", **at)
    await factories.case(bench.conn, priority=1, id="late", resolve_due_at=factories.NOW - timedelta(hours=1), **at)
    taken = [await bench.do(AGENT, "claimNextCase", queueId=queue) for _ in range(4)]
    assert [t.refs["case"] for t in taken] == ["late", "high", "low", None]
    assert [t.values["pending"] for t in taken] == [2, 1, 0, 0]
    row = await bench.row("case_file", "late")
    assert (row["state"], row["assignee_id"], row["lease_token"]) == ("CLAIMED", AGENT, taken[0].values["leaseToken"])
    assert (await bench.do(SENIOR, "claimNextCase", queueId=queue)).refs["case"] == "escalated"
    event = (await bench.events("CaseEvent"))[0]
    assert (event["caseId"], event["kind"], event["state"], event["assigneeId"]) == (
        "late",
        "claimed",
        "CLAIMED",
        AGENT,
    )


@pytest.mark.contract("DB-5")
async def test_claims_that_race_never_meet(bench: Bench) -> None:
    await people(bench)
    queue = await factories.queue(bench.conn)
    for _ in range(4):
        await factories.case(bench.conn, queue_id=queue)
    taken = await asyncio.gather(
        *(bench.do(who, "claimNextCase", queueId=queue) for who in (AGENT, OTHER, SENIOR, LEAD))
    )
    assert len({t.refs["case"] for t in taken}) == 4


@pytest.mark.contract("DB-5")
async def test_one_case_wanted_by_two_goes_to_one(bench: Bench) -> None:
    await people(bench)
    case_id = await factories.case(bench.conn)

    async def claim(who: str) -> str:
        try:
            return (await bench.do(who, "claimCase", caseId=case_id)).outcome
        except ConsoleError as error:
            return error.code

    assert sorted(await asyncio.gather(claim(AGENT), claim(OTHER))) == ["CASE_CLAIMED", "EXECUTED"]


@pytest.mark.contract("DB-5")
async def test_five_leases_and_no_more_also_at_once(bench: Bench) -> None:
    await people(bench)
    queue = await factories.queue(bench.conn)
    for _ in range(7):
        await factories.case(bench.conn, queue_id=queue)

    async def claim() -> str:
        try:
            return (await bench.do(AGENT, "claimNextCase", queueId=queue)).outcome
        except ConsoleError as error:
            return error.code

    answers = await asyncio.gather(*(claim() for _ in range(6)))
    assert sorted(answers) == ["EXECUTED"] * 5 + ["LEASE_LIMIT"]


async def test_the_same_key_claims_one_case(bench: Bench) -> None:
    await people(bench)
    queue = await factories.queue(bench.conn)
    for _ in range(2):
        await factories.case(bench.conn, queue_id=queue)
    first = await bench.do(AGENT, "claimNextCase", queueId=queue, idempotencyKey="k")
    again = await bench.do(AGENT, "claimNextCase", queueId=queue, idempotencyKey="k")
    assert (again.outcome, again.refs, again.values) == ("REPLAYED", first.refs, first.values)


async def test_a_skipped_case_is_not_offered_again_for_four_hours(bench: Bench) -> None:
    await people(bench)
    queue = await factories.queue(bench.conn)
    case_id = await factories.case(bench.conn, queue_id=queue)
    await bench.do(AGENT, "claimNextCase", queueId=queue)
    await bench.do(AGENT, "skipCase", input=step(await bench.row("case_file", case_id), "WELLNESS"))
    row = await bench.row("case_file", case_id)
    assert (row["state"], row["skips"], row["assignee_id"]) == ("OPEN", 1, None)
    assert (await bench.do(AGENT, "claimNextCase", queueId=queue)).refs["case"] is None
    assert (await (await bench.later(4 * 3600 + 60)).do(AGENT, "claimNextCase", queueId=queue)).refs["case"] == case_id


async def test_nobody_works_on_his_own_account(bench: Bench) -> None:
    await people(bench)
    subject = await factories.subject(bench.conn, staff_id=AGENT)
    queue = await factories.queue(bench.conn)
    case_id = await factories.case(bench.conn, subject_id=subject, queue_id=queue)
    assert (await refused(bench, AGENT, "claimCase", caseId=case_id)).code == "SELF_SUBJECT"
    assert (await bench.do(AGENT, "claimNextCase", queueId=queue)).refs["case"] is None
    wanted = {"subjectId": subject, "category": "SPAM", "externalId": "x"}
    assert (await refused(bench, AGENT, "submitReport", input=wanted)).code == "SELF_SUBJECT"


@pytest.mark.contract("AZ-5")
async def test_another_city_is_as_if_absent(bench: Bench) -> None:
    await people(bench)
    there = await factories.case(bench.conn, city_id="berlin")
    for case_id in (there, "case_none"):
        assert (await refused(bench, AGENT, "claimCase", caseId=case_id)).error_info == {"retryable": False}
    queue = await factories.queue(bench.conn, city_ids=("berlin",))
    assert (await refused(bench, AGENT, "claimNextCase", queueId=queue)).code == "NOT_FOUND"


async def test_an_escalated_case_is_for_seniors(bench: Bench) -> None:
    await people(bench)
    case_id = await factories.case(bench.conn, state="ESCALATED")
    assert (await refused(bench, AGENT, "claimCase", caseId=case_id)).code == "Unauthorized"
    assert (await bench.do(SENIOR, "claimCase", caseId=case_id)).outcome == "EXECUTED"


async def test_claiming_again_tells_the_holder_of_his_lease(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    again = await bench.do(AGENT, "claimCase", caseId=case["id"])
    assert (again.outcome, again.values["leaseToken"]) == ("REPLAYED", case["lease_token"])
    assert (await bench.row("case_file", case["id"]))["version"] == case["version"]


async def test_a_lease_is_renewed_without_a_new_version(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    given = {"caseId": case["id"], "leaseToken": case["lease_token"]}
    assert (await refused(bench, OTHER, "renewLease", input=given)).code == "LEASE_LOST"
    done = await (await bench.later(600)).do(AGENT, "renewLease", input=given)
    assert done.refs == {"lease": case["id"]}
    row = await bench.row("case_file", case["id"])
    assert row["version"] == case["version"]
    assert row["lease_expires_at"] - case["lease_expires_at"] > timedelta(minutes=9)


async def test_a_lease_that_ended_is_lost_at_use_and_free_for_others(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    late = await bench.later(16 * 60)
    with pytest.raises(ConsoleError) as caught:
        await late.do(AGENT, "releaseCase", input=step(case))
    assert caught.value.code == "LEASE_LOST"
    assert (await late.do(OTHER, "claimCase", caseId=case["id"])).outcome == "EXECUTED"
    row = await bench.row("case_file", case["id"])
    assert (row["assignee_id"], row["version"]) == (OTHER, case["version"] + 2)


async def test_the_timer_takes_an_ended_lease_off(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    assert await bench.worker.run_timers() == 0
    late = await bench.later(16 * 60)
    assert await late.worker.run_timers() == 1
    row = await bench.row("case_file", case["id"])
    assert (row["state"], row["assignee_id"], row["lease_token"]) == ("OPEN", None, None)
    record = (await bench.records())[-1]
    assert (record["kind"], record["actor"]["sub"], record["action"]) == ("system", "system", "lease.expire")
    given = step(case, "SPAM", leaseToken=case["lease_token"], expectedVersion=row["version"])
    with pytest.raises(ConsoleError) as caught:
        await late.do(AGENT, "resolveCase", input=given)
    assert caught.value.code == "LEASE_LOST"


# ---------- steps ----------
@pytest.mark.parametrize(
    ("name", "code", "state"),
    [
        ("releaseCase", "SHIFT_END", "OPEN"),
        ("skipCase", "LANGUAGE", "OPEN"),
        ("escalateCase", "NEEDS_SENIOR", "ESCALATED"),
        ("resolveCase", "NO_VIOLATION", "RESOLVED"),
    ],
)
async def test_a_step_needs_lease_version_and_a_reason_of_its_list(
    bench: Bench, name: str, code: str, state: str
) -> None:
    await people(bench)
    case = await claimed(bench)
    report = await factories.report(bench.conn, case["id"])
    wrong = [
        ({"leaseToken": None}, "LEASE_REQUIRED"),
        ({"leaseToken": "other"}, "LEASE_LOST"),
        ({"expectedVersion": 1}, "VERSION_CONFLICT"),
        ({"reason": {"code": "DUPLICATE_X"}}, "REASON_INVALID"),
        ({"reason": {"code": ""}}, "REASON_REQUIRED"),
    ]
    for change, expected in wrong:
        assert (await refused(bench, AGENT, name, input={**step(case, code), **change})).code == expected
    assert (await refused(bench, OTHER, name, input={**step(case, code), "leaseToken": None})).code == "CASE_CLAIMED"
    await bench.do(AGENT, name, input=step(case, code))
    row = await bench.row("case_file", case["id"])
    assert (row["state"], row["lease_token"], row["version"]) == (state, None, case["version"] + 1)
    assert (await bench.row("report", report))["state"] == ("DISMISSED" if name == "resolveCase" else "ATTACHED")


async def test_a_case_nobody_holds_must_be_claimed_first(bench: Bench) -> None:
    await people(bench)
    row = await bench.row("case_file", await factories.case(bench.conn))
    assert (
        await refused(bench, AGENT, "resolveCase", input=step(row, "SPAM", leaseToken="x"))
    ).code == "LEASE_REQUIRED"


async def test_a_hidden_action_is_refused_by_the_server(bench: Bench) -> None:
    await people(bench)
    queue = await factories.queue(bench.conn, hidden_actions=["resolveCase"])
    case = await claimed(bench, queue_id=queue)
    assert (await refused(bench, AGENT, "resolveCase", input=step(case, "SPAM"))).code == "INVALID_TRANSITION"


async def test_a_resolved_case_is_reopened_within_thirty_days(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    report = await factories.report(bench.conn, case["id"])
    await bench.do(AGENT, "resolveCase", input=step(case, "NO_VIOLATION"))
    row = await bench.row("case_file", case["id"])
    given = step(row, "NEW_EVIDENCE", leaseToken=None, reason={"code": "NEW_EVIDENCE", "note": "A new report came in."})
    assert (await refused(bench, AGENT, "reopenCase", input=given)).code == "Unauthorized"
    with pytest.raises(ConsoleError) as caught:
        await (await bench.later(31 * 86_400)).do(SENIOR, "reopenCase", input=given)
    assert caught.value.code == "INVALID_TRANSITION"
    await bench.do(SENIOR, "reopenCase", input=given)
    row = await bench.row("case_file", case["id"])
    assert (row["state"], row["resolved_at"]) == ("OPEN", None)
    assert (await bench.row("report", report))["state"] == "ATTACHED"


# ---------- reports ----------
async def test_a_report_opens_a_case_and_the_next_one_attaches(bench: Bench) -> None:
    await people(bench)
    subject = await factories.subject(bench.conn)
    queue = await factories.queue(bench.conn)
    await factories.queue(bench.conn, city_ids=())

    def report(external: str, category: str, who: str) -> dict[str, Any]:
        return {
            "subjectId": subject,
            "category": category,
            "externalId": external,
            "reporterId": who,
            "detail": "Pay me.",
        }

    first = await bench.do(AGENT, "submitReport", input=report("1", "SPAM", "u1"))
    case = await bench.row("case_file", (await bench.row("report", first.refs["report"]))["case_id"])
    assert (case["queue_id"], case["state"], case["priority"]) == (queue, "OPEN", 100 + 6)
    assert case["resolve_due_at"] - case["created_at"] == timedelta(days=1)
    second = await bench.do(OTHER, "submitReport", input=report("1", "HATE", "u2"))
    row = await bench.row("report", second.refs["report"])
    assert (row["case_id"], row["state"], row["source"]) == (case["id"], "ATTACHED", f"staff:{OTHER}")
    assert (await bench.row("case_file", case["id"]))["priority"] == 300 + 10
    again = await bench.do(AGENT, "submitReport", input=report("1", "SPAM", "u1"))
    assert (again.outcome, again.refs) == ("REPLAYED", first.refs)
    other = await refused(bench, AGENT, "submitReport", input=report("1", "HATE", "u1"))
    assert other.code == "IDEMPOTENCY_KEY_REUSED"
    assert (await refused(bench, AGENT, "submitReport", input=report("2", "NO_SUCH", "u1"))).code == "BAD_REQUEST"


@pytest.mark.contract("DB-5")
async def test_reports_at_once_open_one_case(bench: Bench) -> None:
    await people(bench)
    subject = await factories.subject(bench.conn)
    await factories.queue(bench.conn)
    reports = [{"subjectId": subject, "category": "SPAM", "externalId": str(n)} for n in range(4)]
    await asyncio.gather(*(bench.do(AGENT, "submitReport", input=report) for report in reports))
    assert await bench.conn.fetchval("SELECT count(*) FROM case_file WHERE subject_id = $1", subject) == 1
    assert await bench.conn.fetchval("SELECT count(*) FROM report WHERE subject_id = $1", subject) == 4


@pytest.mark.contract("PV-1")
async def test_free_text_never_stands_in_the_log(bench: Bench) -> None:
    await people(bench)
    subject = await factories.subject(bench.conn)
    await factories.queue(bench.conn)
    marker = "marker-7f3a"
    wanted = {"subjectId": subject, "category": "SPAM", "externalId": "1", "detail": marker, "reporterId": marker}
    await bench.do(AGENT, "submitReport", input=wanted)
    case = await claimed(bench)
    given = decision(case, "WARN", reason={"code": "OTHER", "note": f"{marker} in a note"}, replyToReporters=marker)
    await bench.do(AGENT, "decideCase", input=given)
    bodies = await bench.conn.fetch("SELECT body FROM audit.intake")
    assert not [row for row in bodies if marker in row["body"] or subject in row["body"]]


# ---------- decisions ----------
async def test_content_is_removed_with_lease_version_and_statement(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    report = await factories.report(bench.conn, case["id"])
    lacking = await refused(bench, AGENT, "decideCase", input=decision(case, "REMOVE_CONTENT", statement=None))
    assert lacking.code == "STATEMENT_INCOMPLETE"
    done = await bench.do(
        AGENT, "decideCase", input=decision(case, "REMOVE_CONTENT", replyToReporters="Thank you, it is gone.")
    )
    assert done.outcome == "EXECUTED"
    row = await bench.row("decision", done.refs["decision"])
    assert (row["state"], row["family"], row["strikes"], row["decided_by_id"]) == ("EFFECTIVE", "CONTENT", 2, AGENT)
    found = await bench.row("case_file", case["id"])
    assert (found["state"], found["lease_token"], found["assignee_id"]) == ("RESOLVED", None, None)
    subject = await bench.row("subject", case["subject_id"])
    assert (subject["total_strikes"], subject["state"]) == (2, "ACTIVE")
    told = await bench.row("report", report)
    assert (told["state"], told["public_reply"]) == ("ACTIONED", "Thank you, it is gone.")
    assert (
        await refused(bench, AGENT, "decideCase", input=decision(case, "WARN", key="x"))
    ).code == "INVALID_TRANSITION"


async def test_a_later_decision_of_the_family_supersedes_and_strikes_stay(bench: Bench) -> None:
    await people(bench)
    first = await claimed(bench)
    one = await bench.do(AGENT, "decideCase", input=decision(first, "WARN", severity=1))
    second = await claimed(bench, subject_id=first["subject_id"])
    two = await bench.do(AGENT, "decideCase", input=decision(second, "WARN", severity=2, key="k2"))
    assert (await bench.row("decision", one.refs["decision"]))["state"] == "SUPERSEDED"
    assert (await bench.row("decision", two.refs["decision"]))["state"] == "EFFECTIVE"
    assert (await bench.row("subject", first["subject_id"]))["total_strikes"] == 3


async def test_no_action_dismisses_the_reports(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    report = await factories.report(bench.conn, case["id"])
    given = decision(case, "NO_ACTION", severity=0, code="NO_VIOLATION", statement=None)
    await bench.do(AGENT, "decideCase", input=given)
    assert (await bench.row("report", report))["state"] == "DISMISSED"


async def test_the_gravest_severity_proposes_a_ban_as_work_and_bans_nobody(bench: Bench) -> None:
    await people(bench)
    account = await factories.queue(bench.conn, kind="ACCOUNT")
    case = await claimed(bench)
    await bench.do(AGENT, "decideCase", input=decision(case, "REMOVE_CONTENT", severity=4))
    proposed = await bench.row("case_file", account, column="queue_id")
    assert (proposed["kind"], proposed["subject_id"], proposed["state"]) == ("ACCOUNT", case["subject_id"], "OPEN")
    assert (await bench.row("subject", case["subject_id"]))["state"] == "ACTIVE"


async def ban(bench: Bench, case: Any, **more: Any) -> Any:
    return await bench.do(AGENT, "decideCase", input=decision(case, "BAN", severity=3, **more))


async def vote(bench: Bench, who: str, request_id: str, ballot: str = "APPROVE") -> Any:
    payload_hash = (await bench.row("approval_request", request_id))["payload_hash"]
    return await bench.do(
        who, "voteOnApproval", input={"requestId": request_id, "vote": ballot, "payloadHash": payload_hash}
    )


async def test_a_ban_waits_for_a_lead_and_the_case_with_it(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    asked = await ban(bench, case)
    assert asked.outcome == "PENDING_APPROVAL"
    held = await bench.row("case_file", case["id"])
    assert (held["state"], held["assignee_id"], held["lease_token"]) == ("PENDING_APPROVAL", AGENT, None)
    assert (await bench.row("decision", asked.refs["decision"]))["state"] == "PROPOSED"
    assert (await bench.row("subject", case["subject_id"]))["state"] == "ACTIVE"
    request = await bench.row("approval_request", asked.refs["approvalRequest"])
    assert (request["target_version"], case["lease_token"] in request["payload"]) == (held["version"], False)
    assert (await refused(bench, OTHER, "claimCase", caseId=case["id"])).code == "INVALID_TRANSITION"
    assert (await refused(bench, AGENT, "decideCase", input=decision(held, "WARN", key="x", leaseToken="x"))).code == (
        "INVALID_TRANSITION"
    )
    await vote(bench, LEAD, request["id"])
    assert (await bench.row("case_file", case["id"]))["state"] == "RESOLVED"
    row = await bench.row("decision", asked.refs["decision"])
    assert (row["state"], row["approved_by_ids"]) == ("EFFECTIVE", [LEAD])
    assert (await bench.row("subject", case["subject_id"]))["state"] == "BANNED"


async def test_a_rejected_ban_returns_the_case_to_its_former_assignee(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    asked = await ban(bench, case)
    await vote(bench, LEAD, asked.refs["approvalRequest"], "REJECT")
    row = await bench.row("case_file", case["id"])
    assert (row["state"], row["assignee_id"], row["approval_request_id"]) == ("OPEN", AGENT, None)
    assert (await bench.row("decision", asked.refs["decision"]))["state"] == "REJECTED"
    assert (await bench.do(AGENT, "claimCase", caseId=case["id"])).outcome == "EXECUTED"


async def test_whose_own_account_it_is_about_has_no_vote_on_it(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench, subject_id=await factories.subject(bench.conn, staff_id=LEAD))
    asked = await ban(bench, case)
    with pytest.raises(ConsoleError) as caught:
        await vote(bench, LEAD, asked.refs["approvalRequest"])
    assert (caught.value.code, caught.value.info["ineligibleCode"]) == ("NOT_ELIGIBLE", "CONFLICT")
    assert (await vote(bench, LEAD_2, asked.refs["approvalRequest"])).outcome == "EXECUTED"


async def test_neither_approvers_nor_the_log_see_the_lease_of_who_asked(bench: Bench) -> None:
    """A lease token is a secret of its holder; what is bound is the deed, and the key names an attempt."""
    await people(bench)
    case = await claimed(bench)
    asked = await bench.do(AGENT, "decideCase", input=decision(case, "BAN", severity=3, key="key-of-the-attempt"))
    request = await bench.row("approval_request", asked.refs["approvalRequest"])
    bound = orjson.loads(request["payload"])["arguments"]["input"]
    assert (bound["caseId"], bound["kind"]) == (case["id"], "BAN")
    assert not {"leaseToken", "idempotencyKey"} & bound.keys()
    shown = "".join(str(value) for value in request.values())
    logged = orjson.dumps(await bench.records()).decode()
    for secret in (case["lease_token"], "key-of-the-attempt"):
        assert secret not in shown
        assert secret not in logged


async def test_a_protected_subject_needs_one_approval_more(bench: Bench) -> None:
    await people(bench)
    subject = await factories.subject(bench.conn, protected_tags=["HIGH_PROFILE"])
    case = await claimed(bench, subject_id=subject)
    asked = await ban(bench, case)
    request_id = asked.refs["approvalRequest"]
    await vote(bench, LEAD, request_id)
    assert (await bench.row("approval_request", request_id))["state"] == "PENDING"
    await vote(bench, LEAD_2, request_id)
    assert (await bench.row("subject", subject))["state"] == "BANNED"


async def test_a_report_during_the_wait_leaves_the_bound_version_alone(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    asked = await ban(bench, case)
    wanted = {"subjectId": case["subject_id"], "category": "HATE", "externalId": "1"}
    await bench.do(OTHER, "submitReport", input=wanted)
    await vote(bench, LEAD, asked.refs["approvalRequest"])
    assert (await bench.row("approval_request", asked.refs["approvalRequest"]))["execution"] == "EXECUTED"


async def test_a_timed_decision_runs_out_by_timer(bench: Bench) -> None:
    await people(bench)
    case = await claimed(bench)
    done = await bench.do(AGENT, "decideCase", input=decision(case, "LABEL", label="adult", durationHours=2))
    assert await bench.worker.run_timers() == 0
    assert await (await bench.later(2 * 3600 + 5)).worker.run_timers() == 1
    assert (await bench.row("decision", done.refs["decision"]))["state"] == "EXPIRED"


# ---------- notes ----------
async def test_a_note_is_heard_of_and_changes_no_version(bench: Bench) -> None:
    await people(bench)
    case = await bench.row("case_file", await factories.case(bench.conn))
    given = {
        "caseId": case["id"],
        "body": "Seen before.",
        "internal": True,
        "idempotencyKey": "k",
        "mentionIds": [OTHER],
    }
    done = await bench.do(AGENT, "addNote", input=given)
    row = await bench.row("note", done.refs["note"])
    assert (row["author_id"], row["body"], row["mention_ids"]) == (AGENT, "Seen before.", [OTHER])
    assert (await bench.row("case_file", case["id"]))["version"] == case["version"]
    assert [e["kind"] for e in await bench.events("CaseEvent")] == ["note_added"]
    [alert] = await bench.alerts("MENTION")
    assert alert["recipient_ids"] == [OTHER]
    assert (await bench.do(OTHER, "acknowledgeAlert", id=alert["id"])).outcome == "EXECUTED"
    assert (await bench.do(OTHER, "acknowledgeAlert", id=alert["id"])).outcome == "REPLAYED"
    assert (await bench.row("alert", alert["id"]))["acknowledged_by_id"] == OTHER
    stranger = await factories.staff(bench.conn, "TRUST_SAFETY", cities=("berlin",))
    for who in (stranger, "st_nobody"):
        wrong = await refused(bench, AGENT, "addNote", input={**given, "idempotencyKey": who, "mentionIds": [who]})
        assert (wrong.code, wrong.info["field"]) == ("BAD_REQUEST", "mentionIds")
