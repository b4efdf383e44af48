"""The small routes."""

from __future__ import annotations

import asyncio

import httpx2
import jwt
import pytest

from audit.health import lag_seconds
from db.migrate import head
from resolvers.rest import Readiness, unnumbered_seconds, waiting_probe
from tests.api.serving import served
from tests.api.stage import Stage
from tests.conftest import Pools


async def get(address: str, path: str, **options: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as client:
        return await client.get(f"http://{address}{path}", headers=options)


async def test_alive_and_ready(stage: Stage) -> None:
    alive = await get(stage.address, "/healthz")
    assert (alive.status_code, alive.json()) == (200, {"alive": True})
    ready = await get(stage.address, "/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "parts": {"database": "ok", "clock": "ok"}})


@pytest.mark.contract("FC-1")
async def test_without_a_database_it_is_alive_but_not_ready_and_says_why(stage: Stage) -> None:
    await stage.parts.app_pool.close()
    assert (await get(stage.address, "/healthz")).status_code == 200
    ready = await get(stage.address, "/readyz")
    assert ready.status_code == 503
    away = "The database does not answer; try again."
    assert ready.json() == {"ready": False, "parts": {"database": away, "clock": away}}


async def test_a_database_at_another_migration_is_not_ready(stage: Stage) -> None:
    await stage.owner("UPDATE alembic_version SET version_num = '0001'")
    assert (await get(stage.address, "/readyz")).json()["parts"][
        "database"
    ] == f"The database is at migration 0001, this release needs {head()}."


async def test_the_parts_are_asked_once_a_second_however_often_readiness_is() -> None:
    asked = 0

    async def probe() -> str | None:
        nonlocal asked
        asked += 1
        return "not yet" if asked == 1 else None

    now = 0.0
    async with served(Readiness({"part": probe}, clock=lambda: now)) as address:
        assert [(await get(address, "/")).status_code for _ in range(3)] == [503, 503, 503]
        now = 1.5
        assert (await get(address, "/")).json() == {"ready": True, "parts": {"part": "ok"}}
    assert asked == 2


async def test_many_who_ask_at_once_share_one_round() -> None:
    asked = 0

    async def probe() -> str | None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return None

    async with served(Readiness({"part": probe}, clock=lambda: 0.0)) as address:
        answers = await asyncio.gather(*(get(address, "/readyz") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert asked == 1


async def test_the_dev_issuers_keys_verify_its_tokens(stage: Stage) -> None:
    keys = (await get(stage.address, "/.well-known/jwks.json")).json()
    key = jwt.PyJWKSet.from_dict(keys)[stage.dev.kid]
    assert jwt.decode(stage.token("st_ts"), key, algorithms=["ES256"], audience="countersign-dev")["sub"] == "st_ts"
    assert "d" not in keys["keys"][0], "the public half only"


async def test_other_paths_and_methods(stage: Stage) -> None:
    assert (await get(stage.address, "/nowhere")).status_code == 404
    assert (await get(stage.address, "/graphql")).status_code == 405
    async with httpx2.AsyncClient() as client:
        assert (await client.post(f"http://{stage.address}/healthz")).status_code == 405
        assert (await client.head(f"http://{stage.address}/healthz")).status_code == 200


@pytest.mark.contract("FC-1")
async def test_what_waits_for_the_background_process_is_a_reason_and_so_is_a_database_that_is_away(
    stage: Stage, pools: Pools
) -> None:
    pool = await pools("cs_app")
    probes = {
        "audit": waiting_probe(pool, lag_seconds, 60, "The oldest record waits {}."),
        "events": waiting_probe(pool, unnumbered_seconds, 60, "The oldest event waits {}."),
    }
    async with served(Readiness(probes)) as address:
        assert (await get(address, "/")).json() == {"ready": True, "parts": {"audit": "ok", "events": "ok"}}
    await stage.owner(
        "INSERT INTO event (topic, city_id, payload, facts, created_at) VALUES ('Alert', 'lisbon', '{}', '{}', console_now() - interval '90 s')"
    )
    async with served(Readiness(probes)) as address:
        late = await get(address, "/")
        assert (late.status_code, late.json()["parts"]) == (
            503,
            {"audit": "ok", "events": "The oldest event waits 90 s."},
        )
    await pool.close()
    async with served(Readiness(probes)) as address:
        away = await get(address, "/")
    assert away.status_code == 503
    assert set(away.json()["parts"].values()) == {"The database does not answer; try again."}
