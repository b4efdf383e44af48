"""The stored approval policies: brought by a release, kept when people changed them, refused as a whole when one is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeAlias

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from authz import approval_book, requirements
from authz.approval_book import EDGES, BookError, Difference, book_in_force, read_row, sync
from authz.conditions import Facts, evaluate
from authz.directory import DirectoryError, load_directory
from authz.enforcer import Authorizer
from authz.explain import explain
from authz.requirements import FLOOR, FLOOR_ROWS, ApprovalPolicy, Book, book_of, parse_policy, shipped, stamp
from authz.scope import CEILINGS
from schema.directives import FieldRules
from schema.errors import ConsoleError
from tests import factories as f
from tests.conftest import Database, Pools

Conn: TypeAlias = "asyncpg.Connection[Any]"
LOWER = {
    "any": [
        {"fact": "sum24hMinor", "op": "gt", "value": 1_000},
        {"fact": "destination", "op": "eq", "value": "OTHER_INSTRUMENT"},
    ]
}


@pytest_asyncio.fixture(loop_scope="session")
async def owner(database: Database) -> AsyncIterator[Conn]:
    conn = await asyncpg.connect(**database.as_role("cs_owner"))
    yield conn
    await conn.close()


@pytest_asyncio.fixture(loop_scope="session")
async def root(database: Database) -> AsyncIterator[Conn]:
    conn = await asyncpg.connect(**database.superuser)
    yield conn
    await conn.close()


async def rows(conn: Conn) -> list[tuple[Any, ...]]:
    found = await conn.fetch("SELECT id, version, enabled, shipped, current FROM approval_policy ORDER BY id, version")
    return [tuple(row) for row in found]


async def version(conn: Conn) -> int:
    return int(await conn.fetchval("SELECT version FROM authz_version"))


async def changed(conn: Conn, id_: str = "refund.request/1", **columns: Any) -> None:
    """A version as people would leave it: by an executed request."""
    admin = await f.staff(conn, "ADMIN", cities=("*",))
    request = await f.approval(conn, admin, city_id=None, action="approvalPolicy.propose")
    await conn.execute("INSERT INTO approval_execution (request_id, at) VALUES ($1, now())", request)
    old = await conn.fetchrow("SELECT * FROM approval_policy WHERE id = $1 AND current", id_)
    base: dict[str, Any] = dict(old) if old is not None else {
        "id": id_, "version": 0, "action": "refund.request", "condition": None, "seats": json.dumps([["FINANCE AGENT"]]),
        "approve_within_seconds": 60, "execute_within_seconds": 60,
    }  # fmt: skip
    await conn.execute("UPDATE approval_policy SET current = false WHERE id = $1 AND current", id_)
    row = {**base, **columns, "version": base["version"] + 1, "shipped": False, "current": True, "created_at": f.NOW}
    row |= {"created_by_id": admin, "request_id": request}
    names, places = ", ".join(row), ", ".join(f"${place}" for place in range(1, len(row) + 1))
    await conn.execute(f"INSERT INTO approval_policy ({names}) VALUES ({places})", *row.values())


def of_another_release(monkeypatch: pytest.MonkeyPatch, *without: str, **changes: Any) -> None:
    """The next sync is that of a release whose base differs: policies by id, or their fields."""
    policies = [one for found in shipped().values() for one in found if one.id not in without]
    base = [replace(one, **changes) if one.id == "refund.request/1" else one for one in policies]
    monkeypatch.setattr(approval_book, "shipped", lambda: book_of(base))


# ---------- the base of a release ----------
async def test_a_migrated_database_has_the_shipped_book(owner: Conn, pools: Pools) -> None:
    async with (await pools("cs_app")).acquire() as conn:
        loaded = await load_directory(conn)
    assert {policy.id for found in loaded.book.values() for policy in found} == {
        policy.id for found in shipped().values() for policy in found
    }
    assert stamp(loaded.book, *FLOOR) == stamp(shipped(), *FLOOR)
    assert all(row[1:] == (1, True, True, True) for row in await rows(owner))


async def test_a_repeated_sync_changes_nothing_and_is_no_new_version(owner: Conn) -> None:
    before, standing = await rows(owner), await version(owner)
    assert await sync(owner) == []
    assert (await rows(owner), await version(owner)) == (before, standing)


async def test_two_starts_at_once_bring_the_base_once(database: Database, owner: Conn, root: Conn) -> None:
    await root.execute("SET session_replication_role = replica; DELETE FROM approval_policy")
    other: Conn = await asyncpg.connect(**database.as_role("cs_owner"))
    try:
        done = await asyncio.gather(sync(owner), sync(other))
    finally:
        await other.close()
    assert sorted(len(found) for found in done) == [0, len(await rows(owner))]


async def test_what_nobody_changed_follows_the_release_as_a_new_version(
    owner: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = await version(owner)
    of_another_release(monkeypatch, approve_within_seconds=60)
    assert [(one.kind, one.policy_id) for one in await sync(owner)] == [("OUTDATED", "refund.request/1")]
    assert [row for row in await rows(owner) if row[0] == "refund.request/1"] == [
        ("refund.request/1", 1, True, True, False),
        ("refund.request/1", 2, True, True, True),
    ]
    assert await version(owner) > standing
    assert await sync(owner) == []


async def test_what_a_release_drops_is_disabled_unless_people_changed_it(
    owner: Conn, root: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    await changed(root, "case.decide/2")
    of_another_release(monkeypatch, "refund.request/2", "case.decide/2")
    assert [(one.kind, one.policy_id) for one in await sync(owner)] == [("WITHDRAWN", "refund.request/2")]
    assert [row for row in await rows(owner) if row[0] in ("refund.request/2", "case.decide/2") and row[4]] == [
        ("case.decide/2", 2, True, False, True),
        ("refund.request/2", 2, False, True, True),
    ]
    assert await sync(owner) == []


async def test_what_people_changed_stays_and_is_told(owner: Conn, root: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    await changed(root, condition=json.dumps(LOWER))
    of_another_release(monkeypatch, approve_within_seconds=60)
    (one,) = await sync(owner)
    assert (one.kind, one.text) == (
        "CHANGED",
        "refund.request/1 version 2 was changed at run time and stays; this release ships another",
    )
    assert await owner.fetchval("SELECT condition FROM approval_policy WHERE id = 'refund.request/1' AND current")


async def test_a_policy_for_an_action_that_the_release_does_not_know_stops_it_by_name(owner: Conn, root: Conn) -> None:
    await changed(root, "apol_1", action="moon.sell")
    before = await rows(owner)
    with pytest.raises(BookError, match=r"approval_policy apol_1 version 1 is for moon\.sell"):
        await sync(owner)
    assert await rows(owner) == before


async def test_a_disabled_one_of_an_unknown_action_stops_nobody(owner: Conn, root: Conn, pools: Pools) -> None:
    await changed(root, "apol_1", action="moon.sell", enabled=False)
    assert await sync(owner) == []
    assert "moon.sell" not in (await Authorizer(await pools("cs_app")).current()).approvals


def test_every_difference_has_its_words() -> None:
    (policy,) = shipped()["macro.run"]
    for kind in ("MISSING", "OUTDATED", "WITHDRAWN", "CHANGED"):
        stored = None if kind == "MISSING" else {"version": 3}
        assert Difference(kind, "macro.run/1", stored, policy).text.startswith("macro.run/1 ")


# ---------- the floor ----------
def policy(key: str, seats: Any, condition: Any = None, id_: str = "x") -> ApprovalPolicy:
    entry = {"id": id_, "key": key, "condition": condition, "seats": seats}
    return parse_policy({**entry, "approveWithinSeconds": 60, "executeWithinSeconds": 60})


def book(*instead: ApprovalPolicy) -> Book:
    keys = {one.key for one in instead}
    return book_in_force([*instead, *(one for key, found in shipped().items() if key not in keys for one in found)])


@pytest.mark.contract("DC-6")
def test_the_shipped_book_applies_at_every_edge_of_the_floor_and_each_edge_is_of_it() -> None:
    assert set(EDGES) == set(FLOOR) == set(FLOOR_ROWS) == set(book())
    for key, edges in EDGES.items():
        assert all(evaluate(FLOOR_ROWS[key], facts) is True for facts in edges), key


@pytest.mark.contract("DC-6")
@pytest.mark.parametrize(
    ("key", "seats", "condition"),
    [
        ("refund.request", [["FINANCE AGENT"]], {"fact": "sum24hMinor", "op": "gt", "value": 5_001}),
        ("refund.request", [["FINANCE AGENT"]], {"fact": "role", "op": "eq", "value": "SUPPORT"}),
        ("refund.request", [["FINANCE AGENT"]], {"fact": "sum24hMinor", "op": "gt", "value": 1}),  # another instrument
        ("case.decide", [["TRUST_SAFETY LEAD"]], {"fact": "decisionKind", "op": "eq", "value": "BAN"}),
        ("macro.publish", [["FINANCE LEAD"]], {"fact": "macroDomain", "op": "eq", "value": "MONEY"}),
        ("macro.run", "STEPS", {"fact": "stepApprovals", "op": "gt", "value": 1}),
        ("approvalPolicy.propose", [["ADMIN AGENT"]] * 2, {"fact": "role", "op": "eq", "value": "ADMIN"}),
    ],
)
def test_no_condition_spares_a_deed_of_the_floor(key: str, seats: Any, condition: Any) -> None:
    with pytest.raises(ValueError, match=r"is sure to apply.*: below the floor"):
        book(policy(key, seats, condition))


@pytest.mark.contract("DC-6")
@given(
    st.sampled_from(sorted(CEILINGS)),
    st.integers(1, 30_000_000),
    st.sampled_from(["ORIGINAL", "STORE_CREDIT", "OTHER_INSTRUMENT"]),
    st.integers(0, 30_000_000),
)
def test_whatever_is_stored_a_refund_of_the_floor_is_never_done_alone(
    who: tuple[str, str], total: int, destination: str, threshold: int
) -> None:
    condition = {"fact": "sum24hMinor", "op": "eq", "value": threshold}
    acting = approval_book.acting(*who)
    facts = {**acting, "amountMinor": 1, "sum24hMinor": total, "destination": destination}
    stored = {"refund.request": (policy("refund.request", [["FINANCE AGENT"]], condition),)}
    needed = requirements.required("refund.request", facts, False, book=stored)
    if total > CEILINGS[who].alone or destination == "OTHER_INSTRUMENT":
        assert needed is not None
        assert needed.approvals >= 1
    else:
        assert (needed is not None) is (total == threshold)


@pytest.mark.contract("DC-6", "DC-7")
def test_only_a_deed_of_steps_takes_its_seats_from_steps_and_no_others() -> None:
    with pytest.raises(ValueError, match=r"refund\.request cannot take its seats from the steps"):
        book(policy("refund.request", "STEPS"))
    with pytest.raises(ValueError, match=r"macro\.run must take its seats from the steps"):
        book(policy("macro.run", [["FINANCE LEAD"]]))


def test_a_lower_threshold_is_no_lower_floor() -> None:
    assert book(policy("refund.request", [["FINANCE AGENT"]], LOWER))["refund.request"][0].id == "x"


# ---------- in a running process ----------
@pytest.mark.contract("AZ-7")
async def test_a_change_is_a_new_authorization_version_and_the_book_comes_with_it(root: Conn, pools: Pools) -> None:
    authorizer = Authorizer(await pools("cs_app"))
    first = await authorizer.current()
    await changed(root, condition=json.dumps(LOWER))
    assert await version(root) > first.version
    second = await authorizer.current(await version(root))
    assert second.version == await version(root)
    old, new = first.approvals["refund.request"], second.approvals["refund.request"]
    assert (old[0].version, new[0].version) == (1, 2)
    assert stamp(first.approvals, "refund.request") != stamp(second.approvals, "refund.request")
    assert stamp(first.approvals, "case.decide") == stamp(second.approvals, "case.decide")


@pytest.mark.contract("AZ-10")
async def test_an_explanation_goes_by_the_stored_book(root: Conn, pools: Pools) -> None:
    agent = await f.staff(root, "SUPPORT")
    rule = FieldRules("Mutation", "requestRefund", ("refund", "request"), dual=("refund.request", "POLICY"))
    facts: Facts = {
        "amountMinor": 1_500,
        "sum24hMinor": 1_500,
        "destination": "ORIGINAL",
        "reasonCode": "QUALITY_ISSUE",
    }
    authorizer = Authorizer(await pools("cs_app"))
    before = await authorizer.current()
    assert explain(before, before.staff[agent].grants, rule, facts=facts).approvals == 0
    await changed(root, condition=json.dumps(LOWER))
    after = await authorizer.current(await version(root))
    told = explain(after, after.staff[agent].grants, rule, facts=facts)
    assert (told.approvals, told.approver_roles) == (1, ("SUPPORT", "FINANCE"))


@pytest.mark.contract("FC-5", "AZ-9")
@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("condition", '{"fact": "moonPhase", "op": "eq", "value": 1}', "unknown fact moonPhase"),
        ("seats", '[["BOSS LEAD"]]', "a seat names a role"),
        ("seats", "[]", "below the floor of 1"),
        ("seats", "{}", "below the floor of 1"),
        ("action", "moon.sell", "unknown action"),
    ],
)
async def test_one_bad_row_refuses_the_whole_directory_by_name(
    root: Conn, pools: Pools, column: str, value: str, complaint: str
) -> None:
    await changed(root, **{column: value})
    pool = await pools("cs_app")
    async with pool.acquire() as conn:
        with pytest.raises(DirectoryError, match=rf"approval_policy refund\.request/1 version 2: .*{complaint}"):
            await load_directory(conn)
    authorizer = Authorizer(pool)
    with pytest.raises(ConsoleError) as refused:
        await authorizer.current(writing=True)
    assert refused.value.code == "DEPENDENCY_UNAVAILABLE"
    assert "refund.request/1" in (authorizer.problem or "")


@pytest.mark.contract("FC-5")
async def test_a_table_without_policies_says_what_to_do(root: Conn, pools: Pools) -> None:
    await root.execute("SET session_replication_role = replica; DELETE FROM approval_policy")
    async with (await pools("cs_app")).acquire() as conn:
        with pytest.raises(DirectoryError, match="run `countersign migrate up`"):
            await load_directory(conn)


async def test_a_book_below_the_floor_is_refused(root: Conn, pools: Pools) -> None:
    await changed(root, "macro.publish/1", enabled=False)
    async with (await pools("cs_app")).acquire() as conn:
        with pytest.raises(DirectoryError, match=r"no approval policy for macro\.publish"):
            await load_directory(conn)


# ---------- the table ----------
@pytest.mark.contract("DC-1")
async def test_history_is_append_only_for_its_owner_too(owner: Conn, root: Conn) -> None:
    await changed(root)
    for statement in (
        "UPDATE approval_policy SET seats = '[]' WHERE id = 'refund.request/2'",
        "UPDATE approval_policy SET current = true WHERE id = 'refund.request/1' AND version = 1",
        "UPDATE approval_policy SET current = false, enabled = false WHERE id = 'refund.request/2'",
        "DELETE FROM approval_policy",
        "TRUNCATE approval_policy",
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
            await owner.execute(statement)


@pytest.mark.contract("DC-7")
async def test_a_process_can_write_only_what_an_execution_brought(root: Conn, pools: Pools) -> None:
    admin = await f.staff(root, "ADMIN", cities=("*",))
    request = await f.approval(root, admin, city_id=None, action="approvalPolicy.propose")
    insert = (
        "INSERT INTO approval_policy (id, version, action, seats, approve_within_seconds, execute_within_seconds, created_at,"
        " created_by_id, request_id) VALUES ('mine', 1, 'refund.request', '[]', 60, 60, now(), $1, $2)"
    )
    async with (await pools("cs_app")).acquire() as conn:
        with pytest.raises(asyncpg.ForeignKeyViolationError):  # nobody executed that request
            await conn.execute(insert, admin, request)
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute(insert, admin, None)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("INSERT INTO approval_policy (id, version, shipped) VALUES ('mine', 1, true)")
        for statement in ("DELETE FROM approval_policy", "UPDATE approval_policy SET enabled = false"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    async with (await pools("cs_worker")).acquire() as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("UPDATE approval_policy SET current = false")


@pytest.mark.contract("DC-6", "DC-7")
async def test_a_process_neither_drops_a_policy_nor_makes_one_on_the_strength_of_another_request(
    root: Conn, pools: Pools
) -> None:
    admin = await f.staff(root, "ADMIN", cities=("*",))
    request = await f.approval(root, admin, city_id=None, state="APPROVED", execution="EXECUTED")  # a refund's
    await root.execute("INSERT INTO approval_execution (request_id, at) VALUES ($1, now())", request)
    outdate = "UPDATE approval_policy SET current = false WHERE id = 'refund.request/2' AND current"
    insert = (
        "INSERT INTO approval_policy (id, version, action, seats, approve_within_seconds, execute_within_seconds, created_at,"
        " created_by_id, request_id) VALUES ('refund.request/2', 2, 'refund.request', '[[\"FINANCE AGENT\"]]', 60, 60, now(),"
        f" '{admin}', '{request}')"
    )
    async with (await pools("cs_app")).acquire() as conn:
        for statements, complaint in (
            (outdate, "without a current version"),
            (f"{outdate}; {insert}", "was not approved"),
        ):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=complaint):
                await conn.execute(
                    f"BEGIN; SET LOCAL countersign.cities = '*'; {statements}; SET CONSTRAINTS approval_policy_was_approved IMMEDIATE"
                )
            await conn.execute("ROLLBACK")


async def test_a_stored_row_reads_as_the_policy_that_was_written(owner: Conn) -> None:
    by_id = {one.id: one for found in requirements.shipped().values() for one in found}
    for row in await owner.fetch("SELECT * FROM approval_policy"):
        assert read_row(row) == by_id[row["id"]]
