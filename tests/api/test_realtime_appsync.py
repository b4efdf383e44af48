"""AppSync's real-time protocol, frame by frame, as an unmodified Amplify client meets it."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from resolvers.limits import Limits
from tests.api.conftest import MakeStage
from tests.api.stage import ALERTS, APPROVALS, CASE_EVENTS, KEY, AppSyncClient, Stage, header


# ---------- the handshake ----------
async def test_the_handshake_echoes_graphql_ws_alone_and_acknowledges(stage: Stage) -> None:
    offered = ["graphql-ws", header(stage.credentials(stage.token("st_ts")))]
    async with connect(f"ws://{stage.address}/graphql/realtime?x-tenant=a", subprotocols=offered) as socket:  # type: ignore[arg-type]
        assert socket.subprotocol == "graphql-ws"
        await socket.send('{"type":"connection_init"}')
        assert json.loads(await socket.recv()) == {"type": "connection_ack", "payload": {"connectionTimeoutMs": 300000}}
        assert json.loads(await socket.recv()) == {"type": "ka"}


async def test_the_older_form_with_the_header_in_the_query_is_taken(stage: Stage) -> None:
    encoded = (
        base64.b64encode(json.dumps(stage.credentials(stage.token("st_ts"))).encode())
        .decode()
        .replace("+", "%2B")
        .replace("=", "%3D")
    )
    async with connect(
        f"ws://{stage.address}/graphql/realtime?header={encoded}&payload=e30=", subprotocols=["graphql-ws"]
    ) as socket:  # type: ignore[list-item]
        await socket.send('{"type":"connection_init"}')
        assert json.loads(await socket.recv())["type"] == "connection_ack"


async def test_a_token_of_eight_kibibytes_fits_the_subprotocol_header(stage: Stage) -> None:
    token = stage.token("st_ts", groups=["TRUST_SAFETY", "x" * 5_500])
    assert 7_500 < len(token) < 8_192
    async with connect(
        f"ws://{stage.address}/graphql/realtime", subprotocols=["graphql-ws", header(stage.credentials(token))]
    ) as socket:  # type: ignore[list-item]
        await socket.send('{"type":"connection_init"}')
        assert json.loads(await socket.recv())["type"] == "connection_ack"


@pytest.mark.contract("WS-1")
@pytest.mark.parametrize("offered", [None, ["soap"], ["graphql-http"]])
async def test_another_subprotocol_is_refused_before_the_socket_is_accepted(
    stage: Stage, offered: list[str] | None
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{stage.address}/graphql/realtime", subprotocols=offered):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 400
    assert b"NoProtocolError" in (refused.value.response.body or b"")


@pytest.mark.contract("WS-1")
@pytest.mark.parametrize(
    ("person", "name", "code", "message"),
    [
        (None, "UnauthorizedException", 401, "Missing authorization header"),
        ("nobody", "UnauthorizedException", 401, "You are not authorized to make this call."),
    ],
)
async def test_bad_credentials_are_answered_in_the_protocol_and_then_closed(
    stage: Stage, person: str | None, name: str, code: int, message: str
) -> None:
    async with stage.appsync(person, init=False) as client:
        await client.send(type="connection_init")
        expected = {"errorType": name, "errorCode": code, "message": message}
        assert await client.receive() == {"type": "connection_error", "payload": {"errors": [expected]}}
        assert await client.closed() == 4403


@pytest.mark.parametrize(
    "encoded",
    [
        "header-!!!",
        "header-" + base64.urlsafe_b64encode(b"[]").decode().rstrip("="),
        "header-" + base64.urlsafe_b64encode(b'{"Authorization":"x"}').decode().rstrip("="),
    ],
)
async def test_a_header_that_cannot_be_read_or_names_no_host_is_a_bad_request(stage: Stage, encoded: str) -> None:
    async with connect(f"ws://{stage.address}/graphql/realtime", subprotocols=["graphql-ws", encoded]) as socket:  # type: ignore[list-item]
        await socket.send('{"type":"connection_init"}')
        error = json.loads(await socket.recv())
        assert error["type"] == "connection_error"
        assert (error["payload"]["errors"][0]["errorType"], error["payload"]["errors"][0]["errorCode"]) == (
            "BadRequestException",
            400,
        )


@pytest.mark.contract("WS-2")
async def test_nothing_starts_before_the_acknowledged_init(stage: Stage) -> None:
    async with stage.appsync("st_ts", init=False) as client:
        await client.start(CASE_EVENTS)
        assert await client.closed() == 4401


@pytest.mark.contract("WS-2")
async def test_a_second_init_is_too_many(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        await client.send(type="connection_init")
        assert await client.closed() == 4429


@pytest.mark.contract("WS-2")
async def test_an_init_that_does_not_come_times_out(stages: MakeStage) -> None:
    stage = await stages(Limits(init_seconds=0.3))
    async with stage.appsync("st_ts", init=False) as client:
        assert await client.closed(3) == 4408


# ---------- a subscription's life ----------
async def test_an_event_reaches_its_subscriber_with_an_opaque_cursor(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        subscription = await client.subscribe(CASE_EVENTS)
        await stage.case_event("c1")
        await stage.case_event("c2")
        first, second = await client.event(subscription), await client.event(subscription)
        assert {name: first[name] for name in ("caseId", "kind", "state", "priority")} == {
            "caseId": "c1",
            "kind": "CLAIMED",
            "state": "CLAIMED",
            "priority": 1,
        }
        assert second["caseId"] == "c2"
        assert len(first["cursor"]) == 22
        assert first["cursor"] != second["cursor"]


async def test_an_alias_is_honoured(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        await client.subscribe("subscription { mine: onCaseEvent { id: caseId } }")
        await stage.case_event("c1")
        assert (await client.receive())["payload"] == {"data": {"mine": {"id": "c1"}}}


async def test_arguments_and_filters_choose_the_events(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        one = await client.subscribe(CASE_EVENTS, {"caseId": "c2"})
        filtered = await client.subscribe(
            CASE_EVENTS, {"filter": {"or": [{"priority": {"gt": 5}}, {"kind": {"beginsWith": "NOTE"}}]}}
        )
        none = await client.subscribe(CASE_EVENTS, {"cityId": None})
        await stage.case_event("c1")
        await stage.case_event("c2")
        await stage.case_event("c3", priority=6)
        await stage.case_event("c4", None)
        seen = [await client.receive() for _ in range(3)]
        found = sorted((frame["id"], frame["payload"]["data"]["onCaseEvent"]["caseId"]) for frame in seen)
        assert found == sorted([(one, "c2"), (filtered, "c3"), (none, "c4")])
        await client.silent()


async def test_a_start_with_a_live_id_is_acknowledged_again_and_replaces_the_old_one(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        subscription = await client.subscribe(CASE_EVENTS, {"caseId": "c1"})
        await client.subscribe(CASE_EVENTS, {"caseId": "c2"}, known_as=subscription)
        await stage.case_event("c1")
        await stage.case_event("c2")
        assert (await client.event(subscription))["caseId"] == "c2"
        await client.silent()


async def test_stop_completes_and_ends_the_events(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        subscription = await client.subscribe(CASE_EVENTS)
        await client.send(id=subscription, type="stop")
        assert await client.receive() == {"id": subscription, "type": "complete"}
        await client.send(id="of-nobody", type="stop")
        await stage.case_event("c1")
        await client.silent()


async def test_keep_alives_come_by_themselves(stages: MakeStage) -> None:
    stage = await stages(Limits(keepalive_seconds=0.2))
    async with stage.appsync("st_ts") as client:
        assert [await client.receive(2) for _ in range(3)] == [{"type": "ka"}] * 3


# ---------- refusals of one start ----------
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("subscription { onCaseEvent { nothing } }", "SubscriptionProcessingError"),
        ("subscription { ", "SubscriptionProcessingError"),
        ("query { me { policyVersion } }", "UnsupportedOperation"),
        ('mutation { withdrawVote(requestId: "x") { outcome } }', "UnsupportedOperation"),
        ("subscription { onCaseEvent { caseId } onAlert { id } }", "LIMIT_EXCEEDED"),
        ("subscription { __typename }", "SubscriptionProcessingError"),
        ("subscription { onCaseEvent(filter: { priority: { between: [1] } }) { caseId } }", "BAD_REQUEST"),
    ],
)  # fmt: skip
async def test_a_start_that_cannot_be_is_ended_by_an_error_that_carries_its_id(
    stage: Stage, query: str, name: str
) -> None:
    async with stage.appsync("st_ts") as client:
        sibling = await client.subscribe(CASE_EVENTS)
        subscription = await client.start(query)
        frame = await client.receive()
        assert (frame["id"], frame["type"]) == (subscription, "error")
        assert frame["payload"]["errors"][0]["errorType"] == name
        await stage.case_event("c1")
        assert (await client.event(sibling))["caseId"] == "c1", "siblings are untouched"


async def test_a_right_that_is_missing_is_refused_by_a_name_that_spares_the_siblings(stage: Stage) -> None:
    """Amplify tears the whole socket down on Unauthorized*, so that name is kept for dead tokens."""
    await stage.owner("DELETE FROM staff_grant WHERE staff_id = 'st_small'")
    async with stage.appsync("st_ts") as client:
        sibling = await client.subscribe(CASE_EVENTS)
        subscription = await client.start(CASE_EVENTS, credentials=stage.credentials(stage.token("st_small")))
        frame = await client.receive()
        error = {
            "errorType": "SubscriptionNotAllowed",
            "message": "Not Authorized to access onCaseEvent on type Subscription",
        }
        assert frame == {"id": subscription, "type": "error", "payload": {"errors": [error]}}
        await stage.case_event("c1")
        assert (await client.event(sibling))["caseId"] == "c1"
    denied = [record for record in await stage.records() if record["kind"] == "denied"]
    assert [(r["actor"]["sub"], r["action"], r["decision"]["code"]) for r in denied] == [
        ("st_small", "case.subscribe", "Unauthorized")
    ]


async def test_a_dead_token_at_a_start_is_named_so_that_amplify_reconnects(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        old = stage.token("st_ts", timedelta(seconds=60), now=stage.parts.clock() - timedelta(hours=1))
        subscription = await client.start(CASE_EVENTS, credentials=stage.credentials(old))
        frame = await client.receive()
        assert frame["payload"]["errors"] == [{"errorType": "UnauthorizedException", "message": "Token has expired."}]
        assert frame["id"] == subscription


@pytest.mark.contract("WS-2")
async def test_every_start_is_judged_by_its_own_credentials(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        berlin = await client.subscribe(CASE_EVENTS, credentials=stage.credentials(stage.token("st_berlin")))
        everywhere = await client.subscribe(CASE_EVENTS)
        await stage.case_event("c1", "lisbon")
        assert (await client.event(everywhere))["caseId"] == "c1"
        await client.silent()
        await stage.case_event("c2", "berlin")
        assert {(await client.receive())["id"] for _ in range(2)} == {berlin, everywhere}


@pytest.mark.contract("TK-9")
async def test_an_api_key_subscribes_to_its_root_fields_only(stage: Stage) -> None:
    key = {"host": stage.address, "x-amz-date": "20261124T100000Z", "x-api-key": KEY}
    async with stage.appsync("st_berlin") as client:
        await client.subscribe(ALERTS, credentials=key)
        await client.start(CASE_EVENTS, credentials=key)
        assert (await client.receive())["payload"]["errors"][0]["errorType"] == "SubscriptionNotAllowed"


async def test_a_start_without_data_and_an_unknown_type_are_unsupported(stage: Stage) -> None:
    error = {"errorType": "UnsupportedOperation", "message": "unknown not supported through the realtime channel"}
    async with stage.appsync("st_ts") as client:
        await client.send(id="1", type="start", payload={})
        assert await client.receive() == {"id": "", "type": "error", "payload": {"errors": [error]}}
        await client.send(id="1", type="shout")
        assert await client.receive() == {"id": "", "type": "error", "payload": {"errors": [error]}}
        assert await client.closed() == 4400


# ---------- limits ----------
@pytest.mark.contract("WS-4")
@pytest.mark.parametrize(
    "message",
    [
        "nonsense",
        "[]",
        '{"no":"type"}',
        '{"type":1}',
        '{"type":"start","type":"stop"}',
        '{"type":"start","id":"\\ud800"}',
        b"\x00",
    ],
)
async def test_an_invalid_message_closes_with_4400(stage: Stage, message: str | bytes) -> None:
    async with stage.appsync("st_ts") as client:
        await client.socket.send(message)
        assert await client.closed() == 4400


@pytest.mark.contract("WS-4")
async def test_a_message_that_is_too_big_closes_with_1009(stages: MakeStage) -> None:
    stage = await stages(Limits(message_bytes=5_000))
    for size in (6_000, 200_000):
        async with stage.appsync("st_ts") as client:
            await client.socket.send(json.dumps({"type": "start", "id": "1", "payload": {"data": "x" * size}}))
            assert await client.closed() == 1009


@pytest.mark.contract("WS-4")
async def test_a_flood_of_messages_closes_the_socket(stages: MakeStage) -> None:
    stage = await stages(Limits(message_rate=(20.0, 10)))
    async with stage.appsync("st_ts") as client:
        for _ in range(20):
            await client.send(id="none", type="stop")
        assert await client.closed() == 4429


@pytest.mark.contract("WS-3")
async def test_subscriptions_are_limited_by_connection_and_by_person(stages: MakeStage) -> None:
    stage = await stages(Limits(subscriptions_per_connection=2, subscriptions_per_person=3))

    async def refused(client: AppSyncClient) -> str:
        await client.start(CASE_EVENTS)
        error = (await client.receive())["payload"]["errors"][0]
        assert error["errorType"] == "MaxSubscriptionsReachedError"
        return str(error["message"])

    async with stage.appsync("st_ts") as one, stage.appsync("st_ts") as two:
        first = await one.subscribe(CASE_EVENTS)
        await one.subscribe(APPROVALS)
        assert await refused(one) == "Max number of 2 subscriptions reached"
        await two.subscribe(ALERTS)
        assert await refused(two) == "Max number of 3 subscriptions of one person reached"
        await one.send(id=first, type="stop")
        assert (await one.receive())["type"] == "complete"
        await two.subscribe(CASE_EVENTS)


@pytest.mark.contract("WS-3")
async def test_connections_are_limited_by_person_and_strangers_by_process(stages: MakeStage) -> None:
    stage = await stages(Limits(connections_per_person=2, unauthenticated_sockets=2))
    async with stage.appsync("st_ts"), stage.appsync("st_ts"), stage.appsync("st_berlin"):
        async with stage.appsync("st_ts", init=False) as third:
            await third.send(type="connection_init")
            error = (await third.receive())["payload"]["errors"][0]
            assert (error["errorType"], error["errorCode"]) == ("LimitExceededError", 429)
        async with stage.appsync("st_lead", init=False), stage.appsync("st_lead", init=False):
            with pytest.raises(InvalidStatus) as refused:
                async with stage.appsync("st_lead", init=False):
                    pass
            assert refused.value.response.status_code == 429
    async with stage.appsync("st_ts"):
        pass  # closed sockets gave their places back
