"""A connection cut anywhere in a mutation, or at its commit: what became of it is settled by the repeat under the same key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from db.pool import Dsn, open_pool
from resolvers.pipeline import Pipeline
from schema.build import console
from schema.errors import ConsoleError
from tests import factories
from tests.machines.world import ask_refund
from tests.proxy import Proxy, proxied
from tests.services.bench import Bench, bench
from tests.services.test_approvals import AGENT, FINANCE, asked, people, states, vote

__all__ = ["bench"]

pytestmark = pytest.mark.contract("RL-4", "ID-2")
AMOUNT = 4_000
_LEFT = """
SELECT (SELECT count(*) FROM refund WHERE order_id = $1) AS refunds, reserved_minor AS reserved FROM order_ledger WHERE order_id = $1
"""


@dataclass
class Wire:
    """A console of which one pipeline reaches the database through the proxy."""

    bench: Bench
    proxy: Proxy
    pool: asyncpg.Pool[Any]
    pipeline: Pipeline

    async def anew(self, **cut: int) -> None:
        """From now on another connection, which is cut there."""
        await self.pool.expire_connections()
        self.proxy.arm(**cut)

    async def order(self) -> str:
        return await factories.ledger(self.bench.conn, captured_minor=50_000, buyer_id=f"b{factories.number()}")

    async def ask(self, order: str, *, through: Pipeline | None = None) -> str:
        """What the client hears: an outcome, or the code of an error that tells him to try again."""
        try:
            done = await self.bench.do(
                AGENT, "requestRefund", pipeline=through, input=ask_refund(order, AMOUNT, f"key of {order}")
            )
        except ConsoleError as error:
            return error.code if error.retryable else f"{error.code}, for good"
        return done.outcome

    async def left(self, order: str) -> tuple[int, int]:
        row = await self.bench.conn.fetchrow(_LEFT, order)
        assert row is not None
        return row["refunds"], row["reserved"]

    async def settled(self, order: str, heard: str) -> None:
        """The repeat under the same key does it or replays it, and then it happened once."""
        before = await self.left(order)
        assert before in ((0, 0), (1, AMOUNT)), "all of it or nothing"
        if heard == "EXECUTED":
            assert before == (1, AMOUNT), "what was acknowledged is there"
        assert await self.ask(order) == ("REPLAYED" if before == (1, AMOUNT) else "EXECUTED")
        assert await self.left(order) == (1, AMOUNT)


@pytest_asyncio.fixture(loop_scope="session")
async def wire(bench: Bench) -> AsyncIterator[Wire]:
    await people(bench)
    async with proxied(bench.database.server) as proxy:
        pool = await open_pool(Dsn(proxy.arguments(bench.database.as_role("cs_app"))), size=1)
        try:
            made = Pipeline(pool, bench.authorizer, bench.writer, bench.reader.find, console().rules)
            yield Wire(bench, proxy, pool, made)
        finally:
            pool.terminate()


async def effects(bench: Bench) -> int:
    """Records of refunds that were done."""
    return sum(
        record["action"] == "refund.request" and record["result"]["outcome"] == "EXECUTED"
        for record in await bench.records()
    )


async def test_cut_at_any_byte_a_refund_happens_once(wire: Wire, request: pytest.FixtureRequest) -> None:
    """Both directions, on a connection that is only being made, and on which statements are still being prepared."""
    one = await wire.order()
    await wire.anew()
    assert await wire.ask(one, through=wire.pipeline) == "EXECUTED"
    up, down = wire.proxy.up, wire.proxy.down
    step = 29 if request.config.getoption("--long") else max(up, down) // 24
    heard: list[str] = []
    places = [{"up": byte} for byte in range(1, up, step)] + [{"down": byte} for byte in range(1, down, step)]
    for place in places:
        order = await wire.order()
        await wire.anew(**place)
        heard.append(await wire.ask(order, through=wire.pipeline))
        wire.proxy.arm()
        await wire.settled(order, heard[-1])
    assert wire.proxy.cuts >= len(places) * 0.95, "the last bytes differ by the length of an id"
    assert set(heard) <= {"DEPENDENCY_UNAVAILABLE", "AUDIT_UNAVAILABLE", "EXECUTED"}
    assert heard.count("EXECUTED") < len(places) // 3, "a connection that dies before it stands is made again"
    assert await effects(wire.bench) == 1 + len(places), "one record of each effect, and none of another"


async def test_where_the_answer_to_commit_is_lost_nothing_is_repeated_unasked(wire: Wire) -> None:
    for _ in range(5):
        order = await wire.order()
        wire.proxy.arm(swallow=True)
        assert await wire.ask(order, through=wire.pipeline) == "DEPENDENCY_UNAVAILABLE"
        assert await wire.left(order) == (1, AMOUNT), "it was done, and nobody could say so"
        assert await wire.ask(order, through=wire.pipeline) == "REPLAYED"
        assert await wire.left(order) == (1, AMOUNT)
    assert wire.proxy.cuts == await effects(wire.bench) == 5


async def test_an_approval_whose_commit_is_never_answered_executes_once(wire: Wire) -> None:
    """A vote has no key: the same vote said twice is recognised, and what it executed stands once."""
    bench, request = wire.bench, await asked(wire.bench)
    given = {"requestId": request["id"], "vote": "APPROVE", "payloadHash": request["payload_hash"]}
    wire.proxy.arm(swallow=True)
    with pytest.raises(ConsoleError) as lost:
        await bench.do(FINANCE, "voteOnApproval", pipeline=wire.pipeline, input=given)
    assert (lost.value.code, lost.value.retryable) == ("DEPENDENCY_UNAVAILABLE", True)
    assert (await vote(bench, FINANCE, request)).outcome == "REPLAYED"
    assert (await states(bench, request))[:2] == ("APPROVED", "EXECUTED")
    assert await bench.conn.fetchval("SELECT count(*) FROM approval_execution") == 1
    assert await bench.conn.fetchval("SELECT count(*) FROM outbox") == 1


async def test_the_pool_mends_itself_after_a_cut(wire: Wire) -> None:
    for _ in range(3):
        order = await wire.order()
        wire.proxy.arm(up=200)
        assert await wire.ask(order, through=wire.pipeline) == "DEPENDENCY_UNAVAILABLE"
        wire.proxy.arm()
        assert await wire.ask(order, through=wire.pipeline) == "EXECUTED"
    found: Any = await wire.bench.conn.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    assert found == 0
