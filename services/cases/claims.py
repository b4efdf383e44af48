"""Leases: claiming the next case of a queue or a named one, keeping it, giving it back.

A person holds at most five. The count is read under an advisory lock of that person, taken before the case's row lock:
two claims at once would each see four.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from authz.scope import CATEGORIES
from db.unit_of_work import Row
from schema.cases import CaseActionInput, LeaseInput
from schema.errors import ConsoleError, InvalidTransitionError
from services.cases import rules, saving, targets
from services.cases.rules import CaseEvent
from services.command import Act, Command, NotOffered, Offer, Result, Target

_LEASES_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('leases:' || $1, 0))"
# Counted in all cities (migration 0001): a token that narrows its bearer must not hide his other leases.
_LEASES = "SELECT leases_held($1, $2)"
# What waits in a queue for this person: within one of his (city, category, state) rights, not skipped by him, not about
# his own account. A lease that ended counts as ended although the timer has not come by yet.
_WAITING = """
FROM case_file c JOIN queue q ON q.id = c.queue_id
WHERE c.queue_id = $1
  AND (c.state IN ('OPEN', 'ESCALATED') OR c.state = 'CLAIMED' AND c.lease_expires_at <= $2)
  AND EXISTS (
    SELECT FROM unnest($3::text[], $4::text[], $5::text[]) AS may (city_id, category, state)
    WHERE (may.city_id = '*' OR may.city_id = c.city_id) AND may.category = c.content_category
      AND may.state = CASE c.state WHEN 'CLAIMED' THEN 'OPEN' ELSE c.state END)
  AND NOT EXISTS (SELECT FROM case_skip k WHERE k.case_id = c.id AND k.staff_id = $6 AND k.until > $2)
  AND NOT EXISTS (SELECT FROM subject s WHERE s.id = c.subject_id AND s.staff_id = $6)
"""
# SKIP LOCKED: two people who ask at once get two cases, and nobody waits.
_NEXT = f"""
SELECT c.*, q.hidden_actions {_WAITING}
ORDER BY c.resolve_due_at + make_interval(secs => c.sla_paused_seconds) <= $2 DESC NULLS LAST,
  c.priority DESC, c.created_at, c.id
LIMIT 1 FOR UPDATE OF c SKIP LOCKED
"""
_PENDING = f"SELECT count(*) {_WAITING}"
_SKIP = """
INSERT INTO case_skip (case_id, staff_id, until) VALUES ($1, $2, $3)
ON CONFLICT (case_id, staff_id) DO UPDATE SET until = excluded.until
"""
_STATES: Final = ("OPEN", "ESCALATED")


@dataclass(frozen=True)
class ClaimNextInput:
    """Arguments of ``claimNextCase``."""

    queue_id: str
    idempotency_key: str | None = None


@dataclass(frozen=True)
class ClaimInput:
    """Arguments of ``claimCase``."""

    case_id: str


def _rights(act: Act[Any], kind: str) -> tuple[list[str], list[str], list[str]]:
    """Every (city, category, state) of this kind that the caller may claim, as the policy row says."""
    cities = sorted({city for grant in act.caller.grants for city in grant.city_ids})
    found = [
        (city, category, state)
        for city in cities
        for category in CATEGORIES
        for state in _STATES
        if act.may(
            "case",
            "claim",
            {"caseKind": kind, "caseState": state, "contentCategory": category},
            city_id=None if city == "*" else city,
            category=category,
        )
    ]
    return [f[0] for f in found], [f[1] for f in found], [f[2] for f in found]


async def _leases(act: Act[Any]) -> int:
    """How many leases the caller holds; none can be added until the commit."""
    await act.uow.execute(_LEASES_LOCK, act.caller.id)
    return int(await act.uow.fetchval(_LEASES, act.caller.id, act.uow.now))


async def _pending(act: Act[Any], queue_id: str, kind: str) -> int:
    count = await act.uow.fetchval(_PENDING, queue_id, act.uow.now, *_rights(act, kind), act.caller.id)
    return int(count)


async def _claim(act: Act[Any], case: Row) -> Result:
    """Give the caller a lease on a case that he has locked and that is free."""
    if case["state"] == "CLAIMED":
        case = await saving.expire_lease(act, case)
    now = act.uow.now
    row = await saving.save(
        act,
        case,
        "claimed",
        "The case was claimed.",
        state=rules.CASE.next(case["state"], "claim"),
        assignee_id=act.caller.id,
        lease_token=secrets.token_hex(16),
        lease_started_at=now,
        lease_expires_at=rules.lease_until(now, now),
        first_claimed_at=case["first_claimed_at"] or now,
        last_claimed_at=now,
    )
    return Result(
        refs={"case": row["id"]},
        values={"leaseToken": row["lease_token"], "pending": await _pending(act, row["queue_id"], row["kind"])},
        after=row,
        changed=("state", "assigneeId", "lease"),
    )


class ClaimNextCase(Command[ClaimNextInput]):
    """The most urgent case of a queue that the caller may claim, or null when none waits."""

    input_type = ClaimNextInput
    offered = NotOffered("it is asked of a queue, which case it will be is not known before")

    async def locate(self, act: Act[ClaimNextInput]) -> Target:
        row = await act.find("Queue", act.input.queue_id)
        return Target("Queue", row["id"], row, version=row["version"], judged=False)

    async def lock(self, act: Act[ClaimNextInput], target: Target) -> Target:
        if await _leases(act) >= rules.LEASES_EACH:
            raise ConsoleError("LEASE_LIMIT", held=rules.LEASES_EACH)
        queue = target.row
        if not queue["enabled"]:
            return target
        rights = _rights(act, queue["kind"])
        row = await act.uow.fetchrow(_NEXT, queue["id"], act.uow.now, *rights, act.caller.id)
        if row is None:
            return target
        return await targets.of_case(act, row)

    async def execute(self, act: Act[ClaimNextInput], target: Target, entity_id: str | None) -> Result:
        if target.type == "Queue":
            return Result(refs={"case": None}, values={"leaseToken": None, "pending": 0})
        return await _claim(act, target.row)


class ClaimCase(Command[ClaimInput]):
    """A named case. The holder who claims it again hears of the lease he has."""

    input_type = ClaimInput
    offered = Offer("Case", lambda target, _: {"caseId": target.id})

    async def locate(self, act: Act[ClaimInput]) -> Target:
        return await targets.find(act, act.input.case_id)

    async def lock(self, act: Act[ClaimInput], target: Target) -> Target:
        held = await _leases(act)
        found = await targets.locked(act, target)
        return replace(found, row={**found.row, "leases": held})

    async def repeated(self, act: Act[ClaimInput], target: Target) -> Result | None:
        case = target.row
        if not target.facts["assigned"]:
            return None
        pending = await _pending(act, case["queue_id"], case["kind"])
        return Result(refs={"case": case["id"]}, values={"leaseToken": case["lease_token"], "pending": pending})

    def check(self, act: Act[ClaimInput], target: Target) -> None:
        rules.check_claim(target.row, act.caller.id, act.uow.now)

    async def execute(self, act: Act[ClaimInput], target: Target, entity_id: str | None) -> Result:
        return await _claim(act, target.row)


class RenewLease(Command[LeaseInput]):
    """Fifteen minutes more, up to eight hours in one go."""

    input_type = LeaseInput
    offered = NotOffered("the holder's front end renews while the case is open, nobody presses for it")

    async def locate(self, act: Act[LeaseInput]) -> Target:
        return await targets.find(act, act.input.case_id)

    async def lock(self, act: Act[LeaseInput], target: Target) -> Target:
        return await targets.locked(act, target)

    def check(self, act: Act[LeaseInput], target: Target) -> None:
        case = target.row
        rules.check_lease(case, act.caller.id, act.input.lease_token, act.uow.now)
        if case["state"] != "CLAIMED":
            raise InvalidTransitionError("case", case["state"], "renew")

    async def execute(self, act: Act[LeaseInput], target: Target, entity_id: str | None) -> Result:
        case = target.row
        row = await saving.extend_lease(act, case, rules.lease_until(act.uow.now, case["lease_started_at"]))
        return Result(refs={"lease": row["id"]}, after=row, changed=("lease",))


def _mildest_step(target: Target, caller_id: str) -> Mapping[str, Any]:
    return {"input": {**targets.presented(target, caller_id), "reason": {"code": "OTHER"}}}


class ReleaseCase(Command[CaseActionInput]):
    """Give a claimed case back, or take the escalation off one."""

    input_type = CaseActionInput
    step = True
    offered = Offer("Case", _mildest_step)
    field = "releaseCase"
    event: ClassVar[CaseEvent] = "release"
    told = "released", "The case was given back."

    async def locate(self, act: Act[CaseActionInput]) -> Target:
        return await targets.find(act, act.input.case_id)

    async def lock(self, act: Act[CaseActionInput], target: Target) -> Target:
        return await targets.locked(act, target)

    def check(self, act: Act[CaseActionInput], target: Target) -> None:
        targets.check_step(
            act,
            target.row,
            field=self.field,
            event=self.event,
            lease_token=act.input.lease_token,
            expected_version=act.input.expected_version,
        )

    async def _step(self, act: Act[CaseActionInput], case: Row, **changes: Any) -> Result:
        state = rules.CASE.next(case["state"], self.event)
        kind, summary = self.told
        changes = {"state": state, "assignee_id": None, **saving.NO_LEASE, **changes}
        row = await saving.save(act, case, kind, summary, **changes)
        return Result(refs={"case": row["id"]}, after=row, changed=("state", "assigneeId", "lease"))

    async def execute(self, act: Act[CaseActionInput], target: Target, entity_id: str | None) -> Result:
        return await self._step(act, target.row)


class SkipCase(ReleaseCase):
    """Give a claimed case back and not be offered it for four hours."""

    step = False
    field = "skipCase"
    event = "skip"
    told = "skipped", "The case was skipped."

    async def execute(self, act: Act[CaseActionInput], target: Target, entity_id: str | None) -> Result:
        case = target.row
        await act.uow.execute(_SKIP, case["id"], act.caller.id, act.uow.now + rules.SKIP_FOR)
        return await self._step(act, case, skips=case["skips"] + 1)


class EscalateCase(ReleaseCase):
    """Hand a case to the seniors."""

    field = "escalateCase"
    event = "escalate"
    told = "escalated", "The case was escalated."


class ExpireLease(Command[ClaimInput]):
    """The timer's: an ended lease leaves the case to the others."""

    input_type = ClaimInput

    async def locate(self, act: Act[ClaimInput]) -> Target:
        return await targets.find(act, act.input.case_id)

    async def lock(self, act: Act[ClaimInput], target: Target) -> Target:
        return await targets.locked(act, target)

    def check(self, act: Act[ClaimInput], target: Target) -> None:
        case = target.row
        if case["state"] != "CLAIMED" or case["lease_expires_at"] > act.uow.now:
            raise InvalidTransitionError("case", case["state"], "expire its lease")

    async def execute(self, act: Act[ClaimInput], target: Target, entity_id: str | None) -> Result:
        row = await saving.expire_lease(act, target.row)
        return Result(after=row, changed=("state", "assigneeId", "lease"))
