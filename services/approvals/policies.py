"""The command that changes an approval policy: countersigned under the old one, in force everywhere with its commit.

Locks: the own approval request; the policies of the action (one lock for all of them); then the open requests of that
action in the order of their ids, all of them before anything that one of them holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from authz import approval_book, conditions, dual_control
from authz.approval_terms import Terms, TermsError, in_words, seats_of, terms_of
from authz.conditions import MAX_NESTING, Condition, ConditionError
from authz.dual_control import Vote
from authz.requirements import FLOOR, ApprovalPolicy, PolicySeats, Requirement, entry_of, parse_policy
from authz.scope import TIERS
from db.unit_of_work import Row, new_id
from schema.approvals import ApprovalPolicyInput
from schema.errors import ConsoleError, VersionConflictError
from services.approvals import request as requests
from services.approvals.execution import POLICY_CHANGED
from services.command import Act, Command, Result, Target, check_version

TYPE: Final = "ApprovalPolicy"
ITSELF: Final = "approvalPolicy.propose"
# Shorter than anybody could read and answer, or longer than anybody remembers why it was asked.
CLOCKS: Final[Mapping[str, tuple[int, int]]] = {
    "approveWithinSeconds": (300, 30 * 86_400),
    "executeWithinSeconds": (60, 7 * 86_400),
}
# One record each goes into one append, which takes a thousand. What is beyond waits for its quorum, where the policy is
# compared again, or for its clock.
CLOSED_AT_ONCE: Final = 500
_SHOWN_CHARACTERS: Final = 200

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('approval_policy:' || $1, 0))"
_CURRENT = "SELECT * FROM approval_policy WHERE id = $1 AND current"
_OUTDATE = "UPDATE approval_policy SET current = false WHERE id = $1 AND current"
_INSERT = """
INSERT INTO approval_policy (id, version, action, condition, seats, approve_within_seconds, execute_within_seconds, enabled,
  created_at, created_by_id, request_id)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7, $8, $9, $10, $11) RETURNING *
"""
_OPEN_REQUESTS = """
SELECT * FROM approval_request
WHERE id <> $2 AND (state = 'PENDING' OR (state = 'APPROVED' AND execution IN ('NOT_STARTED', 'FAILED')))
  AND (action = $1 OR gates @> jsonb_build_array(jsonb_build_object('action', $1::text)))
ORDER BY id LIMIT $3 FOR UPDATE
"""


class SaveApprovalPolicy(Command[ApprovalPolicyInput]):
    """Make a policy, or the next version of one. Never without the approvals that the policies of before ask for."""

    input_type = ApprovalPolicyInput

    async def locate(self, act: Act[ApprovalPolicyInput]) -> Target:
        if act.input.id is None:
            key = act.input.action if act.input.action in FLOOR else "unknown"
            return Target(TYPE, key, {})
        return _target(await act.find(TYPE, act.input.id))

    def validate(self, act: Act[ApprovalPolicyInput], target: Target) -> None:
        policy = wanted(act.input)
        if target.row and target.row["action"] != policy.key:
            raise ConsoleError("BAD_REQUEST", "A policy stays with its action; make another one.", field="action")
        if not target.row and act.input.expected_version is not None:
            raise ConsoleError("BAD_REQUEST", "A new policy has no version yet.", field="expectedVersion")

    async def lock(self, act: Act[ApprovalPolicyInput], target: Target) -> Target:
        # Only an execution writes, and it alone has votes. One lock for all policies of an action: two changes together could
        # leave it without its floor.
        if act.votes:
            await act.uow.execute(_LOCK, act.input.action)
        return _target(await act.row(_CURRENT, target.id)) if target.row else target

    def check(self, act: Act[ApprovalPolicyInput], target: Target) -> None:
        policy = wanted(act.input)
        if target.row:
            check_version(target.row, act.input.expected_version)
            if _same(policy, act.input.enabled, target.row):
                raise ConsoleError("BAD_REQUEST", "The policy says this already.")
        _check_book(act, policy)
        if act.input.enabled:
            _check_voters(act, policy)

    async def propose(self, act: Act[ApprovalPolicyInput], target: Target) -> str:
        return target.id if target.row else new_id("apol")

    async def hold(
        self, act: Act[ApprovalPolicyInput], target: Target, entity_id: str | None, request_id: str
    ) -> Result:
        # What is to change is as before, so the request is bound to the version that stands.
        return Result(refs={"policy": target.id}, after=target.row) if target.row else Result()

    async def execute(self, act: Act[ApprovalPolicyInput], target: Target, entity_id: str | None) -> Result:
        if act.approval is None or entity_id is None:
            raise ConsoleError("INTERNAL", "An approval policy is never changed without its approvals.")
        policy = replace(wanted(act.input), id=entity_id, version=target.version + 1 if target.version else 1)
        outdated = await act.uow.execute(_OUTDATE, policy.id)
        if target.row and outdated != "UPDATE 1":  # a release brought its own in this very moment
            raise VersionConflictError(policy.version)
        row = await act.uow.fetchone(
            _INSERT,
            policy.id,
            policy.version,
            policy.key,
            *approval_book.stored_values(policy),
            act.input.enabled,
            act.uow.now,
            act.caller.id,
            act.approval.request_id,
        )
        # By the table, not by the snapshot: another policy of the action may have changed since this unit began.
        try:
            await approval_book.stored_book(act.uow.conn)
        except approval_book.BookError as error:
            raise ConsoleError("SCHEMA_VIOLATION", _sentence(error)) from error
        closed = await self._invalidate(act, policy.key, act.approval.request_id)
        return Result(
            refs={"policy": row["id"]},
            object=(TYPE, row["id"]),
            after=row,
            changed=tuple(_changed(target.row, row)),
            parents=closed,
        )

    async def _invalidate(self, act: Act[ApprovalPolicyInput], key: str, own: str) -> tuple[str, ...]:
        """End what waits under the old policy: its quorum would be that of before. What it holds is freed at once."""
        # Every one is locked before anything that one of them holds: whoever votes on one takes its lock first too.
        rows = await act.uow.fetch(_OPEN_REQUESTS, key, own, CLOSED_AT_ONCE)
        for row in rows:
            await act.stored.refused(act, row, (), POLICY_CHANGED)
            await requests.close(act, row, "invalidate", because=POLICY_CHANGED)
        return tuple(row["id"] for row in rows)

    def summary(self, act: Act[ApprovalPolicyInput], target: Target) -> str:
        policy = wanted(act.input)
        what = f"Change approval policy {target.id}" if target.row else f"New approval policy for {policy.key}"
        return f"{what}: {_in_words(policy, act.input.enabled)}"

    def diff(self, act: Act[ApprovalPolicyInput], target: Target) -> Mapping[str, Any]:
        before = None
        if target.row:
            before = _shown(approval_book.read_row(target.row), target.row["enabled"])
        policy = replace(wanted(act.input), version=(target.version or 0) + 1)
        after = {**_shown(policy, act.input.enabled), "id": target.id if target.row else None}
        return {"policy": {"before": before, "after": after}}


def _target(row: Row) -> Target:
    return Target(TYPE, row["id"], row, version=row["version"])


# ---------- input ----------
def wanted(said: ApprovalPolicyInput) -> ApprovalPolicy:
    """The policy that an input describes; ``SCHEMA_VIOLATION`` names the field, and within a condition the place."""
    if said.action not in FLOOR:
        raise ConsoleError("SCHEMA_VIOLATION", "No such action is under dual control.", field="action")
    condition = _condition(said.condition)
    for clock, (least, most) in CLOCKS.items():
        seconds = said.approve_within_seconds if clock == "approveWithinSeconds" else said.execute_within_seconds
        if not least <= seconds <= most:
            raise ConsoleError("SCHEMA_VIOLATION", f"{clock} is {least:,} to {most:,} seconds.", field=clock)
    roles = tuple(role.value for role in said.approver_roles)
    try:
        seats = seats_of(Terms(said.approvals, roles, said.min_tier.value, said.must_include))
    except TermsError as error:
        raise ConsoleError("SCHEMA_VIOLATION", _sentence(error), field=error.field) from error
    policy = ApprovalPolicy(
        said.id or "new",
        said.action,
        condition,
        seats,
        said.approve_within_seconds,
        said.execute_within_seconds,
    )
    try:
        return parse_policy(entry_of(policy))  # as a process will read it back: the floor with it
    except ValueError as error:
        raise ConsoleError("SCHEMA_VIOLATION", _sentence(error), field="approvals", floor=FLOOR[said.action]) from error


def _condition(said: Any) -> Condition | None:
    if said is None:
        return None
    try:
        if not isinstance(said, Mapping):  # a text would be read as JSON once more
            raise ConditionError(f"a condition is an object, not {type(said).__name__}")  # noqa: TRY301 - told like the others
        return conditions.parse(said)
    except ConditionError as error:
        place = ".".join(["condition", *(str(step) for step in _place(said))])
        raise ConsoleError("SCHEMA_VIOLATION", _sentence(error), field=place) from error


def _place(node: Any) -> Iterator[str | int]:
    """The way to the innermost condition that is wrong by itself."""
    for _ in range(MAX_NESTING):
        step = next((name for name in ("all", "any", "not") if isinstance(node, Mapping) and set(node) == {name}), None)
        if step is None:
            return
        inner = node[step]
        if step == "not":
            yield step
            node = inner
            continue
        wrong = (
            next((i for i, item in enumerate(inner) if not _parses(item)), None) if isinstance(inner, list) else None
        )
        if wrong is None:
            return
        yield step
        yield wrong
        node = inner[wrong]


def _parses(node: Any) -> bool:
    try:
        conditions.parse(node)
    except ConditionError:
        return False
    return True


def _check_book(act: Act[Any], policy: ApprovalPolicy) -> None:
    """Refuse what would leave an action without its floor: the last policy disabled, a condition that spares the gravest deed."""
    others = [one for found in act.snapshot.approvals.values() for one in found if one.id != policy.id]
    try:
        approval_book.book_in_force([*others, policy] if act.input.enabled else others)
    except ValueError as error:
        floor = FLOOR[policy.key]
        raise ConsoleError("SCHEMA_VIOLATION", _sentence(error), floor=floor) from error


def _check_voters(act: Act[Any], policy: ApprovalPolicy) -> None:
    """Refuse a seat that nobody could ever fill: without a vote row, or for want of people, which would be a silent no to everything."""
    for seat in policy.seats:
        for role, least in seat.accepts:
            tiers = TIERS[TIERS.index(least) :]
            if not any(act.snapshot.policy.lines(role, tier, "approval", policy.key) for tier in tiers):
                raise ConsoleError(
                    "SCHEMA_VIOLATION",
                    f"{role} from {least} has no right to vote on {policy.key}.",
                    field="approverRoles",
                )
    if policy.from_steps:
        return
    seats = (PolicySeats(policy.id, policy.seats),)
    requirement = Requirement(policy.key, len(policy.seats), seats, policy.approve_within_seconds, 1)
    votes = [vote for person in act.snapshot.staff for vote in _best_vote(act, person, requirement)]
    if policy.key == ITSELF:  # whoever proposes cannot approve: without this the next change would find nobody
        votes = [vote for vote in votes if vote.voter_id != act.caller.id]
    if not dual_control.enough(requirement, votes):
        raise ConsoleError(
            "NO_ELIGIBLE_APPROVERS",
            "Too few people could fill the seats of this policy.",
            approvalsNeeded=requirement.approvals,
        )


def _best_vote(act: Act[Any], person: str, requirement: Requirement) -> list[Vote]:
    """The vote of a person in the grant that fits most seats, conditions and scope aside: they depend on the request."""
    grants = [
        grant
        for grant in act.standing(person)
        if act.snapshot.policy.lines(grant.role, grant.tier, "approval", requirement.key)
        and requirement.seats_for(grant.role, grant.tier)
    ]
    best = max(grants, key=lambda grant: requirement.seats_for(grant.role, grant.tier), default=None)
    return [] if best is None else [Vote(person, best.role, best.tier)]


# ---------- words ----------
def _sentence(error: Exception) -> str:
    text = str(error)
    first = text.partition(" ")[0]
    return (
        f"{first.capitalize() if first.islower() else first}{text.removeprefix(first)}."  # amountMinor stays as it is
    )


def _same(policy: ApprovalPolicy, enabled: bool, row: Row) -> bool:
    old = approval_book.read_row(row)
    return bool(enabled == row["enabled"]) and _shown(policy, enabled) == {
        **_shown(old, enabled),
        "version": policy.version,
    }


def _shown(policy: ApprovalPolicy, enabled: bool) -> dict[str, Any]:
    """A policy in full, as an approver reads it."""
    terms = terms_of(policy.seats)
    return {
        "id": policy.id,
        "version": policy.version,
        "action": policy.key,
        "condition": entry_of(policy)["condition"],
        "applies": conditions.text(policy.condition),
        "approvals": terms.approvals,
        "approverRoles": list(terms.approver_roles),
        "minTier": terms.min_tier,
        "mustInclude": terms.must_include,
        "approveWithinSeconds": policy.approve_within_seconds,
        "executeWithinSeconds": policy.execute_within_seconds,
        "enabled": enabled,
    }


def _in_words(policy: ApprovalPolicy, enabled: bool) -> str:
    if not enabled:
        return "it no longer applies."
    when = conditions.text(policy.condition)
    if len(when) > _SHOWN_CHARACTERS:
        when = f"{when[:_SHOWN_CHARACTERS]}…"
    return f"{in_words(policy.seats)}; {when if policy.condition is None else f'if {when}'}."


def _changed(before: Row, after: Row) -> Sequence[str]:
    names = {"condition": "condition", "seats": "approverRoles", "enabled": "enabled"}
    clocks = {"approve_within_seconds": "approveWithinSeconds", "execute_within_seconds": "executeWithinSeconds"}
    return [said for column, said in {**names, **clocks}.items() if not before or before[column] != after[column]]
