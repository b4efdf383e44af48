"""Who sees which row: city, category, amount, own and team, on every path to it, in the answer and in the count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests import factories as f
from tests.conftest import Database
from tests.resolvers.reading import Stage, stage


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def on(shared_database: Database) -> AsyncIterator[Stage]:
    async with stage(shared_database) as made:
        yield made


async def ids(on: Stage, who: str, name: str, key: str = "id", **variables: Any) -> list[str]:
    """What a list shows to somebody."""
    data = await on.data(who, f"{{ {name}(limit: 100) {{ items {{ {key} }} }} }}", **variables)
    return [item[key] for item in data[name]["items"]]


# ---------- city and category ----------
@pytest.mark.contract("AZ-2", "AZ-5")
async def test_a_row_of_another_city_is_absent_on_every_path(on: Stage) -> None:
    here = await f.staff(on.conn, "SUPPORT", cities=("kyoto",))
    there = await f.staff(on.conn, "SUPPORT", cities=("osaka",))
    case = await f.case(on.conn, city_id="kyoto", id="k_case")
    report = await f.report(on.conn, case)
    decision = await f.decision(on.conn, case, here)
    subject = await on.conn.fetchval("SELECT subject_id FROM case_file WHERE id = 'k_case'")
    order = await f.ledger(on.conn, city_id="kyoto")
    refund = await f.refund(on.conn, order, here)
    delivery = await f.delivery(on.conn, refund, city_id="kyoto")
    roots = {
        "getCase": ("id", case),
        "getReport": ("id", report),
        "getDecision": ("id", decision),
        "getSubject": ("id", subject),
        "getOrderLedger": ("orderId", order),
        "getRefund": ("id", refund),
        "getDelivery": ("id", delivery),
    }
    for name, (key, id_) in roots.items():
        text = f'{{ {name}({key}: "{id_}") {{ {key} }} }}'
        assert await on.data(here, text) == {name: {key: id_}}
        assert await on.data(there, text) == {name: None}
    for name in ("listCases", "listReports", "listDecisions", "listSubjects", "listRefunds", "listDeliveries"):
        assert len(await ids(on, here, name)) == 1, name
        assert await ids(on, there, name) == [], name
    assert await ids(on, there, "listOrderLedgers", "orderId") == []


@pytest.mark.contract("AZ-5")
async def test_out_of_scope_is_answered_like_absent_with_the_same_number_of_statements(on: Stage) -> None:
    who = await f.staff(on.conn, "SUPPORT", cities=("osaka",))
    case = await f.case(on.conn, city_id="kyoto")
    text = "query($id: ID!) { getCase(id: $id) { id subject { id } reports { items { id } } } }"
    answers = []
    for id_ in (case, "no_such_case"):
        on.statements.clear()
        answer = await on.ask(who, text, {"id": id_})
        answers.append((answer.data, answer.errors, len(on.statements), answer.reads[0].ids, answer.reads[0].count))
    assert answers[0] == answers[1] == ({"getCase": None}, [], 1, (), 0)


@pytest.mark.contract("AZ-2", "AZ-6")
async def test_nested_lists_are_filtered_like_the_roots(on: Stage) -> None:
    """A subject's decisions of a category that the reader's grant does not name are not there, and not counted."""
    broad = await f.staff(on.conn, "TRUST_SAFETY", cities=("nara",))
    narrow = await f.staff(on.conn, "SUPPORT", cities=("nara",), categories=("SFW",))
    subject = await f.subject(on.conn, city_id="nara")
    tame = await f.case(on.conn, city_id="nara", subject_id=subject)
    wild = await f.case(on.conn, city_id="nara", subject_id=subject, kind="ACCOUNT", content_category="NSFW")
    both = [await f.decision(on.conn, case, broad) for case in (tame, wild)]
    text = "query($id: ID!) { getSubject(id: $id) { openCaseCount decisions { items { id } nextToken } } }"
    seen = (await on.data(broad, text, id=subject))["getSubject"]
    assert seen["openCaseCount"] == 2
    assert sorted(item["id"] for item in seen["decisions"]["items"]) == sorted(both)
    less = (await on.data(narrow, text, id=subject))["getSubject"]
    assert less == {"openCaseCount": 1, "decisions": {"items": [{"id": both[0]}], "nextToken": None}}


@pytest.mark.contract("AZ-6")
async def test_has_more_is_said_after_filtering(on: Stage) -> None:
    narrow = await f.staff(on.conn, "SUPPORT", cities=("uji",), categories=("SFW",))
    mine = await f.case(on.conn, city_id="uji")
    for _ in range(3):
        await f.case(on.conn, city_id="uji", content_category="NSFW")
    page = (await on.data(narrow, "{ listCases(limit: 1) { items { id } nextToken } }"))["listCases"]
    assert page == {"items": [{"id": mine}], "nextToken": None}


async def test_city_and_category_must_meet_in_one_grant(on: Stage) -> None:
    who = await f.staff(on.conn, "SUPPORT", cities=("kobe",), categories=("SFW",))
    await f.grant(on.conn, who, "SUPPORT", cities=("himeji",), categories=("NSFW",))
    rows = {
        (city, category): await f.case(on.conn, city_id=city, content_category=category)
        for city in ("kobe", "himeji")
        for category in ("SFW", "NSFW")
    }
    assert sorted(await ids(on, who, "listCases")) == sorted([rows["kobe", "SFW"], rows["himeji", "NSFW"]])


async def test_each_role_sees_the_kinds_it_works_on(on: Stage) -> None:
    kinds = ("MODERATION", "VERIFICATION", "REFUND", "DISPUTE", "APPEAL", "ACCOUNT", "CITY")
    for kind in kinds:
        await f.case(on.conn, id=f"sendai_{kind}", city_id="sendai", kind=kind)
    await f.case(on.conn, id="sendai_MODERATION_NSFW", city_id="sendai", kind="MODERATION", content_category="NSFW")
    expected = {
        "SUPPORT": {"MODERATION", "MODERATION_NSFW", "VERIFICATION", "REFUND", "DISPUTE", "ACCOUNT"},
        "TRUST_SAFETY": {"MODERATION", "MODERATION_NSFW", "VERIFICATION", "APPEAL", "ACCOUNT"},
        "FINANCE": {"REFUND", "DISPUTE"},
        "CONTENT_EDITOR": {"MODERATION"},
        "CITY_OPS": {"CITY"},
        "ADMIN": {*kinds, "MODERATION_NSFW"},
        "AUDITOR": {*kinds, "MODERATION_NSFW"},
    }
    for role, seen in expected.items():
        categories = ("SFW", "SUGGESTIVE") if role == "CONTENT_EDITOR" else f.ALL
        who = await f.staff(on.conn, role, cities=("sendai",), categories=categories)
        assert {id_.removeprefix("sendai_") for id_ in await ids(on, who, "listCases")} == seen, role


async def test_a_row_without_a_city_is_for_those_who_see_every_city(on: Stage) -> None:
    case = await f.case(on.conn, city_id=None)
    local = await f.staff(on.conn, "SUPPORT", cities=("lisbon",))
    everywhere = await f.staff(on.conn, "SUPPORT", cities=("*",))
    text = "query($id: ID!) { getCase(id: $id) { id cityId } }"
    assert await on.data(local, text, id=case) == {"getCase": None}
    assert await on.data(everywhere, text, id=case) == {"getCase": {"id": case, "cityId": None}}


@pytest.mark.contract("AZ-6")
async def test_a_queue_is_seen_where_its_cities_and_categories_overlap_and_counts_what_is_seen(on: Stage) -> None:
    queue = await f.queue(on.conn, city_ids=("beja", "evora"), categories=("SFW", "NSFW"))
    nowhere = await f.queue(on.conn, city_ids=(), categories=("SFW",))
    for city, category in (("beja", "SFW"), ("beja", "NSFW"), ("evora", "SFW")):
        await f.case(on.conn, city_id=city, content_category=category, queue_id=queue)
    text = "query($id: ID!) { getQueue(id: $id) { id stats { pending claimed escalated breached inbound24h oldestCreatedAt } } }"
    cases = [(("beja",), f.ALL, 2), (("evora",), f.ALL, 1), (("beja", "evora"), ("SFW",), 2), (("*",), f.ALL, 3)]
    for cities, categories, pending in cases:
        who = await f.staff(on.conn, "SUPPORT", cities=cities, categories=categories)
        stats = (await on.data(who, text, id=queue))["getQueue"]["stats"]
        assert (stats["pending"], stats["inbound24h"], stats["claimed"], stats["breached"]) == (pending, pending, 0, 0)
        assert (await on.data(who, text, id=nowhere))["getQueue"] == (
            None
            if cities != ("*",)
            else {"id": nowhere, "stats": {**stats, "pending": 0, "inbound24h": 0, "oldestCreatedAt": None}}
        )
    other = await f.staff(on.conn, "SUPPORT", cities=("beja",), categories=("PROHIBITED",))
    assert await on.data(other, text, id=queue) == {"getQueue": None}


@pytest.mark.contract("DB-1")
async def test_row_level_security_holds_where_a_predicate_would_not(on: Stage) -> None:
    """The context of a statement is the union of the caller's cities, and gone after it."""
    await f.case(on.conn, city_id="tomar")
    who = await f.staff(on.conn, "SUPPORT", cities=("tomar",))
    await on.data(who, "{ listCases { items { id } } }")
    pool = on.reader._pools["app"]
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT count(*) FROM case_file") == 0


# ---------- people ----------
async def test_staff_see_themselves_leads_their_team_and_auditors_all(on: Stage) -> None:
    lead = await f.staff(on.conn, "FINANCE", "LEAD", cities=("oulu", "turku"))
    agent = await f.staff(on.conn, "FINANCE", cities=("oulu",))
    outside = await f.staff(on.conn, "FINANCE", cities=("oulu", "espoo"))
    other_role = await f.staff(on.conn, "SUPPORT", cities=("oulu",))
    locked = await f.staff(on.conn, "FINANCE", cities=("oulu",), state="LOCKED")
    auditor = await f.staff(on.conn, "AUDITOR", cities=("*",))
    assert await ids(on, agent, "listStaffMembers") == [agent]
    assert set(await ids(on, lead, "listStaffMembers")) == {lead, agent}
    everyone = {row["id"] for row in await on.conn.fetch("SELECT id FROM staff")}
    auditor_sees = await on.conn.fetchval("SELECT count(*) FROM staff") <= 100
    if auditor_sees:
        assert set(await ids(on, auditor, "listStaffMembers")) == everyone
    for unseen in (outside, other_role, locked):
        assert (await on.data(lead, "query($id: ID!) { getStaffMember(id: $id) { id } }", id=unseen))[
            "getStaffMember"
        ] is None


async def test_alerts_are_for_their_recipients_in_their_cities(on: Stage) -> None:
    one, other = (
        await f.staff(on.conn, "SUPPORT", cities=("riga",)),
        await f.staff(on.conn, "SUPPORT", cities=("riga",)),
    )
    auditor = await f.staff(on.conn, "AUDITOR", cities=("riga",))
    mine = await f.alert(on.conn, one, city_id="riga")
    await f.alert(on.conn, one, city_id="vilnius")
    assert await ids(on, one, "listAlerts") == [mine]
    assert await ids(on, other, "listAlerts") == []
    assert await ids(on, auditor, "listAlerts") == [mine]


# ---------- approvals ----------
async def approvals_of(on: Stage, city: str) -> dict[str, str]:
    """A requester, the people around him, and two requests of his: 120 EUR and 800 EUR."""
    people = {
        "requester": await f.staff(on.conn, "SUPPORT", cities=(city,)),
        "colleague": await f.staff(on.conn, "SUPPORT", cities=(city,)),
        "lead": await f.staff(on.conn, "SUPPORT", "LEAD", cities=(city,)),
        "finance": await f.staff(on.conn, "FINANCE", cities=(city,)),
        "senior": await f.staff(on.conn, "FINANCE", "SENIOR", cities=(city,)),
        "elsewhere": await f.staff(on.conn, "FINANCE", "SENIOR", cities=("atlantis",)),
        "safety": await f.staff(on.conn, "TRUST_SAFETY", "LEAD", cities=(city,)),
        "admin": await f.staff(on.conn, "ADMIN", cities=("*",)),
        "auditor": await f.staff(on.conn, "AUDITOR", cities=("*",)),
    }
    people["small"] = await f.approval(on.conn, people["requester"], city_id=city, amount_minor=12_000)
    people["large"] = await f.approval(on.conn, people["requester"], city_id=city, amount_minor=80_000)
    return people


async def test_a_request_is_seen_by_its_maker_those_who_may_vote_on_its_amount_the_lead_and_the_auditor(
    on: Stage,
) -> None:
    p = await approvals_of(on, "graz")
    expected = {
        "requester": {"small", "large"},
        "colleague": set(),
        "lead": {"small"},  # 800 EUR is above what he may approve
        "finance": {"small"},
        "senior": {"small", "large"},
        "elsewhere": set(),
        "safety": set(),
        "admin": set(),
    }
    for name, seen in expected.items():
        found = await on.data(
            p[name], '{ listApprovalRequests(limit: 100, filter: { cityId: { eq: "graz" } }) { items { id } } }'
        )
        assert {item["id"] for item in found["listApprovalRequests"]["items"]} == {p[request] for request in seen}, name
    found = await on.data(
        p["auditor"], '{ listApprovalRequests(limit: 100, filter: { cityId: { eq: "graz" } }) { items { id } } }'
    )
    assert {item["id"] for item in found["listApprovalRequests"]["items"]} == {p["small"], p["large"]}


@pytest.mark.contract("AZ-10")
async def test_eligible_is_one_answer_shown_explained_and_filtered_by(on: Stage) -> None:
    p = await approvals_of(on, "linz")
    await f.vote(on.conn, p["small"], p["finance"])
    withdrawn = await f.approval(on.conn, p["requester"], city_id="linz", amount_minor=1_000)
    await f.vote(on.conn, withdrawn, p["finance"], withdrawn_at=f.NOW)
    concerned = await f.approval(
        on.conn, p["requester"], city_id="linz", amount_minor=1_000, subject_staff_id=p["senior"]
    )
    closed = await f.approval(on.conn, p["requester"], city_id="linz", amount_minor=1_000, state="REJECTED")
    late = await f.approval(on.conn, p["requester"], city_id="linz", amount_minor=1_000, approve_by=f.NOW)
    lead_seat = {**f.REFUND_SEATS, "policies": [{"id": "x", "seats": [["FINANCE LEAD"]]}]}
    leads_only = await f.approval(on.conn, p["requester"], city_id="linz", amount_minor=1_000, seats=lead_seat)
    text = """query($f: ModelApprovalRequestFilterInput) { listApprovalRequests(limit: 100, filter: $f) { items { id eligible ineligibleCode } } }"""
    expected = {
        "requester": dict.fromkeys((p["small"], p["large"], withdrawn, concerned, closed, late, leads_only), "SELF_APPROVAL"),
        "finance": {p["small"]: "ALREADY_VOTED", withdrawn: None, concerned: None, closed: "APPROVAL_NOT_PENDING", late: "APPROVAL_NOT_PENDING", leads_only: "TIER"},
        "senior": {p["small"]: None, p["large"]: None, withdrawn: None, concerned: "CONFLICT", closed: "APPROVAL_NOT_PENDING", late: "APPROVAL_NOT_PENDING", leads_only: "TIER"},
        "lead": {p["small"]: None, withdrawn: None, concerned: None, closed: "APPROVAL_NOT_PENDING", late: "APPROVAL_NOT_PENDING", leads_only: "TIER"},
        "auditor": dict.fromkeys((p["small"], p["large"], withdrawn, concerned, closed, late, leads_only), "TIER"),
    }  # fmt: skip
    here = {"cityId": {"eq": "linz"}}
    for name, codes in expected.items():
        shown = (await on.data(p[name], text, f=here))["listApprovalRequests"]["items"]
        assert {item["id"]: item["ineligibleCode"] for item in shown} == codes, name
        assert all(item["eligible"] == (item["ineligibleCode"] is None) for item in shown)
        for wanted in (True, False):
            filtered = (await on.data(p[name], text, f={**here, "eligible": {"eq": wanted}}))["listApprovalRequests"][
                "items"
            ]
            assert {item["id"] for item in filtered} == {
                id_ for id_, code in codes.items() if (code is None) == wanted
            }, (name, wanted)


async def test_an_approval_shows_votes_money_and_reason(on: Stage) -> None:
    p = await approvals_of(on, "bruges")
    await f.vote(on.conn, p["small"], p["finance"], comment="fine")
    await f.vote(on.conn, p["small"], p["senior"], withdrawn_at=f.NOW)
    text = """query($id: ID!) { getApprovalRequest(id: $id) { payload diff windowSum { amountMinor currency } reason { code } requesterCount30d
      requester { id } votes { voter { id roles } vote comment counts } state execution } }"""
    found = (await on.data(p["senior"], text, id=p["small"]))["getApprovalRequest"]
    assert found == {
        "payload": "{}",
        "diff": '{"after": 2, "before": 1}',
        "windowSum": {"amountMinor": 12_000, "currency": "EUR"},
        "reason": {"code": "SERVICE_NOT_PROVIDED"},
        "requesterCount30d": 2,
        "requester": {"id": p["requester"]},
        "votes": [
            {"voter": {"id": p["finance"], "roles": ["FINANCE"]}, "vote": "APPROVE", "comment": "fine", "counts": True}
        ],
        "state": "PENDING",
        "execution": "NOT_STARTED",
    }


# ---------- figures ----------
@pytest.mark.contract("AZ-6")
async def test_figures_about_few_votes_are_for_the_two_and_their_lead(on: Stage) -> None:
    p = await approvals_of(on, "delft")
    for _ in range(6):
        request = await f.approval(on.conn, p["requester"], city_id="delft", amount_minor=100, state="APPROVED")
        await f.vote(on.conn, request, p["finance"])
    await f.vote(on.conn, p["small"], p["senior"], vote="REJECT")
    text = """{ approvalMetrics(at: { from: "2000-01-01T00:00:00Z", to: "2999-01-01T00:00:00Z" }) { requesterId approverId approved rejected share medianSeconds suppressed } }"""

    async def seen(who: str) -> dict[str, Any]:
        rows = (await on.data(p[who], text))["approvalMetrics"]
        return {row["approverId"]: row for row in rows if row["requesterId"] == p["requester"]}

    mine = await seen("requester")
    assert mine[p["finance"]]["approved"] == 6
    assert mine[p["finance"]]["share"] == pytest.approx(6 / 7)
    assert (mine[p["senior"]]["rejected"], mine[p["senior"]]["suppressed"]) == (1, False)
    assert (await seen("lead")).keys() == mine.keys()
    assert (await seen("lead"))[p["senior"]]["suppressed"] is False
    audited = await seen("auditor")
    assert audited[p["finance"]]["suppressed"] is False
    assert audited[p["senior"]] == {
        **mine[p["senior"]],
        "approved": 0,
        "rejected": 0,
        "share": 0,
        "medianSeconds": 0,
        "suppressed": True,
    }
    assert (await seen("finance")).keys() == {p["finance"]}
    assert await seen("colleague") == {}


# ---------- the log ----------
async def test_everyone_finds_his_own_records_leads_their_teams_and_auditors_all(on: Stage) -> None:
    lead = await f.staff(on.conn, "FINANCE", "LEAD", cities=("ghent",), display_name="Lena Lead")
    agent = await f.staff(on.conn, "FINANCE", cities=("ghent",))
    stranger = await f.staff(on.conn, "FINANCE", cities=("liege",))
    auditor = await f.staff(on.conn, "AUDITOR", cities=("*",))
    city = {"type": "Case", "id": "c9", "version": {"before": 1, "after": 2}, "city": "ghent"}
    records = {
        "own read": await f.audit_record(
            on.conn, lead, kind="read", action="case.list", field="Query.listCases", object=None
        ),
        "team": await f.audit_record(on.conn, agent, object=city),
        "other": await f.audit_record(on.conn, stranger, object={**city, "city": "liege"}),
    }
    assert set(await ids(on, lead, "listAudit")) == {records["own read"], records["team"]}
    assert set(await ids(on, agent, "listAudit")) == {records["team"]}
    assert set(await ids(on, auditor, "listAudit")) == set(records.values())
    text = """query($id: ID!) { getAuditRecord(id: $id) { id seq kind action field verdict targetType targetId targetVersion actor { id kind displayName } reason { code } read at hash body } }"""
    answer = await on.ask(lead, text, {"id": records["own read"]})
    assert answer.data is not None
    found = answer.data["getAuditRecord"]
    assert (found["kind"], found["action"], found["read"], found["reason"]) == ("READ", "case.list", True, None)
    assert found["actor"] == {"id": lead, "kind": "STAFF", "displayName": "Lena Lead"}
    assert (found["body"], [error["path"] for error in answer.errors]) == (None, [["getAuditRecord", "body"]])
    assert (await on.data(auditor, text, id=records["team"]))["getAuditRecord"]["body"].startswith("{")
    assert (await on.data(lead, text, id="no-uuid"))["getAuditRecord"] is None
    assert (await on.data(agent, text, id=records["other"]))["getAuditRecord"] is None
    searched = await on.data(
        auditor, '{ listAudit(text: "C9", filter: { kind: { eq: MUTATION }, seq: { ge: 0 } }) { items { id } } }'
    )
    assert {item["id"] for item in searched["listAudit"]["items"]} == {records["team"], records["other"]}


# ---------- hints ----------
@pytest.mark.contract("AZ-10")
async def test_hints_say_what_an_attempt_would_hear(on: Stage) -> None:
    senior = await f.staff(on.conn, "SUPPORT", "SENIOR", cities=("bath",))
    agent = await f.staff(on.conn, "SUPPORT", cities=("bath",))
    claimed = await f.case(on.conn, city_id="bath", state="CLAIMED", assignee_id=agent)
    escalated = await f.case(on.conn, city_id="bath", state="ESCALATED")
    own_account = await f.case(
        on.conn, city_id="bath", subject_id=await f.subject(on.conn, city_id="bath", staff_id=agent)
    )
    hiding = await f.queue(on.conn, city_ids=("bath",), hidden_actions=["claimCase"])
    hidden = await f.case(on.conn, city_id="bath", queue_id=hiding)
    text = "query($id: ID!) { getCase(id: $id) { allowedActions { action allowed deniedCode } } }"

    async def told(who: str, case: str) -> dict[str, str | None]:
        hints = (await on.data(who, text, id=case))["getCase"]["allowedActions"]
        assert all(hint["allowed"] == (hint["deniedCode"] is None) for hint in hints)
        return {hint["action"]: hint["deniedCode"] for hint in hints}

    assert (await told(agent, claimed))["case.resolve"] is None
    assert (await told(agent, claimed))["case.claim"] is None  # saying it twice says it once
    assert (await told(senior, claimed))["case.claim"] == "CASE_CLAIMED"
    assert (await told(senior, claimed))["case.decide"] == "CASE_CLAIMED"
    assert (await told(agent, escalated))["case.claim"] == "Unauthorized"
    assert (await told(senior, escalated))["case.claim"] is None
    assert (await told(senior, escalated))["case.reopen"] == "INVALID_TRANSITION"
    assert set((await told(agent, own_account)).values()) == {"SELF_SUBJECT", "Unauthorized"}
    assert (await told(agent, hidden))["case.claim"] == "INVALID_TRANSITION"
    order = await f.ledger(on.conn, city_id="bath", captured_minor=100, reserved_minor=100)
    ledger = await on.data(
        agent, "query($id: ID!) { getOrderLedger(orderId: $id) { allowedActions { action deniedCode } } }", id=order
    )
    assert ledger["getOrderLedger"]["allowedActions"] == [
        {"action": "refund.request", "deniedCode": "REFUND_EXCEEDS_REFUNDABLE"}
    ]


# ---------- one rule on every path ----------
PATHS = {
    "Refund": [
        "{ listRefunds(limit: 100) { items { ...x } } }",
        "{ listOrderLedgers(limit: 60) { items { refunds(limit: 60) { items { ...x } } } } }",
        "{ listOrderLedgers(limit: 60) { items { r: refunds(limit: 60) { i: items { ... on Refund { ...x } } } } } }",
    ],
    "Decision": [
        "{ listDecisions(limit: 100) { items { ...x } } }",
        "{ listSubjects(limit: 50) { items { decisions(limit: 50) { items { ...x } } } } }",
        "{ listCases(limit: 20) { items { subject { decisions(limit: 50) { items { ...x } } } } } }",
    ],
    "Report": [
        "{ listReports(limit: 100) { items { ...x } } }",
        "{ listCases(limit: 50) { items { reports(limit: 50) { items { ...x } } } } }",
    ],
    "Delivery": [
        "{ listDeliveries(limit: 100) { items { ...x } } }",
        "{ listRefunds(limit: 100) { items { deliveries { ...x } } } }",
        "{ listOrderLedgers(limit: 20) { items { refunds(limit: 10) { items { deliveries { ...x } } } } } }",
    ],
    "Subject": [
        "{ listSubjects(limit: 100) { items { ...x } } }",
        "{ listCases(limit: 100) { items { subject { ...x } } } }",
    ],
}


def leaves(data: Any) -> set[str]:
    """The ids at the end of every path."""
    if isinstance(data, dict):
        return {data["id"]} if set(data) == {"id"} else set().union(*(leaves(value) for value in data.values()))
    return set().union(*(leaves(item) for item in data)) if isinstance(data, list) else set()


@pytest.mark.contract("AZ-2")
@pytest.mark.parametrize("type_name", list(PATHS))
async def test_the_same_rows_are_readable_on_every_path(on: Stage, type_name: str) -> None:
    found = await on.conn.fetchval("SELECT count(*) FROM staff WHERE id = 'pair_a'")
    if not found:
        for city, who in (("pair_x", "pair_a"), ("pair_y", "pair_b")):
            await f.staff(on.conn, "SUPPORT", id=who, cities=(city,), categories=("SFW", "SUGGESTIVE"))
            for category in ("SFW", "NSFW"):
                case = await f.case(on.conn, city_id=city, content_category=category)
                await f.report(on.conn, case)
                await f.decision(on.conn, case, who)
            await f.delivery(on.conn, await f.refund(on.conn, await f.ledger(on.conn, city_id=city), who), city_id=city)
    seen: dict[str, set[str]] = {}
    for who in ("pair_a", "pair_b"):
        answers = [
            leaves(await on.data(who, f"{path} fragment x on {type_name} {{ id }}")) for path in PATHS[type_name]
        ]
        # A path through cases of a category that is not the reader's leads to fewer rows, never to another one.
        assert all(answer <= answers[0] for answer in answers)
        assert answers[0]
        seen[who] = answers[0]
        if type_name not in ("Decision", "Subject"):
            assert all(answer == answers[0] for answer in answers)
    assert not seen["pair_a"] & seen["pair_b"]
