"""decideCase: lease and version, a statement where it restricts, a second person where the policy says so.

Locks case, then subject. While a request waits the case is PENDING_APPROVAL, which no other command leaves: its version
is what the request is bound to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from authz.approval_states import ENDINGS
from authz.conditions import Fact
from db.unit_of_work import Row, new_id
from schema.cases import DecideInput, StatementInput
from schema.errors import ConsoleError, InvalidTransitionError
from services.cases import rules, saving, targets
from services.cases.effect import derive_subject, lock_subject, settle_reports, take_effect
from services.cases.rules import ReportEvent
from services.command import Act, Command, Offer, Result, Target, check_version

_DECISION = """
INSERT INTO decision (id, case_id, subject_id, city_id, content_category, kind, family, state, reason_code, reason_note,
  reason_ticket, decided_by_id, severity, strikes, label, statement, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'PROPOSED', $8, $9, $10, $11, $12, $13, $14, $15::jsonb, $16)
"""
_LOCK = "SELECT * FROM decision WHERE id = $1 FOR UPDATE"
_HELD_BY = "UPDATE decision SET approval_request_id = $2 WHERE id = $1"
_STATE = "UPDATE decision SET state = $2 WHERE id = $1"
_SOURCES = "SELECT count(*) FILTER (WHERE NOT automated) AS people FROM report WHERE case_id = $1"
_REPLY_MAXIMUM: Final = 2_000


def _mildest(target: Target, caller_id: str) -> Mapping[str, Any]:
    sent = targets.presented(target, caller_id)
    decided = {"kind": "NO_ACTION", "severity": 0, "reason": {"code": "OTHER"}, "idempotencyKey": "hint"}
    return {"input": {**sent, "leaseToken": sent["leaseToken"] or "", **decided}}


class DecideCase(Command[DecideInput]):
    """Decide a claimed case. Effective at once, or PROPOSED until the request is approved."""

    input_type = DecideInput
    step = True
    offered = Offer("Case", _mildest)

    async def locate(self, act: Act[DecideInput]) -> Target:
        target = await targets.find(act, act.input.case_id)
        return self.with_input(act, target)

    def with_input(self, act: Act[DecideInput], target: Target) -> Target:
        wanted, hours = act.input, act.input.duration_hours
        facts: dict[str, Fact] = {**target.facts, "decisionKind": wanted.kind.value, "indefinite": int(hours is None)}
        if hours is not None:
            facts["durationHours"] = hours
        if act.reason is not None:
            facts["reasonCode"] = act.reason.code
        return replace(target, facts=facts)

    def validate(self, act: Act[DecideInput], target: Target) -> None:
        wanted = act.input
        rules.check_decision(
            wanted.kind.value,
            severity=wanted.severity,
            duration_hours=wanted.duration_hours,
            label=wanted.label,
            statement=wanted.statement,
        )
        if len(wanted.reply_to_reporters or "") > _REPLY_MAXIMUM:
            raise ConsoleError(
                "BAD_REQUEST", f"A reply has at most {_REPLY_MAXIMUM:,} characters.", field="replyToReporters"
            )

    async def lock(self, act: Act[DecideInput], target: Target) -> Target:
        found = await targets.locked(act, target)
        await lock_subject(act, found.row["subject_id"])
        return self.with_input(act, found)

    def check(self, act: Act[DecideInput], target: Target) -> None:
        case = target.row
        if act.approval is None:
            targets.check_step(
                act,
                case,
                field="decideCase",
                event="decide",
                lease_token=act.input.lease_token or None,  # it must be sent, so who holds none sends an empty one
                expected_version=act.input.expected_version,
            )
            return
        rules.CASE.next(case["state"], "execute")
        if case["approval_request_id"] != act.approval.request_id:
            raise InvalidTransitionError("case", case["state"], "be decided by another request")
        check_version(case, act.approval.target_version)

    async def propose(self, act: Act[DecideInput], target: Target) -> str:
        case, wanted, decision_id = target.row, act.input, new_id("dec")
        kind = wanted.kind.value
        statement = None
        if wanted.statement is not None:
            people = await act.uow.fetchval(_SOURCES, case["id"])
            statement = _statement(decision_id, kind, wanted.statement, act, by_people=people > 0)
        await act.uow.execute(
            _DECISION,
            decision_id,
            case["id"],
            case["subject_id"],
            case["city_id"],
            case["content_category"],
            kind,
            rules.FAMILIES[kind],
            act.why.code,
            act.why.note,
            act.why.ticket_ref,
            act.caller.id,
            wanted.severity,
            rules.strikes(kind, wanted.severity),
            wanted.label,
            orjson.dumps(statement).decode() if statement is not None else None,
            act.uow.now,
        )
        return decision_id

    async def hold(self, act: Act[DecideInput], target: Target, entity_id: str | None, request_id: str) -> Result:
        case = target.row
        await act.uow.execute(_HELD_BY, entity_id, request_id)
        row = await saving.save(
            act,
            case,
            "approval_requested",
            "A decision waits for a second person.",
            state=rules.CASE.next(case["state"], "hold"),
            approval_request_id=request_id,
            **saving.NO_LEASE,  # the assignee stays: the case returns to him
        )
        return Result(
            refs={"decision": entity_id, "case": row["id"]},
            after=row,
            changed=("state", "lease"),
            parents=(str(entity_id),),
        )

    async def execute(self, act: Act[DecideInput], target: Target, entity_id: str | None) -> Result:
        case, kind = target.row, act.input.kind.value
        decision = await act.row(_LOCK, entity_id)
        subject = await lock_subject(act, case["subject_id"])
        await take_effect(act, decision, subject, hours=act.input.duration_hours, approved_by=act.approved_by)
        event: ReportEvent = "dismiss" if kind == "NO_ACTION" else "action"
        await settle_reports(act, case["id"], event, act.input.reply_to_reporters)
        row = await saving.save(
            act,
            case,
            "decided",
            f"Decided: {kind}.",
            state=rules.CASE.next(case["state"], "execute" if act.approval else "decide"),
            assignee_id=None,
            resolved_at=act.uow.now,
            approval_request_id=None,
            **saving.NO_LEASE,
        )
        return Result(
            refs={"decision": entity_id, "case": row["id"]},
            after=row,
            changed=("state", "assigneeId", "lease"),
            parents=(str(entity_id),),
        )

    async def abandon(self, act: Act[DecideInput], target: Target, entity_id: str | None, outcome: str) -> None:
        case = target.row
        decision = await act.uow.fetchrow(_LOCK, entity_id)
        if decision is not None and decision["state"] == "PROPOSED":
            await act.uow.execute(_STATE, entity_id, rules.DECISION.next("PROPOSED", "reject"))
        if case["state"] == "PENDING_APPROVAL":
            await saving.save(
                act,
                case,
                "returned",
                "The decision was not approved; the case is open again.",
                state=rules.CASE.next(case["state"], ENDINGS[outcome]),
                approval_request_id=None,
            )

    def summary(self, act: Act[DecideInput], target: Target) -> str:
        return f"{act.input.kind.value} on case {target.id}, severity {act.input.severity}"

    def diff(self, act: Act[DecideInput], target: Target) -> Mapping[str, Any]:
        wanted = act.input
        after = {"state": "RESOLVED", "decision": wanted.kind.value, "severity": wanted.severity}
        return {
            "case": {"before": {"state": target.row["state"]}, "after": after},
            "subject": {"strikes": rules.strikes(wanted.kind.value, wanted.severity)},
        }


def _statement(
    decision_id: str, kind: str, wanted: StatementInput, act: Act[DecideInput], *, by_people: bool
) -> dict[str, Any]:
    """The StatementOfReasons of the schema (DSA article 17), under its GraphQL names."""
    return {
        "puid": decision_id,
        "ground": wanted.ground.value,
        "groundReference": wanted.ground_reference,
        "facts": wanted.facts,
        "explanation": wanted.explanation,
        "restrictions": [rules.RESTRICTIONS[kind]] if kind in rules.RESTRICTIONS else [],
        "category": wanted.category,
        "contentType": list(wanted.content_type),
        "sourceType": "SOURCE_ARTICLE_16" if by_people else "SOURCE_VOLUNTARY",
        "automatedDetection": wanted.automated_detection,
        "automatedDecision": "AUTOMATED_DECISION_NOT_AUTOMATED",
        "territorialScope": list(wanted.territorial_scope or []),
        "applicationDate": act.uow.now.date().isoformat(),
        "endDate": None,
        "exportedAt": None,
    }


@dataclass(frozen=True)
class DecisionInput:
    """Arguments of the timer."""

    decision_id: str


class ExpireDecision(Command[DecisionInput]):
    """The timer's: a timed decision has run out."""

    input_type = DecisionInput

    async def locate(self, act: Act[DecisionInput]) -> Target:
        return _decision_target(await act.find("Decision", act.input.decision_id))

    async def lock(self, act: Act[DecisionInput], target: Target) -> Target:
        await lock_subject(act, target.row["subject_id"])
        return _decision_target(await act.row(_LOCK, target.id))

    def check(self, act: Act[DecisionInput], target: Target) -> None:
        rules.DECISION.next(target.row["state"], "expire")
        if target.row["expires_at"] is None or target.row["expires_at"] > act.uow.now:
            raise InvalidTransitionError("decision", "EFFECTIVE until later", "expire")

    async def execute(self, act: Act[DecisionInput], target: Target, entity_id: str | None) -> Result:
        await act.uow.execute(_STATE, target.id, rules.DECISION.next(target.row["state"], "expire"))
        subject = await lock_subject(act, target.row["subject_id"])
        await derive_subject(act, subject)
        return Result(changed=("state",))


def _decision_target(row: Row) -> Target:
    return Target(
        "Decision",
        row["id"],
        row,
        city_id=row["city_id"],
        content_category=row["content_category"],
        subject_id=row["subject_id"],
    )
