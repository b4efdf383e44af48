"""One process of the console as the wire's tests see it, and the client's side of the real-time protocols."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from audit.keys import Keys
from audit.writer import Writer
from authz.dev_issuer import DevIssuer
from authz.enforcer import Authorizer
from authz.identity import Authenticator
from authz.issuers import ApiKey
from db.migrate import head
from db.pool import open_pool
from resolvers import macro_preview
from resolvers.callers import Callers
from resolvers.clock_watch import ClockWatch
from resolvers.computed import Call
from resolvers.context import utc_now
from resolvers.cursors import Cursors
from resolvers.documents import Documents
from resolvers.edge import Edge
from resolvers.http import GraphQL
from resolvers.hub import Hub
from resolvers.limits import Front, Limits
from resolvers.parts import Parts
from resolvers.pipeline import Pipeline
from resolvers.reader import Reader
from resolvers.realtime import RealTime
from resolvers.realtime_records import StreamRecords
from resolvers.rest import Readiness, Routes, database_probe, healthz, jwks
from resolvers.tokens import Tokens
from schema.build import console
from schema.errors import ConsoleError
from tests.api.serving import served
from tests.api.tally import TALLY, Overheard
from tests.conftest import Database

PEOPLE = """
INSERT INTO staff (id, handle, display_name, email) VALUES
 ('st_ts', 'ts-agent', 'Tia', 'tia@example.com'), ('st_berlin', 'ts-agent-berlin', 'Bea', 'bea@example.com'),
 ('st_support', 'support-agent', 'Sam', 'sam@example.com'), ('st_finance', 'finance-senior', 'Fay', 'fay@example.com'),
 ('st_small', 'finance-agent', 'Fin', 'fin@example.com'), ('st_lead', 'support-lead', 'Lea', 'lea@example.com'),
 ('st_audit', 'auditor', 'Ada', 'ada@example.com'), ('st_city', 'cityops-agent', 'Cy', 'cy@example.com');
INSERT INTO staff_grant (id, staff_id, role, tier, city_ids, content_categories) VALUES
 ('g1', 'st_ts', 'TRUST_SAFETY', 'AGENT', '{*}', '{SFW,SUGGESTIVE,NSFW,PROHIBITED}'),
 ('g2', 'st_berlin', 'TRUST_SAFETY', 'AGENT', '{berlin}', '{SFW,SUGGESTIVE,NSFW}'),
 ('g3', 'st_support', 'SUPPORT', 'AGENT', '{lisbon,berlin}', '{SFW,SUGGESTIVE,NSFW}'),
 ('g4', 'st_finance', 'FINANCE', 'SENIOR', '{*}', '{SFW}'),
 ('g5', 'st_small', 'FINANCE', 'AGENT', '{lisbon}', '{SFW}'),
 ('g6', 'st_lead', 'SUPPORT', 'LEAD', '{lisbon,berlin}', '{SFW,SUGGESTIVE,NSFW}'),
 ('g7', 'st_audit', 'AUDITOR', 'LEAD', '{*}', '{SFW,SUGGESTIVE,NSFW,PROHIBITED}'),
 ('g8', 'st_city', 'CITY_OPS', 'AGENT', '{lisbon}', '{SFW}');
"""
# Stands for st_ts, opens two root fields only.
KEY = "csk-of-the-tests"
API_KEY = ApiKey(
    "key1",
    hashlib.sha256(KEY.encode()).digest(),
    frozenset({"me", "onAlert"}),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2100, 1, 1, tzinfo=UTC),
    "st_ts",
)
# Stands for the marketplace, in one city.
SERVICE_KEY = "csk-of-the-marketplace"
SERVICE_API_KEY = ApiKey(
    "key2",
    hashlib.sha256(SERVICE_KEY.encode()).digest(),
    frozenset({"submitReport", "getReport", "listReports", "getSubject", "addNote"}),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2100, 1, 1, tzinfo=UTC),
    service="MARKETPLACE",
    city_ids=("lisbon",),
    content_categories=("SFW",),
)
CASE_EVENTS = "subscription Live($caseId: ID, $cityId: ID, $filter: ModelSubscriptionCaseEventFilterInput) { onCaseEvent(caseId: $caseId, cityId: $cityId, filter: $filter) { cursor caseId kind state priority } }"
APPROVALS = "subscription { onApprovalEvent { cursor requestId state } }"
ALERTS = "subscription { onAlert { id kind targetId } }"


@dataclass
class Stage:
    """A running process: ``address`` to connect to, ``hub`` and ``parts`` to look into."""

    address: str
    database: Database
    parts: Parts
    hub: Hub
    realtime: RealTime
    dev: DevIssuer

    @staticmethod
    @asynccontextmanager
    async def opened(database: Database, folder: Path, limits: Limits, front: Front) -> AsyncIterator[Stage]:
        pool = await open_pool(database.dsn("cs_app"), size=6)
        audit_pool = await open_pool(database.dsn("cs_audit_reader"), size=2)
        dev = DevIssuer(folder / "keys")
        authorizer = Authorizer(pool, database.dsn("cs_app"))
        await authorizer.start()
        keys = Keys.open(folder)
        schema = console()
        writer = Writer(keys, origin="test/audit/main")
        reader = Reader(
            schema, pool, audit_pool, Tokens({"k": keys.next_token_key}, "k", clock=time.time), salt="s",
            functions={**dict.fromkeys(_AUDIT_ROOTS, _elsewhere), **macro_preview.functions(lambda: pipeline)},
        )  # fmt: skip
        pipeline = Pipeline(pool, authorizer, writer, reader.find, schema.rules)
        parts = Parts(
            console=schema,
            callers=Callers(
                Authenticator([], [API_KEY, SERVICE_API_KEY], dev),
                authorizer,
                clock=utc_now,
                bad_credential_rate=limits.bad_credential_rate,
            ),
            authorizer=authorizer,
            documents=Documents(schema.core),
            reader=reader,
            pipeline=pipeline,
            writer=writer,
            app_pool=pool,
            limits=limits,
            front=front,
        )
        records = StreamRecords(parts)
        realtime = RealTime(parts, records)
        hub = Hub(
            parts,
            database.dsn("cs_app"),
            cursor=Cursors(keys.next_token_key).seal,
            disclose=records.told,
            fail=realtime.fail,
        )
        realtime.attach(hub)
        await hub.start()
        await realtime.start()
        graphql = GraphQL(parts)
        http = {
            "/graphql": graphql, "/healthz": healthz, "/.well-known/jwks.json": jwks(dev),
            "/readyz": Readiness({"database": database_probe(pool, head()), "clock": ClockWatch(pool, _unheard).probe}),
        }  # fmt: skip
        routes = Routes(http, {"/graphql/realtime": realtime})
        try:
            async with served(Overheard(Edge(routes, parts.front), TALLY.of(database))) as address:
                yield Stage(address, database, parts, hub, realtime, dev)
                await realtime.stop()
        finally:
            await hub.stop()
            await parts.writer.close()
            await authorizer.stop()
            await pool.close()
            await audit_pool.close()

    def token(self, person: str, ttl: timedelta = timedelta(hours=1), **more: Any) -> str:
        return self.dev.token(person, ttl=ttl, **more)

    async def ask(
        self,
        person: str | None,
        query: str,
        variables: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """One operation over HTTP, as Amplify sends it."""
        credentials = {"authorization": self.token(person)} if person else {}
        async with httpx2.AsyncClient() as client:
            return await client.post(
                f"http://{self.address}/graphql",
                json={"query": query, "variables": dict(variables or {})},
                headers={**credentials, **(headers or {})},
            )

    # ---------- what happens in the database ----------
    async def owner(self, sql: str, *args: object) -> None:
        conn = await asyncpg.connect(**self.database.as_role("cs_owner"))
        try:
            await conn.execute(sql, *args)
        finally:
            await conn.close()

    async def event(
        self,
        topic: str,
        payload: Mapping[str, Any],
        facts: Mapping[str, Any],
        city: str | None = "lisbon",
        *,
        notify: bool = True,
    ) -> int:
        """Commit one event as the worker leaves it: numbered."""
        conn = await asyncpg.connect(**self.database.as_role("cs_owner"))
        try:
            position = await conn.fetchval(
                "INSERT INTO event (position, topic, city_id, payload, facts, created_at) SELECT coalesce(max(position), 0) + 1, $1, $2, $3::jsonb, $4::jsonb, now() FROM event RETURNING position",
                topic, city, json.dumps(payload), json.dumps(facts),
            )  # fmt: skip
            if notify:
                await conn.execute("NOTIFY countersign_event")
        finally:
            await conn.close()
        return int(position)

    async def case_event(
        self,
        case_id: str = "c1",
        city: str | None = "lisbon",
        *,
        kind: str = "CLAIMED",
        case_kind: str = "MODERATION",
        category: str = "SFW",
        **payload: Any,
    ) -> int:
        body = {
            "caseId": case_id, "queueId": "q1", "cityId": city, "kind": kind, "state": "CLAIMED", "assigneeId": None, "priority": 1, "version": 2,
            "at": "2026-11-24T10:00:00.000Z", **payload,
        }  # fmt: skip
        return await self.event("CaseEvent", body, {"caseKind": case_kind, "contentCategory": category}, city)

    async def approval_event(
        self, request_id: str = "apr_1", city: str = "lisbon", *, requester: str = "st_support", amount: int = 12_000
    ) -> int:
        body = {
            "requestId": request_id, "action": "refund.request", "requesterId": requester, "cityId": city, "state": "PENDING", "execution": "NOT_STARTED",
            "at": "2026-11-24T10:00:00.000Z",
        }  # fmt: skip
        facts = {
            "action": "refund.request",
            "requesterId": requester,
            "amountMinor": amount,
            "sum24hMinor": amount,
            "contentCategory": None,
        }
        return await self.event("ApprovalEvent", body, facts, city)

    async def alert(self, recipients: list[str], city: str | None = "lisbon", alert_id: str = "alt_1") -> int:
        body = {
            "id": alert_id, "kind": "APPROVAL_WAITING", "severity": 3, "cityId": city, "targetType": "ApprovalRequest", "targetId": "apr_1", "summary": "s",
            "createdAt": "2026-11-24T10:00:00.000Z", "acknowledgedAt": None, "acknowledgedById": None,
        }  # fmt: skip
        return await self.event("Alert", body, {"recipientIds": recipients}, city)

    async def records(self) -> list[dict[str, Any]]:
        """The audit records so far, in their order."""
        conn = await asyncpg.connect(**self.database.superuser)
        try:
            return [json.loads(row["body"]) for row in await conn.fetch("SELECT body FROM audit.intake ORDER BY n")]
        finally:
            await conn.close()

    # ---------- the client's side ----------
    def credentials(self, token: str | None) -> dict[str, str]:
        return {"host": self.address, **({"Authorization": token} if token is not None else {})}

    @asynccontextmanager
    async def appsync(self, person: str | None, *, init: bool = True, **options: Any) -> AsyncIterator[AppSyncClient]:
        """Open a socket as Amplify does and go through its handshake."""
        credentials = self.credentials(self.token(person) if person else None)
        async with connect(
            f"ws://{self.address}/graphql/realtime",
            subprotocols=["graphql-ws", header(credentials)],
            compression=None,
            **options,
        ) as socket:  # type: ignore[list-item]
            client = AppSyncClient(socket, self, credentials)
            if init:
                await client.send(type="connection_init")
                assert (await client.receive())["type"] == "connection_ack"
                assert await client.receive() == {"type": "ka"}
            yield client


def header(credentials: Mapping[str, Any]) -> str:
    return "header-" + base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode().rstrip("=")


@dataclass
class AppSyncClient:
    socket: ClientConnection
    stage: Stage
    credentials: dict[str, str] = field(default_factory=dict)

    async def send(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def receive(self, timeout: float = 5) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), timeout))
        return answer

    async def start(
        self,
        query: str,
        variables: Mapping[str, Any] | None = None,
        *,
        known_as: str | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> str:
        """Send a start; returns its id."""
        subscription = known_as or str(uuid.uuid4())
        data = json.dumps({"query": query, "variables": dict(variables or {})})
        authorization = {
            **(credentials or self.credentials),
            "x-amz-user-agent": "aws-amplify/6.22.1 api/1 framework/100",
        }
        await self.send(
            id=subscription, payload={"data": data, "extensions": {"authorization": authorization}}, type="start"
        )
        return subscription

    async def subscribe(self, query: str, variables: Mapping[str, Any] | None = None, **options: Any) -> str:
        subscription = await self.start(query, variables, **options)
        assert await self.receive() == {"id": subscription, "type": "start_ack"}
        return subscription

    async def event(self, subscription: str, timeout: float = 5) -> dict[str, Any]:
        """The one field of the next event of this subscription."""
        frame = await self.receive(timeout)
        assert (frame["id"], frame["type"]) == (subscription, "data"), frame
        (value,) = frame["payload"]["data"].values()
        assert isinstance(value, dict), frame
        return value

    async def silent(self, seconds: float = 0.3) -> None:
        try:
            frame = await self.receive(seconds)
        except TimeoutError:
            return
        raise AssertionError(frame)

    async def closed(self, timeout: float = 6) -> int:
        """The code of the close, after whatever else still comes."""
        async with asyncio.timeout(timeout):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await self.socket.recv()
        assert self.socket.close_code is not None
        return self.socket.close_code


async def _elsewhere(_: Call) -> Any:
    """The audit's own root fields have their own tests."""
    raise ConsoleError("DEPENDENCY_UNAVAILABLE")


async def _unheard(code: str, text: str) -> None:
    raise AssertionError(f"{code}: {text}")  # a probe alarms nobody


_AUDIT_ROOTS = ("verifyAudit", "getAuditProof", "getAuditCheckpoint", "listAuditCheckpoints", "auditHealth")
