"""Connections: one asyncpg pool per database role, with bounded waits and no session state between two users."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from db.statements import connection_class
from schema import telemetry
from schema.errors import ConsoleError

STATEMENT_TIMEOUT_MS: Final = 10_000
LOCK_TIMEOUT_MS: Final = 3_000
IDLE_TRANSACTION_MS: Final = 10_000
ACQUIRE_SECONDS: Final = 3.0

# The server is gone, going, or cannot write: asyncpg tells a back end's end in several ways, by the moment it is noticed.
_UNREACHABLE: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DiskFullError,
    asyncpg.OutOfMemoryError,
)


@dataclass(frozen=True)
class Dsn:
    """How to reach the database in one role.

    ``arguments`` go to ``asyncpg.connect`` (dsn or host/user/database); ``role`` is set at session start where the
    login is another one, so a deployment with a single URL still runs each part under its own rights.
    """

    arguments: Mapping[str, Any]
    role: str | None = None
    clock_offset_seconds: int = 0  # tests move the console's clock with it; deadlines are compared in the database

    def connect_kwargs(self) -> dict[str, Any]:
        server = {
            "application_name": "countersign",
            "timezone": "UTC",
            "statement_timeout": str(STATEMENT_TIMEOUT_MS),
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "idle_in_transaction_session_timeout": str(IDLE_TRANSACTION_MS),
            "jit": "off",
            # Planned for its values, a list looks far more selective than it is (scope, row-level security) and reads the
            # whole table instead of walking the index until the page is full; and every connection plans it five times.
            "plan_cache_mode": "force_generic_plan",
        }
        if self.role:
            server["role"] = self.role
        if self.clock_offset_seconds:
            server["countersign.clock_offset"] = f"{self.clock_offset_seconds} seconds"
        return {**self.arguments, "server_settings": server, **connection_class()}


async def _no_reset(_: asyncpg.Connection[Any]) -> None:
    """Nothing to reset: no code leaves session state behind (settings are transaction-local), so no round trip either."""


async def open_pool(dsn: Dsn, *, size: int = 8) -> asyncpg.Pool[Any]:
    """Open a pool of at most ``size`` connections, one of them at once so that a wrong URL fails here."""
    return await asyncpg.create_pool(
        min_size=1, max_size=size, reset=_no_reset, max_inactive_connection_lifetime=0, **dsn.connect_kwargs()
    )


def usable(conn: asyncpg.Connection[Any]) -> bool:
    """Whether the connection still stands; the pool takes a lost one back at once, and a call on it raises from then on."""
    try:
        return not conn.is_closed()
    except asyncpg.InterfaceError:
        return False


@asynccontextmanager
async def connection(pool: asyncpg.Pool[Any]) -> AsyncGenerator[asyncpg.Connection[Any], None]:
    """A connection within three seconds, else ``RATE_LIMITED``; a database that does not answer is ``DEPENDENCY_UNAVAILABLE``."""
    conn = await _acquired(pool)
    try:
        yield conn
    except _UNREACHABLE as error:
        raise ConsoleError("DEPENDENCY_UNAVAILABLE", "The database went away; try again.") from error
    except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError) as error:
        raise ConsoleError("DEPENDENCY_UNAVAILABLE", "The database took too long; try again.") from error
    except asyncpg.InterfaceError as error:
        if usable(conn):
            raise  # wrong use of the driver: a bug, not an outage
        raise ConsoleError("DEPENDENCY_UNAVAILABLE", "The database went away; try again.") from error
    finally:
        await pool.release(conn)


async def _acquired(pool: asyncpg.Pool[Any]) -> asyncpg.Connection[Any]:
    began = time.perf_counter()
    try:
        conn = await pool.acquire(timeout=ACQUIRE_SECONDS)
    except TimeoutError as error:
        telemetry.measure(telemetry.POOL_WAIT, time.perf_counter() - began, {"error.type": "RATE_LIMITED"})
        raise ConsoleError("RATE_LIMITED", "All database connections are busy; try again.") from error
    except asyncpg.TooManyConnectionsError as error:
        raise ConsoleError("RATE_LIMITED", "The database has no connection left; try again.") from error
    except (*_UNREACHABLE, asyncpg.InterfaceError) as error:
        raise ConsoleError("DEPENDENCY_UNAVAILABLE", "The database does not answer; try again.") from error
    telemetry.measure(telemetry.POOL_WAIT, time.perf_counter() - began)
    return conn
