"""Every table is under what must cover it, or stands here with its reason; every role's rights are a reviewed file.

A new table fails these tests until it hangs under the audit's net, has row-level security where it has a city, and its
rights are in privileges.txt (``pytest tests/db/test_cover.py --update-golden``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from db import migrate
from db.tables import metadata
from tests.conftest import Database

GOLDEN = Path(__file__).with_name("privileges.txt")
LEGEND = """\
# What each role may do with each table: S select, I insert, U update, D delete, T truncate, R references, G trigger.
# A right to single columns names them. Roles without a line have no right; the owners have every right of their schema.
# Written by: pytest tests/db/test_cover.py --update-golden. A right that is new needs its reason in the migration.
"""
LETTERS = {
    "SELECT": "S", "INSERT": "I", "UPDATE": "U", "DELETE": "D", "TRUNCATE": "T", "REFERENCES": "R", "TRIGGER": "G",
    "MAINTAIN": "M",
}  # fmt: skip

_OTHER_SYSTEM = "belongs to another system that happens to live in the same database"
# Tables whose rows may change without a record in the same transaction.
NOT_AUDITED: Mapping[str, str] = {
    "authz_version": "a counter: the change that it counts has its own record",
    "event": "carries what a recorded change says to subscribers",
    "idempotency": "remembers answers, none of which a record is about",
    "rate_counter": "how full a bucket is: nothing that happened to anybody",
    "outbox": "carries a recorded deed to another system; what came of it is a recorded deed again",
    "help_message": _OTHER_SYSTEM,
    "help_sim": _OTHER_SYSTEM,
    "kernel_order": _OTHER_SYSTEM,
    "kernel_refund": _OTHER_SYSTEM,
}
_OF_NO_CITY = "for all cities"
_WITH_ITS_REQUEST = "is only ever read with its approval request, which has the city"
# Tables that have no city_id, so that nothing but rights and statements keeps their rows apart.
WITHOUT_CITY: Mapping[str, str] = {
    "approval_execution": _WITH_ITS_REQUEST,
    "approval_vote": _WITH_ITS_REQUEST,
    "approval_policy": _OF_NO_CITY,
    "authz_version": "one row",
    "case_skip": "who skipped which case; read in the claim of the case, which has the city",
    "city": "is the city: its name and language are no secret",
    "idempotency": "the caller's own",
    "macro": _OF_NO_CITY,
    "rate_counter": "of a person, in whatever city he asks",
    "queue": "has several cities; the reader's predicate asks whether they overlap",
    "sla_policy": _OF_NO_CITY,
    "staff": "people are of their grants' cities; the policy says who sees whom",
    "staff_grant": "names the cities it is for",
    "template": _OF_NO_CITY,
    "template_version": _OF_NO_CITY,
    "help_message": _OTHER_SYSTEM,
    "help_sim": _OTHER_SYSTEM,
    "kernel_order": _OTHER_SYSTEM,
    "kernel_refund": _OTHER_SYSTEM,
}
# What is written once: a trigger refuses every change but that of the columns that say how it stands today.
APPEND_ONLY = {
    "approval_policy": "approval_policy_is_append_only",
    "approval_request": "approval_request_is_bound",
    "decision": "decision_is_append_only",
    "macro": "macro_is_append_only",
    "macro_run": "macro_run_is_append_only",
}
# Roles by which requests and the background child work; what happened is not theirs to delete.
SERVING = ("cs_app", "cs_worker")
DELETABLE = {"case_skip", "idempotency", "event", "rate_counter"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def conn(shared_database: Database) -> AsyncIterator[asyncpg.Connection[Any]]:
    made = await asyncpg.connect(**shared_database.superuser)
    yield made
    await made.close()


TABLES = {table.name: table for table in metadata.tables.values()}


def stale(reviewed: Mapping[str, str]) -> set[str]:
    """Lines about tables that are not there any more."""
    return set(reviewed) - TABLES.keys()


@pytest.mark.contract("AU-1")
async def test_every_table_is_under_the_net_or_says_why_not(conn: asyncpg.Connection[Any]) -> None:
    rows = await conn.fetch(
        "SELECT tgrelid::regclass::text AS name FROM pg_trigger WHERE tgname = 'audited' AND tgdeferrable AND tginitdeferred"
        " AND tgenabled = 'O' AND tgfoid = 'audit.require_record'::regproc"
        " AND tgtype & 28 = 28"  # insert, update and delete
    )
    assert {row["name"] for row in rows} == TABLES.keys() - NOT_AUDITED.keys()
    assert stale(NOT_AUDITED) == set()


@pytest.mark.contract("DB-1")
async def test_every_table_with_a_city_has_forced_row_level_security_and_the_others_say_why_not(
    conn: asyncpg.Connection[Any],
) -> None:
    with_city = {name for name, table in TABLES.items() if "city_id" in table.c}
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        " AND relrowsecurity AND relforcerowsecurity"
    )
    assert {row["relname"] for row in rows} == with_city
    assert TABLES.keys() - with_city == WITHOUT_CITY.keys()


@pytest.mark.contract("DB-1")
async def test_what_the_console_sees_changes_and_adds_is_judged_by_the_cities_of_the_transaction(
    conn: asyncpg.Connection[Any],
) -> None:
    rows = await conn.fetch(
        "SELECT tablename, cmd, coalesce(qual, '') || coalesce(with_check, '') AS what FROM pg_policies"
        " WHERE 'cs_app' = ANY (roles)"
    )
    open_ = {(row["tablename"], row["cmd"]) for row in rows if "countersign.cities" not in row["what"]}
    assert open_ == {
        ("event", "SELECT"),
        ("event", "INSERT"),
        ("outbox", "INSERT"),
    }  # ids only; sent to whom it concerns
    assert {row["tablename"] for row in rows if row["cmd"] == "SELECT"} == {
        name for name, table in TABLES.items() if "city_id" in table.c
    }


async def test_what_is_written_once_is_held_by_its_trigger(conn: asyncpg.Connection[Any]) -> None:
    rows = await conn.fetch(
        "SELECT tgrelid::regclass::text AS name, tgfoid::regproc::text AS function FROM pg_trigger"
        " WHERE NOT tgisinternal AND tgenabled = 'O' AND tgtype & 19 = 19"  # before each row that is updated
        " AND tgrelid::regclass::text NOT LIKE 'audit.%'"
    )
    assert {row["name"]: row["function"] for row in rows} == APPEND_ONLY


_RIGHTS = """
SELECT c.oid::regclass::text AS name, coalesce(r.rolname, 'PUBLIC') AS role, a.privilege_type AS privilege, NULL AS column
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE n.nspname IN ('public', 'audit') AND c.relkind IN ('r', 'p', 'v') AND a.grantee <> c.relowner
UNION ALL
SELECT c.oid::regclass::text, coalesce(r.rolname, 'PUBLIC'), a.privilege_type, t.attname
FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
  aclexplode(t.attacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE n.nspname IN ('public', 'audit') AND a.grantee <> c.relowner AND NOT t.attisdropped
"""
Rights = dict[tuple[str, str], dict[str, list[str]]]  # (table, role) -> privilege -> its columns, none: all


async def rights(conn: asyncpg.Connection[Any]) -> Rights:
    found: Rights = {}
    for row in await conn.fetch(_RIGHTS):
        columns = found.setdefault((row["name"], row["role"]), {}).setdefault(row["privilege"], [])
        if row["column"] is not None:
            columns.append(row["column"])
    return found


def rendered(found: Rights) -> str:
    tables, roles = max(len(name) for name, _ in found), max(len(role) for _, role in found)
    lines = []
    for (table, role), held in sorted(found.items()):
        whole = "".join(letter for name, letter in LETTERS.items() if name in held and not held[name])
        some = [f"{letter}({', '.join(sorted(held[name]))})" for name, letter in LETTERS.items() if held.get(name)]
        lines.append(f"{table.ljust(tables)} {role.ljust(roles)} {' '.join(filter(None, (whole, *some)))}")
    return "\n".join([LEGEND, *lines]) + "\n"


@pytest.mark.contract("DB-3")
async def test_the_rights_of_every_role_are_the_reviewed_ones(
    conn: asyncpg.Connection[Any], request: pytest.FixtureRequest
) -> None:
    found = rendered(await rights(conn))
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(found, encoding="utf-8")
    kept = GOLDEN.read_text(encoding="utf-8").splitlines()
    assert [line for line in found.splitlines() if line not in kept] == []
    assert [line for line in kept if line not in found.splitlines()] == []


@pytest.mark.contract("DB-3")
async def test_no_right_goes_to_everybody_and_what_happened_is_nobodys_to_delete(conn: asyncpg.Connection[Any]) -> None:
    found = await rights(conn)
    assert {role for _, role in found} <= set(migrate.ROLES)
    deleting = {table for (table, role), held in found.items() if role in SERVING and "DELETE" in held}
    assert deleting == DELETABLE
    strong = {"TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"}
    assert {(table, role) for (table, role), held in found.items() if strong & held.keys()} == set()
