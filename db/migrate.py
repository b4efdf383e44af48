"""Schema migrations and what they stand on: roles and database made by a superuser, revisions run as ``cs_owner``.

Every function may be repeated: what exists already stays as it is. Alembic is imported only when a migration runs, so
that serving processes do not carry it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

Result = TypeVar("Result")

FOLDER: Final = Path(__file__).resolve().parent.parent / "migrations"
# Well below the server's deadlock_timeout of a second: a migration that holds one table and waits for the next gives up before
# anybody who holds the next and waits for the first has waited long. What it gave up is tried again.
LOCK_TIMEOUT: Final = "250ms"
LOCK_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.25
STATEMENT_TIMEOUT: Final = "5min"
OWNER: Final = "cs_owner"
AUDIT_OWNER: Final = "cs_audit_owner"
# Roles that processes log in as. The audit's owner is not among them: nobody is it, migrations act for it.
LOGIN_ROLES: Final = ("cs_owner", "cs_app", "cs_worker", "cs_sealer", "cs_audit_reader", "cs_eraser")
ROLES: Final = (*LOGIN_ROLES, AUDIT_OWNER)
# Bounds that hold even for a session that forgets to set them.
_ROLE_SETTINGS: Final = (
    "statement_timeout = '10s'",
    "lock_timeout = '3s'",
    "idle_in_transaction_session_timeout = '10s'",
    "timezone = 'UTC'",
)


# A role or database that is not there, as the login itself or as the role it takes on at once.
_NO_ROLES: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidParameterValueError,
)
_BUSY: Final = ("55P03", "40P01")  # a lock was not to be had in time, or only against somebody who waited for ours


class MigrationError(Exception):
    """The database cannot be brought to the wanted revision; the message says why and what to do."""


@dataclass(frozen=True)
class Status:
    """Where the database stands: the applied revision (None: empty), the newest one known, and those still missing."""

    current: str | None
    head: str
    pending: tuple[str, ...]

    @property
    def at_head(self) -> bool:
        return self.current == self.head


async def bootstrap(superuser: Mapping[str, Any], database: str, *, login: bool = True) -> None:
    """Make the roles and ``database`` owned by ``cs_owner``, where they do not exist. Needs a superuser or CREATEROLE.

    ``login``: the roles may log in (embedded cluster, behind its socket). Otherwise they are taken on by SET ROLE, and the
    connecting role becomes a member of each.
    """
    conn = await asyncpg.connect(**superuser)
    try:
        await _make_roles(conn, login=login)
        if await conn.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database) is None:
            await conn.execute(f"CREATE DATABASE {_quoted(database)} OWNER {OWNER}")
            await conn.execute(f"REVOKE ALL ON DATABASE {_quoted(database)} FROM PUBLIC")
        await conn.execute(f"GRANT CREATE, CONNECT ON DATABASE {_quoted(database)} TO {OWNER}")
        await conn.execute(f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {', '.join(ROLES)}")
        inside = (
            conn
            if await conn.fetchval("SELECT current_database()") == database
            else await asyncpg.connect(**_moved(superuser, database))
        )
        try:
            await inside.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}")
        finally:
            if inside is not conn:
                await inside.close()
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(
            f"The database user may not make the roles {', '.join(ROLES)} ({error}). Connect as a user with CREATEROLE who owns the database,"
            " or let an administrator make them."
        ) from error
    finally:
        await conn.close()


async def database_name(arguments: Mapping[str, Any]) -> str:
    """The database that these arguments of ``asyncpg.connect`` lead to."""
    conn = await asyncpg.connect(**arguments)
    try:
        return str(await conn.fetchval("SELECT current_database()"))
    finally:
        await conn.close()


async def _make_roles(conn: asyncpg.Connection[Any], *, login: bool) -> None:
    existing = {
        row["rolname"]
        for row in await conn.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1::text[])", list(ROLES))
    }
    superuser = await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    for role in ROLES:
        if role not in existing:
            may_log_in = "LOGIN" if login and role in LOGIN_ROLES else "NOLOGIN"
            await conn.execute(
                f"CREATE ROLE {role} {may_log_in} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            )
        if not superuser and not await conn.fetchval("SELECT pg_has_role(current_user, $1, 'MEMBER')", role):
            await conn.execute(f"GRANT {role} TO CURRENT_USER")
    if not await conn.fetchval("SELECT pg_has_role($1, $2, 'MEMBER')", OWNER, AUDIT_OWNER):
        await conn.execute(f"GRANT {AUDIT_OWNER} TO {OWNER}")
    for role in LOGIN_ROLES:
        for setting in _ROLE_SETTINGS:
            await conn.execute(f"ALTER ROLE {role} SET {setting}")


def _moved(arguments: Mapping[str, Any], database: str) -> dict[str, Any]:
    return {**arguments, "database": database}  # asyncpg: a keyword wins over the URL's path


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def upgrade(owner: Mapping[str, Any], revision: str = "heads") -> None:
    """Bring the database to ``revision``. ``owner``: arguments of ``asyncpg.connect`` that act as ``cs_owner``."""
    from alembic import command

    await _with_config(owner, lambda config: command.upgrade(config, revision))


async def install_event_guards(superuser: Mapping[str, Any]) -> bool:
    """Guard the audit log against DDL too, which takes a superuser. False where the platform gives none; repeated, it does nothing."""
    conn = await asyncpg.connect(**superuser)
    try:
        if await conn.fetchval("SELECT 1 FROM pg_event_trigger WHERE evtname LIKE 'countersign\\_audit\\_%' LIMIT 1"):
            return True
        return bool(await conn.fetchval("SELECT public.audit_install_event_guards()"))
    finally:
        await conn.close()


async def downgrade(owner: Mapping[str, Any], revision: str) -> None:
    """Take revisions back down to ``revision`` (``base``: all, with their data)."""
    from alembic import command

    await _with_config(owner, lambda config: command.downgrade(config, revision))


async def status(owner: Mapping[str, Any]) -> Status:
    """Where the database stands. Changes nothing, and needs no Alembic: every start asks, and most find nothing to do."""
    known = revisions()
    conn = await _connect(owner)
    try:
        marked = await conn.fetchval("SELECT to_regclass('public.alembic_version') IS NOT NULL")
        current = await conn.fetchval("SELECT version_num FROM public.alembic_version") if marked else None
    finally:
        await conn.close()
    if current is not None and current not in known:
        raise MigrationError(
            f"The database is at revision {current}, which this release does not know. Use the release that made it."
        )
    return Status(current, known[-1], tuple(revision for revision in known if current is None or revision > current))


def revisions() -> tuple[str, ...]:
    """All revisions in order: history is one line, and a file's number is its revision (a test holds both to Alembic)."""
    found = sorted(path.name.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*_*.py"))
    if not found:
        raise MigrationError(f"There are no revisions in {FOLDER}.")
    return tuple(found)


def head() -> str:
    """The newest revision known."""
    return revisions()[-1]


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def _connect(owner: Mapping[str, Any]) -> asyncpg.Connection[Any]:
    try:
        return await asyncpg.connect(**owner)
    except _NO_ROLES as error:
        raise MigrationError(f"The database is not prepared ({error}). Run `countersign migrate up`.") from error


async def _with_config(owner: Mapping[str, Any], run: Callable[[Config], Result]) -> Result:
    """Run Alembic until its locks were to be had; each revision is a transaction, so what was done stays done."""
    for _ in range(LOCK_TRIES - 1):
        try:
            return await _once(owner, run)
        except _BusyError:
            await asyncio.sleep(_PAUSE_SECONDS)
    try:
        return await _once(owner, run)
    except _BusyError as error:
        raise MigrationError(
            f"A migration found no lock within {LOCK_TIMEOUT}, {LOCK_TRIES} times, and was taken back. Run it again when it is calmer."
        ) from error


class _BusyError(Exception):
    """A lock was not to be had in time."""


async def _once(owner: Mapping[str, Any], run: Callable[[Config], Result]) -> Result:
    """Run Alembic, which is synchronous, on an asyncpg connection by SQLAlchemy's greenlet bridge."""
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    conn = await _connect(owner)

    async def connect(*_: Any, **__: Any) -> asyncpg.Connection[Any]:
        return conn

    def with_connection(connection: Connection) -> Result:
        config = _config()
        config.attributes["connection"] = connection
        return run(config)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(with_connection)
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, DBAPIError) as error:
        if getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None) not in _BUSY:
            raise
        raise _BusyError from error
    finally:
        await engine.dispose()
        await conn.close()


def run_script(name: str, *, apart: bool = False) -> None:
    """Run ``migrations/sql/<name>`` within the running revision's transaction: many statements, sent as they stand in the file.

    ``apart``: outside of it, for one block that commits after each step. Its steps must bear being done twice: where a lock was
    not to be had, all of it is run again.
    """
    from alembic import op

    if apart:
        with op.get_context().autocommit_block():
            _send(name)
    else:
        _send(name)


def _send(name: str) -> None:
    from alembic import op
    from sqlalchemy.util import await_only

    connection = op.get_bind()
    # SQLAlchemy opens its transaction (where it opens one) at the first statement of its own; only then may the script follow.
    connection.exec_driver_sql("SELECT 1")
    driver = connection.connection.driver_connection
    if driver is None:
        raise MigrationError("The database connection was lost during a migration.")
    await_only(driver.execute((FOLDER / "sql" / name).read_text()))
