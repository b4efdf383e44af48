"""Approval requests as rows: opened by the pipeline, judged, closed and told of, whatever command they store.

Every function that changes one expects its row lock; version + 1, a timeline entry and an ApprovalEvent each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from authz import approval_states, dual_control, requirements
from authz.approval_states import Ending
from authz.caller import Grant
from authz.conditions import Facts
from authz.dual_control import Bound
from authz.enforcer import Snapshot
from authz.requirements import Gate, Requirement, read_facts, stored_facts
from authz.scope import UNSCOPED
from db.unit_of_work import Row
from schema.errors import ConsoleError
from services.command import Act, Target
from services.telling import document, publish_approval, raise_alert, tell

_INSERT = """
INSERT INTO approval_request (id, action, command, target_type, target_id, target_version, entity_id, city_id,
  content_category, summary, payload, payload_hash, diff, facts, policy_id, policy_version, seats, approvals_needed, gates,
  contributor_ids, requester_id, requester_role, requester_tier, subject_staff_id, amount_minor, window_sum_minor, currency,
  reason_code, reason_note, reason_ticket, execute_within_seconds, created_at, approve_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::jsonb, $14::jsonb, $15, $16, $17::jsonb, $18, $19::jsonb,
  $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33)
RETURNING *
"""
_LOCK = "SELECT * FROM approval_request WHERE id = $1 FOR UPDATE"
_STAMP_CHARACTERS: Final = 12  # tells versions of the policy apart, and short enough to read
_NOT_BOUND: Final = frozenset({"idempotencyKey", "leaseToken"})  # the one names an attempt, the other is a secret


def bound_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as JSON values, without what is not part of the deed."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(arguments))
    for level in (found, found.get("input")):
        if isinstance(level, dict):
            for name in _NOT_BOUND:
                level.pop(name, None)
    return found


def policy_id(requirement: Requirement, snapshot: Snapshot, gates: tuple[Gate, ...] = ()) -> str:
    """Which policies of which version ask for the approval: ``POLICY_CHANGED`` is a comparison of it."""
    return f"{requirement.policy_id}@{_stamp(snapshot, requirement.key, gates)}"


def policy_changed(request: Row, snapshot: Snapshot) -> bool:
    """Whether the policy as shipped, or an approval policy of the request's action or steps, is another than when it was made."""
    made_under = request["policy_id"].rpartition("@")[2]
    return bool(made_under != _stamp(snapshot, request["action"], _gates(request)))


def _stamp(snapshot: Snapshot, key: str, gates: tuple[Gate, ...]) -> str:
    policies = requirements.stamp(snapshot.approvals, key, *(gate.key for gate in gates))
    return hashlib.sha256(f"{snapshot.policy.digest} {policies}".encode()).hexdigest()[:_STAMP_CHARACTERS]


def _gates(request: Row) -> tuple[Gate, ...]:
    return tuple(Gate.from_json(gate) for gate in document(request["gates"]))


def bound(request: Row) -> Bound:
    """What votes on this request are judged by."""
    return _bound(
        Requirement.from_json(document(request["seats"])),
        read_facts(document(request["facts"])),
        _gates(request),
        requester_id=request["requester_id"],
        city_id=request["city_id"],
        category=request["content_category"],
        concerned_id=request["subject_staff_id"],
        contributor_ids=request["contributor_ids"],
    )


def _bound(
    requirement: Requirement,
    facts: Facts,
    gates: tuple[Gate, ...],
    *,
    requester_id: str,
    city_id: str | None,
    category: str | None,
    concerned_id: str | None,
    contributor_ids: Iterable[str],
) -> Bound:
    return Bound(
        key=requirement.key,
        requester_id=requester_id,
        facts=facts,
        requirement=requirement,
        city_id=city_id,
        content_category=UNSCOPED if category is None else category,
        concerned_ids=frozenset(one for one in (concerned_id, *(gate.concerned_id for gate in gates)) if one),
        contributor_ids=frozenset(contributor_ids),
        gates=gates,
    )


def check_pool(act: Act[Any], target: Target, requirement: Requirement, facts: Facts) -> tuple[str, ...]:
    """Ids of everybody who may vote; ``NO_ELIGIBLE_APPROVERS`` at once when they could not fill the seats."""
    wanted = _bound(
        requirement,
        facts,
        target.gates,
        requester_id=act.caller.id,
        city_id=target.city_id,
        category=target.content_category,
        concerned_id=target.concerned_id,
        contributor_ids=target.contributor_ids,
    )
    pool = act.snapshot.approvers(wanted, act.uow.now)
    if not dual_control.enough(requirement, pool):
        raise ConsoleError("NO_ELIGIBLE_APPROVERS", approvalsNeeded=requirement.approvals)
    return tuple(vote.voter_id for vote in pool)


async def open_request(
    act: Act[Any],
    request_id: str,
    *,
    command: str,
    arguments: Mapping[str, Any],
    target: Target,
    target_version: int | None,
    entity_id: str | None,
    requirement: Requirement,
    grant: Grant,
    facts: Facts,
    summary: str,
    diff: Mapping[str, Any],
    approvers: tuple[str, ...],
) -> Row:
    """Store a command until enough people agree, and alert those who may.

    Bound by hash to action, arguments, target and its version, requester, policy. ``facts`` are kept as they stand now.
    """
    policy = policy_id(requirement, act.snapshot, target.gates)
    payload, payload_hash = dual_control.payload(
        action=requirement.key,
        arguments=bound_arguments(arguments),
        target_id=target.id,
        target_version=target_version,
        requester_id=act.caller.id,
        policy_id=policy,
        policy_version=act.snapshot.version,
    )
    row = await act.uow.fetchone(
        _INSERT,
        request_id,
        requirement.key,
        command,
        target.type,
        target.id,
        target_version,
        entity_id,
        target.city_id,
        target.content_category,
        summary,
        payload,
        payload_hash,
        orjson.dumps(diff).decode(),
        orjson.dumps(stored_facts(facts)).decode(),
        policy,
        act.snapshot.version,
        orjson.dumps(requirement.to_json()).decode(),
        requirement.approvals,
        orjson.dumps([gate.to_json() for gate in target.gates]).decode(),
        list(target.contributor_ids),
        act.caller.id,
        grant.role,
        grant.tier,
        target.concerned_id,
        facts.get("amountMinor"),
        facts.get("sum24hMinor"),
        target.currency,
        act.why.code,
        act.why.note,
        act.why.ticket_ref,
        requirement.execute_within_seconds,
        act.uow.now,
        approval_states.approve_by(act.uow.now, requirement.approve_within_seconds),
    )
    await tell(act, ("ApprovalRequest", request_id), target.city_id, "requested", "Asked for a second person.")
    publish_approval(act.uow, row)
    await raise_alert(
        act.uow,
        "APPROVAL_WAITING",
        3,
        city_id=target.city_id,
        target=("ApprovalRequest", request_id),
        summary=summary,
        recipients=approvers,
    )
    return row


async def lock(act: Act[Any], request_id: str) -> Row:
    """The request under its row lock; the first lock after the idempotency key, before anything it is about."""
    return await act.row(_LOCK, request_id)


async def save(act: Act[Any], request: Row, kind: str, summary: str, **changes: Any) -> Row:
    """Write ``changes`` and tell it; ``kind`` is the timeline entry's."""
    row = await act.update("approval_request", request["id"], changes)
    await tell(act, ("ApprovalRequest", row["id"]), row["city_id"], kind, summary)
    publish_approval(act.uow, row)
    return row


_TOLD: Final[Mapping[Ending, tuple[str, str]]] = {
    "reject": ("rejected", "Rejected."),
    "cancel": ("canceled", "Canceled."),
    "expire": ("expired", "Nobody decided in time."),
    "invalidate": ("invalidated", "What was to be approved has changed."),
}


async def close(act: Act[Any], request: Row, event: Ending, *, because: str | None = None) -> Row:
    """End a request without execution and undo what it held."""
    state = approval_states.next_state(request["state"], event, request["execution"])
    row = await save(act, request, *_TOLD[event], state=state, closed_at=act.uow.now, invalidated_because=because)
    await act.stored.abandon(act, row, state)
    return row


async def close_for_entity(act: Act[Any], request: Row) -> Row:
    """End a request whose entity is being canceled by its own command, which undoes the rest itself."""
    state = approval_states.next_state(request["state"], "cancel", request["execution"])
    return await save(act, request, *_TOLD["cancel"], state=state, closed_at=act.uow.now)
