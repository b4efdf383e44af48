"""Roles hold what audit-design section 5 gives them and no more; guards hold even for a superuser who does not know them."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest

from db import migrate
from tests.audit.conftest import Log
from tests.conftest import Database

TABLES = ("intake", "record", "leaf", "tile", "head", "checkpoint", "quarantine", "writer", "subject_key")
RIGHTS = {
    ("cs_sealer", "intake"): {"SELECT", "DELETE"},
    ("cs_sealer", "record"): {"SELECT", "INSERT"},
    ("cs_sealer", "leaf"): {"SELECT", "INSERT"},
    ("cs_sealer", "tile"): {"SELECT", "INSERT"},
    ("cs_sealer", "checkpoint"): {"SELECT", "INSERT"},
    ("cs_sealer", "quarantine"): {"SELECT", "INSERT"},
    ("cs_sealer", "head"): {"SELECT", "UPDATE"},
    ("cs_sealer", "writer"): {"SELECT", "INSERT", "UPDATE"},
    ("cs_eraser", "subject_key"): {"DELETE"},
    **{("cs_audit_reader", table): {"SELECT"} for table in TABLES if table != "subject_key"},
}


@pytest.mark.contract("AU-5")
async def test_each_role_has_its_rights_and_no_others(shared_database: Database) -> None:
    conn = await asyncpg.connect(**shared_database.superuser)
    for role in ("cs_app", "cs_worker", "cs_sealer", "cs_audit_reader", "cs_eraser"):
        for table in TABLES:
            held = {
                right
                for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "REFERENCES")
                if await conn.fetchval("SELECT has_table_privilege($1, $2, $3)", role, f"audit.{table}", right)
            }
            assert held == RIGHTS.get((role, table), set()), (role, table)
        assert not await conn.fetchval("SELECT has_schema_privilege($1, 'audit', 'CREATE')", role)
    everyone = await conn.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'audit'::regnamespace AND has_function_privilege('public', oid, 'EXECUTE')"
    )
    assert everyone == []
    weak = await conn.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'audit'::regnamespace AND prosecdef "
        "AND NOT coalesce(proconfig::text LIKE '%search_path=pg_catalog, pg_temp%', false)"
    )
    assert weak == []
    owners = await conn.fetch(
        "SELECT DISTINCT relowner::regrole::text AS owner FROM pg_class WHERE relnamespace = 'audit'::regnamespace"
    )
    assert [row["owner"] for row in owners] == ["cs_audit_owner"]
    await conn.close()


@pytest.mark.contract("AU-5")
@pytest.mark.parametrize("role", ["cs_app", "cs_worker"])
async def test_the_app_can_append_and_neither_read_nor_change(log: Log, role: str) -> None:
    await log.append(1)
    await log.seal()
    conn = await asyncpg.connect(**log.database.as_role(role))
    for sql in (
        "SELECT * FROM audit.record",
        "SELECT * FROM audit.entry",
        "SELECT * FROM audit.intake",
        "SELECT * FROM audit.subject_key",
        "UPDATE audit.record SET body = ''",
        "DELETE FROM audit.leaf",
        "TRUNCATE audit.intake",
        "INSERT INTO audit.intake (db_at, kid, mac, leaf, body) VALUES (now(), '', '', '', '')",
        "ALTER TABLE audit.record DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "SET ROLE cs_audit_owner",
        "SELECT audit.ensure_partitions()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(sql)
    await conn.close()


CHANGES = [
    "UPDATE audit.record SET body = ''",
    "DELETE FROM audit.record",
    "TRUNCATE audit.record",
    "TRUNCATE audit.record_default",
    "UPDATE audit.{month} SET body = ''",
    "DELETE FROM audit.{month}",
    "TRUNCATE audit.{month}",
    "UPDATE audit.leaf SET seq = seq",
    "DELETE FROM audit.leaf",
    "TRUNCATE audit.leaf",
    "TRUNCATE audit.tile",
    "UPDATE audit.checkpoint SET note = ''",
    "DELETE FROM audit.checkpoint",
    "TRUNCATE audit.checkpoint",
    "INSERT INTO audit.head VALUES (false, 1, '', '', '')",
    "DELETE FROM audit.head",
    "TRUNCATE audit.head",
    "UPDATE audit.intake SET body = ''",
    "DELETE FROM audit.intake",
    "TRUNCATE audit.intake",
    "TRUNCATE audit.quarantine",
]


@pytest.mark.contract("AU-5")
async def test_guards_hold_for_a_superuser_too_and_in_replica_mode(log: Log) -> None:
    await log.append(1)
    await log.seal()
    await log.append(1)
    conn = await asyncpg.connect(**log.database.superuser)
    for mode in ("origin", "replica"):
        await conn.execute(f"SET session_replication_role = {mode}")
        for sql in CHANGES:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(sql.format(month=datetime.now(UTC).strftime("record_%Y_%m")))
    await conn.close()
    loose = await log.look(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid "
        "WHERE c.relnamespace = 'audit'::regnamespace AND NOT tgisinternal AND tgenabled <> 'A'"
    )
    assert loose == []


async def test_partitions_are_made_ahead_by_the_sealer_with_their_guards(log: Log) -> None:
    await log.tamper("DROP TABLE audit." + max(await _partitions(log)))
    assert len(await _partitions(log)) == 3
    sealer = await asyncpg.connect(**log.database.as_role("cs_sealer"))
    assert await sealer.fetchval("SELECT audit.ensure_partitions()") == 0
    await sealer.close()
    names = await _partitions(log)
    assert len(names) == 4
    assert names[0] == datetime.now(UTC).strftime("record_%Y_%m")
    for name in [*names, "record_default"]:
        guards = await log.look(
            "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = $1::text::regclass ORDER BY 1", f"audit.{name}"
        )
        assert guards == [("guard_truncate", b"A"), ("guard_update_delete", b"A")]


async def _partitions(log: Log) -> list[str]:
    rows = await log.look(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'audit.record'::regclass AND c.relname <> 'record_default' ORDER BY 1"
    )
    return [row[0] for row in rows]


async def test_a_month_without_partition_goes_to_the_default_and_is_alarmed(log: Log) -> None:
    await log.tamper(*(f"DROP TABLE audit.{name}" for name in await _partitions(log)))
    await log.append(2)
    await log.seal()
    assert await log.look("SELECT count(*) FROM audit.record_default") == [(2,)]
    await log.sealer._hourly()
    assert [code for code, _ in log.alarms] == ["PARTITION_MISSING"]
    assert (await log.verify()).exit_code == 0


async def test_event_triggers_stop_ddl_where_they_may_be_made(database: Database) -> None:
    owner = await asyncpg.connect(**database.as_role("cs_owner"))
    assert await owner.fetchval("SELECT audit_install_event_guards()") is False
    await owner.close()
    conn = await asyncpg.connect(**database.superuser)
    assert await conn.fetchval("SELECT audit_install_event_guards()") is True
    for sql in ("DROP TABLE audit.leaf CASCADE", "ALTER TABLE audit.record DISABLE TRIGGER ALL", "DROP SCHEMA audit CASCADE",
                "ALTER TABLE audit.record DETACH PARTITION audit.record_default"):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="in schema audit is refused"):
            await conn.execute(sql)
    await conn.execute("CREATE TABLE public.other (x int)")
    await conn.execute("ALTER TABLE public.other ADD y int")
    await conn.execute("DROP TABLE public.other")
    await conn.execute("SELECT audit.ensure_partitions()")
    await conn.execute("DROP EVENT TRIGGER countersign_audit_drop")
    await conn.execute("DROP EVENT TRIGGER countersign_audit_alter")
    await conn.close()
    await migrate.downgrade(database.as_role("cs_owner"), "0001")
    assert (await migrate.status(database.as_role("cs_owner"))).current == "0001"
