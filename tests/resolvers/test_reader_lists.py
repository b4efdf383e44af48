"""Lists: paging over ties and nulls, order, filters, and what a token or a limit refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from resolvers.tokens import LIFETIME_SECONDS
from tests import factories as f
from tests.conftest import Database
from tests.resolvers.reading import Stage, stage


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def on(shared_database: Database) -> AsyncIterator[Stage]:
    async with stage(shared_database) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(on: Stage) -> str:
    """The one who sees the twelve cases: four priorities three times, deadlines twice and some without."""
    who = await f.staff(on.conn, "SUPPORT", "LEAD", cities=("lagos",))
    queue = await f.queue(on.conn, city_ids=("lagos",), id="q_lagos")
    subjects = [await f.subject(on.conn, city_id="lagos", tags=["vip", f"t{n}"]) for n in range(12)]
    for n in range(12):
        due = None if n % 4 == 3 else f.NOW + timedelta(days=n % 4)
        await f.case(
            on.conn,
            id=f"c{n:02}",
            city_id="lagos",
            queue_id=queue,
            subject_id=subjects[n],
            priority=n % 4,
            created_at=f.NOW + timedelta(microseconds=n // 2),
            resolve_due_at=due,
            assignee_id=who if n < 3 else None,
        )
    return who


PAGES = """query($o: CaseOrder, $d: ModelSortDirection, $n: Int, $t: String, $f: ModelCaseFilterInput) {
  listCases(orderBy: $o, sortDirection: $d, limit: $n, nextToken: $t, filter: $f) { items { id } nextToken } }"""


async def walk(on: Stage, who: str, text: str, name: str, **variables: Any) -> list[str]:
    """Every page of a list, until the last."""
    found: list[str] = []
    token = None
    while True:
        page = (await on.data(who, text, **{**variables, "t": token}))[name]
        found += [item["id"] for item in page["items"]]
        token = page["nextToken"]
        if token is None:
            return found


def sql_order(order: str | None, direction: str | None) -> str:
    column, natural = {
        "PRIORITY": ("priority", "DESC"),
        "SLA": ("resolve_due_at", "ASC"),
        "CREATED": ("created_at", "DESC"),
        None: ("created_at", "DESC"),
    }[order]
    turned = direction or natural
    return f"SELECT id FROM case_file WHERE city_id = 'lagos' ORDER BY {column} {turned}, id {turned}"


@pytest.mark.parametrize("direction", [None, "ASC", "DESC"])
@pytest.mark.parametrize("order", [None, "PRIORITY", "SLA", "CREATED"])
@pytest.mark.parametrize("limit", [1, 5, 12])
async def test_pages_meet_each_row_once_and_in_order_over_ties_and_nulls(
    on: Stage, agent: str, order: str | None, direction: str | None, limit: int
) -> None:
    expected = [row["id"] for row in await on.conn.fetch(sql_order(order, direction))]
    assert await walk(on, agent, PAGES, "listCases", o=order, d=direction, n=limit) == expected


async def test_a_row_added_meanwhile_does_not_repeat_or_hide_another(on: Stage, agent: str) -> None:
    first = (await on.data(agent, PAGES, o="PRIORITY", n=4))["listCases"]
    late = await f.case(on.conn, city_id="lagos", priority=99)
    rest = await walk_from(on, agent, first["nextToken"])
    await on.conn.execute("DELETE FROM case_file WHERE id = $1", late)
    everything = [item["id"] for item in first["items"]] + rest
    assert len(everything) == len(set(everything)) == 12


async def walk_from(on: Stage, who: str, token: str) -> list[str]:
    found: list[str] = []
    at: str | None = token
    while at is not None:
        page = (await on.data(who, PAGES, o="PRIORITY", n=4, t=at))["listCases"]
        found += [item["id"] for item in page["items"]]
        at = page["nextToken"]
    return found


async def test_index_queries_start_at_a_partition_and_take_a_condition_on_the_sort_key(on: Stage, agent: str) -> None:
    text = """query($t: String, $n: Int, $d: ModelSortDirection) {
      listCasesByPriority(queueId: "q_lagos", priority: { between: [1, 2] }, limit: $n, nextToken: $t, sortDirection: $d) { items { id } nextToken } }"""
    ids = ["c01", "c05", "c09", "c02", "c06", "c10"]
    assert await walk(on, agent, text, "listCasesByPriority", n=2) == ids
    assert await walk(on, agent, text, "listCasesByPriority", n=4, d="DESC") == ids[::-1]
    mine = "query($who: ID!, $at: String) { listCasesByAssignee(assigneeId: $who, resolveDueAt: { lt: $at }) { items { id } } }"
    found = await on.data(agent, mine, who=agent, at=(f.NOW + timedelta(hours=36)).isoformat())
    assert [item["id"] for item in found["listCasesByAssignee"]["items"]] == ["c00", "c01"]


async def test_a_nested_list_pages_by_itself(on: Stage, agent: str) -> None:
    case = await f.case(on.conn, id="nested", city_id="lagos", queue_id="q_lagos")
    other = await f.case(on.conn, id="nested_too", city_id="lagos", queue_id="q_lagos")
    reports = [await f.report(on.conn, case) for _ in range(5)]
    await f.report(on.conn, other)
    text = "query($id: ID!, $t: String) { getCase(id: $id) { reports(limit: 2, nextToken: $t) { items { id } nextToken } } }"
    found: list[str] = []
    token = None
    while True:
        page = (await on.data(agent, text, id=case, t=token))["getCase"]["reports"]
        found += [item["id"] for item in page["items"]]
        if page["nextToken"] is None:
            break
        token = page["nextToken"]
        elsewhere = await on.ask(agent, text, {"id": other, "t": token})
        assert [error["errorType"] for error in elsewhere.errors] == ["INVALID_NEXT_TOKEN"]
    assert sorted(found) == sorted(reports)
    await on.conn.execute("DELETE FROM report")
    await on.conn.execute("DELETE FROM case_file WHERE id IN ('nested', 'nested_too')")


async def test_two_selections_of_the_items_do_not_mix(on: Stage, agent: str) -> None:
    text = "{ listCases(orderBy: PRIORITY, limit: 2) { items { id x: kind } more: items { x: priority subject { cityId } } nextToken } }"
    page = (await on.data(agent, text))["listCases"]
    assert page["items"] == [{"id": "c11", "x": "MODERATION"}, {"id": "c07", "x": "MODERATION"}]
    assert page["more"] == [{"x": 3, "subject": {"cityId": "lagos"}}] * 2
    only = await on.data(agent, "{ listCases(limit: 1) { nextToken } }")
    assert only["listCases"]["nextToken"]


@pytest.mark.contract("AZ-6")
async def test_a_token_is_for_its_caller_filter_and_time(on: Stage, agent: str) -> None:
    token = (await on.data(agent, PAGES, n=1, f={"priority": {"ge": 1}}))["listCases"]["nextToken"]
    colleague = await f.staff(on.conn, "SUPPORT", cities=("lagos",))
    attempts = [
        (colleague, {"priority": {"ge": 1}}, token),
        (agent, {"priority": {"ge": 2}}, token),
        (agent, {"priority": {"ge": 1}}, token[:-2] + "AA"),
    ]
    for who, given, presented in attempts:
        answer = await on.ask(who, PAGES, {"t": presented, "f": given})
        assert [(error["path"], error["errorType"]) for error in answer.errors] == [
            (["listCases"], "INVALID_NEXT_TOKEN")
        ]
    on.moment += LIFETIME_SECONDS
    assert (await on.ask(agent, PAGES, {"t": token, "f": {"priority": {"ge": 1}}})).errors[0][
        "errorType"
    ] == "INVALID_NEXT_TOKEN"
    on.moment -= LIFETIME_SECONDS


@pytest.mark.parametrize("limit", [0, -1, 101, 2_000_000])
async def test_a_limit_outside_1_to_100_is_refused_at_its_root(on: Stage, agent: str, limit: int) -> None:
    answer = await on.ask(
        agent,
        "query($n: Int) { ok: me { policyVersion } getSubject(id: 1) { decisions(limit: $n) { nextToken } } }",
        {"n": limit if limit < 10_000 else 101},
    )
    assert answer.data is not None
    assert answer.data["getSubject"] is None
    assert [(error["path"], error["errorType"]) for error in answer.errors] == [(["getSubject"], "BAD_REQUEST")]


FILTERS: list[tuple[dict[str, Any], set[int]]] = [
    ({}, set(range(12))),
    ({"priority": {"eq": 1}}, {1, 5, 9}),
    ({"priority": {"ne": 1}}, set(range(12)) - {1, 5, 9}),
    ({"priority": {"gt": 1, "lt": 3}}, {2, 6, 10}),
    ({"priority": {"between": [2, 3]}}, {2, 3, 6, 7, 10, 11}),
    ({"priority": {"in": [0, 3]}}, {0, 3, 4, 7, 8, 11}),
    ({"priority": {"notIn": [0, 3]}}, {1, 2, 5, 6, 9, 10}),
    ({"priority": {"attributeType": "number"}}, set(range(12))),
    ({"priority": {"attributeType": "string"}}, set()),
    ({"id": {"beginsWith": "c0"}}, set(range(10))),
    ({"id": {"contains": "1"}}, {1, 10, 11}),
    ({"id": {"notContains": "1"}}, set(range(12)) - {1, 10, 11}),
    ({"id": {"eq": "c0%"}}, set()),
    ({"id": {"contains": "_"}}, set()),
    ({"id": {"size": {"eq": 3}}}, set(range(12))),
    ({"id": {"size": {"gt": 3}}}, set()),
    ({"assigneeId": {"attributeExists": False}}, set(range(3, 12))),
    ({"assigneeId": {"attributeExists": True}}, {0, 1, 2}),
    ({"assigneeId": {"eq": None}}, set(range(3, 12))),
    ({"assigneeId": {"ne": None}}, {0, 1, 2}),
    ({"assigneeId": {"ne": "somebody"}}, set(range(12))),
    ({"assigneeId": {"notIn": ["somebody"]}}, set(range(12))),
    ({"assigneeId": {"lt": "zzz"}}, {0, 1, 2}),
    ({"assigneeId": {"attributeType": "_null"}}, set(range(3, 12))),
    ({"kind": {"eq": "MODERATION"}, "state": {"in": ["OPEN", "CLAIMED"]}}, set(range(12))),
    ({"kind": {"ne": "MODERATION"}}, set()),
    ({"slaState": {"eq": "NONE"}}, {3, 7, 11}),
    ({"not": {"priority": {"ge": 1}}}, {0, 4, 8}),
    ({"not": {"resolveDueAt": {"gt": "2000-01-01T00:00:00Z"}}}, {3, 7, 11}),
    ({"or": [{"priority": {"eq": 0}}, {"id": {"eq": "c01"}}]}, {0, 1, 4, 8}),
    ({"and": [{"priority": {"eq": 0}}, {"or": [{"id": {"eq": "c00"}}, {"id": {"eq": "c01"}}]}]}, {0}),
    ({"and": [], "or": [], "not": None, "priority": None}, set(range(12))),
    ({"createdAt": {"beginsWith": f.NOW.strftime("%Y-%m-%dT%H")}}, set(range(12))),
    ({"createdAt": {"eq": f.NOW.isoformat(timespec="milliseconds")}}, set(range(12))),
    ({"createdAt": {"le": f.NOW.isoformat(timespec="milliseconds")}}, set(range(12))),
    ({"createdAt": {"gt": f.NOW.isoformat(timespec="milliseconds")}}, set()),
    ({"createdAt": {"between": ["2000-01-01T00:00:00Z", f.NOW.isoformat()]}}, set(range(12))),
    ({"resolveDueAt": {"lt": (f.NOW + timedelta(hours=12)).astimezone().isoformat()}}, {0, 4, 8}),
    ({"resolveDueAt": {"in": [f.NOW.isoformat()]}}, {0, 4, 8}),
    ({"resolveDueAt": {"ne": f.NOW.isoformat()}}, set(range(12)) - {0, 4, 8}),
]


@pytest.mark.contract("DB-4")
@pytest.mark.parametrize(("given", "expected"), FILTERS)
async def test_filters_are_amplifys(on: Stage, agent: str, given: dict[str, Any], expected: set[int]) -> None:
    page = (await on.data(agent, PAGES, n=100, f=given))["listCases"]
    assert {item["id"] for item in page["items"]} == {f"c{n:02}" for n in expected}


async def test_a_literal_filter_is_the_same_as_one_in_variables(on: Stage, agent: str) -> None:
    text = 'query($p: Int) { listCases(limit: 100, filter: { priority: { ge: $p }, or: [{ id: { eq: "c03" } }, { slaState: { ne: NONE } }] }) { items { id } } }'
    for variables, expected in (({"p": 3}, {"c03"}), ({}, {f"c{n:02}" for n in range(12)} - {"c07", "c11"})):
        found = await on.data(agent, text, **variables)
        assert {item["id"] for item in found["listCases"]["items"]} == expected


LISTS = [
    ({"tags": {"contains": "t3"}}, 1),
    ({"tags": {"notContains": "t3"}}, 11),
    ({"tags": {"size": {"eq": 2}}}, 12),
    ({"tags": {"eq": "vip"}}, 0),
    ({"openCaseCount": {"eq": 1}}, 12),
    ({"openCaseCount": {"gt": 1}}, 0),
    ({"protectedTags": {"contains": "legal_hold"}}, 0),
]


@pytest.mark.parametrize(("given", "count"), LISTS)
async def test_lists_and_counts_can_be_filtered_by(on: Stage, agent: str, given: dict[str, Any], count: int) -> None:
    text = "query($f: ModelSubjectFilterInput) { listSubjects(filter: $f, limit: 100) { items { id } } }"
    assert (
        len((await on.data(agent, text, f={"and": [given, {"tags": {"contains": "vip"}}]}))["listSubjects"]["items"])
        == count
    )


@pytest.mark.parametrize(
    "given",
    [
        {"createdAt": {"gt": "yesterday"}},
        {"createdAt": {"gt": "9999-12-31T23:59:59Z"}},
        {"createdAt": {"gt": "0001-01-01T00:00:00+14:00"}},
        {"priority": {"between": [1]}},
        {"priority": {"between": [1, None]}},
    ],
)
async def test_a_value_that_cannot_be_compared_is_a_bad_request(on: Stage, agent: str, given: dict[str, Any]) -> None:
    answer = await on.ask(agent, PAGES, {"f": given})
    assert [(error["path"], error["errorType"]) for error in answer.errors] == [(["listCases"], "BAD_REQUEST")]


async def test_staff_can_be_filtered_by_role(on: Stage) -> None:
    auditor = await f.staff(on.conn, "AUDITOR", cities=("*",))
    both = await f.staff(on.conn, "SUPPORT", cities=("oslo",))
    await f.grant(on.conn, both, "CITY_OPS", cities=("oslo",))
    text = "query($f: ModelStaffMemberFilterInput) { listStaffMembers(filter: $f) { items { id } } }"
    found = await on.data(auditor, text, f={"roles": {"contains": "CITY_OPS"}})
    assert [item["id"] for item in found["listStaffMembers"]["items"]] == [both]
    exact = await on.data(auditor, text, f={"roles": {"eq": ["CITY_OPS", "SUPPORT"]}})
    assert [item["id"] for item in exact["listStaffMembers"]["items"]] == [both]


async def test_ledgers_are_listed_by_their_own_key(on: Stage, agent: str) -> None:
    orders = [await f.ledger(on.conn, city_id="lagos") for _ in range(3)]
    text = "query($o: ID) { listOrderLedgers(orderId: $o) { items { orderId } } }"
    assert [item["orderId"] for item in (await on.data(agent, text))["listOrderLedgers"]["items"]] == sorted(orders)
    assert [item["orderId"] for item in (await on.data(agent, text, o=orders[1]))["listOrderLedgers"]["items"]] == [
        orders[1]
    ]
