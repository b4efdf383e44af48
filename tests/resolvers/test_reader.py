"""Reads: one statement a query, errors in AppSync's shape, masks in SQL, payloads, finder, events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from db.unit_of_work import begin
from resolvers.reader import Answer, StaleSnapshotError
from schema.build import console
from schema.errors import ConsoleError
from services.cases import rules
from services.command import Result
from tests import factories as f
from tests.conftest import Database
from tests.resolvers.reading import Stage, stage


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def on(shared_database: Database) -> AsyncIterator[Stage]:
    async with stage(shared_database) as made:
        yield made


async def test_a_warm_query_is_one_statement_whatever_it_nests(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    for _ in range(3):
        case = await f.case(on.conn, state="CLAIMED", assignee_id=agent)
        for _ in range(2):
            await f.report(on.conn, case)
    order = await f.ledger(on.conn)
    await f.delivery(on.conn, await f.refund(on.conn, order, agent))
    text = """query($order: ID!) {
      me { staff { id grants { role } } policyVersion }
      listCases(limit: 20) { items { id subject { id decisions { items { id } } } assignee { displayName } reports(limit: 3) { items { id category } } lease { token } } nextToken }
      again: listCases(limit: 1) { items { id } nextToken }
      getOrderLedger(orderId: $order) { refundable { amountMinor } refunds { items { deliveries { state } } } }
    }"""
    await on.ask(agent, text, {"order": order})
    on.statements.clear()
    answer = await on.ask(agent, text, {"order": order})
    assert answer.errors == []
    assert len(on.statements) == 1
    assert answer.data is not None
    assert len(answer.data["again"]["items"]) == 1
    assert [len(case["reports"]["items"]) for case in answer.data["listCases"]["items"]] == [2, 2, 2]


async def test_a_plan_is_compiled_once_for_all_who_hold_the_same_roles(on: Stage) -> None:
    one, other = await f.staff(on.conn, "SUPPORT"), await f.staff(on.conn, "SUPPORT", cities=("berlin",))
    lead = await f.staff(on.conn, "SUPPORT", "LEAD")
    text = (
        "query($n: Int, $k: CaseKind) { onlyHere: listCases(limit: $n, filter: { kind: { eq: $k } }) { items { id } } }"
    )
    before = on.reader.plans.misses
    for who, n in ((one, 5), (other, 7), (one, 9)):
        await on.data(who, text, n=n, k="REFUND")
    assert on.reader.plans.misses == before + 1
    await on.data(lead, text, n=5, k="REFUND")
    await on.data(one, text, n=5, k=None)
    assert on.reader.plans.misses == before + 3


async def test_data_comes_in_the_order_and_under_the_names_of_the_document(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    case = await f.case(on.conn)
    long = "a" * 80  # PostgreSQL would cut it at 63 bytes
    data = await on.data(
        agent,
        f'{{ getCase(id: "{case}") {{ version {long}: id __typename ...rest }} }} fragment rest on Case {{ kind version b: kind }}',
    )
    assert list(data["getCase"].items()) == [
        ("version", 1),
        (long, case),
        ("__typename", "Case"),
        ("kind", "MODERATION"),
        ("b", "MODERATION"),
    ]


async def test_skipped_fields_are_not_asked_for(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    case = await f.case(on.conn)
    text = "query($id: ID!, $no: Boolean!) { getCase(id: $id) { id kind @skip(if: $no) state @include(if: $no) } }"
    assert await on.data(agent, text, id=case, no=True) == {"getCase": {"id": case, "state": "OPEN"}}
    assert await on.data(agent, text, id=case, no=False) == {"getCase": {"id": case, "kind": "MODERATION"}}


async def test_a_case_shows_its_own_columns_and_what_belongs_to_it(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT", display_name="Ada Lovelace")
    decider = await f.staff(on.conn, "TRUST_SAFETY")
    case = await f.case(on.conn, state="CLAIMED", assignee_id=agent, created_at=f.NOW)
    note = await f.note(on.conn, case, agent, mention_ids=[decider])
    await f.timeline(on.conn, "Case", case, actor_id=None)
    await f.decision(
        on.conn, case, decider, approved_by_ids=[agent], statement={"puid": "p", "ground": "ILLEGAL_CONTENT"}
    )
    text = """query($id: ID!) { getCase(id: $id) {
      createdAt assignee { id kind displayName roles } lease { holder { id } token expiresAt } sla { state pausedSeconds }
      notes { items { id author { displayName } mentions { id } } } timeline { items { actor { id } kind summary } nextToken }
      subject { openCaseCount decisions { items { reason { code note } decidedBy { id } approvedBy { id } statement { puid ground: ground } } } } } }"""
    found = (await on.data(agent, text, id=case))["getCase"]
    assert found["createdAt"] == f.NOW.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert found["assignee"] == {"id": agent, "kind": "STAFF", "displayName": "Ada Lovelace", "roles": ["SUPPORT"]}
    assert found["lease"]["holder"] == {"id": agent}
    assert found["lease"]["token"] == "lease"
    assert found["sla"] == {"state": "NONE", "pausedSeconds": 0}
    assert found["notes"]["items"] == [
        {"id": note, "author": {"displayName": "Ada Lovelace"}, "mentions": [{"id": decider}]}
    ]
    assert found["timeline"] == {
        "items": [{"actor": None, "kind": "claimed", "summary": "The case was claimed."}],
        "nextToken": None,
    }
    assert found["subject"]["openCaseCount"] == 1
    assert found["subject"]["decisions"]["items"] == [
        {
            "reason": {"code": "SPAM", "note": None},
            "decidedBy": {"id": decider},
            "approvedBy": [{"id": agent}],
            "statement": {"puid": "p", "ground": "ILLEGAL_CONTENT"},
        }
    ]


async def test_the_lease_token_is_for_its_holder_alone(on: Stage) -> None:
    agent, other = await f.staff(on.conn, "SUPPORT"), await f.staff(on.conn, "SUPPORT")
    case = await f.case(on.conn, state="CLAIMED", assignee_id=agent)
    text = "query($id: ID!) { getCase(id: $id) { lease { token } } }"
    assert (await on.data(other, text, id=case))["getCase"]["lease"] == {"token": None}


SLA = [
    ({}, "NONE"),
    ({"resolve_due_at": timedelta(hours=1), "created_at": timedelta(hours=-1)}, "ON_TRACK"),
    ({"resolve_due_at": timedelta(hours=1), "created_at": timedelta(hours=-4)}, "AT_RISK"),
    ({"resolve_due_at": timedelta(hours=-1), "created_at": timedelta(hours=-4)}, "BREACHED"),
    ({"resolve_due_at": timedelta(hours=-1), "created_at": timedelta(hours=-4), "sla_paused_seconds": 36_000}, "ON_TRACK"),
    ({"resolve_due_at": timedelta(hours=-1), "state": "PENDING_INFO"}, "PAUSED"),
    ({"resolve_due_at": timedelta(hours=1), "state": "RESOLVED", "resolved_at": timedelta()}, "MET"),
    ({"resolve_due_at": timedelta(hours=-1), "state": "RESOLVED", "resolved_at": timedelta()}, "BREACHED"),
    ({"resolve_due_at": timedelta(hours=9), "first_response_due_at": timedelta(hours=-1), "created_at": timedelta(hours=-2)}, "BREACHED"),
    ({"resolve_due_at": timedelta(hours=9), "first_response_due_at": timedelta(hours=-1), "first_claimed_at": timedelta(hours=-2)}, "ON_TRACK"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "state"), SLA)
async def test_the_state_of_the_clock(on: Stage, row: dict[str, Any], state: str) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    case = await f.case(on.conn, **{k: f.NOW + v if isinstance(v, timedelta) else v for k, v in row.items()})
    text = "query($id: ID!) { getCase(id: $id) { slaState sla { state } } listCases(filter: { id: { eq: $id }, slaState: { eq: %s } }) { items { id } } }"
    found = await on.data(agent, text % state, id=case)
    assert found == {"getCase": {"slaState": state, "sla": {"state": state}}, "listCases": {"items": [{"id": case}]}}


async def test_strikes_expire_by_themselves_as_the_rules_count_them(on: Stage) -> None:
    agent = await f.staff(on.conn, "TRUST_SAFETY")
    case = await f.case(on.conn)
    subject = await on.conn.fetchval("SELECT subject_id FROM case_file WHERE id = $1", case)
    struck = (
        (1, 1, 89, "EFFECTIVE"), (1, 1, 91, "EFFECTIVE"), (2, 2, 179, "SUPERSEDED"), (2, 2, 181, "SUPERSEDED"),
        (3, 4, 364, "EXPIRED"), (3, 4, 1, "REVERSED"), (3, 4, 1, "PROPOSED"), (4, 0, 1, "EFFECTIVE"),
    )  # fmt: skip
    for severity, strikes, days, state in struck:
        await f.decision(
            on.conn,
            case,
            agent,
            severity=severity,
            strikes=strikes,
            state=state,
            effective_at=f.NOW - timedelta(days=days),
        )
    rows = await on.conn.fetch("SELECT * FROM decision WHERE subject_id = $1", subject)
    text = "query($id: ID!) { getSubject(id: $id) { activeStrikes } }"
    counted = (await on.data(agent, text, id=subject))["getSubject"]["activeStrikes"]
    assert counted == rules.active_strikes(rows, f.NOW) == 7
    listed = "query { listSubjects(filter: { activeStrikes: { ge: 7 } }) { items { id } } }"
    assert (await on.data(agent, listed))["listSubjects"]["items"] == [{"id": subject}]


async def test_personal_data_leaves_the_database_masked(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    case = await f.case(on.conn, subject_id=await f.subject(on.conn, display_name="Maria  da Luz"))
    await f.report(
        on.conn, case, reporter_id="u_77", detail="Write to a.b@example.org or call +49 170 123 45 67, flat 12."
    )
    await f.report(on.conn, case, reporter_id=None, created_at=f.NOW - timedelta(hours=1))
    text = "query($id: ID!) { getCase(id: $id) { subject { displayNameMasked } reports { items { reporterMasked detail } } } }"
    answer = await on.ask(agent, text, {"id": case})
    assert answer.data is not None
    found = answer.data["getCase"]
    assert found["subject"]["displayNameMasked"] == "M. d. L."
    first, second = found["reports"]["items"]
    assert first["detail"] == "Write to [email] or call [number], flat 12."
    assert len(first["reporterMasked"]) == 12
    assert "u_77" not in first["reporterMasked"]
    assert second == {"reporterMasked": "anonymous", "detail": None}
    read = answer.reads[0]
    assert read.masked == ("Report.detail", "Report.reporterMasked", "Subject.displayNameMasked")
    assert read.pii == {
        "Report.detail": "FREE_TEXT",
        "Report.reporterMasked": "CONTACT",
        "Subject.displayNameMasked": "CONTACT",
    }


async def test_only_the_holder_of_the_contact_row_reads_an_address(on: Stage) -> None:
    admin, agent = await f.staff(on.conn, "ADMIN", cities=("*",)), await f.staff(on.conn, "SUPPORT")
    text = "query($id: ID!) { getStaffMember(id: $id) { id email } }"
    assert (await on.data(admin, text, id=agent))["getStaffMember"] == {"id": agent, "email": f"{agent}@example.org"}


async def test_a_denied_field_is_null_with_an_error_at_each_path(on: Stage) -> None:
    lead = await f.staff(on.conn, "SUPPORT", "LEAD", cities=("porto",))
    member = await f.staff(on.conn, "SUPPORT", cities=("porto",))
    answer = await on.ask(lead, "{ me { staff { email } } team: listStaffMembers { items { id email } } }")
    assert answer.data == {
        "me": {"staff": {"email": None}},
        "team": {"items": [{"id": lead, "email": None}, {"id": member, "email": None}]},
    }
    assert [error["path"] for error in answer.errors] == [
        ["me", "staff", "email"],
        ["team", "items", 0, "email"],
        ["team", "items", 1, "email"],
    ]
    assert answer.errors[0] == {
        "path": ["me", "staff", "email"],
        "data": None,
        "errorType": "Unauthorized",
        "errorInfo": None,
        "locations": [{"line": 1, "column": 16, "sourceName": None}],
        "message": "Not Authorized to access email on type StaffMember",
    }
    assert list(answer.errors[0]) == ["path", "data", "errorType", "errorInfo", "locations", "message"]


async def test_a_denied_root_is_null_and_the_others_are_answered(on: Stage) -> None:
    nobody = await f.staff(on.conn)
    answer = await on.ask(nobody, '{ getCase(id: "x") { id } me { policyVersion } }')
    assert answer.data is not None
    assert answer.data["getCase"] is None
    assert answer.data["me"]["policyVersion"] > 0
    assert [(error["path"], error["message"]) for error in answer.errors] == [
        (["getCase"], "Not Authorized to access getCase on type Query")
    ]
    denied, shown = answer.reads
    assert (denied.error and denied.error.code, denied.fields, denied.policy_row) == ("Unauthorized", (), None)
    assert (shown.error, shown.ids) == (None, (nobody,))


async def test_a_denied_list_that_may_not_be_null_takes_the_answer_with_it(on: Stage) -> None:
    nobody = await f.staff(on.conn)
    answer = await on.ask(nobody, "{ me { policyVersion } listCases { items { id } } }")
    assert answer.data is None
    assert [error["errorType"] for error in answer.errors] == ["Unauthorized"]


@pytest.mark.contract("AZ-7")
async def test_a_stale_snapshot_shows_nothing(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    await f.case(on.conn)
    old = await on.snapshot()
    await on.conn.execute("DELETE FROM staff_grant WHERE staff_id = $1", agent)
    for text in ("{ listCases { items { id } } }", "{ listAudit { items { id } } }", "{ reasonCodes { code } }"):
        with pytest.raises(StaleSnapshotError):
            await on.ask(agent, text, snapshot=old)


async def test_reason_codes_are_those_of_one_list_or_one_action(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    data = await on.data(
        agent,
        '{ a: reasonCodes(list: REFUND) { code noteRequired list } b: reasonCodes(action: "case.skip") { code } }',
    )
    assert {code["list"] for code in data["a"]} == {"REFUND"}
    assert [code["code"] for code in data["a"] if code["noteRequired"]] == ["GOODWILL", "LEGAL"]
    assert "WELLNESS" in [code["code"] for code in data["b"]]


async def test_what_was_read_is_told_for_the_record(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT", cities=("faro",))
    cases = [await f.case(on.conn, city_id="faro", created_at=f.NOW + timedelta(seconds=n)) for n in range(3)]
    answer = await on.ask(
        agent, '{ a: listCases(limit: 2) { items { id } nextToken } b: getCase(id: "gone") { id kind } }'
    )
    a, b = answer.reads
    assert (a.key, a.field, a.action, a.object_type) == ("a", "Query.listCases", "case.list", "Case")
    assert (a.ids, a.count) == ((cases[2], cases[1]), 2)
    assert a.fields == ("Case.id", "CaseConnection.items")
    assert a.policy_row == "SUPPORT/AGENT/case:read/kinds.SUPPORT"
    assert (b.ids, b.count, b.arguments) == ((), 0, {"id": "gone"})


# ---------- payloads ----------
async def payload(on: Stage, who: str, text: str, result: Result, **extra: Any) -> Answer:
    caller, snapshot = await on.who(who)
    operation = on.operation(text)
    variables = operation.bind(console().core, {})
    node = operation.definition.selection_set.selections[0]

    async def unused(_: object) -> None:
        raise AssertionError("nothing is committed here")

    cities = ",".join(caller.grants[0].city_ids)
    async with begin(on.reader._pools["app"], unused, cities=cities) as uow:
        on.statements.clear()
        answer = await on.reader.payload(uow, caller, snapshot, operation, variables, node, result, extra)
        assert len(on.statements) <= 1
    return answer


REFUND = """mutation { mine: requestRefund(input: { orderId: "x", amount: { amountMinor: 1, currency: "EUR" }, idempotencyKey: "k", reason: { code: "DUPLICATE" } }) {
  outcome refund { id amount { amountMinor } requestedBy { id } } ledger { orderId refundable { amountMinor } refunds(limit: 1) { items { id } } } approvalRequest { id } audit { id seq hash } } }"""


async def test_a_payload_is_read_by_the_ids_of_the_result(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    order = await f.ledger(on.conn, captured_minor=9_000)
    refund = await f.refund(on.conn, order, agent, amount_minor=500)
    answer = await payload(
        on,
        agent,
        REFUND,
        Result(refs={"refund": refund, "ledger": order, "approvalRequest": None}),
        outcome="EXECUTED",
        audit={"id": "a1", "seq": None, "hash": "00"},
    )
    assert answer.errors == []
    assert answer.data == {
        "mine": {
            "outcome": "EXECUTED",
            "refund": {"id": refund, "amount": {"amountMinor": 500}, "requestedBy": {"id": agent}},
            "ledger": {"orderId": order, "refundable": {"amountMinor": 9_000}, "refunds": {"items": [{"id": refund}]}},
            "approvalRequest": None,
            "audit": {"id": "a1", "seq": None, "hash": "00"},
        }
    }


@pytest.mark.contract("AZ-2")
async def test_a_payload_does_not_show_what_its_reader_may_not_see(on: Stage) -> None:
    berliner = await f.staff(on.conn, "SUPPORT", cities=("berlin",))
    decision_case = await f.case(on.conn)
    text = """mutation { decideCase(input: { caseId: "x", leaseToken: "t", expectedVersion: 1, idempotencyKey: "k", kind: WARN, severity: 1, reason: { code: "SPAM" } }) {
      outcome case { id } decision { id } audit { id hash } } }"""
    answer = await payload(
        on,
        berliner,
        text,
        Result(refs={"case": decision_case, "decision": None}),
        outcome="EXECUTED",
        audit={"id": "a1", "hash": "00"},
    )
    assert answer.data == {
        "decideCase": {"outcome": "EXECUTED", "case": None, "decision": None, "audit": {"id": "a1", "hash": "00"}}
    }


async def test_a_payload_shows_leases_notes_and_plain_values(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    case = await f.case(on.conn, state="CLAIMED", assignee_id=agent)
    note = await f.note(on.conn, case, agent, body="Hello.")
    audit = {"id": "a1", "seq": None, "hash": "00"}
    lease = await payload(
        on,
        agent,
        'mutation { renewLease(input: { caseId: "x", leaseToken: "t" }) { lease { token holder { id } } } }',
        Result(refs={"lease": case}),
        audit=audit,
    )
    assert lease.data == {"renewLease": {"lease": {"token": "lease", "holder": {"id": agent}}}}
    text = 'mutation { addNote(input: { caseId: "x", body: "b", internal: true, idempotencyKey: "k" }) { note { id body } case { notes { items { id } } } } }'
    noted = await payload(on, agent, text, Result(refs={"note": note, "case": case}), audit=audit)
    assert noted.data == {
        "addNote": {"note": {"id": note, "body": "Hello."}, "case": {"notes": {"items": [{"id": note}]}}}
    }
    claimed = await payload(
        on,
        agent,
        'mutation { claimNextCase(queueId: "q") { pending leaseToken case { id } outcome } }',
        Result(refs={"case": None}, values={"pending": 3, "leaseToken": None}),
        outcome="EXECUTED",
    )
    assert claimed.data == {"claimNextCase": {"pending": 3, "leaseToken": None, "case": None, "outcome": "EXECUTED"}}


async def test_a_mutation_written_twice_under_one_key_gets_both_selections(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    alert = await f.alert(on.conn, agent)
    text = 'mutation { acknowledgeAlert(id: "x") { outcome alert { id } } acknowledgeAlert(id: "x") { alert { severity } } }'
    answer = await payload(on, agent, text, Result(refs={"alert": alert}), outcome="EXECUTED")
    assert answer.data == {"acknowledgeAlert": {"outcome": "EXECUTED", "alert": {"id": alert, "severity": 3}}}


async def test_an_absent_object_that_may_not_be_null_is_said_in_appsyncs_words(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    answer = await payload(on, agent, REFUND, Result(refs={"refund": "gone"}), outcome="EXECUTED")
    assert answer.data is None
    assert (
        answer.errors[0]["message"]
        == "Cannot return null for non-nullable type: 'Refund' within parent 'RefundPayload' (/mine/refund)"
    )


async def test_a_limit_that_a_payload_would_refuse_is_refused_before_the_mutation_runs(on: Stage) -> None:
    caller, snapshot = await on.who(await f.staff(on.conn, "SUPPORT"))
    for limit, code in ((101, "BAD_REQUEST"), (100, None)):
        operation = on.operation(REFUND.replace("limit: 1", f"limit: {limit}"))
        variables = operation.bind(console().core, {})
        node = operation.definition.selection_set.selections[0]
        if code is None:
            on.reader.check(caller, snapshot, operation, variables, node)
            continue
        with pytest.raises(ConsoleError) as error:
            on.reader.check(caller, snapshot, operation, variables, node)
        assert error.value.code == code


# ---------- finder and events ----------
async def test_the_finder_returns_the_whole_row_or_not_found(on: Stage) -> None:
    agent, other = await f.staff(on.conn, "SUPPORT"), await f.staff(on.conn, "SUPPORT", cities=("berlin",))
    case = await f.case(on.conn, priority=7)

    async def find(who: str, type_name: str, id_: str) -> Any:
        caller, snapshot = await on.who(who)
        async with on.reader._pools["app"].acquire() as conn, conn.transaction():
            await conn.execute("SELECT set_config('countersign.cities', '*', true)")
            return await on.reader.find(conn, caller, snapshot, type_name, id_)

    row = await find(agent, "Case", case)
    assert (row["id"], row["priority"], row["version"]) == (case, 7, 1)
    assert (row["subject_staff_id"], row["subject_tags"]) == (None, [])  # read beside it
    for who, id_ in ((other, case), (agent, "gone")):
        with pytest.raises(ConsoleError) as error:
            await find(who, "Case", id_)
        assert (error.value.code, error.value.message, error.value.info) == (
            "NOT_FOUND",
            "No such object, or none that you may see.",
            {},
        )


async def test_an_event_is_answered_from_its_payload(on: Stage) -> None:
    agent = await f.staff(on.conn, "SUPPORT")
    caller, snapshot = await on.who(agent)
    operation = on.operation(
        "subscription { mine: onCaseEvent { id: caseId __typename ...more } } fragment more on CaseEvent { state assigneeId cursor }"
    )
    event = {"caseId": "c1", "state": "OPEN", "assigneeId": None, "cursor": "x"}
    answer = await on.reader.event(caller, snapshot, operation, "onCaseEvent", event)
    assert answer == {"id": "c1", "__typename": "CaseEvent", "state": "OPEN", "assigneeId": None, "cursor": "x"}
    assert await on.reader.event(caller, snapshot, operation, "onCaseEvent", {"caseId": "c1"}) is None


async def test_a_reader_does_not_start_without_an_answer_for_every_root_field(on: Stage) -> None:
    from resolvers.reader import Reader

    pool: asyncpg.Pool[Any] = on.reader._pools["app"]
    with pytest.raises(ValueError, match="verifyAudit"):
        Reader(console(), pool, pool, on.reader._tokens, salt="x")
