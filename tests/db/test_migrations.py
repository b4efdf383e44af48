"""Migrations go up, down and up again, make what db/tables.py says, and leave each role no more than its rights."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from countersign.embedded import Cluster
from db import migrate
from db.tables import metadata
from tests.conftest import Database, Pools

INSERT_STAFF = "INSERT INTO staff (id, handle, display_name, email) VALUES ($1, $1, $1, $1 || '@example.test')"
INSERT_SUBJECT = "INSERT INTO subject (id, kind, city_id, display_name) VALUES ($1, 'SELLER', $2, $1)"
INSERT_REQUEST = """
INSERT INTO approval_request (id, action, command, target_type, target_id, city_id, summary, payload, payload_hash, diff, facts,
    policy_id, policy_version, seats, approvals_needed, requester_id, requester_role, requester_tier, reason_code,
    execute_within_seconds, created_at, approve_by)
VALUES ($1, 'refund.request', 'requestRefund', 'OrderLedger', 'ord_1', 'lisbon', 's', '{}', 'h', '{}', '{"amount": 1}',
    'p', 1, '[]', 1, 'usr_1', 'SUPPORT', 'AGENT', 'GOODWILL', 3600, now(), now())
"""


async def _owner(database: Database) -> asyncpg.Connection[Any]:
    return await asyncpg.connect(**database.as_role("cs_owner"))


async def test_up_down_up_leaves_the_same_schema(database: Database) -> None:
    owner = database.as_role("cs_owner")
    first = await _shape(database)
    assert (await migrate.status(owner)).at_head
    await migrate.downgrade(owner, "base")
    down = await migrate.status(owner)
    assert down.current is None
    assert down.pending[0] == "0001"
    left = {(kind, name) for kind, name, _ in await _shape(database) if not name.startswith("public.alembic_version")}
    assert left == set()
    await migrate.upgrade(owner)
    assert await _shape(database) == first


async def _shape(database: Database) -> set[tuple[str, str, str]]:
    """Columns, constraints, indexes, triggers, policies, functions and rights of our schemas, as text."""
    conn = await asyncpg.connect(**database.superuser)
    try:
        rows = await conn.fetch(
            """
            WITH spaces AS (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'audit')),
            tables AS (SELECT c.* FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace)
            SELECT 'column' AS kind, attrelid::regclass || '.' || attname AS name,
                   format_type(atttypid, atttypmod) || attnotnull::text || attidentity::text AS what
            FROM pg_attribute JOIN tables ON tables.oid = attrelid WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p')
            UNION ALL SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(c.oid)
            FROM pg_constraint c JOIN tables ON tables.oid = conrelid
            UNION ALL SELECT 'index', oid::regclass::text, pg_get_indexdef(oid) FROM tables WHERE relkind = 'i'
            UNION ALL SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(t.oid)
            FROM pg_trigger t JOIN tables ON tables.oid = tgrelid WHERE NOT tgisinternal
            UNION ALL SELECT 'policy', polrelid::regclass || '.' || polname,
                   pg_get_expr(polqual, polrelid) || coalesce(pg_get_expr(polwithcheck, polrelid), '')
            FROM pg_policy JOIN tables ON tables.oid = polrelid
            UNION ALL SELECT 'function', p.oid::regprocedure::text, md5(prosrc) || coalesce(proacl::text, '')
            FROM pg_proc p JOIN spaces ON spaces.oid = pronamespace
            UNION ALL SELECT 'rights', oid::regclass::text, coalesce(relacl::text, '') FROM tables WHERE relkind IN ('r', 'p')
            """
        )
    finally:
        await conn.close()
    # regclass leaves "public." out, as it is on the search path.
    return {(kind, name if name.startswith("audit.") else f"public.{name}", what or "") for kind, name, what in rows}


async def test_database_equals_the_metadata_that_reads_compile_against(shared_database: Database) -> None:
    def differences(connection: Connection) -> list[Any]:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    async def connect(*_: Any) -> asyncpg.Connection[Any]:
        return await _owner(shared_database)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with engine.connect() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()
    assert found == []


@pytest.mark.contract("DB-3")
async def test_bootstrap_repeated_changes_nothing(cluster: Cluster, database: Database) -> None:
    await migrate.bootstrap(cluster.connect_kwargs(), database.name)
    conn = await asyncpg.connect(**database.superuser)
    try:
        rows = await conn.fetch("SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname LIKE 'cs\\_%' ORDER BY 1")
        strong = await conn.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'cs\\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)"
        )
    finally:
        await conn.close()
    assert {row["rolname"]: row["rolcanlogin"] for row in rows} == {
        role: role != "cs_audit_owner" for role in migrate.ROLES
    }
    assert strong == []


@pytest.mark.usefixtures("template_db")
async def test_bootstrap_by_a_role_manager_lets_it_act_as_the_roles(cluster: Cluster) -> None:
    """A managed database gives no superuser: CREATEROLE and ownership of the database are enough for roles that are its own."""
    root = await asyncpg.connect(**cluster.connect_kwargs())
    await root.execute("CREATE ROLE manager LOGIN CREATEROLE")
    for role in migrate.ROLES:  # exist already in this cluster; a manager who made them would hold them with ADMIN
        await root.execute(f"GRANT {role} TO manager WITH ADMIN OPTION")
    await root.execute("CREATE DATABASE managed OWNER manager")
    try:
        manager = {**cluster.connect_kwargs(), "user": "manager", "database": "managed"}
        await migrate.bootstrap(manager, "managed", login=False)
        await migrate.upgrade({**manager, "server_settings": {"role": "cs_owner"}}, "0001")
        assert (await migrate.status({**manager, "server_settings": {"role": "cs_owner"}})).current == "0001"
        conn = await asyncpg.connect(**manager, server_settings={"role": "cs_app"})
        assert await conn.fetchval("SELECT version FROM authz_version") == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("UPDATE authz_version SET version = 7")
        await conn.close()
    finally:
        await root.execute("DROP DATABASE managed WITH (FORCE)")
        await root.execute("DROP OWNED BY manager")
        await root.execute("DROP ROLE manager")
        await root.close()


@pytest.mark.contract("DB-3")
@pytest.mark.parametrize("role", ["cs_app", "cs_worker"])
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE staff SET state = 'ACTIVE'",
        "INSERT INTO staff_grant (id, staff_id, role, tier) VALUES ('g', 'usr_1', 'ADMIN', 'LEAD')",
        "UPDATE staff_grant SET tier = 'LEAD'",
        "DELETE FROM staff_grant",
        "UPDATE authz_version SET version = 1",
        "DELETE FROM decision",
        "DELETE FROM approval_vote",
        "TRUNCATE case_file",
        "ALTER TABLE subject DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE decision DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "SET ROLE cs_owner",
        "CREATE TABLE public.mine (id int)",
    ],
)
async def test_serving_roles_may_not(database: Database, role: str, sql: str) -> None:
    conn = await asyncpg.connect(**database.as_role(role))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.execute(sql)
    await conn.close()


@pytest.mark.contract("DB-1")
@pytest.mark.parametrize(
    ("cities", "seen"),
    [
        (None, set()),
        ("", set()),
        ("berlin", {"sub_berlin"}),
        ("berlin,lisbon", {"sub_berlin", "sub_lisbon"}),
        ("austin", set()),
        ("lis", set()),
        ("*", {"sub_berlin", "sub_lisbon", "sub_nowhere"}),
    ],
)
async def test_rows_are_seen_by_the_cities_of_the_transaction(
    database: Database, pools: Pools, cities: str | None, seen: set[str]
) -> None:
    owner = await _owner(database)
    for city in ("lisbon", "berlin", None):
        await owner.execute(INSERT_SUBJECT, f"sub_{city or 'nowhere'}", city)
    await owner.close()
    app = await pools("cs_app", size=1)
    async with app.acquire() as conn:
        async with conn.transaction():
            if cities is not None:
                await conn.execute("SELECT set_config('countersign.cities', $1, true)", cities)
            assert {row["id"] for row in await conn.fetch("SELECT id FROM subject")} == seen
            changed = await conn.execute("UPDATE subject SET version = version + 1")
            assert changed == f"UPDATE {len(seen)}"
            # As audit.append leaves it: a change without a record would not commit.
            await conn.execute("SELECT set_config('countersign.appended', pg_current_xact_id()::text, true)")
        # The setting ends with its transaction, and what Postgres leaves behind shows nothing.
        assert await conn.fetch("SELECT id FROM subject") == []


@pytest.mark.contract("DB-1")
async def test_a_row_cannot_be_written_into_a_foreign_city(database: Database, pools: Pools) -> None:
    owner = await _owner(database)
    await owner.execute(INSERT_SUBJECT, "sub_1", "berlin")
    await owner.close()
    app = await pools("cs_app", size=1)
    for sql in (
        "UPDATE subject SET city_id = 'lisbon'",
        "INSERT INTO subject (id, kind, city_id, display_name) VALUES ('s2', 'SELLER', 'lisbon', 's')",
    ):
        async with app.acquire() as conn:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with conn.transaction():
                    await conn.execute("SELECT set_config('countersign.cities', 'berlin', true)")
                    await conn.execute(sql)


async def test_the_background_child_sees_every_city(database: Database, pools: Pools) -> None:
    owner = await _owner(database)
    await owner.execute(INSERT_SUBJECT, "sub_1", "berlin")
    await owner.close()
    worker = await pools("cs_worker")
    assert await worker.fetchval("SELECT count(*) FROM subject") == 1


async def test_a_change_of_people_or_grants_is_a_new_version_and_is_announced(database: Database) -> None:
    heard: list[str] = []
    listener = await asyncpg.connect(**database.as_role("cs_app"))
    await listener.add_listener("countersign_authz", lambda *call: heard.append(call[-1]))
    owner = await _owner(database)
    first = await owner.fetchval("SELECT version FROM authz_version")
    await owner.execute(INSERT_STAFF, "usr_1")
    await owner.execute("INSERT INTO staff_grant (id, staff_id, role, tier) VALUES ('g1', 'usr_1', 'SUPPORT', 'AGENT')")
    await owner.execute("DELETE FROM staff_grant")
    assert await owner.fetchval("SELECT version FROM authz_version") == first + 3
    await owner.close()
    await listener.fetchval("SELECT 1")  # notifications arrive before the answer
    await listener.close()
    assert heard == [str(first + number) for number in (1, 2, 3)]


@pytest.mark.contract("AZ-7")
async def test_a_revocation_waits_for_running_mutations_but_not_for_ever(database: Database) -> None:
    owner, mutation = await _owner(database), await asyncpg.connect(**database.as_role("cs_app"))
    first = await owner.fetchval("SELECT version FROM authz_version")
    await mutation.execute("BEGIN")
    await mutation.execute("SELECT pg_advisory_xact_lock_shared(727001)")
    began = await owner.fetchval("SELECT clock_timestamp()")
    await owner.execute(INSERT_STAFF, "usr_1")
    waited = (await owner.fetchval("SELECT clock_timestamp()") - began).total_seconds()
    await mutation.execute("ROLLBACK")
    began = await owner.fetchval("SELECT clock_timestamp()")
    await owner.execute(INSERT_STAFF, "usr_2")
    free = (await owner.fetchval("SELECT clock_timestamp()") - began).total_seconds()
    assert await owner.fetchval("SELECT version FROM authz_version") == first + 2
    await owner.close()
    await mutation.close()
    assert 1.9 < waited < 4
    assert free < 1


@pytest.mark.contract("DC-1")
@pytest.mark.parametrize(
    "change",
    [
        "payload = '{\"x\":1}'",
        "payload_hash = 'z'",
        "command = 'other'",
        "facts = '{\"amount\": 2}'",
        "requester_id = 'usr_2'",
        "policy_id = 'mine'",
        "subject_staff_id = 'usr_2'",
        "city_id = 'paris'",
        "target_version = 9",
        "seats = '{}'",
        "gates = '[{}]'",
        "contributor_ids = '{usr_2}'",
        "approvals_needed = 0",
        "amount_minor = 1",
        "approve_by = now() + interval '1 year'",
        "execute_within_seconds = 999999",
        "reason_code = 'OTHER'",
    ],
)
async def test_an_approval_request_stays_what_was_asked(database: Database, change: str) -> None:
    owner = await _owner(database)
    await owner.execute(INSERT_STAFF, "usr_1")
    await owner.execute(INSERT_REQUEST, "apr_1")
    await owner.execute("UPDATE approval_request SET state = 'APPROVED', entity_id = 'rfd_1', version = 2")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await owner.execute(f"UPDATE approval_request SET {change}")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await owner.execute("UPDATE approval_request SET entity_id = 'rfd_2'")
    assert await owner.fetchval("SELECT state FROM approval_request") == "APPROVED"
    await owner.close()


async def test_a_decision_is_append_only(database: Database) -> None:
    owner = await _owner(database)
    await owner.execute(INSERT_STAFF, "usr_1")
    await owner.execute(INSERT_SUBJECT, "sub_1", "berlin")
    await owner.execute(
        "INSERT INTO decision (id, subject_id, city_id, content_category, kind, family, state, reason_code, decided_by_id, severity, created_at)"
        " VALUES ('dec_1', 'sub_1', 'berlin', 'NSFW', 'SUSPEND', 'SUSPENSION', 'PROPOSED', 'SPAM', 'usr_1', 2, now())"
    )
    await owner.execute("UPDATE decision SET approval_request_id = 'apr_1'")
    await owner.execute(
        "UPDATE decision SET state = 'EFFECTIVE', effective_at = now(), approved_by_ids = '{usr_2}', strikes = 2"
    )
    for change in (
        "reason_code = 'OTHER'",
        "subject_id = NULL",
        "severity = 3",
        "decided_by_id = 'usr_2'",
        "approval_request_id = 'apr_2'",
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await owner.execute(f"UPDATE decision SET {change}")
    assert await owner.fetchrow("SELECT state, severity, strikes FROM decision") == ("EFFECTIVE", 2, 2)
    await owner.close()


async def test_a_database_of_a_newer_release_is_said_to_be_one(database: Database) -> None:
    owner = await _owner(database)
    await owner.execute("UPDATE alembic_version SET version_num = '9999'")
    await owner.close()
    with pytest.raises(migrate.MigrationError, match="9999, which this release does not know"):
        await migrate.status(database.as_role("cs_owner"))


async def test_the_files_numbers_are_the_line_that_alembic_walks() -> None:
    script = ScriptDirectory(str(migrate.FOLDER))
    assert migrate.revisions() == tuple(reversed([step.revision for step in script.walk_revisions()]))
    assert migrate.head() == script.get_current_head()
