"""Real rows by plain functions: each inserts what it needs with defaults for the rest, and returns the row's id.

``conn`` is a connection that may write everything (the superuser's, or the owner's).
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import orjson
from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import JSONB

from audit.record import columns, new_record, staff_actor
from authz.caller import Caller, StaffRow
from authz.directory import load_directory
from authz.enforcer import Snapshot
from authz.policy import Policy
from db import tables
from db.unit_of_work import uuid7
from services.messages.rules import placeholders

Conn: TypeAlias = "asyncpg.Connection[Any]"

NOW = datetime.now(UTC).replace(microsecond=0)
ALL = ("SFW", "SUGGESTIVE", "NSFW", "PROHIBITED")
_numbers = itertools.count(1)


def number() -> int:
    return next(_numbers)


async def insert(conn: Conn, table: Table, **row: Any) -> Any:
    """Insert one row; JSON columns take Python values. Returns the primary key."""
    names = list(row)
    values = [
        orjson.dumps(row[name]).decode()
        if isinstance(table.c[name].type, JSONB) and row[name] is not None
        else row[name]
        for name in names
    ]
    places = ", ".join(f"${position}" for position in range(1, len(names) + 1))
    key = next(iter(table.primary_key)).name
    return await conn.fetchval(
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places}) RETURNING {key}", *values
    )


async def staff(
    conn: Conn,
    role: str | None = None,
    tier: str = "AGENT",
    *,
    id: str | None = None,
    cities: tuple[str, ...] = ("lisbon",),
    categories: tuple[str, ...] = ALL,
    state: str = "ACTIVE",
    display_name: str | None = None,
) -> str:
    """A member with one grant, or none."""
    id_ = id or f"st_{number()}"
    await insert(
        conn,
        tables.staff,
        id=id_,
        handle=id_,
        display_name=display_name or f"Person {id_}",
        email=f"{id_}@example.org",
        state=state,
    )
    if role:
        await grant(conn, id_, role, tier, cities=cities, categories=categories)
    return id_


async def grant(
    conn: Conn,
    staff_id: str,
    role: str,
    tier: str = "AGENT",
    *,
    cities: tuple[str, ...] = ("lisbon",),
    categories: tuple[str, ...] = ALL,
) -> str:
    row = {"staff_id": staff_id, "role": role, "tier": "LEAD" if role in ("ADMIN", "AUDITOR") else tier}
    return str(
        await insert(
            conn,
            tables.staff_grant,
            id=f"gr_{number()}",
            city_ids=list(cities),
            content_categories=list(categories),
            **row,
        )
    )


async def subject(conn: Conn, *, city_id: str | None = "lisbon", display_name: str = "Ana Souza", **row: Any) -> str:
    values = {"id": f"sub_{number()}", "kind": "STUDIO", "content_category": "SFW", **row}
    return str(await insert(conn, tables.subject, city_id=city_id, display_name=display_name, **values))


async def sla_policy(conn: Conn, **row: Any) -> str:
    values = {
        "id": f"sla_{number()}",
        "name": "standard",
        "kind": "MODERATION",
        "first_response_seconds": 3600,
        "resolve_seconds": 86400,
        **row,
    }
    return str(await insert(conn, tables.sla_policy, **values))


async def queue(
    conn: Conn,
    *,
    kind: str = "MODERATION",
    city_ids: tuple[str, ...] = ("lisbon",),
    categories: tuple[str, ...] = ALL,
    **row: Any,
) -> str:
    values = {"id": f"q_{number()}", "name": f"{kind} queue", **row}
    if "sla_policy_id" not in values:
        values["sla_policy_id"] = await sla_policy(conn, kind=kind)
    return str(
        await insert(
            conn, tables.queue, kind=kind, city_ids=list(city_ids), content_categories=list(categories), **values
        )
    )


async def case(
    conn: Conn, *, city_id: str | None = "lisbon", kind: str = "MODERATION", content_category: str = "SFW", **row: Any
) -> str:
    """An OPEN case on a new subject in a new queue; CLAIMED gets a lease of ``assignee_id``."""
    values = {"id": f"case_{number()}", "created_at": NOW, **row}
    if "subject_id" not in values:
        values["subject_id"] = await subject(conn, city_id=city_id, content_category=content_category)
    if "queue_id" not in values:
        values["queue_id"] = await queue(conn, kind=kind, city_ids=(city_id,) if city_id else ())
    if "sla_policy_id" not in values:
        values["sla_policy_id"] = await conn.fetchval(
            "SELECT sla_policy_id FROM queue WHERE id = $1", values["queue_id"]
        )
    if values.get("state") == "CLAIMED":
        until = NOW + timedelta(minutes=15)
        values = {
            "lease_token": "lease",
            "lease_started_at": NOW,
            "lease_expires_at": until,
            "first_claimed_at": NOW,
            "last_claimed_at": NOW,
            **values,
        }
    return str(
        await insert(conn, tables.case_file, city_id=city_id, kind=kind, content_category=content_category, **values)
    )


async def report(conn: Conn, case_id: str, **row: Any) -> str:
    """A report that is attached to a case and carries its city and category."""
    found = await conn.fetchrow("SELECT subject_id, city_id, content_category FROM case_file WHERE id = $1", case_id)
    assert found is not None
    values = {
        "id": f"rep_{number()}",
        "state": "ATTACHED",
        "category": "SPAM",
        "source": "test",
        "external_id": str(number()),
        "created_at": NOW,
    }
    return str(await insert(conn, tables.report, case_id=case_id, **{**dict(found), **values, **row}))


async def note(conn: Conn, case_id: str, author_id: str, **row: Any) -> str:
    city = await conn.fetchval("SELECT city_id FROM case_file WHERE id = $1", case_id)
    values = {"id": f"note_{number()}", "city_id": city, "body": "Seen.", "internal": True, "created_at": NOW, **row}
    return str(await insert(conn, tables.note, case_id=case_id, author_id=author_id, **values))


async def timeline(conn: Conn, target_type: str, target_id: str, *, city_id: str | None = "lisbon", **row: Any) -> int:
    values = {"at": NOW, "kind": "claimed", "summary": "The case was claimed.", **row}
    return int(
        await insert(conn, tables.timeline, target_type=target_type, target_id=target_id, city_id=city_id, **values)
    )


async def decision(conn: Conn, case_id: str, decided_by_id: str, **row: Any) -> str:
    found = await conn.fetchrow("SELECT subject_id, city_id, content_category FROM case_file WHERE id = $1", case_id)
    assert found is not None
    values = {
        "id": f"dec_{number()}",
        "kind": "WARN",
        "family": f"F{number()}",
        "state": "EFFECTIVE",
        "reason_code": "SPAM",
        "severity": 1,
        "created_at": NOW,
    }
    return str(
        await insert(
            conn, tables.decision, case_id=case_id, decided_by_id=decided_by_id, **{**dict(found), **values, **row}
        )
    )


async def ledger(conn: Conn, *, city_id: str = "lisbon", captured_minor: int = 10_000, **row: Any) -> str:
    values = {"order_id": f"o_{number()}", "buyer_id": "buyer_1", "currency": "EUR", **row}
    return str(await insert(conn, tables.order_ledger, city_id=city_id, captured_minor=captured_minor, **values))


async def refund(
    conn: Conn, order_id: str, requester_id: str, *, amount_minor: int = 4_900, state: str = "SUBMITTED", **row: Any
) -> str:
    found = await conn.fetchrow("SELECT buyer_id, city_id, currency FROM order_ledger WHERE order_id = $1", order_id)
    assert found is not None
    values = {"id": f"ref_{number()}", "reason_code": "SERVICE_NOT_PROVIDED", "created_at": NOW}
    row = {**dict(found), **values, **row}
    return str(
        await insert(
            conn,
            tables.refund,
            order_id=order_id,
            requester_id=requester_id,
            amount_minor=amount_minor,
            state=state,
            **row,
        )
    )


async def delivery(
    conn: Conn, target_id: str, *, target_type: str = "Refund", city_id: str | None = "lisbon", **row: Any
) -> str:
    values = {
        "id": f"dlv_{number()}",
        "port": "orders",
        "operation": "refund",
        "key": f"k{number()}",
        "arguments": {},
        "created_at": NOW,
        **row,
    }
    return str(
        await insert(conn, tables.outbox, target_type=target_type, target_id=target_id, city_id=city_id, **values)
    )


async def city(conn: Conn, city_id: str, locale: str, *, name: str | None = None) -> str:
    return str(await insert(conn, tables.city, id=city_id, name=name or city_id.title(), locale=locale))


async def template(conn: Conn, name: str = "hello", locale: str = "en", **row: Any) -> str:
    """A template with its one version; its variables are what its texts name."""
    values = {"subject": "About {{caseId}}", "body": "We look at it in {{cityName}}.", "version": 1, **row}
    found = placeholders(values["subject"], values["body"])
    id_ = f"tpl_{number()}"
    await insert(conn, tables.template, id=id_, name=name, locale=locale, variables=list(found), **values)
    kept = {key: values[key] for key in ("version", "subject", "body")}
    await insert(conn, tables.template_version, template_id=id_, saved_by_id="st_lead", saved_at=NOW, **kept)
    return id_


REFUND_SEATS = {
    "key": "refund.request",
    "approvals": 1,
    "policies": [{"id": "refund.request/1", "seats": [["FINANCE AGENT", "SUPPORT LEAD"]]}],
    "approveWithinSeconds": 86_400,
    "executeWithinSeconds": 3_600,
}


async def approval(
    conn: Conn, requester_id: str, *, city_id: str | None = "lisbon", amount_minor: int | None = 12_000, **row: Any
) -> str:
    """A PENDING refund request."""
    values = {
        "id": f"apr_{number()}",
        "action": "refund.request",
        "command": "requestRefund",
        "target_type": "OrderLedger",
        "target_id": "o_1",
        "summary": "Refund 120.00 EUR.",
        "payload": "{}",
        "payload_hash": "00",
        "diff": {"before": 1, "after": 2},
        "facts": {"amountMinor": amount_minor, "sum24hMinor": amount_minor, "destination": "ORIGINAL"},
        "policy_id": "refund.request/1",
        "policy_version": 1,
        "seats": REFUND_SEATS,
        "approvals_needed": 1,
        "requester_role": "SUPPORT",
        "requester_tier": "AGENT",
        "window_sum_minor": amount_minor,
        "currency": "EUR",
        "reason_code": "SERVICE_NOT_PROVIDED",
        "execute_within_seconds": 3_600,
        "created_at": NOW,
        "approve_by": NOW + timedelta(days=1),
        **row,
    }
    return str(
        await insert(
            conn,
            tables.approval_request,
            requester_id=requester_id,
            city_id=city_id,
            amount_minor=amount_minor,
            **values,
        )
    )


async def vote(conn: Conn, request_id: str, voter_id: str, *, vote: str = "APPROVE", **row: Any) -> str:
    values = {"id": f"vote_{number()}", "role": "FINANCE", "tier": "AGENT", "payload_hash": "00", "at": NOW, **row}
    return str(await insert(conn, tables.approval_vote, request_id=request_id, voter_id=voter_id, vote=vote, **values))


REFUND_PARAMETERS = {
    "type": "object",
    "properties": {"orderId": {"type": "string"}, "amountMinor": {"type": "integer", "minimum": 1}},
    "required": ["orderId"],
    "additionalProperties": False,
}
REFUND_STEPS = (
    {
        "key": "refund",
        "action": "requestRefund",
        "argsTemplate": {
            "orderId": "{{param.orderId}}",
            "amount": {"amountMinor": "{{order.refundableMinor}}", "currency": "{{order.currency}}"},
            "reason": {"code": "CANCELED_BY_STUDIO"},
        },
        "when": None,
    },
    {
        "key": "note",
        "action": "addNote",
        "argsTemplate": {"body": "Refunded {{order.refundableMinor}} on {{param.orderId}}.", "internal": True},
        "when": None,
    },
    {
        "key": "resolve",
        "action": "resolveCase",
        "argsTemplate": {"reason": {"code": "NO_VIOLATION"}},
        "when": None,
    },
)


async def macro(conn: Conn, author_id: str, *, version: int = 1, state: str = "PUBLISHED", **row: Any) -> str:
    """A macro of one version: refund what is left of an order, note it, resolve the case."""
    values = {
        "id": f"mac_{number()}",
        "current": True,
        "name": "Refund and apologise",
        "description": "",
        "allowed_roles": ["SUPPORT"],
        "case_kinds": ["REFUND"],
        "parameters": REFUND_PARAMETERS,
        "steps": list(REFUND_STEPS),
        "created_at": NOW,
        **row,
    }
    return str(await insert(conn, tables.macro, author_id=author_id, version=version, state=state, **values))


async def macro_run(conn: Conn, macro_id: str, case_id: str, requester_id: str, **row: Any) -> str:
    """A run that was executed, of version 1."""
    values = {
        "id": f"run_{number()}",
        "macro_version": 1,
        "city_id": await conn.fetchval("SELECT city_id FROM case_file WHERE id = $1", case_id),
        "plan_hash": "0.0",
        "bound_hash": "0",
        "state": "EXECUTED",
        "steps": [],
        "created_at": NOW,
        **row,
    }
    keys = {"macro_id": macro_id, "case_id": case_id, "requester_id": requester_id}
    return str(await insert(conn, tables.macro_run, **keys, **values))


async def alert(conn: Conn, *recipient_ids: str, city_id: str | None = "lisbon", **row: Any) -> str:
    values = {
        "id": f"alt_{number()}",
        "kind": "MENTION",
        "severity": 3,
        "target_type": "Case",
        "target_id": "case_1",
        "summary": "Mentioned.",
        "created_at": NOW,
    }
    return str(
        await insert(conn, tables.alert, city_id=city_id, recipient_ids=list(recipient_ids), **{**values, **row})
    )


async def snapshot(conn: Conn) -> Snapshot:
    """The shipped policy with the directory as it is now."""
    loaded = await load_directory(conn)
    return Snapshot(loaded.version, Policy.shipped(), loaded.staff, book=loaded.book)


def caller(of: Snapshot, staff_id: str) -> Caller:
    """Somebody who has just signed in."""
    person: StaffRow = of.staff[staff_id]
    return Caller(
        person.id, person.handle, person.display_name, person.grants, NOW, NOW, NOW + timedelta(hours=1), "session"
    )


async def audit_record(conn: Conn, actor_id: str, **given: Any) -> str:
    """A sealed record of an action by ``actor_id``, filed without a sealer: nothing here proves anything."""
    id_ = str(uuid7())
    defaults: dict[str, Any] = {
        "kind": "mutation",
        "action": "case.decide",
        "field": "Mutation.decideCase",
        "actor": staff_actor(actor_id, ["SUPPORT"], session="s1", client="web"),
        "request": {"id": "req_1", "trace": "t1"},
        "object": {"type": "Case", "id": "case_881", "version": {"before": 3, "after": 4}, "city": "lisbon"},
    }
    record = new_record(id=id_, at=NOW, **(defaults | given))
    body = {name: value for name, value in record.items() if not name.startswith("_")} | {
        "log": "test",
        "w": "w1",
        "wn": number(),
        "priv": {},
    }
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()
    row = {"id": id_, "db_at": NOW, "kid": "k1", "mac": b"", "leaf": bytes(32), "body": text, **columns(body)}
    names = list(row)
    places = ", ".join(f"${position}" for position in range(1, len(names) + 1))
    await conn.execute(f"INSERT INTO audit.record ({', '.join(names)}) VALUES ({places})", *row.values())
    seal = "INSERT INTO audit.leaf (seq, id, db_at, leaf, chain, sealed_at) SELECT coalesce(max(seq) + 1, 0), $1, $2, $3, $3, $2 FROM audit.leaf"
    await conn.execute(seal, id_, NOW, bytes(32))
    return id_
