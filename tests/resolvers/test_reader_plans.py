"""The statements themselves: one table per alias, an index per nested list, no text of the client, no field that fails."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from graphql import GraphQLObjectType, get_named_type, is_leaf_type

from resolvers.plan_cache import PlanCache, shape
from resolvers.plans import Planner
from resolvers.read_plan import Plan
from schema.build import console
from tests import factories as f
from tests.conftest import Database
from tests.resolvers.reading import ELSEWHERE, Stage, stage

# Arguments that make a root field answerable; lists need none.
ARGUMENTS = {"approvalMetrics": '(at: { from: "2020-01-01T00:00:00Z", to: "2030-01-01T00:00:00Z" })'}
KEYS = {"getOrderLedger": "orderId", "getAuditRecord": "id"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def on(shared_database: Database) -> AsyncIterator[Stage]:
    async with stage(shared_database) as made:
        yield made


async def plan(on: Stage, who: str, text: str) -> Plan:
    caller, snapshot = await on.who(who)
    operation = on.operation(text)
    return Planner(
        console(), operation, operation.bind(console().core, {}), caller, snapshot, ("reasonCodes", *ELSEWHERE)
    ).query()


def selection(of: GraphQLObjectType, depth: int, limit: int) -> str:
    """Every field of a type, and of the types below it down to ``depth``."""
    parts = []
    for name, field in of.fields.items():
        named = get_named_type(field.type)
        if is_leaf_type(named):
            parts.append(name)
        elif depth > 1 and isinstance(named, GraphQLObjectType):
            paging = f"(limit: {limit})" if "limit" in field.args else ""
            below = selection(named, depth - 1, limit)
            if below:
                parts.append(f"{name}{paging} {{ {below} }}")
    return " ".join(parts)


def whole(name: str, id_: str = "x") -> str:
    """A query of everything that one root field leads to."""
    field = console().core.query_type.fields[name]  # type: ignore[union-attr]
    of = get_named_type(field.type)
    assert isinstance(of, GraphQLObjectType)
    arguments = ARGUMENTS.get(name, "")
    if name.startswith("get"):
        arguments = f'({KEYS.get(name, "id")}: "{id_}")'
    elif "limit" in field.args:
        required = "".join(f'{key}: "{id_}" ' for key, value in field.args.items() if str(value.type).endswith("!"))
        arguments = f"({required}limit: 3)"
    return f"{{ {name}{arguments} {{ {selection(of, 5, 2)} }} }}"


ROOTS = [name for name in console().core.query_type.fields if name not in (*ELSEWHERE, "reasonCodes")]  # type: ignore[union-attr]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def people(on: Stage) -> dict[str, str]:
    """Somebody of each role, and a row of every table that they see."""
    roles = ("SUPPORT", "TRUST_SAFETY", "FINANCE", "CONTENT_EDITOR", "CITY_OPS", "ADMIN", "AUDITOR")
    found = {role: await f.staff(on.conn, role, "LEAD", cities=("*",), categories=("SFW",)) for role in roles}
    who = found["SUPPORT"]
    case = await f.case(
        on.conn,
        id="x",
        state="CLAIMED",
        assignee_id=who,
        subject_id=await f.subject(on.conn, id="x"),
        queue_id=await f.queue(on.conn, id="x"),
    )
    await f.report(on.conn, case, id="x", detail="d", reporter_id="u")
    await f.note(on.conn, case, who, mention_ids=[who])
    await f.timeline(on.conn, "Case", case, actor_id=who)
    await f.decision(on.conn, case, who, id="x", statement={"puid": "x", "ground": "ILLEGAL_CONTENT", "groundReference": "r", "facts": "f", "explanation": "e", "restrictions": [], "category": "c", "contentType": [], "sourceType": "s", "automatedDetection": False, "automatedDecision": "n", "territorialScope": [], "applicationDate": "2026-11-24"})  # fmt: skip
    await f.refund(on.conn, await f.ledger(on.conn, order_id="x"), who, id="x", approved_by_ids=[who])
    await f.delivery(on.conn, "x", id="x")
    approval = await f.approval(on.conn, who, id="x")
    await f.vote(on.conn, approval, found["FINANCE"])
    await f.timeline(on.conn, "ApprovalRequest", approval)
    await f.alert(on.conn, *found.values(), id="x")
    for person in found.values():
        await f.audit_record(on.conn, person, reason={"code": "SPAM", "ticket": None})
    return found


@pytest.mark.contract("AZ-3")
@pytest.mark.parametrize(
    "role", ["SUPPORT", "TRUST_SAFETY", "FINANCE", "CONTENT_EDITOR", "CITY_OPS", "ADMIN", "AUDITOR"]
)
async def test_no_field_of_the_schema_fails_for_anyone(on: Stage, people: dict[str, str], role: str) -> None:
    """Every root with everything below it: a value, null, or a denial; never an error of another kind."""
    answered = 0
    for name in ROOTS:
        text = whole(name, people[role] if name in ("getStaffMember", "listCasesByAssignee") else "x")
        answer = await ask_beyond_limits(on, people[role], text)
        kinds = {error["errorType"] for error in answer.errors}
        assert kinds <= {"Unauthorized"}, (
            name,
            [error for error in answer.errors if error["errorType"] != "Unauthorized"],
        )
        answered += answer.data is not None and answer.data[name] is not None
    assert answered >= 15


async def ask_beyond_limits(on: Stage, who: str, text: str) -> Any:
    """The whole schema at once is deeper and wider than a client may ask; planner and finish do not mind."""
    from graphql import OperationDefinitionNode, parse

    from resolvers.documents import Operation

    document = parse(text)
    definition = document.definitions[0]
    assert isinstance(definition, OperationDefinitionNode)
    operation = Operation(document, definition, {}, text, "query")
    caller, snapshot = await on.who(who)
    return await on.reader.query(caller, snapshot, operation, operation.bind(console().core, {}))


@pytest.mark.parametrize("name", ROOTS)
async def test_every_alias_stands_in_one_from(on: Stage, people: dict[str, str], name: str) -> None:
    """A sub-select that adds its parent to its own FROM makes a cartesian product without a word (dependencies, 7a)."""
    from graphql import OperationDefinitionNode, parse

    from resolvers.documents import Operation

    document = parse(whole(name))
    definition = document.definitions[0]
    assert isinstance(definition, OperationDefinitionNode)
    operation = Operation(document, definition, {}, "", "query")
    caller, snapshot = await on.who(people["AUDITOR"])
    made = Planner(
        console(), operation, operation.bind(console().core, {}), caller, snapshot, ("reasonCodes", *ELSEWHERE)
    ).query()
    (statement,) = made.statements
    aliases = re.findall(r"\bAS ((?:t|r|page)\d+|\w+_\d+)\b(?! ?,? *\n?FROM \()", statement.text)
    tables = [alias for alias in aliases if re.fullmatch(r"(t|r|page)\d+", alias)]
    assert tables
    assert len(tables) == len(set(tables))
    # No FROM lists two relations: each has one alias, joins are sub-selects.
    for clause in re.findall(r"\nFROM ([^\n(]+)\n", statement.text):
        assert "," not in clause, clause


@pytest.mark.contract("DB-4")
async def test_no_text_of_the_client_is_in_a_statement(on: Stage, people: dict[str, str]) -> None:
    text = """{ a: getCase(id: "MARKER'1") { id } listCases(filter: { id: { contains: "MARKER2" }, priority: { in: [424242] }, createdAt: { gt: "2001-02-03T04:05:06Z" } }) { items { id } }
      listAudit(text: "MARKER3") { items { id } } }"""
    made = await plan(on, people["AUDITOR"], text)
    for statement in made.statements:
        for marker in ("MARKER", "424242", "2001-02-03"):
            assert marker not in statement.text


NESTED = {
    "reports": ("{ getCase(id: 1) { reports { items { id } } } }", "report_by_case"),
    "notes": ("{ getCase(id: 1) { notes { items { id } } } }", "note_by_case"),
    "timeline": ("{ getCase(id: 1) { timeline { items { at } } } }", "timeline_by_target"),
    "decisions": ("{ getSubject(id: 1) { decisions { items { id } } } }", "decision_by_subject"),
    "refunds": ("{ getOrderLedger(orderId: 1) { refunds { items { id } } } }", "refund_by_order"),
    "deliveries": ("{ getRefund(id: 1) { deliveries { id } } }", "outbox_by_target"),
    "grants": ("{ getStaffMember(id: 1) { grants { id } } }", "staff_grant_staff"),
    "due": ('{ listCasesByDue(queueId: "q") { items { id } } }', "case_by_due"),
    "priority": ('{ listCasesByPriority(queueId: "q") { items { id } } }', "case_by_priority"),
    "assignee": ('{ listCasesByAssignee(assigneeId: "a") { items { id } } }', "case_by_assignee"),
    "created": ("{ listCases { items { id } } }", "case_by_created"),
    "approvals": ("{ listApprovalRequests(orderBy: APPROVE_BY) { items { id } } }", "approval_by_due"),
}


@pytest.mark.parametrize("name", list(NESTED))
async def test_a_list_is_read_from_an_index_in_its_order(on: Stage, people: dict[str, str], name: str) -> None:
    text, index = NESTED[name]
    (statement,) = (await plan(on, people["AUDITOR"], text)).statements
    async with on.conn.transaction():
        await on.conn.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        if name != "grants":  # a handful each: found by the index, sorted by hand
            await on.conn.execute("SET LOCAL enable_sort = off")
        await on.conn.execute(f"SET LOCAL plan_cache_mode = force_generic_plan; PREPARE looked_at AS {statement.text}")
        values = ", ".join(["NULL"] * len(statement.names))
        rows = await on.conn.fetch(f"EXPLAIN (COSTS OFF) EXECUTE looked_at({values})")
        await on.conn.execute("DEALLOCATE looked_at")
    shown = "\n".join(row[0] for row in rows)
    assert index in shown, shown
    if name not in ("grants", "deliveries"):
        before = shown[: shown.index(index)].splitlines()
        assert not any(line.strip().startswith(("Sort", "Incremental Sort", "->  Sort")) for line in before[-4:]), shown


def test_a_plan_depends_on_the_shape_of_variables_and_not_on_their_values() -> None:
    assert shape({"a": 1, "b": "x"}) == shape({"b": "y", "a": 2})
    assert shape({"a": None}) != shape({"a": 1}) != shape({})
    assert shape({"f": {"in": [1, 2]}}) == shape({"f": {"in": [3]}})
    assert shape({"f": {"or": [{"a": 1}]}}) != shape({"f": {"or": [{"a": 1}, {"a": 2}]}})
    assert shape({"a": True}) != shape({"a": False})


def test_the_plan_cache_is_bounded_and_keeps_what_is_used() -> None:
    cache: PlanCache[str] = PlanCache(2)
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: key)
    assert len(cache) == 2
    assert (cache.hits, cache.misses) == (2, 4)


def test_the_plan_cache_is_bounded_by_size_too_and_keeps_at_least_the_last() -> None:
    cache: PlanCache[str] = PlanCache(size=10, weigh=len)
    for key in ("aaaa", "bbbb", "cccc"):
        cache.get(key, lambda key=key: key)
    assert (len(cache), cache.size) == (2, 8)
    cache.get("d" * 50, lambda: "d" * 50)
    assert (len(cache), cache.size) == (1, 50)
