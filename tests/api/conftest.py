"""The wire over real parts: a migrated database with a few people, the dev issuer, and uvicorn on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest_asyncio

from resolvers.limits import Front, Limits
from tests.api.stage import PEOPLE, Stage
from tests.conftest import Database

MakeStage = Callable[..., Awaitable[Stage]]


@pytest_asyncio.fixture(loop_scope="session")
async def stages(database: Database, tmp_path: Path) -> AsyncIterator[MakeStage]:
    """Several processes on one database, each with its own hub, caches and port."""
    conn = await asyncpg.connect(**database.as_role("cs_owner"))
    await conn.execute(PEOPLE)
    await conn.close()
    async with AsyncExitStack() as stack:

        async def make(limits: Limits | None = None, front: Front | None = None) -> Stage:
            return await stack.enter_async_context(
                Stage.opened(database, tmp_path, limits or Limits(), front or Front())
            )

        yield make


@pytest_asyncio.fixture(loop_scope="session")
async def stage(stages: MakeStage) -> Stage:
    return await stages()
