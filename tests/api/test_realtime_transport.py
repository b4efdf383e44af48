"""``graphql-transport-ws`` on the same route: the messages and close codes of that protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect

from resolvers.limits import Limits
from tests.api.conftest import MakeStage
from tests.api.stage import AppSyncClient, Stage

BAD = {"Authorization": "bad"}
QUERY = "subscription Live($caseId: ID) { onCaseEvent(caseId: $caseId) { caseId } }"


@asynccontextmanager
async def opened(stage: Stage, payload: Mapping[str, Any] | None, *, init: bool = True) -> AsyncIterator[AppSyncClient]:
    async with connect(f"ws://{stage.address}/graphql/realtime", subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "graphql-transport-ws"
        client = AppSyncClient(socket, stage)
        if init:
            await client.send(type="connection_init", payload=payload)
            if payload is not None and payload != BAD:
                assert await client.receive() == {"type": "connection_ack"}
        yield client


def authorized(stage: Stage, person: str = "st_ts") -> dict[str, str]:
    return {"Authorization": stage.token(person)}


async def subscribe(client: AppSyncClient, name: str = "1", query: str = QUERY, **variables: Any) -> None:
    await client.send(id=name, type="subscribe", payload={"query": query, "variables": variables})


async def started(stage: Stage) -> None:
    """This protocol acknowledges no start: wait until the hub knows of it."""
    for _ in range(100):
        if any(connection.subscriptions for connection in stage.realtime.connections):
            return
        await asyncio.sleep(0.02)


async def test_events_come_as_next_and_the_client_completes(stage: Stage) -> None:
    async with opened(stage, authorized(stage)) as client:
        await subscribe(client, caseId="c1")
        await started(stage)
        await stage.case_event("c2")
        await stage.case_event("c1")
        assert await client.receive() == {
            "id": "1",
            "type": "next",
            "payload": {"data": {"onCaseEvent": {"caseId": "c1"}}},
        }
        await client.send(id="1", type="complete")
        await asyncio.sleep(0.1)
        await stage.case_event("c1")
        await client.silent()
        assert [r["result"]["outcome"] for r in await stage.records()] == ["STARTED", "DELIVERED", "ENDED"]


async def test_an_error_ends_one_subscription(stage: Stage) -> None:
    async with opened(stage, authorized(stage, "st_small")) as client:
        await subscribe(client, query="subscription { onCaseEvent { nothing } }")
        frame = await client.receive()
        assert (frame["id"], frame["type"]) == ("1", "error")
        assert isinstance(frame["payload"], list)
        await subscribe(client, "2", query="{ me { policyVersion } }")
        assert (await client.receive())["payload"][0]["errorType"] == "UnsupportedOperation"


async def test_a_ping_is_answered_and_pings_are_sent(stages: MakeStage) -> None:
    stage = await stages(Limits(keepalive_seconds=0.2))
    async with opened(stage, authorized(stage)) as client:
        await client.send(type="ping")
        frames = [await client.receive(2) for _ in range(2)]
        assert {frame["type"] for frame in frames} == {"ping", "pong"}
        await client.send(type="pong")


@pytest.mark.contract("WS-2")
async def test_close_codes(stages: MakeStage) -> None:
    stage = await stages(Limits(init_seconds=0.4))
    async with opened(stage, None, init=False) as client:
        await subscribe(client)
        assert await client.closed() == 4401
    async with opened(stage, None, init=False) as client:
        assert await client.closed() == 4408
    async with opened(stage, BAD) as client:
        assert await client.closed() == 4403
    async with opened(stage, None, init=False) as client:
        await client.send(type="connection_init")
        assert await client.closed() == 4403, "no credentials"
    async with opened(stage, authorized(stage)) as client:
        await client.send(type="connection_init", payload=authorized(stage))
        assert await client.closed() == 4429
    async with opened(stage, authorized(stage)) as client:
        await subscribe(client)
        await subscribe(client)
        assert await client.closed() == 4409
    for message in (
        "{",
        '{"type":"start","id":"1","payload":{}}',
        '{"type":"subscribe","id":1,"payload":{}}',
        '{"type":"subscribe","id":"1"}',
        '{"id":"1"}',
    ):
        async with opened(stage, authorized(stage)) as client:
            await client.socket.send(message)
            assert await client.closed() == 4400, message


@pytest.mark.contract("WS-6", "TK-5")
async def test_a_locked_person_is_disconnected(stage: Stage) -> None:
    async with opened(stage, authorized(stage)) as client:
        await subscribe(client)
        await started(stage)
        await stage.owner("UPDATE staff SET state = 'LOCKED' WHERE id = 'st_ts'")
        assert await client.closed(5) == 4401


async def test_both_dialects_share_one_serialized_event(stage: Stage) -> None:
    query = "subscription { onCaseEvent { caseId } }"
    async with opened(stage, authorized(stage)) as transport, stage.appsync("st_ts") as appsync:
        await subscribe(transport, query=query)
        await started(stage)
        subscription = await appsync.subscribe(query)
        before = stage.hub.rendered
        await stage.case_event("c1")
        assert json.dumps((await transport.receive())["payload"]) == json.dumps(
            {"data": {"onCaseEvent": await appsync.event(subscription)}}
        )
        assert stage.hub.rendered - before == 1
