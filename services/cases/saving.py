"""The one place that writes ``case_file``: version + 1, a timeline entry and a CaseEvent with every change.

Whoever calls it holds the row's lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from db.unit_of_work import Row, new_id
from services.cases import rules
from services.command import Act
from services.telling import publish_case, tell

_LOCK = """
SELECT c.*, q.hidden_actions FROM case_file c JOIN queue q ON q.id = c.queue_id WHERE c.id = $1 FOR UPDATE OF c
"""
# A queue for a new case: the narrowest that is open to the city and category; ids decide between equals.
_QUEUE = """
SELECT q.id, q.sla_policy_id, p.first_response_seconds, p.resolve_seconds
FROM queue q JOIN sla_policy p ON p.id = q.sla_policy_id
WHERE q.kind = $1 AND q.enabled
  AND (q.city_ids <@ '{*}' OR $2::text = ANY (q.city_ids))
  AND (q.content_categories = '{}' OR $3 = ANY (q.content_categories))
ORDER BY q.city_ids <@ '{*}', cardinality(q.content_categories) = 0, cardinality(q.content_categories), q.id
LIMIT 1
"""
# The unique index on open cases decides a race: the loser's insert becomes the lock on the winner's row.
_OPEN = """
INSERT INTO case_file (id, kind, subject_id, city_id, content_category, queue_id, priority, created_at, sla_policy_id,
  first_response_due_at, resolve_due_at)
VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, $10)
ON CONFLICT (subject_id, kind) WHERE state NOT IN ('RESOLVED', 'CLOSED') DO UPDATE SET kind = case_file.kind
RETURNING *, xmax = 0 AS opened
"""
NO_LEASE: Final[Mapping[str, Any]] = {"lease_token": None, "lease_started_at": None, "lease_expires_at": None}


async def lock(act: Act[Any], case_id: str) -> Row:
    """The case under its row lock, with its queue's ``hidden_actions``."""
    return await act.row(_LOCK, case_id)


async def save(act: Act[Any], case: Row, kind: str, summary: str, **changes: Any) -> Row:
    """Write ``changes`` and tell it. ``kind`` is the timeline entry's and the event's."""
    row = await act.update("case_file", case["id"], changes)
    await tell(act, ("Case", case["id"]), case["city_id"], kind, summary)
    publish_case(act.uow, row, kind)
    return row


async def extend_lease(act: Act[Any], case: Row, expires_at: datetime) -> Row:
    """Move the end of a lease. Not a new version: it would make the holder's own next write a conflict."""
    row = await act.update("case_file", case["id"], {"lease_expires_at": expires_at}, bump=False)
    publish_case(act.uow, row, "lease_renewed")
    return row


async def expire_lease(act: Act[Any], case: Row) -> Row:
    """Take an ended lease off a CLAIMED case: by the timer, or by whoever claims it first."""
    state = rules.CASE.next(case["state"], "lease_expired")
    return await save(act, case, "lease_expired", "The lease ended unused.", state=state, assignee_id=None, **NO_LEASE)


async def open_or_join(act: Act[Any], subject: Row, kind: str) -> tuple[Row, bool] | None:
    """The subject's open case of a kind under its lock, opened if there was none (True); None: no queue takes it."""
    queue = await act.uow.fetchrow(_QUEUE, kind, subject["city_id"], subject["content_category"])
    if queue is None:
        return None
    now = act.uow.now
    row = await act.uow.fetchone(
        _OPEN,
        new_id("case"),
        kind,
        subject["id"],
        subject["city_id"],
        subject["content_category"],
        queue["id"],
        now,
        queue["sla_policy_id"],
        *rules.due_at(now, queue),
    )
    if row["opened"]:
        await tell(act, ("Case", row["id"]), row["city_id"], "opened", "The case was opened.")
        publish_case(act.uow, row, "opened")
    return row, row["opened"]
