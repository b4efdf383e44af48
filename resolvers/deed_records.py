"""Audit records of deeds: what a mutation did, what was refused, what the system did by itself.

Free text is sealed, arguments stand as a digest without their personal parts, ids of persons become tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from audit.record import SYSTEM_ACTOR, new_record
from authz.reasons import ALL_CODES
from db.unit_of_work import Row, uuid7
from resolvers.context import Request
from resolvers.digestible import digestible
from resolvers.records import actor_of, operation_of, policy_of, request_of, sought_id
from schema.directives import FieldRules
from schema.errors import ConsoleError
from services.command import Act, Reason, Result, Target

# Refusals by who asks; everything else failed by what was asked.
DENIALS: Final = frozenset(
    {
        "Unauthorized",
        "UnauthorizedException",
        "NOT_FOUND",
        "AMOUNT_CEILING_EXCEEDED",
        "SELF_SUBJECT",
        "NOT_ELIGIBLE",
    }
)
_JOINED: Final = frozenset({"hidden_actions", "subject_staff_id", "subject_tags"})  # read beside a case, not part of it


@dataclass
class Sight:
    """What is known of an attempt so far, for the record of its refusal."""

    sought: tuple[str, str] | None = None
    target: Target | None = None
    reason: Reason | None = None
    row: str | None = None  # id of the policy line
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Deed:
    """One deed to be recorded."""

    action: str
    field: str
    target: Target
    result: Result
    outcome: str
    policy_row: str | None = None
    approval: Mapping[str, Any] | None = None
    approval_policy: str | None = None
    cause: str | None = None
    idempotency_key: str | None = None
    verdict: str = "ALLOWED"
    code: str | None = None


def of_deed(act: Act[Any], deed: Deed, request: Request | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a deed; ``request`` is None for the system's own."""
    reason = act.reason
    return new_record(
        id=act.audit_id,
        at=act.uow.now,
        kind="system" if act.system else "mutation",
        action=deed.action,
        field=deed.field,
        actor=SYSTEM_ACTOR if act.system else actor_of(act.caller),
        request=request_of(request) if request is not None else {"id": f"system-{act.audit_id}"},
        verdict=deed.verdict,
        code=deed.code,
        operation=operation_of(request, digestible(arguments)) if request is not None else None,
        object=_object(deed),
        policy={**policy_of(act.snapshot, deed.policy_row), "approval": deed.approval_policy},
        reason=None if reason is None else {"code": reason.code, "ticket": reason.ticket_ref},
        approval=deed.approval or approval_of(deed.target.row),
        idem=key_digest(deed.idempotency_key),
        cause=deed.cause,
        before=_before(deed),
        after=None if deed.result.after is None else dict(deed.result.after),
        changed=deed.result.changed,
        result={"code": deed.code, "outcome": deed.outcome},
        subject_id=deed.target.subject_id,
        priv={
            "reason.text": reason.note if reason else None,
            "request.ip": request.ip if request is not None else None,
        },
    )


def of_refusal(
    request: Request, rule: FieldRules, arguments: Mapping[str, Any], sight: Sight, error: Exception
) -> dict[str, Any]:
    """The record of an attempt that was refused or failed: by whom, at what, with which code."""
    code = error.code if isinstance(error, ConsoleError) else "INTERNAL"
    denied = code in DENIALS
    target, reason = sight.target, sight.reason
    return new_record(
        id=str(uuid7()),
        at=request.received_at,
        kind="denied" if denied else "mutation",
        action=rule.record_action,
        field=rule.name,
        actor=actor_of(request.caller),
        request=request_of(request),
        verdict="DENIED" if denied else "FAILED",
        code=code,
        operation=operation_of(request, digestible(arguments)),
        object=_sought(sight),
        policy=policy_of(request.snapshot, sight.row),
        # A code of no list is whatever the client wrote.
        reason={"code": reason.code, "ticket": None} if reason is not None and reason.code in ALL_CODES else None,
        approval=None if target is None else approval_of(target.row),
        idem=key_digest(sight.idempotency_key),
        result={"code": code, "outcome": "FAILED"},
        # Without the subject's tag: nothing of the subject is in it, and making his first key could wait for the very
        # transaction that this attempt ran into.
        priv={"request.ip": request.ip, "object.id": _sealed_id(sight)},
    )


def approval_of(row: Row, *, step: str | None = None, votes: Sequence[Row] = ()) -> dict[str, Any] | None:
    """The approval that a deed belongs to: of a request's own row, or of a row that names its request."""
    request_id = row["id"] if "payload_hash" in row.keys() else row.get("approval_request_id")  # noqa: SIM118 (a Record)
    if request_id is None:
        return None
    return {
        "request": request_id,
        "hash": row.get("payload_hash"),
        "votes": [vote["id"] for vote in votes],
        "step": step,
    }


def key_digest(key: str | None) -> str | None:
    """Digest of an idempotency key."""
    return None if key is None else "sha256:" + hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def _object(deed: Deed) -> dict[str, Any]:
    target, made, after = deed.target, deed.result.object, deed.result.after
    version_after = after.get("version") if after is not None else None
    if made is None:
        kind, identity, before = target.type, target.id, target.version
    else:
        kind, identity, before = *made, None
        if made == (target.type, target.id):
            before = target.version
    return {
        "type": kind,
        "id": identity,
        "version": {"before": before, "after": version_after},
        "city": target.city_id,
        "parents": [*deed.result.parents] if made is None else [*dict.fromkeys([*_own(target), *deed.result.parents])],
    }


def _own(target: Target) -> list[str]:
    """The target's id as parent of what was made of it; a person's id never stands in a record."""
    return [] if target.type == "Subject" else [target.id]


def _before(deed: Deed) -> dict[str, Any] | None:
    made, target = deed.result.object, deed.target
    if deed.result.after is None or (made is not None and made != (target.type, target.id)):
        return None
    return {name: value for name, value in target.row.items() if name not in _JOINED}


def _sought(sight: Sight) -> dict[str, Any] | None:
    target = sight.target
    if target is not None:
        return {"type": target.type, "id": target.id, "version": target.version, "city": target.city_id}
    if sight.sought is None:
        return None
    kind, identity = sight.sought
    return {"type": kind, "id": sought_id(kind, identity)[0]}


def _sealed_id(sight: Sight) -> str | None:
    """The id that was sought, where it must not stand in clear."""
    return None if sight.target is not None or sight.sought is None else sought_id(*sight.sought)[1]
