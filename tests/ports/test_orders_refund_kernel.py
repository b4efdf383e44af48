"""What every adapter of ``OrdersRefundKernel`` promises. Another adapter joins ``ADAPTERS`` with a world of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol, TypeAlias

import asyncpg
import pytest
import pytest_asyncio

from services.adapters.kernel_embedded import EmbeddedKernel, plan
from services.ports import KernelRefund, OrdersRefundKernel, PortRefusedError
from tests.conftest import Database, Pools


class World(Protocol):
    """An adapter, and the hands that arrange what happens to an order's refunds."""

    port: OrdersRefundKernel

    async def order(self, order_id: str, sim: str) -> str: ...
    async def later(self, seconds: int) -> OrdersRefundKernel: ...
    async def move(self, key: str, state: str) -> None: ...


class Embedded:
    """The kernel that lives in the same Postgres."""

    def __init__(self, pools: Pools, pool: asyncpg.Pool[Any], conn: asyncpg.Connection[Any]) -> None:
        self._kernel = EmbeddedKernel(pool)
        self.port: OrdersRefundKernel = self._kernel
        self._pools = pools
        self._conn = conn

    async def order(self, order_id: str, sim: str) -> str:
        await self._conn.execute("INSERT INTO kernel_order (order_id, sim) VALUES ($1, $2)", order_id, sim)
        return order_id

    async def later(self, seconds: int) -> OrdersRefundKernel:
        return EmbeddedKernel(await self._pools("cs_worker", clock_offset_seconds=seconds))

    async def move(self, key: str, state: str) -> None:
        await self._kernel.move(key, state)


@asynccontextmanager
async def embedded(database: Database, pools: Pools) -> AsyncIterator[World]:
    conn = await asyncpg.connect(**database.superuser)
    yield Embedded(pools, await pools("cs_worker"), conn)
    await conn.close()


Open: TypeAlias = Callable[[Database, Pools], AbstractAsyncContextManager[World]]
ADAPTERS: Final[dict[str, Open]] = {"embedded": embedded}


@pytest_asyncio.fixture(loop_scope="session", params=list(ADAPTERS))
async def world(request: pytest.FixtureRequest, database: Database, pools: Pools) -> AsyncIterator[World]:
    async with ADAPTERS[request.param](database, pools) as made:
        yield made


async def submit(port: OrdersRefundKernel, order_id: str, *, key: str = "rf_1", amount: int = 100) -> KernelRefund:
    return await port.submit_refund(key=key, order_id=order_id, amount_minor=amount, currency="EUR")


@pytest.mark.parametrize(
    ("sim", "state", "failure"),
    [
        ("succeed", "SUCCEEDED", None),
        ("fail:declined", "FAILED", "declined"),
        ("pending:30", "PENDING", None),
        ("requires_action", "REQUIRES_ACTION", None),
    ],
)
async def test_a_submitted_refund_is_there_once_it_returns(
    world: World, sim: str, state: str, failure: str | None
) -> None:
    made = await submit(world.port, await world.order("o_1", sim))
    assert (made.key, made.state, made.failure_code) == ("rf_1", state, failure)
    assert await world.port.get_refund("rf_1") == made
    assert await world.port.get_refund("rf_none") is None


@pytest.mark.contract("ID-3")
async def test_the_same_key_is_the_same_refund_also_at_once(world: World) -> None:
    made = await asyncio.gather(*(submit(world.port, "o_1") for _ in range(4)))
    assert len(set(made)) == 1
    for order, amount in (("o_2", 100), ("o_1", 101)):
        with pytest.raises(PortRefusedError) as caught:
            await submit(world.port, order, amount=amount)
        assert caught.value.code == "KEY_REUSED"


async def test_a_change_is_told_until_it_is_acknowledged(world: World) -> None:
    made = await submit(world.port, "o_1")
    assert list(await world.port.changes(10)) == [made]
    assert list(await world.port.changes(10)) == [made]
    await world.port.acknowledge([made])
    assert list(await world.port.changes(10)) == []


async def test_a_late_outcome_is_told_when_it_comes(world: World) -> None:
    await submit(world.port, await world.order("o_1", "pending:30"))
    await submit(world.port, await world.order("o_2", "pending:30:fail:expired_card"), key="rf_2")
    assert list(await world.port.changes(10)) == []
    late = await world.later(31)
    found = {refund.key: (refund.state, refund.failure_code) for refund in await late.changes(10)}
    assert found == {"rf_1": ("SUCCEEDED", None), "rf_2": ("FAILED", "expired_card")}


async def test_a_state_that_moved_on_is_told_again(world: World) -> None:
    made = await submit(world.port, await world.order("o_1", "requires_action"))
    await world.port.acknowledge([made])
    await world.move("rf_1", "SUCCEEDED")
    [moved] = await world.port.changes(10)
    assert moved.state == "SUCCEEDED"
    await world.port.acknowledge([made])  # of the state that was: the new one is still unheard
    assert list(await world.port.changes(10)) == [moved]


def test_an_unknown_sim_is_a_mistake_of_the_demo() -> None:
    with pytest.raises(ValueError, match="no such sim"):
        plan("explode")
