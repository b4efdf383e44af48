"""What others hear of a change: timeline entries for people, events for subscribers, alerts with their recipients.

Rows of the unit of work like any other, so nobody hears of what did not happen. Payloads carry ids only; ``facts`` are
what the hub asks scope and conditions of, per subscriber and event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from db.unit_of_work import Event, Row, UnitOfWork, new_id
from services.command import Act

_TIMELINE = """
INSERT INTO timeline (target_type, target_id, city_id, at, actor_id, kind, summary, audit_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_ALERT = """
INSERT INTO alert (id, kind, severity, city_id, target_type, target_id, summary, recipient_ids, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *
"""


def instant(at: datetime) -> str:
    """AWSDateTime as the whole console writes it: UTC, milliseconds, Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def document(value: Any) -> Any:
    """A jsonb column as Python has it; the driver hands jsonb over as text."""
    return orjson.loads(value) if isinstance(value, str) else value


async def tell(act: Act[Any], target: tuple[str, str], city_id: str | None, kind: str, summary: str) -> None:
    """Add to the timeline of a case or an approval request. ``summary`` holds no personal data."""
    at = act.uow.now
    await act.uow.execute(_TIMELINE, *target, city_id, at, act.actor_id, kind, summary, act.audit_id)


def publish_case(uow: UnitOfWork, case: Row, kind: str) -> None:
    """Tell subscribers of ``onCaseEvent``; ``kind`` says what happened."""
    payload = {
        "caseId": case["id"],
        "queueId": case["queue_id"],
        "cityId": case["city_id"],
        "kind": kind,
        "state": case["state"],
        "assigneeId": case["assignee_id"],
        "priority": case["priority"],
        "version": case["version"],
        "at": instant(uow.now),
    }
    facts = {"caseKind": case["kind"], "contentCategory": case["content_category"], "caseState": case["state"]}
    uow.publish(Event("CaseEvent", case["city_id"], payload, facts))


def publish_approval(uow: UnitOfWork, request: Row) -> None:
    """Tell subscribers of ``onApprovalEvent``; the facts are those the request was judged by when it was made."""
    payload = {
        "requestId": request["id"],
        "action": request["action"],
        "requesterId": request["requester_id"],
        "cityId": request["city_id"],
        "state": request["state"],
        "execution": request["execution"],
        "at": instant(uow.now),
    }
    facts = {
        **document(request["facts"]),
        "requesterId": request["requester_id"],
        "action": request["action"],
        "amountMinor": request["amount_minor"],
        "contentCategory": request["content_category"],
    }
    uow.publish(Event("ApprovalEvent", request["city_id"], payload, facts))


def alert_payload(alert: Row) -> Mapping[str, Any]:
    """The Alert of the schema, without its cursor."""
    acknowledged = alert["acknowledged_at"]
    return {
        "id": alert["id"],
        "kind": alert["kind"],
        "severity": alert["severity"],
        "cityId": alert["city_id"],
        "targetType": alert["target_type"],
        "targetId": alert["target_id"],
        "summary": alert["summary"],
        "createdAt": instant(alert["created_at"]),
        "acknowledgedAt": instant(acknowledged) if acknowledged else None,
        "acknowledgedById": alert["acknowledged_by_id"],
    }


def publish_alert(uow: UnitOfWork, alert: Row) -> None:
    """Tell subscribers of ``onAlert`` who are among its recipients."""
    facts = {"recipientIds": list(alert["recipient_ids"])}
    uow.publish(Event("Alert", alert["city_id"], alert_payload(alert), facts))


async def raise_alert(
    uow: UnitOfWork,
    kind: str,
    severity: int,
    *,
    city_id: str | None,
    target: tuple[str, str],
    summary: str,
    recipients: Iterable[str],
) -> None:
    """Alert these people and nobody else; nobody to alert, no alert. ``summary`` holds no personal data."""
    ids = sorted(set(recipients))
    if not ids:
        return
    now = uow.now
    row = await uow.fetchone(_ALERT, new_id("alt"), kind, severity, city_id, *target, summary, ids, now)
    publish_alert(uow, row)
