"""The wire over real parts: a migrated database with a few people, the dev issuer, and uvicorn on loopback.

At the end of the session the requests of all its tests are held against the records that they left (AU-7).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from resolvers.limits import Front, Limits
from tests.api.stage import PEOPLE, Stage
from tests.api.tally import TALLY
from tests.conftest import Database

MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture(scope="session", autouse=True)
def count_equation() -> Iterator[None]:
    """Requests on privileged fields = records, by request id; a difference fails the session and names its test."""
    yield
    assert TALLY.wrong == []


@pytest_asyncio.fixture(loop_scope="session")
async def stages(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[MakeStage]:
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
    await TALLY.close(database, request.node.nodeid)


@pytest_asyncio.fixture(loop_scope="session")
async def stage(stages: MakeStage) -> Stage:
    return await stages()
