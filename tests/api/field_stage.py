"""The demo with whatever it lacks, so that every field has a value in each place somebody may be asked about.

Places, as each person sees them: ``own`` city (Lisbon; Berlin for the people of Berlin), the ``other`` city, and the own
city once more in a category that few hold (PROHIBITED), or about somebody else where the type has no category.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from audit.anchor import DirectoryAnchor
from audit.keys import Keys, Signer
from audit.live import Trust
from audit.record import new_record, staff_actor
from audit.sealer import Sealer
from audit.writer import Limits, Writer
from authz.caller import Caller
from authz.enforcer import Authorizer, Snapshot
from countersign.demo import _write
from countersign.demo_data import HANDLES, ROLES, build, display_name
from countersign.demo_rows import staff_id
from db.pool import open_pool
from db.unit_of_work import uuid7
from resolvers import audit_roots, macro_preview
from resolvers.documents import Documents
from resolvers.pipeline import Pipeline
from resolvers.reader import Reader
from resolvers.tokens import Tokens
from schema.build import console
from tests import factories
from tests.conftest import Database

ORIGIN = "test/audit"
PLACES = ("own", "other", "category")
CITIES = ("lisbon", "berlin")
# Whose kind of case each role is asked about; roles that have none of their own read moderation.
KIND = {"FINANCE": "REFUND", "CITY_OPS": "CITY"}
CLEAR = {
    "Reason.note": "Call me at +351 21 000 00 00.",
    "Report.reporterMasked": "user_in_clear",
    "Report.detail": "Write to buyer@mail.example.",
    "Subject.displayNameMasked": "Ana Souza",
}
BUSINESS = ("SUPPORT", "TRUST_SAFETY", "FINANCE", "CONTENT_EDITOR", "CITY_OPS")
STEPS = [{"key": "note", "action": "addNote", "argsTemplate": {"body": "Seen.", "internal": True}, "when": "case.id"}]
# A step of a plan as a run keeps it.
PLANNED = {
    "key": "note", "action": "addNote", "verdict": "OK", "errorCode": "NONE", "before": {}, "after": {"note": {}},
    "externalEffects": ["HelpCenter.send"],
}  # fmt: skip
SEATS = {
    "key": "case.decide",
    "approvals": 1,
    "policies": [{"id": "case.decide/1", "seats": [["TRUST_SAFETY LEAD"]]}],
    "approveWithinSeconds": 86_400,
    "executeWithinSeconds": 3_600,
}
STATEMENT = {
    "puid": "p1",
    "ground": "INCOMPATIBLE_CONTENT",
    "groundReference": "Community rules, section 4",
    "facts": "The listing asks for payment outside the marketplace.",
    "explanation": "Such payments take away the buyer's protection.",
    "restrictions": ["DECISION_VISIBILITY_CONTENT_REMOVED"],
    "category": "SCAM_AND_FRAUD",
    "contentType": ["TEXT"],
    "sourceType": "NOTICE",
    "automatedDetection": False,
    "automatedDecision": "NOT_AUTOMATED",
    "territorialScope": ["EU"],
    "applicationDate": "2026-11-24",
    "endDate": "2026-12-24",
    "exportedAt": "2026-11-24T10:00:00.000Z",
}
# A refund of the demo that support asked for (Lisbon's its senior, Berlin's its agent) and its lead could have approved.
_REFUND = """
SELECT r.id, r.order_id, r.approval_request_id FROM refund r JOIN approval_request a ON a.id = r.approval_request_id
WHERE r.city_id = $1 AND r.state = 'SUCCEEDED' AND r.requester_id LIKE 'st_support_%' AND r.amount_minor <= 20000
ORDER BY r.id LIMIT 1
"""


def role_of(handle: str) -> str:
    return ROLES[handle.partition("-")[0]][0]


def tier_of(handle: str) -> str:
    return next((tier for tier in ("AGENT", "SENIOR", "LEAD") if tier.lower() in handle.split("-")), "LEAD")


@dataclass(frozen=True)
class Objects:
    """Ids by type of what one person is asked about in one place; ``facts`` are those of its events."""

    ids: Mapping[str, str]
    city: str
    category: str
    kind: str


@dataclass
class FieldStage:
    app: asyncpg.Pool[Any]
    reader: Reader
    writer: Writer
    pipeline: Pipeline
    documents: Documents
    snapshot: Snapshot
    chains: dict[tuple[str, str, str], dict[str, str]]  # (city, category, kind) -> ids
    money: dict[str, dict[str, str]]  # city -> ids
    requests: dict[str, Any]  # approval requests by id
    records: dict[tuple[str, str], str]  # (handle, city) -> audit record

    def caller(self, handle: str) -> Caller:
        return factories.caller(self.snapshot, staff_id(handle))

    def objects(self, handle: str, place: str) -> Objects:
        """What this person is asked about in this place."""
        home = "berlin" if handle.endswith("-berlin") else "lisbon"
        away = "lisbon" if home == "berlin" else "berlin"
        city, category = (away if place == "other" else home), ("PROHIBITED" if place == "category" else "SFW")
        kind = KIND.get(role_of(handle), "MODERATION")
        ids = {**self.chains[city, category, kind], **self.money[city]}
        if role_of(handle) == "TRUST_SAFETY":  # asked about an approval of their own trade
            ids |= {"ApprovalRequest": ids["case.decide"], "hash": "00"}
        whose = handle if place == "own" else colleague(handle)
        return Objects(
            {**ids, "StaffMember": staff_id(whose), "AuditRecord": self.records[whose, city]}, city, category, kind
        )

    def event(self, name: str, about: Objects) -> tuple[dict[str, Any], dict[str, Any]]:
        """The event that a change of these objects would leave: its payload, and the facts that decide who hears it."""
        ids, common = about.ids, {"cursor": "c", "cityId": about.city, "at": "2026-11-24T10:00:00.000Z"}
        if name == "onCaseEvent":
            told = {"caseId": ids["Case"], "queueId": ids["Queue"], "kind": "claimed", "state": "CLAIMED",
                    "assigneeId": "st_ts_agent", "priority": 1, "version": 2}  # fmt: skip
            return {**common, **told}, {"caseKind": about.kind, "contentCategory": about.category}
        if name == "onAlert":
            return {**common, "id": ids["Alert"]}, {"recipientIds": [staff_id(one) for one in HANDLES]}
        assert name == "onApprovalEvent", f"tests/api/field_stage.py does not know the events of {name}"
        row = self.requests[ids["ApprovalRequest"]]
        facts = {**orjson.loads(row["facts"]), "action": row["action"], "requesterId": row["requester_id"],
                 "amountMinor": row["amount_minor"], "contentCategory": row["content_category"]}  # fmt: skip
        told = {"requestId": row["id"], "action": row["action"], "requesterId": row["requester_id"],
                "state": row["state"], "execution": row["execution"]}  # fmt: skip
        return {**common, **told}, facts


def colleague(handle: str) -> str:
    """The first other agent of the same role, else of support."""
    agents = [one for one in HANDLES if tier_of(one) == "AGENT" and one != handle]
    return next((one for one in agents if role_of(one) == role_of(handle)), "support-agent")


async def _chain(conn: asyncpg.Connection[Any], city: str, category: str, kind: str, macro: str) -> dict[str, str]:
    """A case of one kind with everything that hangs on it, claimed by an agent."""
    decider, which = staff_id("ts-agent"), f"{city}_{category}_{kind}".lower()
    subject = await factories.subject(
        conn, id=f"sub_{which}", city_id=city, content_category=category, display_name=CLEAR["Subject.displayNameMasked"],
        protected_tags=["HIGH_PROFILE"], tags=["seen"],
    )  # fmt: skip
    queue = await factories.queue(
        conn, kind=kind, city_ids=(city,), categories=(category,), hidden_actions=["skipCase"]
    )
    waiting = await factories.subject(conn, id=f"sub_2_{which}", city_id=city, content_category=category)
    await factories.case(
        conn,
        id=f"case_2_{which}",
        city_id=city,
        content_category=category,
        kind=kind,
        subject_id=waiting,
        queue_id=queue,
    )
    case = await factories.case(
        conn, id=f"case_{which}", city_id=city, content_category=category, kind=kind, subject_id=subject, queue_id=queue, state="CLAIMED",
        assignee_id=decider, resolve_due_at=factories.NOW + timedelta(days=1), first_response_due_at=factories.NOW,
    )  # fmt: skip
    report = await factories.report(
        conn, case, detail=CLEAR["Report.detail"], reporter_id=CLEAR["Report.reporterMasked"], reporter_accuracy=0.5,
        public_reply="Thank you.",
    )  # fmt: skip
    note = await factories.note(conn, case, decider, mention_ids=[staff_id("ts-senior")])
    await factories.timeline(conn, "Case", case, city_id=city, actor_id=decider, audit_id=str(uuid7()))
    decision = await factories.decision(
        conn, case, decider, id=f"dec_{which}", reason_note=CLEAR["Reason.note"], reason_ticket="T-1", statement=STATEMENT,
        approved_by_ids=[staff_id("ts-lead")], effective_at=factories.NOW, expires_at=factories.NOW + timedelta(days=9),
    )  # fmt: skip
    await conn.execute("UPDATE decision SET reversed_by_id = id WHERE id = $1", decision)
    ban = await factories.approval(
        conn, staff_id("ts-senior"), id=f"apr_{which}", city_id=city, amount_minor=None, content_category=category, action="case.decide",
        command="decideCase", target_type="Case", target_id=case, seats=SEATS, facts={"decisionKind": "BAN"},
        reason_note=CLEAR["Reason.note"], reason_ticket="T-2",
    )  # fmt: skip
    run = await factories.macro_run(
        conn, macro, case, decider, steps=[PLANNED], approval_request_id=ban,
    )  # fmt: skip
    alert = await factories.alert(
        conn, *(staff_id(one) for one in HANDLES), city_id=city, target_id=case, acknowledged_at=factories.NOW,
        acknowledged_by_id=decider,
    )  # fmt: skip
    return {"Case": case, "Subject": subject, "Queue": queue, "Report": report, "Decision": decision, "Alert": alert,
            "Note": note, "case.decide": ban, "MacroRun": run}  # fmt: skip


async def _shared(conn: asyncpg.Connection[Any]) -> dict[str, str]:
    """What is of no city: a macro for every role, an approval policy as shipped."""
    macro = await factories.macro(
        conn, staff_id("ts-lead"), allowed_roles=[*BUSINESS], case_kinds=["MODERATION", "REFUND", "CITY"], steps=STEPS,
        description="For the matrix.", parameters={"type": "object"},
    )  # fmt: skip
    return {"Macro": macro, "ApprovalPolicy": "refund.request/1"}


async def _money(conn: asyncpg.Connection[Any], city: str) -> dict[str, str]:
    """An order of the demo with its refund and the approval it had, and the call to the kernel that the demo leaves out."""
    found = await conn.fetchrow(_REFUND, city)
    assert found is not None
    delivery = await factories.delivery(
        conn, found["id"], city_id=city, state="RETRYING", attempts=1, last_error_code="TIMEOUT",
        next_attempt_at=factories.NOW, delivered_at=factories.NOW,
    )  # fmt: skip
    request = found["approval_request_id"]
    await conn.execute(
        "UPDATE approval_request SET execute_by = now(), apply_at = now(), execution_error = 'INTERNAL',"
        " invalidated_because = 'POLICY_CHANGED' WHERE id = $1",
        request,
    )
    await conn.execute("UPDATE refund SET failure_reason = 'declined' WHERE id = $1", found["id"])
    await conn.execute(
        "UPDATE approval_vote SET comment = 'Fine.', voided_because = 'TIER' WHERE request_id = $1", request
    )
    shown = await conn.fetchval("SELECT payload_hash FROM approval_request WHERE id = $1", request)
    return {"OrderLedger": found["order_id"], "Refund": found["id"], "ApprovalRequest": request, "Delivery": delivery,
            "hash": shown, "Template": "tpl_info_needed_en", "Template.name": "info_needed"}  # fmt: skip


async def _log(
    conn: asyncpg.Connection[Any], app: asyncpg.Pool[Any], writer: Writer, sealer: Sealer
) -> dict[tuple[str, str], str]:
    """A sealed record of everybody in each city; and one forged row, so that a verification has something to find."""
    ids: dict[tuple[str, str], str] = {}
    records = []
    for handle in HANDLES:
        for city in CITIES:
            ids[handle, city] = str(uuid7())
            records.append(
                new_record(
                    id=ids[handle, city], at=datetime.now(UTC), kind="mutation", action="case.decide", field="Mutation.decideCase",
                    actor=staff_actor(staff_id(handle), [role_of(handle)], session="s1", client="web"),
                    request={"id": "req_1", "trace": "t1"}, code="OK", obligations=["MASK"],
                    operation={"name": "Decide", "document": "d", "arguments": "sha256:a"},
                    object={"type": "Subject", "id": "sub_001", "version": {"before": 3, "after": 4}, "city": city},
                    objects={"ids": ["case_001"], "count": 1, "filter": "f"}, policy={"base": "b", "version": 1, "row": "r"},
                    reason={"code": "SPAM", "ticket": "T-1"}, approval={"request": "apr_1", "hash": "h", "votes": [], "step": "VOTED"},
                    cause=str(uuid7()), before={"state": "OPEN"}, after={"state": "CLOSED"}, changed=["state"],
                    fields={"read": ["Case.id"], "masked": ["Report.detail"], "pii": {"Report.detail": "FREE_TEXT"}},
                    on_behalf={"sub": "st_admin", "breakGlass": "bg_1"},
                    result={"code": "OK", "count": 1, "outcome": "EXECUTED"},
                )
            )  # fmt: skip
    await writer.reads(app, records)
    await sealer.run_once()
    await sealer.anchor_once()
    await conn.execute(
        "INSERT INTO audit.intake (db_at, kid, mac, leaf, body) VALUES (now(), 'nobody', '\\x00', sha256('\\x00'), '{}')"
    )
    with contextlib.suppress(Exception):
        await sealer.run_once()
    return ids


@contextlib.asynccontextmanager
async def opened(database: Database, folder: Path) -> AsyncIterator[FieldStage]:
    async with contextlib.AsyncExitStack() as stack:
        owner = await asyncpg.connect(**database.as_role("cs_owner"))
        now = await owner.fetchval("SELECT console_now()")
        async with owner.transaction():
            await _write(owner, build(now), lambda *_: None)
        await owner.close()
        conn = await asyncpg.connect(**database.superuser)
        stack.push_async_callback(conn.close)
        app = await open_pool(database.dsn("cs_app"), size=4)
        stack.push_async_callback(app.close)
        audit = await open_pool(database.dsn("cs_audit_reader"), size=3)
        stack.push_async_callback(audit.close)
        keys, signer = Keys.open(folder), Signer.open(folder / "signer", ORIGIN)
        writer = Writer(keys, origin=ORIGIN)
        stack.push_async_callback(writer.close)
        anchor = DirectoryAnchor(folder / "anchor")
        sealer = Sealer(database.dsn("cs_sealer"), keys=keys, signer=signer, anchor=anchor, writer=writer)
        stack.push_async_callback(sealer.close)
        shared = await _shared(conn)
        chains = {
            (city, category, kind): {**shared, **await _chain(conn, city, category, kind, shared["Macro"])}
            for city in CITIES
            for category in ("SFW", "PROHIBITED")
            for kind in ("MODERATION", "REFUND", "CITY")
        }
        money = {city: await _money(conn, city) for city in CITIES}
        records = await _log(conn, app, writer, sealer)
        of = console()
        trust = Trust(ORIGIN, (signer.vkey,), keys.writer_keys, anchor.directory)
        reader = Reader(
            of, app, audit, Tokens({"k": b"0" * 32}, "k", clock=lambda: 0.0), salt="s",
            functions={
                **audit_roots.functions(audit, lambda: trust, Limits(), worm=False),
                **macro_preview.functions(lambda: pipeline),
            },
        )  # fmt: skip
        authorizer = Authorizer(app)
        pipeline = Pipeline(app, authorizer, writer, reader.find, of.rules)
        stack.push_async_callback(pipeline.close)
        requests = {row["id"]: row for row in await conn.fetch("SELECT * FROM approval_request")}
        yield FieldStage(
            app,
            reader,
            writer,
            pipeline,
            Documents(of.core),
            await authorizer.current(),
            chains,
            money,
            requests,
            records,
        )


__all__ = ["CLEAR", "HANDLES", "PLACES", "FieldStage", "Objects", "display_name", "opened", "role_of", "tier_of"]
