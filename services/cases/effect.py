"""What a decision does once it is effective: the earlier one of its family, strikes, the subject's state, the reports.

The caller holds the locks of case and subject, in this order; both are written here and in ``saving`` only.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from db.unit_of_work import Row
from services.cases import rules, saving
from services.cases.rules import ReportEvent
from services.command import Act
from services.telling import tell

_LOCK_SUBJECT = "SELECT * FROM subject WHERE id = $1 FOR UPDATE"
_SUPERSEDE = """
UPDATE decision SET state = $3 WHERE subject_id = $1 AND family = $2 AND state = 'EFFECTIVE' RETURNING id
"""
_TAKE_EFFECT = """
UPDATE decision SET state = $2, effective_at = $3, expires_at = $4, approved_by_ids = $5 WHERE id = $1 RETURNING *
"""
_OF_SUBJECT = "SELECT kind, state, severity, strikes, effective_at FROM decision WHERE subject_id = $1"
_SUBJECT = """
UPDATE subject SET state = $2, total_strikes = total_strikes + $3, version = version + 1 WHERE id = $1
"""
_REPORTS = "UPDATE report SET state = $3, public_reply = coalesce($4, public_reply) WHERE case_id = $1 AND state = $2"


async def settle_reports(act: Act[Any], case_id: str, event: ReportEvent, reply: str | None = None) -> None:
    """Move every report of a case that ``event`` (action, dismiss, reopen) applies to."""
    for (state, name), after in rules.REPORT.items():
        if name == event:
            await act.uow.execute(_REPORTS, case_id, state, after, reply)


async def derive_subject(act: Act[Any], subject: Row, *, new_strikes: int = 0) -> int:
    """Recompute the state of a locked subject from its decisions; its active strikes."""
    decisions = await act.uow.fetch(_OF_SUBJECT, subject["id"])
    active = rules.active_strikes(decisions, act.uow.now)
    state = rules.subject_state(subject["state"], (d["kind"] for d in decisions if d["state"] == "EFFECTIVE"))
    await act.uow.execute(_SUBJECT, subject["id"], state, new_strikes)
    return active


async def take_effect(
    act: Act[Any], decision: Row, subject: Row, *, hours: int | None, approved_by: tuple[str, ...]
) -> None:
    """Make a PROPOSED decision EFFECTIVE. At most one of a family is: the earlier one is superseded first."""
    now = act.uow.now
    after = rules.DECISION.next(decision["state"], "take_effect")
    superseded = rules.DECISION.next("EFFECTIVE", "supersede")
    await act.uow.execute(_SUPERSEDE, subject["id"], decision["family"], superseded)
    expires_at = now + timedelta(hours=hours) if hours is not None else None
    await act.uow.execute(_TAKE_EFFECT, decision["id"], after, now, expires_at, list(approved_by))
    active = await derive_subject(act, subject, new_strikes=decision["strikes"])
    if rules.proposes_ban(decision["kind"], decision["severity"], active):
        await _propose_ban(act, subject, decision)


async def _propose_ban(act: Act[Any], subject: Row, decision: Row) -> None:
    """A ban is proposed as work for whoever may decide it: an ACCOUNT case of the subject, never a ban by itself."""
    summary = "Strikes or severity call for a decision on a ban."
    joined = await saving.open_or_join(act, subject, "ACCOUNT")
    if joined is None:  # no queue for accounts: it is said where the decision was made
        await tell(act, ("Case", decision["case_id"]), decision["city_id"], "ban_proposed", summary)
        return
    case, opened = joined
    if opened:
        await saving.save(act, case, "ban_proposed", summary, priority=100 * rules.GRAVEST)


async def lock_subject(act: Act[Any], subject_id: str) -> Row:
    """The subject under its row lock; taken after the case's."""
    return await act.row(_LOCK_SUBJECT, subject_id)
