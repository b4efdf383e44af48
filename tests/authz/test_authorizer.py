"""The live snapshot: revocations seen by notification, by poll alone and by version; bad rows refused as a whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from authz import enforcer as enforcer_module
from authz.directory import DirectoryError, load_directory, load_version
from authz.enforcer import LAST_GOOD_SECONDS, RELOAD_SECONDS, VERIFIED_SECONDS, Authorizer
from db.pool import Dsn
from schema.errors import ConsoleError
from tests.conftest import Database, Pools


class Watch:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture(loop_scope="session")
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection[Any]]:
    conn = await asyncpg.connect(**database.dsn("cs_owner").connect_kwargs())
    await conn.execute(
        "INSERT INTO staff (id, handle, display_name, email, not_before) VALUES ('ana', 'ana', 'Ana', 'ana@x.example', NULL),"
        " ('ben', 'ben', 'Ben', 'ben@x.example', '2026-11-01T00:00:00Z')"
    )
    await conn.execute(
        "INSERT INTO staff_grant (id, staff_id, role, tier, city_ids, content_categories) VALUES"
        " ('g1', 'ana', 'FINANCE', 'LEAD', '{*}', '{SFW}'), ('g2', 'ana', 'SUPPORT', 'AGENT', '{lisbon,berlin}', '{SFW,NSFW}')"
    )
    yield conn
    await conn.close()


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], seconds: float = 5.0) -> float:
    """Wait for a condition and say how long it took; five seconds is what AZ-8 allows."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


@pytest.mark.usefixtures("owner")
async def test_the_directory_is_read_in_one_version(pools: Pools) -> None:
    pool = await pools("cs_app")
    async with pool.acquire() as conn:
        version, staff, _ = await load_directory(conn)
        assert version == await load_version(conn)
    assert sorted(staff) == ["ana", "ben"]
    ana = staff["ana"]
    assert [(one.id, one.role, one.tier, one.city_ids, one.content_categories) for one in ana.grants] == [
        ("g1", "FINANCE", "LEAD", ("*",), ("SFW",)),
        ("g2", "SUPPORT", "AGENT", ("lisbon", "berlin"), ("SFW", "NSFW")),
    ]
    assert staff["ben"].grants == ()
    assert staff["ben"].not_before is not None


@pytest.mark.contract("AZ-7")
async def test_a_newer_version_that_a_statement_brings_is_loaded_before_anything_is_decided(
    owner: asyncpg.Connection[Any], pools: Pools
) -> None:
    authorizer = Authorizer(await pools("cs_app"), clock=Watch())
    first = await authorizer.current()
    assert await authorizer.current(first.version) is first
    await owner.execute("DELETE FROM staff_grant WHERE id = 'g1'")
    assert await authorizer.current() is first  # looked at within five seconds, and no statement has said otherwise
    version = await owner.fetchval("SELECT version FROM authz_version")
    second = await authorizer.current(version)
    assert second.version == version > first.version
    assert [one.id for one in second.staff["ana"].grants] == ["g2"]
    assert [one.id for one in first.staff["ana"].grants] == ["g1", "g2"]
    assert await authorizer.current(first.version) is second


@pytest.mark.contract("AZ-7")
async def test_many_requests_that_meet_a_new_version_load_it_once(
    owner: asyncpg.Connection[Any], pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorizer = Authorizer(await pools("cs_app"), clock=Watch())
    await authorizer.current()
    await owner.execute("UPDATE staff SET state = 'LOCKED' WHERE id = 'ana'")
    version = await owner.fetchval("SELECT version FROM authz_version")
    loads = 0

    async def counted(conn: asyncpg.Connection[Any]) -> Any:
        nonlocal loads
        loads += 1
        return await load_directory(conn)

    monkeypatch.setattr(enforcer_module, "load_directory", counted)
    snapshots = await asyncio.gather(*(authorizer.current(version) for _ in range(20)))
    assert loads == 1
    assert {id(one) for one in snapshots} == {id(snapshots[0])}


@pytest.mark.contract("AZ-8")
async def test_without_a_version_no_decision_rests_on_one_older_than_five_seconds(
    owner: asyncpg.Connection[Any], pools: Pools
) -> None:
    watch = Watch()
    authorizer = Authorizer(await pools("cs_app"), clock=watch)
    first = await authorizer.current()
    await owner.execute("UPDATE staff SET state = 'LOCKED' WHERE id = 'ana'")
    watch.now += VERIFIED_SECONDS
    assert await authorizer.current() is first
    watch.now += 0.1
    assert (await authorizer.current()).staff["ana"].state == "LOCKED"


async def started(pools: Pools, dsn: Dsn | None) -> Authorizer:
    authorizer = Authorizer(await pools("cs_app"), dsn)
    await authorizer.start()
    return authorizer


def sees(authorizer: Authorizer, staff_id: str, state: str) -> Callable[[], bool]:
    return lambda: authorizer._snapshot is not None and authorizer._snapshot.staff[staff_id].state == state


@pytest.mark.contract("AZ-8")
async def test_a_lock_is_heard_at_once_by_the_listener(
    owner: asyncpg.Connection[Any], pools: Pools, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enforcer_module, "POLL_SECONDS", 60.0)
    authorizer = await started(pools, database.dsn("cs_app"))
    try:
        await owner.execute("UPDATE staff SET state = 'LOCKED' WHERE id = 'ana'")
        assert await until(sees(authorizer, "ana", "LOCKED")) < 1
    finally:
        await authorizer.stop()


@pytest.mark.contract("AZ-8", "FC-10")
async def test_with_the_listener_killed_the_poll_keeps_the_five_seconds_and_the_listener_comes_back(
    owner: asyncpg.Connection[Any], pools: Pools, database: Database
) -> None:
    authorizer = await started(pools, database.dsn("cs_app"))
    root = await asyncpg.connect(**database.superuser)
    listening = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%countersign_authz%'"
    try:
        pid = await root.fetchval(f"SELECT pid {listening}")
        assert await root.fetchval("SELECT pg_terminate_backend($1)", pid)
        await owner.execute("UPDATE staff SET state = 'LOCKED' WHERE id = 'ana'")
        await until(sees(authorizer, "ana", "LOCKED"))

        async def again() -> bool:
            found = await root.fetchval(f"SELECT pid {listening}")
            return found is not None and found != pid

        await until(again)
    finally:
        await authorizer.stop()
        await root.close()


@pytest.mark.contract("AZ-8", "FC-10")
async def test_the_poll_alone_is_enough(owner: asyncpg.Connection[Any], pools: Pools, database: Database) -> None:
    nowhere = Dsn({**database.dsn("cs_app").arguments, "port": 1})
    for dsn in (None, nowhere):
        authorizer = await started(pools, dsn)
        try:
            state = "LOCKED" if dsn is None else "OFFBOARDED"
            await owner.execute("UPDATE staff SET state = $1 WHERE id = 'ana'", state)
            await until(sees(authorizer, "ana", state))
        finally:
            await authorizer.stop()


async def test_stopping_twice_and_before_the_start_does_nothing(pools: Pools) -> None:
    authorizer = Authorizer(await pools("cs_app"))
    await authorizer.stop()
    await authorizer.stop()
    assert authorizer.problem is None


# ---------- fail closed ----------
BAD_ROWS = {
    "UPDATE staff_grant SET role = 'BOSS' WHERE id = 'g1'": "staff_grant g1: unknown role BOSS",
    "UPDATE staff_grant SET tier = 'CHIEF' WHERE id = 'g2'": "staff_grant g2: tier CHIEF for role SUPPORT",
}


async def refused(authorizer: Authorizer, **asked: Any) -> None:
    with pytest.raises(ConsoleError) as caught:
        await authorizer.current(**asked)
    assert caught.value.code == "DEPENDENCY_UNAVAILABLE"


@pytest.mark.contract("FC-5", "AZ-9")
@pytest.mark.parametrize("statement", BAD_ROWS)
async def test_a_bad_row_under_a_new_version_denies_everything_until_it_is_repaired(
    statement: str, owner: asyncpg.Connection[Any], pools: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    authorizer = Authorizer(await pools("cs_app"), clock=Watch())
    good = await authorizer.current()
    await owner.execute(statement)
    version = await owner.fetchval("SELECT version FROM authz_version")
    await refused(authorizer, version=version)
    await refused(authorizer, version=version, writing=True)
    assert authorizer.problem == BAD_ROWS[statement]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"staff directory refused: {BAD_ROWS[statement]}"
    ]
    assert await authorizer.current(good.version) is good
    await owner.execute("UPDATE staff_grant SET role = 'SUPPORT', tier = 'AGENT'")
    repaired = await authorizer.current(await owner.fetchval("SELECT version FROM authz_version"))
    assert repaired.version > version
    assert authorizer.problem is None


@pytest.mark.contract("FC-5")
async def test_while_the_version_stands_the_last_good_snapshot_serves_reads_for_a_minute_and_writes_never(
    owner: asyncpg.Connection[Any], database: Database, pools: Pools
) -> None:
    watch = Watch()
    authorizer = Authorizer(await pools("cs_app"), clock=watch)
    good = await authorizer.current()
    root = await asyncpg.connect(**database.superuser)
    # Spoiled behind the triggers' back, as a restore or a careless superuser would.
    await root.execute("SET session_replication_role = replica; UPDATE staff_grant SET role = 'BOSS' WHERE id = 'g1'")
    await root.close()
    watch.now += RELOAD_SECONDS + 1
    assert await authorizer.current() is good
    assert authorizer.problem == "staff_grant g1: unknown role BOSS"
    await refused(authorizer, writing=True)
    await refused(authorizer, version=good.version, writing=True)
    watch.now = 1000.0 + LAST_GOOD_SECONDS
    assert await authorizer.current() is good
    watch.now += 1
    await refused(authorizer)
    await owner.execute("UPDATE staff_grant SET role = 'FINANCE' WHERE id = 'g1'")
    watch.now += VERIFIED_SECONDS + 1
    assert (await authorizer.current(writing=True)).version > good.version


async def test_a_directory_of_states_that_do_not_exist_or_without_a_version_is_refused(
    database: Database, pools: Pools, owner: asyncpg.Connection[Any]
) -> None:
    pool = await pools("cs_app")
    root = await asyncpg.connect(**database.superuser)
    try:
        await root.execute(
            "ALTER TABLE staff DROP CONSTRAINT staff_state; UPDATE staff SET state = 'ODD' WHERE id = 'ben'"
        )
        async with pool.acquire() as conn:
            with pytest.raises(DirectoryError, match="staff ben: unknown state"):
                await load_directory(conn)
            await root.execute("SET session_replication_role = replica; DELETE FROM authz_version")
            for load in (load_directory, load_version):
                with pytest.raises(DirectoryError, match="authz_version has no row"):
                    await load(conn)
        await refused(Authorizer(pool))
    finally:
        await root.close()
    assert await owner.fetchval("SELECT count(*) FROM staff") == 2


async def test_an_empty_directory_is_nobody_and_no_error(pools: Pools) -> None:
    assert dict((await Authorizer(await pools("cs_app")).current()).staff) == {}


@pytest.mark.contract("FC-1")
async def test_a_database_that_is_away_is_met_again_by_the_next_poll(
    owner: asyncpg.Connection[Any],
    pools: Pools,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(enforcer_module, "POLL_SECONDS", 0.05)
    away = True

    async def unreachable(conn: asyncpg.Connection[Any]) -> int:
        if away:
            raise ConnectionResetError
        return await load_version(conn)

    authorizer = await started(pools, database.dsn("cs_app"))
    try:
        monkeypatch.setattr(enforcer_module, "load_version", unreachable)
        await owner.execute("UPDATE staff SET state = 'LOCKED' WHERE id = 'ana'")
        await until(lambda: any("authorization version not read" in record.getMessage() for record in caplog.records))
        assert not sees(authorizer, "ana", "LOCKED")()
        away = False
        await until(sees(authorizer, "ana", "LOCKED"))
    finally:
        await authorizer.stop()
