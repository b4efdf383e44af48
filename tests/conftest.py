"""One throw-away PostgreSQL per session, one migrated template, one clone per test (or module) that asks for it."""

from __future__ import annotations

import itertools
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from authz import approval_book
from countersign.embedded import SUPERUSER, Cluster, find_binaries
from db import migrate
from db.pool import Dsn, open_pool


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the full counts of docs/security-contract.md, section 17")
    parser.addoption("--update-golden", action="store_true", help="write the reviewed files of the tests anew")


TEMPLATE = "template_console"
# Nothing in these clusters outlives the session, so nothing needs to reach the disk.
UNSAFE_BUT_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

_numbers = itertools.count(1)
Pools = Callable[..., Awaitable["asyncpg.Pool[Any]"]]


@dataclass(frozen=True)
class Database:
    """A clone of the migrated template: real roles, real rights, no rows but what migrations make."""

    name: str
    server: Mapping[str, Any]

    @property
    def superuser(self) -> dict[str, Any]:
        """Arguments of ``asyncpg.connect`` that see and may do everything."""
        return self.as_role(SUPERUSER)

    def as_role(self, role: str) -> dict[str, Any]:
        return {**self.server, "user": role, "database": self.name}

    def dsn(self, role: str, clock_offset_seconds: int = 0) -> Dsn:
        return Dsn(self.as_role(role), clock_offset_seconds=clock_offset_seconds)


def private_folder() -> Path:
    """A short-named folder that PostgreSQL's user can pass through (a socket's path must stay under 107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="cs"))
    folder.chmod(0o711)
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of its own for the session; COUNTERSIGN_PG_BIN chooses the PostgreSQL."""
    folder = private_folder()
    pg_bin = os.environ.get("COUNTERSIGN_PG_BIN")
    server = Cluster(folder / "home", find_binaries(Path(pg_bin) if pg_bin else None), options=UNSAFE_BUT_FAST)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_db(cluster: Cluster) -> str:
    """The migrated database that clones are made from. Nobody may stay connected to it."""
    await migrate.bootstrap(cluster.connect_kwargs(), TEMPLATE)
    await migrate.upgrade(cluster.connect_kwargs("cs_owner", TEMPLATE))
    await approval_book.bring(cluster.connect_kwargs("cs_owner", TEMPLATE))
    return TEMPLATE


async def clone(cluster: Cluster, template: str) -> Database:
    database = Database(f"test_{next(_numbers)}", cluster.connect_kwargs())
    conn = await asyncpg.connect(**cluster.connect_kwargs())
    try:
        await conn.execute(f"CREATE DATABASE {database.name} OWNER cs_owner TEMPLATE {template}")
    finally:
        await conn.close()
    return database


async def drop(cluster: Cluster, database: Database) -> None:
    conn = await asyncpg.connect(**cluster.connect_kwargs())
    try:
        await conn.execute(f"DROP DATABASE {database.name} WITH (FORCE)")
    finally:
        await conn.close()


@pytest_asyncio.fixture(loop_scope="session")
async def database(cluster: Cluster, template_db: str) -> AsyncIterator[Database]:
    """A fresh clone for one test."""
    made = await clone(cluster, template_db)
    yield made
    await drop(cluster, made)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_database(cluster: Cluster, template_db: str) -> AsyncIterator[Database]:
    """One clone for a module whose tests do not disturb each other."""
    made = await clone(cluster, template_db)
    yield made
    await drop(cluster, made)


async def _close(pool: asyncpg.Pool[Any]) -> None:
    try:
        await pool.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        pool.terminate()  # a test that kills the server leaves connections that cannot say goodbye


@pytest_asyncio.fixture(loop_scope="session")
async def pools(database: Database) -> AsyncIterator[Pools]:
    """Open pools on ``database`` by role, for one test: the role's name, then ``size`` and ``clock_offset_seconds``."""
    opened: list[asyncpg.Pool[Any]] = []

    async def make(role: str, *, size: int = 4, clock_offset_seconds: int = 0) -> asyncpg.Pool[Any]:
        pool = await open_pool(database.dsn(role, clock_offset_seconds), size=size)
        opened.append(pool)
        return pool

    yield make
    for pool in opened:
        await _close(pool)


def unpack(packed: tarfile.TarFile, folder: Path) -> None:
    """The files of a bundle. By hand: ``extractall`` wants a filter in new Pythons and knows none in early 3.11."""
    for member in packed.getmembers():
        if member.isfile():
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = packed.extractfile(member)
            assert content is not None
            target.write_bytes(content.read())
