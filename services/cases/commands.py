"""Commands of cases: reports, resolving, reopening, notes; leases and decisions have modules of their own.

Locks: a report takes the open case of its subject (the unique index decides who opens it); every step takes the case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import asyncpg

from db.unit_of_work import Row, new_id
from schema.cases import CaseActionInput, NoteInput
from schema.errors import ConsoleError, InvalidTransitionError
from schema.moderation import ReportInput
from services.cases import rules, saving, targets
from services.cases.claims import ClaimCase, ClaimNextCase, EscalateCase, ExpireLease, ReleaseCase, RenewLease, SkipCase
from services.cases.decide import DecideCase, ExpireDecision
from services.cases.effect import settle_reports
from services.command import Act, Command, NotOffered, Offer, Result, Target
from services.messages import writing
from services.telling import publish_case, raise_alert, tell

_REPORTS = "SELECT id, category, reporter_id, reporter_accuracy, reporter_muted FROM report WHERE case_id = $1"
_KNOWN_REPORT = "SELECT * FROM report WHERE source = $1 AND external_id = $2"
_REPORT = """
INSERT INTO report (id, state, subject_id, case_id, city_id, content_category, category, source, external_id,
  reporter_id, automated, detail, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (source, external_id) DO NOTHING RETURNING id
"""
_NOTE = """
INSERT INTO note (id, case_id, city_id, author_id, body, internal, mention_ids, created_at, template_id, template_version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_HIDDEN = "SELECT hidden_actions FROM queue WHERE id = $1"
_SLA_POLICY = "SELECT first_response_seconds, resolve_seconds FROM sla_policy WHERE id = $1"
_TEXT_MAXIMUM: Final = 10_000
_ID_MAXIMUM: Final = 200
_MENTIONS_MAXIMUM: Final = 20
# Case states whose row a new report must not touch: their version is bound by an approval request.
_BOUND: Final = frozenset({"PENDING_APPROVAL"})


class SubmitReport(Command[ReportInput]):
    """A complaint: attaches to the subject's open case or opens one. The same external id again is the same report."""

    input_type = ReportInput
    offered = NotOffered("a report comes from outside, with the external id that its source gave it")

    async def locate(self, act: Act[ReportInput]) -> Target:
        row = await act.find("Subject", act.input.subject_id)
        return Target(
            "Subject",
            row["id"],
            row,
            city_id=row["city_id"],
            content_category=row["content_category"],
            version=row["version"],
            subject_id=row["id"],
            own_account=row["staff_id"] == act.caller.id,
            protected=bool(row["protected_tags"]),
        )

    def validate(self, act: Act[ReportInput], target: Target) -> None:
        if act.input.category not in rules.SEVERITY:
            raise ConsoleError("BAD_REQUEST", "No such category of report.", field="category")
        if not 1 <= len(act.input.external_id) <= _ID_MAXIMUM:
            raise ConsoleError("BAD_REQUEST", f"externalId has 1 to {_ID_MAXIMUM} characters.", field="externalId")
        if len(act.input.detail or "") > _TEXT_MAXIMUM:
            raise ConsoleError("BAD_REQUEST", f"detail has at most {_TEXT_MAXIMUM:,} characters.", field="detail")

    async def repeated(self, act: Act[ReportInput], target: Target) -> Result | None:
        row = await act.uow.fetchrow(_KNOWN_REPORT, _source(act), act.input.external_id)
        if row is None:
            return None
        wanted = act.input
        said = (wanted.subject_id, wanted.category, wanted.detail, wanted.reporter_id, bool(wanted.automated))
        if said != (row["subject_id"], row["category"], row["detail"], row["reporter_id"], row["automated"]):
            raise ConsoleError("IDEMPOTENCY_KEY_REUSED", field="externalId")
        return Result(refs={"report": row["id"]}, object=("Report", row["id"]))

    def check(self, act: Act[ReportInput], target: Target) -> None:
        if target.row["state"] == "DELETED":
            raise InvalidTransitionError("subject", "DELETED", "be reported")

    async def execute(self, act: Act[ReportInput], target: Target, entity_id: str | None) -> Result:
        subject, wanted = target.row, act.input
        joined = await saving.open_or_join(act, subject, "MODERATION")
        if joined is None:
            raise ConsoleError("BAD_REQUEST", "No queue takes reports of this city and category.", field="subjectId")
        case, _ = joined
        report_id = await act.uow.fetchval(
            _REPORT,
            new_id("rep"),
            rules.REPORT.next("RECEIVED", "attach"),
            subject["id"],
            case["id"],
            case["city_id"],
            case["content_category"],
            wanted.category,
            _source(act),
            wanted.external_id,
            wanted.reporter_id,
            bool(wanted.automated),
            wanted.detail,
            act.uow.now,
        )
        if report_id is None:  # the same report came in at the same time; a repeat finds it
            raise ConsoleError("IDEMPOTENCY_IN_PROGRESS", "The same report is just coming in; try again.")
        await self._weigh(act, case, subject)
        return Result(refs={"report": report_id}, object=("Report", report_id), parents=(case["id"],))

    async def _weigh(self, act: Act[ReportInput], case: Row, subject: Row) -> None:
        summary = "A report was attached."
        if case["state"] in _BOUND:
            await tell(act, ("Case", case["id"]), case["city_id"], "report_attached", summary)
            publish_case(act.uow, case, "report_attached")
            return
        reports = await act.uow.fetch(_REPORTS, case["id"])
        weighed = rules.priority(reports, protected=bool(subject["protected_tags"]))
        await saving.save(act, case, "report_attached", summary, priority=weighed)


def _source(act: Act[Any]) -> str:
    """External ids are the submitter's own: another's, or another city's, cannot be met (security-contract AZ-5)."""
    return f"{'service' if act.caller.service else 'staff'}:{act.caller.id}"


class ResolveCase(ReleaseCase):
    """Close the work without a decision; what was reported counts as dismissed."""

    field = "resolveCase"
    event = "resolve"
    told = "resolved", "The case was resolved without a decision."

    async def execute(self, act: Act[CaseActionInput], target: Target, entity_id: str | None) -> Result:
        await settle_reports(act, target.id, "dismiss")
        return await self._step(act, target.row, resolved_at=act.uow.now)


class ReopenCase(ReleaseCase):
    """Take up a resolved case again, within 30 days, with a new clock; its reports wait for an answer again."""

    step = False
    field = "reopenCase"
    event = "reopen"
    told = "reopened", "The case was reopened."

    async def execute(self, act: Act[CaseActionInput], target: Target, entity_id: str | None) -> Result:
        policy = await act.uow.fetchone(_SLA_POLICY, target.row["sla_policy_id"])
        first, resolve = rules.due_at(act.uow.now, policy)
        try:
            result = await self._step(
                act, target.row, resolved_at=None, first_response_due_at=first, resolve_due_at=resolve
            )
        except asyncpg.UniqueViolationError as error:  # case_open_once: a newer case about it is already open
            raise InvalidTransitionError("case", "RESOLVED with a newer open case", "reopen") from error
        await settle_reports(act, target.id, "reopen")
        return result


class AddNote(Command[NoteInput]):
    """A note on a case, at any state; those mentioned are alerted. From a template it is a message to the case's subject."""

    input_type = NoteInput
    step = True
    offered = Offer(
        "Case",
        lambda target, _: {
            "input": {"caseId": target.id, "body": "Seen.", "internal": True, "idempotencyKey": "hint"},
        },
    )

    async def locate(self, act: Act[NoteInput]) -> Target:
        target = await targets.find(act, act.input.case_id)
        if act.input.template_id is not None:
            await act.find("Template", act.input.template_id)  # NOT_FOUND now, before anything is said of the input
        return target

    def validate(self, act: Act[NoteInput], target: Target) -> None:
        if act.input.template_id is None:
            if not act.input.body.strip() or len(act.input.body) > _TEXT_MAXIMUM:
                raise ConsoleError("BAD_REQUEST", f"A note has 1 to {_TEXT_MAXIMUM:,} characters.", field="body")
        elif act.input.internal:
            raise ConsoleError(
                "BAD_REQUEST", "A note from a template is sent, so it is not internal.", field="internal"
            )
        elif act.input.body.strip():
            # Words of one's own may name somebody; what leaves the console is what was reviewed as a template.
            raise ConsoleError("BAD_REQUEST", "A note from a template has no words of its own.", field="body")
        self._check_mentions(act, target)

    async def lock(self, act: Act[NoteInput], target: Target) -> Target:
        # No row lock: a note stands beside whatever else becomes of the case.
        hidden = await act.uow.fetchval(_HIDDEN, target.row["queue_id"])
        return replace(target, row={**target.row, "hidden_actions": hidden})

    def check(self, act: Act[NoteInput], target: Target) -> None:
        rules.check_shown(target.row, "addNote")

    def _check_mentions(self, act: Act[NoteInput], target: Target) -> None:
        mentions = act.input.mention_ids or []
        if len(mentions) > _MENTIONS_MAXIMUM:
            raise ConsoleError("BAD_REQUEST", f"At most {_MENTIONS_MAXIMUM} mentions.", field="mentionIds")
        for staff_id in mentions:
            seen = act.may(
                "case",
                "read",
                target.facts,
                city_id=target.city_id,
                category=target.content_category,
                grants=act.standing(staff_id),
            )
            if not seen:  # unknown and not allowed are one answer
                raise ConsoleError("BAD_REQUEST", "Someone mentioned cannot see this case.", field="mentionIds")

    async def execute(self, act: Act[NoteInput], target: Target, entity_id: str | None) -> Result:
        case, note_id, template_id = target.row, new_id("note"), act.input.template_id
        message = None if template_id is None else await writing.compose(act, case, template_id)
        mentions = sorted(set(act.input.mention_ids or []))
        await act.uow.execute(
            _NOTE,
            note_id,
            case["id"],
            case["city_id"],
            act.caller.id,
            act.input.body if message is None else message.text,
            act.input.internal,
            mentions,
            act.uow.now,
            None if message is None else message.template["id"],
            None if message is None else message.template["version"],
        )
        # Not a new version of the case: a colleague's note would make the holder's decision a conflict.
        await tell(act, ("Case", case["id"]), case["city_id"], "note_added", "A note was added.")
        publish_case(act.uow, case, "note_added")
        if message is not None:
            writing.send(act, case, note_id, message)
            await tell(act, ("Case", case["id"]), case["city_id"], "message_queued", "A message was queued.")
        await raise_alert(
            act.uow,
            "MENTION",
            4,
            city_id=case["city_id"],
            target=("Case", case["id"]),
            summary="You were mentioned in a note.",
            recipients=[staff_id for staff_id in mentions if staff_id != act.caller.id],
        )
        return Result(
            refs={"note": note_id, "case": case["id"]},
            object=("Note", note_id),
            parents=(case["id"],),
        )


COMMANDS: Final[Mapping[str, Command[Any]]] = {
    "submitReport": SubmitReport(),
    "claimNextCase": ClaimNextCase(),
    "claimCase": ClaimCase(),
    "renewLease": RenewLease(),
    "releaseCase": ReleaseCase(),
    "skipCase": SkipCase(),
    "escalateCase": EscalateCase(),
    "resolveCase": ResolveCase(),
    "reopenCase": ReopenCase(),
    "addNote": AddNote(),
    "decideCase": DecideCase(),
}
SYSTEM_COMMANDS: Final[Mapping[str, Command[Any]]] = {
    "lease.expire": ExpireLease(),
    "decision.expire": ExpireDecision(),
}
