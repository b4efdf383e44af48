"""The rate of votes is one for all processes: shared, exact under a race, kept over restarts, forgotten when it is full again."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from db import counters
from resolvers.limits import Limits
from resolvers.worker import Worker
from tests.api.conftest import MakeStage
from tests.api.stage import Stage
from tests.conftest import Pools
from tests.services.bench import Bench, bench

__all__ = ["bench"]

pytestmark = pytest.mark.contract("RT-1")
SLOW = Limits(vote_rate=(0.01, 3), mutation_rate=(1_000.0, 1_000))
ONE = '{name}: voteOnApproval(input: {{requestId: "none", vote: APPROVE, payloadHash: "x"}}) {{ outcome }}'


async def votes(stage: Stage, person: str = "st_finance", count: int = 1) -> Any:
    """Try to vote on what is not there: the attempt counts."""
    text = " ".join(ONE.format(name=f"v{number}") for number in range(count))
    (error, *_) = (await stage.ask(person, f"mutation {{ {text} }}")).json()["errors"]
    return error


async def test_two_processes_and_the_ones_after_them_share_it(stages: MakeStage) -> None:
    one, two = await stages(SLOW), await stages(SLOW)
    said = [(await votes(stage))["errorType"] for stage in (one, two, one)]
    assert said == ["NOT_FOUND"] * 3
    for stage in (two, one, await stages(SLOW)):
        refused = await votes(stage)
        assert refused["errorType"] == "RATE_LIMITED"
        assert 90_000 < refused["errorInfo"]["retryAfterMs"] <= 100_001
    assert (await votes(two, "st_small"))["errorType"] == "NOT_FOUND", "another person has a rate of his own"
    assert "errors" not in (await one.ask("st_finance", "{ me { policyVersion } }")).json()


async def test_aliases_count_one_by_one_and_what_is_refused_takes_nothing(stages: MakeStage) -> None:
    stage = await stages(SLOW)
    assert (await votes(stage, count=4))["errorType"] == "RATE_LIMITED"
    assert (await votes(stage, count=2))["errorType"] == "NOT_FOUND"
    assert (await votes(stage, count=2))["errorType"] == "RATE_LIMITED"
    assert (await votes(stage))["errorType"] == "NOT_FOUND"
    assert (await votes(stage))["errorType"] == "RATE_LIMITED"


async def take(pool: asyncpg.Pool[Any], rate: tuple[float, int], count: int = 1) -> int | None:
    async with pool.acquire() as conn:
        return await counters.take(conn, "votes", "ana", count, rate=rate)


async def test_many_at_once_get_the_burst_and_not_one_more(pools: Pools) -> None:
    pool = await pools("cs_app", size=8)
    waits = await asyncio.gather(*(take(pool, (0.001, 20)) for _ in range(60)))
    assert sum(wait is None for wait in waits) == 20


async def test_the_bucket_fills_by_the_databases_clock(pools: Pools) -> None:
    rate, now, later = (1.0, 60), await pools("cs_app"), await pools("cs_app", clock_offset_seconds=30)
    assert await take(now, rate, 60) is None
    wait = await take(now, rate)
    assert wait is not None
    assert 0 < wait <= 1_001
    assert await take(later, rate, 29) is None, "half a minute gave thirty back"
    assert await take(later, rate, 5) is not None
    assert await take(later, rate, 61) is not None, "more than there ever is"


async def test_buckets_that_are_full_again_are_deleted_and_no_others(bench: Bench) -> None:
    rate = (1.0, 60)
    async with bench.app.acquire() as conn:
        for person, count in (("ana", 50), ("ben", 1)):
            assert await counters.take(conn, "votes", person, count, rate=rate) is None
    worker: Worker = (await bench.later(10)).worker
    await worker.forget()
    assert [row["person_id"] for row in await bench.conn.fetch("SELECT person_id FROM rate_counter")] == ["ana"]
