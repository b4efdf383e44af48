"""What subscribers are told: all of it, in order, once, to those who may hear it, and only after it is on record."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import Any, Self

import asyncpg
import pytest

from resolvers.hub_rights import may_hear
from resolvers.limits import Limits
from schema.errors import ConsoleError
from tests import factories
from tests.api.conftest import MakeStage
from tests.api.stage import ALERTS, APPROVALS, CASE_EVENTS, Stage

LIVE_TAIL = "subscription { onCaseEvent { caseId cursor } }"


# ---------- completeness and order ----------
async def test_two_processes_tell_the_same_events_in_the_same_order(stages: MakeStage) -> None:
    one, two = await stages(), await stages()
    async with one.appsync("st_ts") as first, two.appsync("st_ts") as second:
        left, right = await first.subscribe(LIVE_TAIL), await second.subscribe(LIVE_TAIL)
        for number in range(30):
            await one.case_event(f"c{number}", notify=number % 3 == 0)
        heard = [
            [await client.event(subscription) for _ in range(30)]
            for client, subscription in ((first, left), (second, right))
        ]
        assert heard[0] == heard[1], "cursors too: a client may change the process"
        assert [event["caseId"] for event in heard[0]] == [f"c{number}" for number in range(30)]


async def test_events_that_were_committed_before_the_start_are_not_told(stage: Stage) -> None:
    await stage.case_event("old")
    async with stage.appsync("st_ts") as client:
        await asyncio.sleep(0.2)
        subscription = await client.subscribe(LIVE_TAIL)
        await stage.case_event("new")
        assert (await client.event(subscription))["caseId"] == "new"


@pytest.mark.contract("FC-10")
async def test_without_its_notifications_the_hub_still_tells_within_seconds(stages: MakeStage) -> None:
    stage = await stages(Limits(poll_seconds=0.5))
    async with stage.appsync("st_ts") as client:
        subscription = await client.subscribe(LIVE_TAIL)
        conn = await asyncpg.connect(**stage.database.superuser)
        killed = await conn.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN %'"
        )
        await conn.close()
        assert killed >= 1
        began = time.monotonic()
        await stage.case_event("c1", notify=False)
        assert (await client.event(subscription))["caseId"] == "c1"
        assert time.monotonic() - began < 3


async def test_events_that_came_while_the_database_was_away_are_told_afterwards(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        subscription = await client.subscribe(LIVE_TAIL)
        conn = await asyncpg.connect(**stage.database.superuser)
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await conn.close()
        for number in range(3):
            await stage.case_event(f"c{number}")
        assert [(await client.event(subscription))["caseId"] for _ in range(3)] == ["c0", "c1", "c2"]


async def test_an_event_is_serialized_once_for_all_who_selected_the_same_under_the_same_rights(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client, stage.appsync("st_berlin") as other:
        mine = [await client.subscribe(CASE_EVENTS, {"cityId": "berlin"}) for _ in range(5)]
        await client.subscribe(CASE_EVENTS)
        theirs = await other.subscribe(CASE_EVENTS, {"filter": {"priority": {"lt": 9}}})
        before = stage.hub.rendered
        await stage.case_event("c1", "berlin")
        frames = [await client.receive() for _ in range(6)] + [await other.receive()]
        assert {frame["id"] for frame in frames} >= {*mine, theirs}
        assert len({json.dumps(frame["payload"]) for frame in frames}) == 1
        assert stage.hub.rendered - before == 1


# ---------- rights, per event ----------
CASE_HEARERS: list[tuple[str, dict[str, Any], bool]] = [
    ("st_ts", {"city": "lisbon"}, True),
    ("st_ts", {"city": None}, True),
    ("st_berlin", {"city": "lisbon"}, False),
    ("st_berlin", {"city": "berlin"}, True),
    ("st_berlin", {"city": None}, False),
    ("st_berlin", {"city": "berlin", "category": "PROHIBITED"}, False),
    ("st_ts", {"case_kind": "REFUND"}, False),
    ("st_finance", {"case_kind": "REFUND"}, True),
    ("st_finance", {"case_kind": "REFUND", "category": "NSFW"}, False),
    ("st_finance", {"case_kind": "MODERATION"}, False),
    ("st_city", {"case_kind": "CITY"}, True),
    ("st_city", {"case_kind": "MODERATION"}, False),
    ("st_audit", {"case_kind": "CITY"}, True),
]


@pytest.mark.contract("AZ-2", "WS-7")
async def test_a_case_event_reaches_exactly_those_who_may_read_the_case(stage: Stage) -> None:
    people = sorted({person for person, _, _ in CASE_HEARERS})
    async with _Sockets(stage, people) as sockets:
        for person in people:
            await sockets[person].subscribe(LIVE_TAIL)
        for number, (_, event, _) in enumerate(CASE_HEARERS):
            await stage.case_event(f"c{number}", **event)
        heard = await sockets.drained()
        for number, (person, event, expected) in enumerate(CASE_HEARERS):
            assert (f"c{number}" in heard[person]) is expected, (person, event)


@pytest.mark.contract("AZ-2")
async def test_an_approval_event_reaches_its_requester_those_who_may_vote_their_lead_and_the_auditor(
    stage: Stage,
) -> None:
    people = ["st_support", "st_finance", "st_small", "st_lead", "st_audit", "st_ts"]
    async with _Sockets(stage, people) as sockets:
        for person in people:
            await sockets[person].subscribe(APPROVALS)
        await stage.approval_event("of_12000", "lisbon", amount=12_000)
        await stage.approval_event("of_60000", "lisbon", amount=60_000)
        await stage.approval_event("of_9_million", "lisbon", amount=900_000_000)
        await stage.approval_event("in_berlin", "berlin", amount=12_000)
        await stage.approval_event("of_the_lead", "lisbon", requester="st_lead", amount=12_000)
        heard = await sockets.drained("requestId")
    assert heard == {
        "st_support": {"of_12000", "of_60000", "of_9_million", "in_berlin"},  # his own, whatever the amount
        "st_finance": {"of_12000", "of_60000", "in_berlin", "of_the_lead"},  # up to 500,000, every city
        "st_small": {"of_12000", "of_the_lead"},  # up to 50,000, Lisbon
        "st_lead": {"of_12000", "in_berlin", "of_the_lead"},  # his team's and his own, up to 20,000
        "st_audit": {"of_12000", "of_60000", "of_9_million", "in_berlin", "of_the_lead"},
        "st_ts": set(),
    }


async def test_an_alert_reaches_its_recipients_within_their_cities_and_the_auditor(stage: Stage) -> None:
    people = ["st_finance", "st_small", "st_berlin", "st_audit"]
    async with _Sockets(stage, people) as sockets:
        for person in people:
            await sockets[person].subscribe(ALERTS)
        await stage.alert(["st_finance", "st_small", "st_berlin"], "lisbon", "a1")
        await stage.alert(["st_small"], None, "a2")
        heard = await sockets.drained("id")
    assert heard == {"st_finance": {"a1"}, "st_small": {"a1"}, "st_berlin": set(), "st_audit": {"a1", "a2"}}


@pytest.mark.contract("AZ-7", "WS-6")
async def test_an_event_written_after_a_revocation_is_never_told(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        subscription = await client.subscribe(LIVE_TAIL)
        for number in range(20):
            await stage.owner("UPDATE staff_grant SET city_ids = '{lisbon}' WHERE id = 'g1'")
            await stage.case_event(f"secret{number}", "berlin")
            await stage.case_event(f"open{number}", "lisbon")
            assert (await client.event(subscription))["caseId"] == f"open{number}"
            await stage.owner("UPDATE staff_grant SET city_ids = '{*}' WHERE id = 'g1'")
            await stage.case_event(f"shared{number}", "berlin")
            assert (await client.event(subscription))["caseId"] == f"shared{number}"


@pytest.mark.contract("AZ-2")
async def test_who_hears_of_an_object_is_who_can_read_it(stage: Stage) -> None:
    """The hub asks the policy in Python, the reader in SQL: both give the same answer for every person and object."""
    people = ["st_ts", "st_berlin", "st_support", "st_finance", "st_small", "st_lead", "st_audit", "st_city"]
    conn = await asyncpg.connect(**stage.database.superuser)
    objects: list[tuple[str, str, tuple[str, str], str | None, dict[str, Any]]] = []
    for city in ("lisbon", "berlin", None):
        for kind in ("MODERATION", "REFUND", "CITY"):
            for category in ("SFW", "NSFW", "PROHIBITED"):
                case_id = await factories.case(conn, city_id=city, kind=kind, content_category=category)
                objects.append(
                    ("Case", case_id, ("case", "read"), city, {"caseKind": kind, "contentCategory": category})
                )
    for city in ("lisbon", "berlin"):
        for requester in ("st_support", "st_lead", "st_finance"):
            for amount in (4_000, 20_000, 50_000, 500_001):
                facts = {"amountMinor": amount, "sum24hMinor": amount}
                request_id = await factories.approval(conn, requester, city_id=city, amount_minor=amount)
                objects.append(
                    (
                        "ApprovalRequest",
                        request_id,
                        ("approval", "read"),
                        city,
                        {**facts, "action": "refund.request", "requesterId": requester},
                    )
                )
    for city in ("lisbon", None):
        for recipients in (["st_small", "st_audit"], ["st_berlin", "st_finance"]):
            alert_id = await factories.alert(conn, *recipients, city_id=city)
            objects.append(("Alert", alert_id, ("alert", "read"), city, {"recipientIds": recipients}))
    snapshot = await stage.parts.authorizer.current(await conn.fetchval("SELECT version FROM authz_version"))
    await conn.close()
    heard: list[bool] = []
    async with stage.parts.app_pool.acquire() as reading:
        for person in people:
            identity = await stage.parts.callers.identify({"authorization": stage.token(person)}, "-")
            caller = stage.parts.callers.under(identity, snapshot)
            assert caller is not None
            for type_name, object_id, right, city, facts in objects:
                async with reading.transaction():
                    await reading.execute("SELECT set_config('countersign.cities', '*', true)")
                    try:
                        await stage.parts.reader.find(reading, caller, snapshot, type_name, object_id)
                        readable = True
                    except ConsoleError:
                        readable = False
                heard.append(may_hear(snapshot, caller, right, city_id=city, facts=facts))
                assert heard[-1] is readable, (person, type_name, city, facts)
    assert 100 < sum(heard) < len(heard) - 100, "both answers occur"


@pytest.mark.contract("WS-6", "AZ-8")
async def test_a_right_that_is_taken_away_ends_what_it_carried_and_spares_the_rest(stages: MakeStage) -> None:
    stage = await stages(Limits(session_check_seconds=0.3))
    await stage.owner(
        "INSERT INTO staff_grant (id, staff_id, role, tier, city_ids, content_categories) VALUES ('g9', 'st_small', 'SUPPORT', 'AGENT', '{lisbon}', '{SFW}')"
    )
    async with stage.appsync("st_ts") as client:
        other = await client.subscribe(LIVE_TAIL)
        mine = await client.subscribe(LIVE_TAIL, credentials=stage.credentials(stage.token("st_small")))
        began = time.monotonic()
        await stage.owner("DELETE FROM staff_grant WHERE staff_id = 'st_small'")
        frame = await client.receive(6)
        assert time.monotonic() - began < 5
        assert (frame["id"], frame["type"]) == (mine, "error")
        assert frame["payload"]["errors"][0]["errorType"] == "SubscriptionNotAllowed"
        assert len(frame["payload"]["errors"][0]["errorInfo"]["cursor"]) == 22
        await stage.case_event("c1")
        assert (await client.event(other))["caseId"] == "c1"


@pytest.mark.contract("WS-6", "TK-5")
@pytest.mark.parametrize(
    "change", ["state = 'LOCKED'", "state = 'OFFBOARDED'", "not_before = now() + interval '1 minute'"]
)
async def test_a_locked_or_offboarded_person_is_disconnected_within_five_seconds(stage: Stage, change: str) -> None:
    async with stage.appsync("st_ts") as client, stage.appsync("st_berlin") as other:
        await client.subscribe(LIVE_TAIL)
        subscription = await other.subscribe(LIVE_TAIL)
        began = time.monotonic()
        await stage.owner(f"UPDATE staff SET {change} WHERE id = 'st_ts'")
        await stage.case_event("secret", "berlin")
        assert (await other.event(subscription))["caseId"] == "secret"
        assert await client.closed() == 4401
        assert time.monotonic() - began < 5
        async with stage.appsync("st_ts", init=False) as again:
            await again.send(type="connection_init")
            assert (await again.receive())["type"] == "connection_error"


@pytest.mark.contract("WS-6")
async def test_a_socket_ends_with_its_token(stages: MakeStage) -> None:
    stage = await stages(Limits(session_check_seconds=0.2, token_leeway_seconds=-57))
    async with stage.appsync("st_ts") as client:
        # The handshake's token has an hour, the start's has a minute, and the leeway is moved so that it ends in 3 s.
        short = stage.credentials(stage.token("st_ts", timedelta(seconds=60)))
        await client.subscribe(LIVE_TAIL, credentials=short)
        began = time.monotonic()
        assert await client.closed(9) == 4401
        assert 1.5 < time.monotonic() - began < 5


# ---------- slow readers ----------
@pytest.mark.contract("WS-5")
async def test_a_slow_reader_loses_his_subscription_and_nobody_else_anything(stages: MakeStage) -> None:
    stage = await stages(Limits(queue_events=20))
    padding = "x" * 20_000
    async with stage.appsync("st_ts", max_queue=1) as slow, stage.appsync("st_ts") as quick:
        lost = await slow.subscribe("subscription { onCaseEvent { caseId cursor kind } }")
        kept = await quick.subscribe(LIVE_TAIL)
        conn = await asyncpg.connect(**stage.database.as_role("cs_owner"))
        total = 600
        await conn.execute(
            "INSERT INTO event (position, topic, city_id, payload, facts, created_at)"
            " SELECT n, 'CaseEvent', 'lisbon', jsonb_build_object('caseId', 'c' || n, 'kind', $1::text, 'state', 'OPEN', 'priority', 1, 'version', 1,"
            " 'at', '2026-11-24T10:00:00.000Z'), '{\"caseKind\":\"MODERATION\",\"contentCategory\":\"SFW\"}', now() FROM generate_series(1, $2) n",
            padding, total,
        )  # fmt: skip
        await conn.execute("NOTIFY countersign_event")
        await conn.close()
        # Nobody reads on `slow` meanwhile: its kernel buffers fill, then its queue.
        assert [(await quick.event(kept))["caseId"] for _ in range(total)] == [f"c{n}" for n in range(1, total + 1)]
        seen: list[dict[str, Any]] = []
        while (frame := await slow.receive())["type"] == "data":
            seen.append(frame["payload"]["data"]["onCaseEvent"])
        assert (frame["id"], frame["type"]) == (lost, "error")
        error = frame["payload"]["errors"][0]
        assert error["errorType"] == "LIMIT_EXCEEDED"
        assert error["errorInfo"]["cursor"] == seen[-1]["cursor"], "the place to go on from is the last event he got"
        assert [event["caseId"] for event in seen] == [f"c{n}" for n in range(1, len(seen) + 1)]
        assert len(seen) < total
        assert lost not in {s.id for c in stage.realtime.connections for s in c.subscriptions.values()}


# ---------- the record ----------
@pytest.mark.contract("AU-2")
async def test_start_batches_and_end_are_on_record_before_the_data_leaves(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        subscription = await client.subscribe(CASE_EVENTS, {"cityId": "lisbon"})
        await stage.case_event("c1")
        await client.event(subscription)
        told = await stage.records()
        assert [record["result"]["outcome"] for record in told] == ["STARTED", "DELIVERED"], (
            "what was received is on record"
        )
        await client.send(id=subscription, type="stop")
        await client.receive()
    for _ in range(50):
        records = await stage.records()
        if len(records) == 3:
            break
        await asyncio.sleep(0.05)
    start, batch, end = records
    assert {record["kind"] for record in records} == {"subscription"}
    assert {(r["action"], r["field"], r["actor"]["sub"], r["actor"]["type"]) for r in records} == {
        ("case.subscribe", "Subscription.onCaseEvent", "st_ts", "staff")
    }
    assert start["operation"]["name"] == "Live"
    assert start["operation"]["arguments"].startswith("sha256:")
    assert batch["object"]["type"] == "Case"
    assert (batch["object"]["id"], batch["object"]["city"], batch["cause"]) == ("c1", "lisbon", start["id"])
    assert (end["result"]["outcome"], end["result"]["count"], end["cause"]) == ("ENDED", 1, start["id"])
    assert start["policy"]["row"] == "TRUST_SAFETY/AGENT/case:read/kinds.TRUST_SAFETY"
    assert "lisbon" not in json.dumps(start), "arguments stand in the log as a digest"


@pytest.mark.contract("FC-2")
async def test_without_a_record_nothing_is_told_and_the_subscription_ends_with_the_code(stage: Stage) -> None:
    async with stage.appsync("st_ts") as client:
        subscription = await client.subscribe(LIVE_TAIL)
        conn = await asyncpg.connect(**stage.database.superuser)
        await conn.execute("REVOKE EXECUTE ON FUNCTION audit.append FROM cs_app")
        await stage.case_event("c1")
        frame = await client.receive()
        assert (frame["id"], frame["type"]) == (subscription, "error")
        error = frame["payload"]["errors"][0]
        assert error["errorType"] == "AUDIT_UNAVAILABLE"
        assert error["errorInfo"]["retryable"] is True
        await client.start(LIVE_TAIL)
        assert (await client.receive())["payload"]["errors"][0]["errorType"] == "AUDIT_UNAVAILABLE"
        await conn.execute("GRANT EXECUTE ON FUNCTION audit.append TO cs_app")
        await conn.close()
        await client.subscribe(LIVE_TAIL)


@pytest.mark.contract("WS-8")
async def test_stopping_closes_the_sockets_within_a_second(stages: MakeStage) -> None:
    stage = await stages()
    async with stage.appsync("st_ts") as client:
        await client.subscribe(LIVE_TAIL)
        began = time.monotonic()
        await stage.realtime.stop()
        assert time.monotonic() - began < 1
        assert await client.closed() == 1001
    assert [r["result"]["outcome"] for r in await stage.records()] == ["STARTED", "ENDED"]


class _Sockets:
    """A socket for each of several people, and all that each of them hears until it is quiet."""

    def __init__(self, stage: Stage, people: list[str]) -> None:
        self._stage = stage
        self._people = people
        self._clients: dict[str, Any] = {}
        self._contexts: list[Any] = []

    async def __aenter__(self) -> Self:
        for person in self._people:
            context = self._stage.appsync(person)
            self._clients[person] = await context.__aenter__()
            self._contexts.append(context)
        return self

    async def __aexit__(self, *error: object) -> None:
        for context in self._contexts:
            await context.__aexit__(None, None, None)

    def __getitem__(self, person: str) -> Any:
        return self._clients[person]

    async def drained(self, name: str = "caseId") -> dict[str, set[str]]:
        """What each has heard, by one field of the events."""
        heard = await asyncio.gather(*(self._drain(person, name) for person in self._people))
        return dict(zip(self._people, heard, strict=True))

    async def _drain(self, person: str, name: str) -> set[str]:
        found: set[str] = set()
        while True:
            try:
                frame = await self._clients[person].receive(0.4)
            except TimeoutError:
                return found
            (value,) = frame["payload"]["data"].values()
            found.add(value[name])
