"""Approval policies changed by people: under the old policy, for new requests, everywhere at once, never below the floor."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
import pytest_asyncio

from authz.enforcer import Authorizer
from resolvers.pipeline import Pipeline
from schema.build import console
from schema.errors import ConsoleError
from services.approvals import policies
from services.approvals.policies import CLOCKS
from tests import factories
from tests.services.bench import Bench, CrashError, Done
from tests.services.test_approvals import AGENT, FINANCE, LEAD, asked, people, states, vote

ADMIN, ADMIN_2, ADMIN_3, AUDITOR = "st_admin", "st_admin_2", "st_admin_3", "st_auditor"
ABOVE: dict[str, Any] = {"fact": "sum24hMinor", "op": "gt", "value": 1_000}
LOWER: dict[str, Any] = {"any": [ABOVE, {"fact": "destination", "op": "eq", "value": "OTHER_INSTRUMENT"}]}
POLICY: dict[str, Any] = {
    "id": "refund.request/1",
    "action": "refund.request",
    "condition": LOWER,
    "approvals": 1,
    "approverRoles": ["SUPPORT", "FINANCE"],
    "minTier": "AGENT",
    "mustInclude": [["SUPPORT LEAD", "FINANCE AGENT"]],
    "approveWithinSeconds": 86_400,
    "executeWithinSeconds": 3_600,
    "enabled": True,
    "expectedVersion": 1,
    "reason": {"code": "INTERNAL_AUDIT"},
}
NEW: dict[str, Any] = {
    **POLICY,
    "id": None,
    "expectedVersion": None,
    "approverRoles": ["FINANCE"],
    "minTier": "LEAD",
    "mustInclude": None,
    "condition": {"fact": "reasonCode", "op": "eq", "value": "LEGAL"},
}


@pytest_asyncio.fixture(loop_scope="session")
async def office(bench: Bench) -> Bench:
    await people(bench)
    for admin in (ADMIN, ADMIN_2, ADMIN_3):
        await factories.staff(bench.conn, "ADMIN", id=admin, cities=("*",))
    await factories.staff(bench.conn, "AUDITOR", id=AUDITOR, cities=("*",))
    return bench


async def proposed(bench: Bench, who: str = ADMIN, **said: Any) -> Any:
    done = await bench.do(who, "saveApprovalPolicy", input={**POLICY, **said})
    assert done.outcome == "PENDING_APPROVAL"
    return await bench.row("approval_request", done.refs["approvalRequest"])


async def approved(bench: Bench, request: Any, *voters: str) -> Any:
    for voter in voters or (ADMIN_2, AUDITOR):
        await vote(bench, voter, request)
    return await bench.row("approval_request", request["id"])


async def refused(bench: Bench, who: str = ADMIN, **said: Any) -> ConsoleError:
    with pytest.raises(ConsoleError) as caught:
        await bench.do(who, "saveApprovalPolicy", input={**POLICY, **said})
    return caught.value


async def current(bench: Bench, id_: str = "refund.request/1") -> Any:
    return await bench.conn.fetchrow("SELECT * FROM approval_policy WHERE id = $1 AND current", id_)


def other_process(bench: Bench, authorizer: Authorizer) -> Pipeline:
    return Pipeline(bench.app, authorizer, bench.writer, bench.reader.find, console().rules)


# ---------- the story ----------
@pytest.mark.contract("DC-3", "DC-6")
async def test_a_change_waits_for_an_admin_and_an_auditor_then_ends_what_waits_under_the_old_policy(
    office: Bench,
) -> None:
    waiting = await asked(office)
    request = await proposed(office)
    assert (request["action"], request["approvals_needed"], request["city_id"]) == ("approvalPolicy.propose", 2, None)
    assert (request["target_type"], request["target_id"], request["target_version"]) == (
        "ApprovalPolicy",
        "refund.request/1",
        1,
    )
    await vote(office, ADMIN_2, request)
    assert (await current(office))["version"] == 1  # one is not enough
    assert (await states(office, waiting))[:2] == ("PENDING", "NOT_STARTED")
    await vote(office, AUDITOR, request)
    row = await office.row("approval_request", request["id"])
    assert (row["state"], row["execution"]) == ("APPROVED", "EXECUTED")
    policy = await current(office)
    assert (policy["version"], orjson.loads(policy["condition"]), policy["shipped"]) == (2, LOWER, False)
    assert (policy["created_by_id"], policy["request_id"]) == (ADMIN, request["id"])
    # The old request is void and what it held is free.
    assert await states(office, waiting) == ("INVALIDATED", "NOT_STARTED", "POLICY_CHANGED", "CANCELED", 0)
    with pytest.raises(ConsoleError) as caught:
        await vote(office, FINANCE, waiting)
    assert caught.value.code == "APPROVAL_NOT_PENDING"
    # The next one asks by the new rule.
    small = await asked(office, 1_500, key="small")
    assert small["policy_id"].startswith("refund.request/1@")
    assert small["policy_id"] != waiting["policy_id"]


async def test_the_records_say_what_was_changed_by_whom_and_what_it_ended(office: Bench) -> None:
    waiting = await asked(office)
    request = await approved(office, await proposed(office))
    records = await office.records()
    (change,) = [
        one for one in records if one["action"] == "approvalPolicy.propose" and one["result"]["outcome"] == "EXECUTED"
    ]
    assert (change["object"]["type"], change["object"]["id"]) == ("ApprovalPolicy", "refund.request/1")
    assert change["object"]["version"] == {"before": 1, "after": 2}
    assert (change["approval"]["request"], change["actor"]["sub"]) == (request["id"], ADMIN)
    assert waiting["id"] in change["object"]["parents"]
    (ended,) = [one for one in records if one["decision"]["code"] == "POLICY_CHANGED"]
    assert (ended["cause"], ended["approval"]["request"]) == (change["id"], waiting["id"])


async def test_approvers_read_the_old_and_the_new_policy_in_full(office: Bench) -> None:
    request = await proposed(office)
    diff = orjson.loads(request["diff"])["policy"]
    assert diff["after"] == {
        **{name: value for name, value in POLICY.items() if name not in ("reason", "expectedVersion")},
        "version": 2,
        "applies": "sum24hMinor > 1000 or destination == OTHER_INSTRUMENT",
    }
    assert diff["before"]["version"] == 1
    assert diff["before"]["applies"].startswith("sum24hMinor > aloneCeilingMinor or destination == OTHER_INSTRUMENT")
    assert set(diff["before"]) == set(diff["after"])
    assert request["summary"] == (
        "Change approval policy refund.request/1: 1 approval: SUPPORT LEAD or FINANCE; if sum24hMinor > 1000 or destination == OTHER_INSTRUMENT."
    )


async def test_a_new_policy_is_its_first_version_and_a_rejected_one_leaves_nothing(office: Bench) -> None:
    request = await proposed(office, **NEW)
    assert (request["target_id"], request["target_version"]) == ("refund.request", None)
    await vote(office, ADMIN_2, request, "REJECT")
    assert (await office.row("approval_request", request["id"]))["state"] == "REJECTED"
    assert await current(office, request["entity_id"]) is None
    request = await approved(office, await proposed(office, **NEW))
    assert (await current(office, request["entity_id"]))["version"] == 1
    snapshot = await office.authorizer.current(await office.conn.fetchval("SELECT version FROM authz_version"))
    assert [one.id for one in snapshot.approvals["refund.request"]] == [
        request["entity_id"],
        "refund.request/1",
        "refund.request/2",
    ]


@pytest.mark.contract("DC-3")
async def test_only_requests_of_that_action_end(office: Bench) -> None:
    waiting = await asked(office)
    said: dict[str, Any] = {"id": "case.decide/2", "action": "case.decide", "condition": None, "mustInclude": None}
    roles: dict[str, Any] = {"approverRoles": ["TRUST_SAFETY"], "minTier": "SENIOR"}
    for name in ("one", "two"):
        await factories.staff(office.conn, "TRUST_SAFETY", "LEAD", id=f"st_ts_{name}")
    await approved(office, await proposed(office, **said, **roles))
    assert (await states(office, waiting))[0] == "PENDING"
    assert (await vote(office, FINANCE, waiting)).outcome == "EXECUTED"
    assert (await states(office, waiting))[:2] == ("APPROVED", "EXECUTED")


async def test_an_approved_request_whose_execution_failed_ends_too(office: Bench) -> None:
    waiting = await asked(office)
    await office.conn.execute(
        "UPDATE approval_request SET state = 'APPROVED', execution = 'FAILED', execute_by = now() + '1 h' WHERE id = $1",
        waiting["id"],
    )
    await approved(office, await proposed(office))
    assert (await states(office, waiting))[2:] == ("POLICY_CHANGED", "CANCELED", 0)


async def test_a_macro_that_waits_with_such_a_step_ends_too(office: Bench) -> None:
    gate = {"action": "refund.request", "facts": {}, "requirement": factories.REFUND_SEATS, "concerned": None}
    waiting = await asked(office)
    row = {**dict(waiting), "id": "apr_macro", "action": "macro.run", "gates": orjson.dumps([gate]).decode()}
    names, places = ", ".join(row), ", ".join(f"${place}" for place in range(1, len(row) + 1))
    await office.conn.execute(f"INSERT INTO approval_request ({names}) VALUES ({places})", *row.values())
    await approved(office, await proposed(office))
    assert (await office.row("approval_request", "apr_macro"))["invalidated_because"] == "POLICY_CHANGED"


@pytest.mark.contract("DC-3")
async def test_what_is_beyond_the_bound_is_void_at_its_own_quorum(
    office: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "CLOSED_AT_ONCE", 1)
    waiting = [await asked(office, key=key, buyer_id=f"buyer_{key}") for key in ("one", "two")]
    await approved(office, await proposed(office))
    assert [(await states(office, one))[0] for one in waiting] == ["INVALIDATED", "PENDING"]
    await vote(office, FINANCE, waiting[1])
    assert await states(office, waiting[1]) == ("INVALIDATED", "NOT_STARTED", "POLICY_CHANGED", "CANCELED", 0)


# ---------- every process ----------
@pytest.mark.contract("AZ-7")
async def test_a_second_process_never_decides_by_the_old_book_after_the_commit(office: Bench) -> None:
    second = Authorizer(office.app)  # neither listens nor polls: what it learns comes with its own statements
    old = await second.current()
    other = other_process(office, second)
    given: dict[str, Any] = {"amount": {"amountMinor": 1_500, "currency": "EUR"}, "reason": {"code": "QUALITY_ISSUE"}}

    async def refund(key: str) -> Done:
        order = await factories.ledger(office.conn)
        return await office.do(
            AGENT, "requestRefund", pipeline=other, input={**given, "orderId": order, "idempotencyKey": key}
        )

    assert (await refund("before")).outcome == "EXECUTED"
    await approved(office, await proposed(office))
    assert (await second.current()) is old  # it has not heard of it
    assert (await refund("after")).outcome == "PENDING_APPROVAL"
    assert (await second.current()).approvals["refund.request"][0].version == 2


@pytest.mark.contract("AZ-7")
async def test_refunds_of_two_processes_around_the_commit_go_by_the_policy_of_their_version(office: Bench) -> None:
    request = await proposed(office)
    await vote(office, ADMIN_2, request)
    pipelines = [other_process(office, Authorizer(office.app)) for _ in range(2)]
    given: dict[str, Any] = {"amount": {"amountMinor": 1_500, "currency": "EUR"}, "reason": {"code": "QUALITY_ISSUE"}}
    orders = [await factories.ledger(office.conn, buyer_id=f"buyer_{number}") for number in range(12)]

    async def refund(number: int) -> Done:
        await asyncio.sleep(number * 0.01)
        key = f"around-{number}"
        return await office.do(
            AGENT,
            "requestRefund",
            pipeline=pipelines[number % 2],
            input={**given, "orderId": orders[number], "idempotencyKey": key},
        )

    async def change() -> None:
        await asyncio.sleep(0.05)
        await vote(office, AUDITOR, request)

    *done, _ = await asyncio.gather(*(refund(number) for number in range(12)), change())
    version = await office.conn.fetchval("SELECT version FROM authz_version")
    for one in done:
        assert one is not None
        (record,) = [record for record in await office.records() if record["id"] == one.audit["id"]]
        expected = "EXECUTED" if record["policy"]["version"] < version else "PENDING_APPROVAL"
        assert one.outcome == expected


# ---------- who, how often, when ----------
@pytest.mark.contract("DC-2")
async def test_the_requester_cannot_approve_and_two_admins_do_not_replace_the_auditor(office: Bench) -> None:
    request = await proposed(office)
    with pytest.raises(ConsoleError) as caught:
        await vote(office, ADMIN, request)
    assert (caught.value.code, caught.value.info["ineligibleCode"]) == ("NOT_ELIGIBLE", "SELF_APPROVAL")
    await vote(office, ADMIN_2, request)
    await vote(office, ADMIN_3, request)
    assert (await office.row("approval_request", request["id"]))["state"] == "PENDING"
    for who in (LEAD, AGENT):
        with pytest.raises(ConsoleError):
            await vote(office, who, request)
    await vote(office, AUDITOR, request)
    assert (await current(office))["version"] == 2


@pytest.mark.contract("DC-9")
async def test_without_a_second_admin_or_an_auditor_it_is_refused_at_once(office: Bench) -> None:
    await office.conn.execute("UPDATE staff SET state = 'LOCKED' WHERE id = $1", AUDITOR)
    assert (await refused(office)).code == "NO_ELIGIBLE_APPROVERS"
    await office.conn.execute("UPDATE staff SET state = 'ACTIVE' WHERE id = $1", AUDITOR)
    await office.conn.execute("UPDATE staff SET state = 'LOCKED' WHERE id = ANY($1)", [ADMIN_2, ADMIN_3])
    assert (await refused(office)).code == "NO_ELIGIBLE_APPROVERS"


async def test_nobody_but_an_admin_of_every_city_proposes(office: Bench) -> None:
    here = await factories.staff(office.conn, "ADMIN", cities=("lisbon",))
    for who in (AUDITOR, LEAD, AGENT, here):
        assert (await refused(office, who)).code == "Unauthorized"


async def test_a_repeated_proposal_is_one_and_another_under_its_key_is_refused(office: Bench) -> None:
    first = await proposed(office, idempotencyKey="p1")
    again = await office.do(ADMIN, "saveApprovalPolicy", input={**POLICY, "idempotencyKey": "p1"})
    assert (again.outcome, again.refs["approvalRequest"]) == ("REPLAYED", first["id"])
    assert (await refused(office, idempotencyKey="p1", condition=None)).code == "IDEMPOTENCY_KEY_REUSED"
    await approved(office, first)
    later = await office.do(ADMIN, "saveApprovalPolicy", input={**POLICY, "idempotencyKey": "p1"})
    assert (later.outcome, later.refs["approvalRequest"]) == ("REPLAYED", first["id"])
    assert await office.conn.fetchval("SELECT count(*) FROM approval_request") == 1


@pytest.mark.contract("DC-3")
async def test_of_two_changes_of_one_policy_the_second_is_void(office: Bench) -> None:
    first = await proposed(office)
    second = await proposed(office, ADMIN_2, condition=None)
    await approved(office, first)
    row = await approved(office, second, ADMIN, AUDITOR)
    assert (row["state"], row["invalidated_because"]) == ("INVALIDATED", "VERSION_CONFLICT")
    assert (await current(office))["version"] == 2
    assert (await refused(office, condition=None)).info["currentVersion"] == 2


@pytest.mark.contract("DC-4")
async def test_two_changes_executed_at_the_same_moment_leave_one_winner(office: Bench) -> None:
    requests = [await proposed(office, condition=condition) for condition in (LOWER, None)]
    for request in requests:
        await vote(office, ADMIN_2, request)
    other = other_process(office, Authorizer(office.app))
    await asyncio.gather(
        *(
            office.do(
                AUDITOR,
                "voteOnApproval",
                pipeline=pipeline,
                input={"requestId": one["id"], "vote": "APPROVE", "payloadHash": one["payload_hash"]},
            )
            for one, pipeline in zip(requests, (office.pipeline, other), strict=True)
        )
    )
    rows = [await office.row("approval_request", one["id"]) for one in requests]
    assert sorted(row["state"] for row in rows) == ["APPROVED", "INVALIDATED"]
    assert (await current(office))["version"] == 2
    assert await office.conn.fetchval("SELECT count(*) FROM approval_policy WHERE NOT shipped") == 1


@pytest.mark.contract("DC-6")
@pytest.mark.contract("DC-4", "RL-6")
async def test_voters_who_come_at_once_neither_stop_the_change_nor_hear_of_a_deadlock(office: Bench) -> None:
    for number in range(3):
        await factories.staff(office.conn, "AUDITOR", id=f"{AUDITOR}_{number}", cities=("*",))
    voters = [ADMIN_2, ADMIN_3, *(f"{AUDITOR}_{number}" for number in range(3))]
    for version in (1, 2):
        request = await proposed(office, expectedVersion=version, executeWithinSeconds=3_600 + version)
        heard = await asyncio.gather(*(vote(office, voter, request) for voter in voters), return_exceptions=True)
        refusals = {
            one.code if isinstance(one, ConsoleError) else type(one).__name__
            for one in heard
            if isinstance(one, Exception)
        }
        assert refusals <= {"APPROVAL_NOT_PENDING"}
        assert (await current(office))["version"] == version + 1


async def test_two_policies_of_an_action_are_not_both_disabled(office: Bench) -> None:
    """Each alone is harmless; together they would leave the action without any."""
    whole: dict[str, Any] = {"condition": None, "mustInclude": None, "approverRoles": ["FINANCE"], "minTier": "AGENT"}
    await approved(office, await proposed(office, **{**NEW, **whole, "idempotencyKey": "n"}))
    (mine,) = await office.conn.fetch("SELECT id FROM approval_policy WHERE NOT shipped")
    first = await proposed(office, enabled=False)
    second = await proposed(office, **{**NEW, **whole, "id": mine["id"], "expectedVersion": 1, "enabled": False})
    await approved(office, first)
    row = await approved(office, second)
    assert (row["state"], row["invalidated_because"]) == ("INVALIDATED", "SCHEMA_VIOLATION")
    assert (await current(office, mine["id"]))["enabled"]


@pytest.mark.contract("DC-6")
async def test_the_policy_of_policies_changes_under_the_old_one_and_ends_other_proposals(office: Bench) -> None:
    waiting = await proposed(office)
    said: dict[str, Any] = {
        "id": "approvalPolicy.propose/1",
        "action": "approvalPolicy.propose",
        "condition": None,
        "approvals": 3,
        "approverRoles": ["ADMIN", "AUDITOR"],
        "mustInclude": [["AUDITOR AGENT"]],
    }
    await approved(office, await proposed(office, **said))
    row = await office.row("approval_request", waiting["id"])
    assert (row["state"], row["invalidated_because"]) == ("INVALIDATED", "POLICY_CHANGED")
    assert (await proposed(office))["approvals_needed"] == 3


async def test_a_policy_of_policies_that_nobody_could_fill_is_refused(office: Bench) -> None:
    said: dict[str, Any] = {
        "id": "approvalPolicy.propose/1",
        "action": "approvalPolicy.propose",
        "condition": None,
        "approvals": 4,
        "approverRoles": ["ADMIN"],
        "mustInclude": None,
    }
    assert (await refused(office, **said)).code == "NO_ELIGIBLE_APPROVERS"
    assert (
        await refused(office, **{**said, "approvals": 3})
    ).code == "NO_ELIGIBLE_APPROVERS"  # the next proposer is one of three
    assert (await proposed(office, **{**said, "approvals": 2}))["state"] == "PENDING"


@pytest.mark.contract("DC-3")
async def test_a_proposal_that_nobody_answers_expires_and_changes_nothing(office: Bench) -> None:
    request = await proposed(office)
    late = await office.later(24 * 3600 + 5)
    assert await late.worker.run_timers() == 1
    assert (await office.row("approval_request", request["id"]))["state"] == "EXPIRED"
    assert (await current(office))["version"] == 1


# ---------- input ----------
@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"action": "moon.sell"}, "action"),
        ({"condition": "always"}, "condition"),
        ({"condition": {"fact": "moonPhase", "op": "eq", "value": 1}}, "condition"),
        ({"condition": {"any": [LOWER, {"all": [LOWER, {"not": {"fact": "role", "op": "eq", "value": "BOSS"}}]}]}}, "condition.any.1.all.1.not"),
        ({"condition": {"all": []}}, "condition"),
        ({"approvals": 0}, "approvals"),
        ({"approverRoles": []}, "approverRoles"),
        ({"mustInclude": [["BOSS LEAD"]]}, "mustInclude"),
        ({"mustInclude": "STEPS"}, "mustInclude"),
        ({"minTier": "SENIOR"}, "mustInclude"),
        ({"approverRoles": ["CITY_OPS"], "mustInclude": None}, "approverRoles"),
        ({"approveWithinSeconds": 299}, "approveWithinSeconds"),
        ({"approveWithinSeconds": CLOCKS["approveWithinSeconds"][1] + 1}, "approveWithinSeconds"),
        ({"executeWithinSeconds": 59}, "executeWithinSeconds"),
    ],
)  # fmt: skip
async def test_what_is_no_policy_is_refused_with_its_place(office: Bench, said: dict[str, Any], field: str) -> None:
    error = await refused(office, **said)
    assert (error.code, error.info["field"]) == ("SCHEMA_VIOLATION", field)
    assert await office.conn.fetchval("SELECT count(*) FROM approval_request") == 0


@pytest.mark.contract("DC-6")
@pytest.mark.parametrize(
    "said",
    [
        {"enabled": False},
        {"condition": ABOVE},
        {"condition": {"fact": "sum24hMinor", "op": "gt", "value": 10_000}},
        {"condition": {"fact": "role", "op": "eq", "value": "FINANCE"}},
        {"id": "macro.publish/1", "action": "macro.publish", "condition": None, "enabled": False,
         "approverRoles": ["FINANCE"], "minTier": "LEAD", "mustInclude": None},
        {"id": "macro.run/1", "action": "macro.run", "condition": None, "approverRoles": ["FINANCE"], "mustInclude": None},
        {"id": "approvalPolicy.propose/1", "action": "approvalPolicy.propose", "condition": None, "approverRoles": ["ADMIN"],
         "mustInclude": None},
    ],
)  # fmt: skip
async def test_nothing_goes_below_the_floor(office: Bench, said: dict[str, Any]) -> None:
    error = await refused(office, **said)
    assert error.code == "SCHEMA_VIOLATION"
    assert error.info["floor"] >= 1


async def test_a_policy_stays_with_its_action_and_needs_its_version(office: Bench) -> None:
    other: dict[str, Any] = {
        "action": "macro.publish",
        "approverRoles": ["FINANCE"],
        "minTier": "LEAD",
        "mustInclude": None,
    }
    assert (await refused(office, **other)).info["field"] == "action"
    assert (await refused(office, expectedVersion=None)).code == "VERSION_CONFLICT"
    assert (await refused(office, **{**NEW, "expectedVersion": 1})).info["field"] == "expectedVersion"
    assert (await refused(office, id="refund.request/9")).code == "NOT_FOUND"
    row = await current(office)
    same = orjson.loads(row["condition"])
    assert (await refused(office, condition=same)).message == "The policy says this already."
    assert (await refused(office, reason={"code": "SPAM"})).code == "REASON_INVALID"


# ---------- half-way ----------
@pytest.mark.contract("DC-3")
@pytest.mark.parametrize(("point", "version"), [("before_commit", 1), ("after_commit", 2)])
async def test_a_process_that_dies_around_the_commit_leaves_all_or_nothing(
    office: Bench, point: str, version: int
) -> None:
    waiting = await asked(office)
    request = await proposed(office)
    await vote(office, ADMIN_2, request)
    office.faults.armed[point] = CrashError()
    with pytest.raises(CrashError):
        await vote(office, AUDITOR, request)
    row = await office.row("approval_request", request["id"])
    state = await states(office, waiting)
    assert (await current(office))["version"] == version
    if version == 1:
        assert (row["state"], state[0]) == ("PENDING", "PENDING")
        await vote(office, AUDITOR, request)
    assert (await office.row("approval_request", request["id"]))["execution"] == "EXECUTED"
    assert (await states(office, waiting))[0] == "INVALIDATED"
    assert await office.conn.fetchval("SELECT count(*) FROM approval_policy WHERE NOT shipped") == 1
