"""Telemetry of the real server, told to a real collector: what must be in it is, and nothing that a person wrote or is.

Every free text, variable, header, literal, token and personal column of the scenario is a marker of its own; none may come
out in a span, a metric, a log record or a line of output.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import logging
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import asyncpg
import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from countersign.collector import knock
from countersign.doctor import _telemetry
from countersign.logs import Lines
from countersign.settings import Settings, SettingsError, load
from countersign.telemetry import STOP_SECONDS, running
from countersign.telemetry_buffer import Buffer
from db.statements import summary
from db.tables import metadata
from schema import telemetry
from schema.errors import ConsoleError
from tests.clients.conftest import Server
from tests.conftest import private_folder
from tests.otlp import Collector, Span, collecting

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for path in sorted(ROOT.glob("*.py")) + sorted(ROOT.glob("[a-z]*/**/*.py"))
    if path.relative_to(ROOT).parts[0] not in ("tests", "benchmarks", "migrations")
]
# What a person wrote, is called, or is secret: each place has a marker of its own, so that a leak names itself.
PLACES = (
    "note", "reason", "ticket", "comment", "detail", "reporter", "literal", "alias", "syntax", "variable", "token", "agent",
    "header", "key", "external", "display", "email", "buyer", "summary", "cursor", "failing", "path",
)  # fmt: skip
# Letters only: seven digits in a row would be masked as a telephone number, once in a few dozen runs.
LETTERS = str.maketrans("0123456789", "ghijklmnop")
MARKERS = {place: f"Mk{place.capitalize()}{uuid.uuid4().hex[:8].translate(LETTERS)}" for place in PLACES}
TRACE, PARENT = "5bd66ef5095369c7b0d1f8f4bd33716a", "00f067aa0ba902b7"


@dataclass
class World:
    """The server, its collector, and what the scenario was answered."""

    server: Server
    collector: Collector
    traces: dict[str, str] = field(default_factory=dict)  # step -> trace id as the answer's header has it
    answers: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def token(self, handle: str) -> str:
        if handle not in self.tokens:
            self.tokens[handle] = self.server.cli("token", "--as", handle).stdout.strip()
        return self.tokens[handle]

    async def ask(
        self,
        step: str,
        handle: str,
        query: str,
        variables: Mapping[str, Any] | None = None,
        **headers: str,
    ) -> dict[str, Any]:
        body = {"query": query, "variables": dict(variables or {})}
        sent = {
            "authorization": await asyncio.to_thread(self.token, handle),
            "user-agent": MARKERS["agent"],
            "x-amz-user-agent": MARKERS["header"],
        }
        async with httpx2.AsyncClient() as client:
            answer = await client.post(f"{self.server.url}/graphql", json=body, headers=sent | headers, timeout=30)
        self.traces[step] = answer.headers["traceresponse"].split("-")[1]
        self.answers[step] = answer.json()
        return self.answers[step]  # type: ignore[no-any-return]

    def spans(self, step: str) -> list[Span]:
        return [span for span in self.collector.spans if span.trace_id == self.traces[step]]

    def root(self, step: str) -> Span:
        found = self.collector.wait(lambda: [span for span in self.spans(step) if span.name == "POST /graphql"])
        assert len(found) == 1
        return found[0]  # type: ignore[no-any-return]

    async def superuser(self, sql: str) -> None:
        async with self._connected() as conn:
            await conn.execute(sql)

    async def recorded(self) -> list[dict[str, Any]]:
        """Every record of the log, sealed or not."""
        async with self._connected() as conn:
            rows = await conn.fetch("SELECT body FROM audit.record UNION ALL SELECT body FROM audit.intake")
        return [json.loads(row["body"]) for row in rows]

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        settings: Settings = load(home=self.server.home)
        conn = await asyncpg.connect(**settings.superuser_kwargs())
        try:
            yield conn
        finally:
            await conn.close()


PERSONAL = f"""
SET session_replication_role = replica;
UPDATE staff SET display_name = display_name || ' {MARKERS["display"]}', email = '{MARKERS["email"]}@example.com';
UPDATE subject SET display_name = display_name || ' {MARKERS["display"]}';
UPDATE report SET detail = '{MARKERS["detail"]}', reporter_id = reporter_id || '{MARKERS["reporter"]}';
UPDATE timeline SET summary = summary || ' {MARKERS["summary"]}';
UPDATE note SET body = '{MARKERS["note"]}';
UPDATE order_ledger SET buyer_id = buyer_id || '{MARKERS["buyer"]}';
RESET session_replication_role;
CREATE FUNCTION refuse_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.body LIKE '%{MARKERS["failing"]}%' THEN RAISE EXCEPTION 'refused: %', NEW.body USING ERRCODE = 'check_violation', DETAIL = NEW.body; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER refuse_note BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION refuse_note();
"""
CLAIM = """mutation Claim($queueId: ID!, $key: ID) { claimNextCase(queueId: $queueId, idempotencyKey: $key) {
  leaseToken case { id version subject { displayNameMasked } reports(limit: 5) { items { id detail reporterMasked } } timeline(limit: 5) { items { summary } } } } }"""
NOTE = "mutation Note($input: NoteInput!) { addNote(input: $input) { note { id body } } }"
REFUND = """mutation Refund($input: RequestRefundInput!) { requestRefund(input: $input) {
  outcome refund { id } approvalRequest { id payloadHash summary } audit { id } } }"""
VOTE = "mutation Vote($input: VoteInput!) { voteOnApproval(input: $input) { outcome request { state votes { voter { displayName } } } } }"


async def scenario(world: World) -> None:
    """The main job, with what goes wrong in it: free text everywhere, refusals, bad documents, a failing statement."""
    queue = {"queueId": "q_moderation_lisbon", "key": MARKERS["key"] + "-claim"}
    claimed = await world.ask("claim", "ts-agent", CLAIM, queue, traceparent=f"00-{TRACE}-{PARENT}-01")
    case = claimed["data"]["claimNextCase"]["case"]["id"]
    note = {"caseId": case, "body": MARKERS["note"], "internal": True, "idempotencyKey": MARKERS["key"] + "-note"}
    await world.ask("note", "ts-agent", NOTE, {"input": note})
    await world.ask("replay", "ts-agent", NOTE, {"input": note})
    failing = {**note, "body": MARKERS["failing"], "idempotencyKey": MARKERS["key"] + "-failing"}
    await world.ask("failing", "ts-agent", NOTE, {"input": failing})
    amount = {"amountMinor": 12_000, "currency": "EUR"}
    reason = {"code": "SERVICE_NOT_PROVIDED", "note": MARKERS["reason"], "ticketRef": MARKERS["ticket"]}
    refund = {"orderId": "o_1042", "amount": amount, "idempotencyKey": MARKERS["key"] + "-refund", "reason": reason}
    asked = await world.ask("refund", "support-agent", REFUND, {"input": refund})
    request = asked["data"]["requestRefund"]["approvalRequest"]
    vote = {"requestId": request["id"], "vote": "APPROVE", "payloadHash": request["payloadHash"]}
    vote["comment"] = MARKERS["comment"]
    await world.ask("own vote", "support-agent", VOTE, {"input": vote})
    await world.ask("vote", "finance-senior", VOTE, {"input": vote})
    await world.ask("nothing", "ts-agent", f'{{ getCase(id: "{MARKERS["literal"]} of her") {{ id }} }}')
    alias = f'{{ {MARKERS["alias"]}: getCase(id: "{case}") {{ {MARKERS["alias"]}: id }} }}'
    await world.ask("alias", "ts-agent", alias)
    await world.ask("alias again", "ts-agent", alias)
    await world.ask("invalid", "ts-agent", f'{{ getCase(id: "{MARKERS["literal"]}") {{ noSuchField }} }}')
    await world.ask("syntax", "ts-agent", f'{{ getCase(id: "{MARKERS["syntax"]}" ')
    await world.ask("variable", "ts-agent", "query($id: Int!) { getCase(id: $id) { id } }", {"id": MARKERS["variable"]})
    listed = "query($t: String) { listCases(limit: 1, nextToken: $t) { items { id } nextToken } }"
    await world.ask("cursor", "ts-agent", listed, {"t": MARKERS["cursor"]})
    await world.ask("person", "admin", "{ me { staff { id email displayName } } }")
    malformed = base64.urlsafe_b64encode(MARKERS["token"].encode()).decode()
    await world.ask("token", "ts-agent", "{ me { staff { id } } }", authorization=f"{malformed}.{malformed}.x")
    async with httpx2.AsyncClient() as client:
        await client.get(f"{world.server.url}/{MARKERS['path']}?token={MARKERS['token']}")


async def subscribed(world: World) -> None:
    """A person hears of his approvals while somebody asks for one more."""
    authorization = {"host": f"127.0.0.1:{world.server.port}", "Authorization": world.token("finance-senior")}
    header = base64.urlsafe_b64encode(json.dumps(authorization).encode()).decode().rstrip("=")
    address = f"ws://127.0.0.1:{world.server.port}/graphql/realtime"
    protocols: Any = ["graphql-ws", f"header-{header}"]
    async with connect(address, subprotocols=protocols, user_agent_header=MARKERS["agent"]) as socket:
        await socket.send('{"type":"connection_init"}')
        alerts = "subscription Told { onAlert { id summary } }"
        payload = {"data": json.dumps({"query": alerts}), "extensions": {"authorization": authorization}}
        await socket.send(json.dumps({"id": "1", "type": "start", "payload": payload}))
        payload["data"] = json.dumps({"query": f"subscription {{ onAlert(kind: {MARKERS['literal']}) {{ id }} }}"})
        await socket.send(json.dumps({"id": "2", "type": "start", "payload": payload}))
        async with asyncio.timeout(20):
            while json.loads(await socket.recv())["type"] != "start_ack":
                pass
            amount = {"amountMinor": 11_000, "currency": "EUR"}
            reason = {"code": "SERVICE_NOT_PROVIDED", "note": MARKERS["reason"]}
            more = {"orderId": "o_1042", "amount": amount, "idempotencyKey": MARKERS["key"] + "-more", "reason": reason}
            await world.ask("more", "support-agent", REFUND, {"input": more})
            while json.loads(await socket.recv())["type"] != "data":
                pass


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world() -> AsyncIterator[World]:
    """One server with the demo, told to a collector; the scenario has been played and the server has stopped."""
    folder = private_folder()
    with collecting() as collector:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BLRP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        server = Server(folder / "home", environment=settings)
        world = World(server, collector)
        try:
            await asyncio.to_thread(server.start)
            await world.superuser(PERSONAL)
            await scenario(world)
            await subscribed(world)
            for name in ("audit anchor", "delivery", "deed", "events tell"):
                await asyncio.to_thread(
                    collector.wait, lambda name=name: [s for s in collector.spans if s.name == name]
                )
            await asyncio.sleep(1)
            world.records = await world.recorded()
            await asyncio.to_thread(server.stop)
            yield world
        finally:
            await asyncio.to_thread(server.stop)
            shutil.rmtree(folder, ignore_errors=True)


# ---------- what must not be there ----------
@pytest.mark.contract("PV-1", "PV-2")
def test_no_marker_is_in_a_span_a_metric_a_log_record_or_a_line_of_output(world: World) -> None:
    answered = json.dumps(world.answers)
    shown = {place for place, marker in MARKERS.items() if marker in answered}
    assert {"note", "display", "email", "detail"} <= shown, "the markers are where the main job meets them"
    assert world.answers["failing"]["errors"][0]["errorType"] == "INTERNAL"
    sent, said = world.collector.raw, world.server.log()
    assert len(world.collector.spans) > 100
    assert {place for place, marker in MARKERS.items() if marker.encode() in sent} == set()
    assert {place for place, marker in MARKERS.items() if marker in said} == set()


@pytest.mark.contract("PV-2")
def test_no_marker_is_in_clear_in_the_audit_log_or_in_an_error(world: World) -> None:
    records = "\n".join(json.dumps({**record, "priv": None}) for record in world.records)
    known = {"key", "ticket"}  # references that the caller gives, not texts: a record says them
    assert {place for place, marker in MARKERS.items() if marker in records} <= known
    errors = json.dumps([answer["errors"] for answer in world.answers.values() if "errors" in answer])
    own = {"syntax", "literal", "alias"}  # what graphql-core says of the text that the caller himself has sent
    assert {place for place, marker in MARKERS.items() if marker in errors} <= own


def test_no_token_and_no_id_of_an_object_is_told(world: World) -> None:
    sent = world.collector.raw
    assert not [handle for handle, token in world.tokens.items() if token.rpartition(".")[2].encode() in sent]
    told = [*world.collector.spans, *world.collector.points]
    values = {v for one in told for v in getattr(one, "attributes", getattr(one, "labels", {})).values()}
    ids = {str(value) for value in values if re.match(r"(case|o|rf|apr|st|sub|rep|q|dlv|note)_", str(value))}
    assert ids <= set(metadata.tables)


def test_only_names_of_the_catalogue_are_told(world: World) -> None:
    spans, points = world.collector.spans, world.collector.points
    statements = {span.name for span in spans if "db.query.summary" in span.attributes}
    assert {span.name for span in spans} - statements <= telemetry.SPANS
    assert {key for span in spans for key in span.attributes} <= telemetry.KEYS
    metrics = {metric.name: metric for metric in telemetry.METRICS}
    assert [p for p in points if p.name not in metrics or not p.labels.keys() <= set(metrics[p.name].labels)] == []
    assert {key for line in world.collector.lines for key in line.attributes} <= {"logger.name"}


def test_a_span_has_no_message_and_no_event(world: World) -> None:
    assert [span for span in world.collector.spans if span.message or span.events] == []


# ---------- what must be there ----------
def test_a_clients_trace_is_continued_and_stands_in_the_audit_record(world: World) -> None:
    root = world.root("claim")
    assert (root.trace_id, root.parent_id) == (TRACE, PARENT)
    assert root.attributes["graphql.operation.name"] == "Claim"
    assert root.attributes["graphql.operation.type"] == "mutation"
    assert re.fullmatch("[0-9a-f]{64}", root.attributes["countersign.document.hash"])
    assert root.attributes["http.response.status_code"] == 200
    assert not root.failed
    recorded = [record for record in world.records if record["request"]["trace"] == TRACE]
    assert {record["action"] for record in recorded} == {"case.claim"}
    traces = {record["request"]["trace"] for record in world.records}
    assert {world.traces[step] for step in ("refund", "own vote", "nothing", "person", "failing")} <= traces


def test_a_mutation_is_told_from_its_request_to_its_commit(world: World) -> None:
    root = world.root("refund")
    children = {span.name: span for span in world.spans("refund") if span.parent_id == root.span_id}
    assert {"authenticate", "document", "mutation"} <= children.keys()
    mutation = children["mutation"]
    assert mutation.attributes["countersign.field"] == "requestRefund"
    assert mutation.attributes["countersign.outcome"] == "PENDING_APPROVAL"
    recorded = world.answers["refund"]["data"]["requestRefund"]["audit"]["id"]
    assert mutation.attributes["countersign.audit.id"] == recorded
    inside = [span.name for span in world.spans("refund") if span.parent_id == mutation.span_id]
    assert {"plan", "SELECT audit.append", "COMMIT"} <= set(inside)
    assert inside.count("COMMIT") == 1


def test_a_second_request_finds_its_document_and_its_plan(world: World) -> None:
    for step, cached in (("alias", False), ("alias again", True)):
        told = {span.name: span.attributes for span in world.spans(step)}
        assert told["document"]["countersign.cached"] is cached
        assert told["plan"]["countersign.cached"] is cached
        assert told["plan"]["countersign.finish"]


def test_a_refusal_is_a_code_and_only_what_breaks_is_an_error(world: World) -> None:
    for step, code in {
        "own vote": "Unauthorized",
        "nothing": None,
        "cursor": "INVALID_NEXT_TOKEN",
        "token": "UnauthorizedException",
        "syntax": "MalformedHttpRequestException",
    }.items():
        root = world.root(step)
        assert root.attributes.get("error.type") == code, step
        assert not root.failed, step
    assert world.root("token").attributes["http.response.status_code"] == 401
    broken = world.root("failing")
    assert (broken.attributes["error.type"], broken.failed) == ("INTERNAL", True)
    insert = next(span for span in world.spans("failing") if span.name == "INSERT note")
    assert insert.attributes["error.type"] == "CheckViolationError"
    assert insert.attributes["db.response.status_code"] == "23514"


def test_a_group_commit_links_to_those_who_wait_for_it(world: World) -> None:
    root = world.root("nothing")
    appended = [span for span in world.collector.spans if span.name == "audit append"]
    assert any(root.span_id in span.links for span in appended)
    assert {span.parent_id for span in appended} == {""}


def test_the_background_child_tells_what_it_seals_delivers_and_settles(world: World) -> None:
    of = {span.name: span for span in world.collector.spans if span.role == "work"}
    assert of["audit seal"].attributes["countersign.record.count"] >= 1
    assert of["audit anchor"].attributes["countersign.tree.size"] >= 1
    assert of["delivery"].attributes["countersign.port"] == "OrdersRefundKernel"
    assert re.fullmatch(r"[0-9a-f-]{36}", of["delivery"].attributes["countersign.audit.id"])
    deeds = {s.attributes["countersign.operation"] for s in world.collector.spans if s.name == "deed"}
    assert "refund.settle" in deeds
    idle = [span for span in world.collector.spans if "db.query.summary" in span.attributes and not span.parent_id]
    assert idle == [], "an idle poll leaves no trace"


def test_metrics_count_what_happened(world: World) -> None:
    latest = {(p.role, p.name, tuple(sorted(p.labels.items()))): p.value for p in world.collector.points}

    def total(name: str, **labels: Any) -> float:
        wanted = {key.replace("__", "."): value for key, value in labels.items()}
        return sum(
            value for (_, of, had), value in latest.items() if of == name and wanted.items() <= dict(had).items()
        )

    decisions = "countersign.decisions"
    assert total(decisions, countersign__outcome="REPLAYED") == 1
    assert total(decisions, countersign__outcome="PENDING_APPROVAL") == 2
    assert total(decisions, countersign__decision="DENIED", error__type="Unauthorized") >= 1
    assert total("countersign.operation.duration", countersign__field="requestRefund") == 2
    assert total("countersign.operation.duration", error__type="UnauthorizedException") == 1
    assert total("countersign.events.delivered", countersign__field="onAlert") >= 1
    assert total("countersign.cache.entries", countersign__cache="plans") >= 3
    assert total("countersign.cache.lookups", countersign__cache="documents", countersign__result="hit") >= 1
    assert total("countersign.finishes") >= 5
    assert total("countersign.audit.sealed") >= 10
    assert total("countersign.telemetry.dropped") == 0
    assert total("db.client.connection.max") >= 8
    assert total("db.client.operation.duration", db__collection__name="note", error__type="CheckViolationError") == 1
    names = {p.name for p in world.collector.points}
    quiet = {
        "countersign.events.dropped", "countersign.rate_limited", "countersign.jwks.failures", "countersign.listen.lost",
    }  # fmt: skip
    assert {metric.name for metric in telemetry.METRICS} - names <= quiet, "every other metric has been told"


def test_a_log_record_names_its_trace_and_leads_to_the_request(world: World) -> None:
    internal = [line for line in world.collector.lines if line.body.startswith("internal error request=")]
    assert [(line.trace_id, line.severity) for line in internal] == [(world.traces["failing"], "ERROR")]
    assert world.root("failing").attributes["countersign.request.id"] in internal[0].body
    lines = [json.loads(line) for line in world.server.log().splitlines() if line.startswith('{"time"')]
    assert [line["trace_id"] for line in lines if "internal error" in line["message"]] == [world.traces["failing"]]


# ---------- a collector that is not there (FC-12) ----------
class Slow:
    """An exporter that hangs until told, and counts."""

    def __init__(self, *, arrives: bool = True, seconds: float = 0) -> None:
        self.arrives, self.seconds, self.batches = arrives, seconds, []  # type: ignore[var-annotated]

    def __call__(self, items: Any) -> bool:
        time.sleep(self.seconds)
        self.batches.append(list(items))
        return self.arrives


@pytest.mark.contract("FC-12")
def test_a_full_buffer_drops_counts_and_waits_for_nobody() -> None:
    slow = Slow(seconds=0.3)
    buffer = Buffer("spans", slow, capacity=10, batch=5, delay_seconds=5)
    began = time.monotonic()
    for number in range(100):
        buffer.put(number)
    assert time.monotonic() - began < 0.2
    buffer.stop(time.monotonic() + 3)
    sent = [one for batch in slow.batches for one in batch]
    assert sent == sorted(sent)
    assert len(sent) + buffer.lost["queue_full"] == 100
    assert buffer.lost["queue_full"] >= 80


@pytest.mark.contract("FC-12")
def test_what_does_not_arrive_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    deaf = Slow(arrives=False)
    buffer = Buffer("spans", deaf, capacity=100, batch=1, delay_seconds=0.01)
    with caplog.at_level(logging.WARNING):
        for number in range(10):
            buffer.put(number)
        _until(lambda: buffer.lost["not_delivered"] == 10)
        deaf.arrives = True
        buffer.put(10)
        buffer.stop(time.monotonic() + 2)
    assert [record.getMessage() for record in caplog.records] == [
        "spans are not delivered: the collector does not take them; the console goes on",
        "spans are delivered again; 10 were lost",
    ]


@pytest.mark.contract("FC-12")
def test_a_stop_leaves_a_hanging_collector_behind() -> None:
    buffer = Buffer("spans", Slow(seconds=30), capacity=10, batch=1, delay_seconds=0.01)
    buffer.put(1)
    time.sleep(0.05)
    began = time.monotonic()
    buffer.stop(began + 0.5)
    assert time.monotonic() - began < 1


@pytest.fixture
def told_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that this process's own telemetry would go to."""
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield collector


@pytest.mark.contract("FC-12")
@pytest.mark.parametrize(("status", "seconds"), [(503, 0.0), (200, 30.0)], ids=["refuses", "hangs"])
async def test_a_process_ends_in_time_whatever_its_collector_does(
    told_to: Collector, status: int, seconds: float
) -> None:
    told_to.status, told_to.seconds = status, seconds
    async with running(load().telemetry, "work"):
        for _ in range(50):
            with telemetry.span("deed"):
                telemetry.count(telemetry.AUDIT_SEALED)
                logging.getLogger("countersign.test").error("one line")
        await asyncio.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < STOP_SECONDS + 1
    assert not telemetry.on()


async def test_a_stop_sends_what_waits(told_to: Collector) -> None:
    async with running(load().telemetry, "work"):
        with telemetry.span("deed", {"countersign.operation": "lease.expire"}):
            telemetry.count(telemetry.AUDIT_SEALED, 3)
            logging.getLogger("countersign.test").error("one line")
    assert [(span.name, span.role) for span in told_to.spans] == [("deed", "work")]
    assert [point.value for point in told_to.points if point.name == "countersign.audit.sealed"] == [3]
    assert [(line.body, line.trace_id) for line in told_to.lines] == [("one line", told_to.spans[0].trace_id)]


async def test_the_console_gets_one_line_of_json_a_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for signal in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "console")
    async with running(load().telemetry, "serve"):
        with telemetry.span("deed"):
            telemetry.count(telemetry.AUDIT_SEALED)
            logging.getLogger("countersign.test").error("one line")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["name"] for one in told if "name" in one] == ["deed"]
    assert [one["body"] for one in told if "body" in one] == ["one line"]
    assert [len(one["resource_metrics"]) for one in told if "resource_metrics" in one] == [1]


async def test_what_is_not_on_the_list_is_dropped(told_to: Collector) -> None:
    async with running(load().telemetry, "serve"):
        wrong: Any = {"countersign.field": "getCase", "http.request.header.authorization": "secret", "case.id": "c1"}
        with telemetry.span("plan", wrong) as told:
            told.set("db.query.text", "SELECT 1")  # type: ignore[arg-type]  # the point of the test
        telemetry.count(telemetry.AUDIT_SEALED, 1, {"countersign.field": "getCase"})
        with telemetry.span("a name of nobody"):  # type: ignore[arg-type]  # as above
            pass
    assert [(span.name, span.attributes) for span in told_to.spans] == [("plan", {"countersign.field": "getCase"})]
    assert [point.labels for point in told_to.points if point.name == "countersign.audit.sealed"] == [{}]
    assert b"secret" not in told_to.raw


async def test_an_unsampled_client_is_not_told_but_answered_with_his_trace(told_to: Collector) -> None:
    async with running(load().telemetry, "serve"):
        with telemetry.span(
            "POST /graphql", kind="server", parent=telemetry.Remote(TRACE, PARENT, sampled=False)
        ) as told:
            assert told.trace_id == TRACE
            with telemetry.statement(summary("SELECT 1 FROM note")):
                pass
    assert told_to.spans == []


# ---------- settings ----------
@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, ((), (), ())),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, (("otlp",), ("otlp",), ())),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:4318/v1/logs"}, ((), (), ("otlp",))),
        ({"OTEL_TRACES_EXPORTER": "console"}, (("console",), (), ())),
        ({"OTEL_TRACES_EXPORTER": "otlp,console", "OTEL_LOGS_EXPORTER": "otlp"}, (("otlp", "console"), (), ("otlp",))),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, (("otlp",), (), ())),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, ((), (), ())),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ((), (), ())),
    ],
)
def test_telemetry_is_off_until_a_standard_variable_says_so(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: tuple[tuple[str, ...], ...]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = load().telemetry
    assert (found.traces, found.metrics, found.logs) == told
    assert found.on is any(told)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_METRICS_EXPORTER", "none,otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://me:hunter2@h:99999"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("COUNTERSIGN_LOG", "xml"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: ") as refused:
        load()
    assert "hunter2" not in str(refused.value)


# ---------- the doctor ----------
def test_the_doctor_knocks_at_the_collector(told_to: Collector) -> None:
    settings = load().telemetry
    assert knock(settings, "traces") is None
    assert told_to.bodies == [("/v1/traces", b"")]
    for status, advice in ((401, "OTEL_EXPORTER_OTLP_HEADERS"), (404, "base URL"), (503, "answers 503")):
        told_to.status = status
        assert advice in (knock(settings, "traces") or "")


def test_the_doctor_says_what_to_do_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@127.0.0.1:1/base?key=hunter2")
    found = list(_telemetry(load()))
    assert [finding.verdict for finding in found] == ["note", "note"]
    assert "traces to http://127.0.0.1:1/base" in found[0].text
    assert "start the collector, or unset" in found[0].text
    assert "hunter2" not in "".join(finding.text for finding in found)


def _until(done: Any, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------- off ----------
OFF = """
import sys, asyncio
import countersign; countersign.activate()
import app, resolvers.worker, resolvers.deliveries, countersign.worker_process, countersign.logs
from schema import telemetry
assert not telemetry.on()
sys.stdout.write(",".join(sorted(name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "requests", "google"))))
"""


def test_off_means_that_no_sdk_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_off_costs_less_than_a_microsecond() -> None:
    assert not telemetry.on()
    began = time.perf_counter()
    for _ in range(10_000):
        with telemetry.span("plan") as told:
            told.set("countersign.cached", True)
        telemetry.count(telemetry.DECISIONS)
    assert (time.perf_counter() - began) / 10_000 < 20e-6, "a bound that a busy machine keeps too"
    assert telemetry.SILENT.traceparent is None


# ---------- the catalogue ----------
def _calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node


def test_opentelemetry_is_known_to_two_modules_and_the_doctor() -> None:
    importing = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opentelemetry"))
        or (isinstance(node, ast.Import) and any(one.name.startswith("opentelemetry") for one in node.names))
    }
    assert importing == {"countersign/telemetry.py", "countersign/telemetry_buffer.py", "countersign/collector.py"}


def test_every_name_of_the_catalogue_is_used() -> None:
    text = "\n".join(path.read_text() for path in SOURCES if path != ROOT / "schema" / "telemetry.py")
    assert [name for name in telemetry.SPANS if f'span("{name}"' not in re.sub(r"\(\s+", "(", text)] == []
    constants = {name for name, value in vars(telemetry).items() if isinstance(value, telemetry.Metric)}
    assert [name for name in constants if f"telemetry.{name}" not in text and f"told.{name}" not in text] == []
    labels = {label for metric in telemetry.METRICS for label in metric.labels}
    assert [key for key in telemetry.KEYS - labels if f'"{key}"' not in text] == []


def test_the_page_has_each_metric_and_span_and_no_other() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    listed = page.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = set(re.findall(r"^\| `([a-z_.]+)` \|", listed, re.MULTILINE))
    assert rows == {metric.name for metric in telemetry.METRICS}
    assert [name for name in get_args(telemetry.SpanName) if f"`{name}`" not in page] == []
    for metric in telemetry.METRICS:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{metric.name}` |"))
        assert [label for label in metric.labels if f"`{label}`" not in row] == [], metric.name


# ---------- small parts ----------
@pytest.mark.parametrize(
    ("header", "good"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", True),
        (f"01-{TRACE}-{PARENT}-01-more", True),
        (f"00-{TRACE}-{PARENT}-01-more", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}x-{PARENT}-01", False),
        ("", False),
        (None, False),
    ],
)
def test_a_traceparent_is_taken_by_the_rules_of_w3c(header: str | None, good: bool) -> None:
    found = telemetry.remote(header)
    assert (found is not None) is good
    if found is not None and header is not None:
        assert found == telemetry.Remote(TRACE, PARENT, header.split("-")[3] == "01")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT id FROM case_file WHERE id = $1", "SELECT case_file"),
        ("\nWITH top AS (SELECT 1 FROM event) UPDATE event SET position = 1", "UPDATE event"),
        ("WITH a AS (SELECT id AS \"DELETE\", 'UPDATE' FROM refund FOR UPDATE) SELECT * FROM a", "SELECT refund"),
        ("SELECT audit.append($1::text[])", "SELECT audit.append"),
        ("BEGIN; SELECT pg_advisory_xact_lock_shared(1)", "BEGIN"),
        ('SELECT t.id AS "MkAlias" FROM mk_alias AS "FROM"', "SELECT"),
        ("INSERT INTO note (id) VALUES ($1)", "INSERT note"),
        ("VACUUM whatever", "OTHER"),
    ],
)
def test_a_statement_is_named_by_our_names_alone(query: str, said: str) -> None:
    assert summary(query)["db.query.summary"] == said


def _record(name: str, message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord(name, logging.ERROR, "x.py", 1, message, args, info)


def test_a_line_of_a_library_is_its_template_and_an_exception_its_class() -> None:
    try:
        raise ValueError(MARKERS["failing"])
    except ValueError as error:
        caught = error
    for as_json in (True, False):
        lines = Lines(as_json=as_json)
        told = [
            lines.format(_record("uvicorn.error", "Exception in %s\nmore", MARKERS["path"], error=caught)),
            lines.format(_record("asyncio", f"Task exception was never retrieved\nfuture: {caught!r}", error=caught)),
            lines.format(_record("countersign.wire", "internal error request=%s", "r1", error=caught)),
        ]
        assert not [line for line in told if MARKERS["failing"] in line or MARKERS["path"] in line or "\n" in line]
        assert "ValueError at " in told[0]
        assert "internal error request=r1" in told[2]


def test_what_is_refused_is_no_failure_of_ours() -> None:
    assert not telemetry.is_failure(ConsoleError("NOT_FOUND"))
    assert telemetry.is_failure(ConsoleError("AUDIT_UNAVAILABLE"))
    assert telemetry.is_failure(ValueError("x"))
    assert not telemetry.is_failure(asyncio.CancelledError())
