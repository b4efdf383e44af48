"""What every area shares: money, reasons, who acts, the receipt of a mutation, hints, timelines."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.directives import INHERIT, Code, PiiClass, PiiMask, ReasonList, audited, pii, policy
from schema.fields import marked, signature
from schema.scalars import AWSDateTime


@strawberry.enum
class Outcome(Code):
    """What became of a mutation; ``REPLAYED`` is the stored answer of an earlier one with the same key."""

    EXECUTED = auto()
    PENDING_APPROVAL = auto()
    REPLAYED = auto()


@strawberry.enum
class Role(Code):
    """What someone is employed for; the rows of the policy name it."""

    SUPPORT = auto()
    TRUST_SAFETY = auto()
    FINANCE = auto()
    CONTENT_EDITOR = auto()
    CITY_OPS = auto()
    ADMIN = auto()
    AUDITOR = auto()


@strawberry.enum
class Tier(Code):
    """How senior, within a role."""

    AGENT = auto()
    SENIOR = auto()
    LEAD = auto()


@strawberry.enum
class ActorKind(Code):
    """Who acts: a person, another system, or the console's own timers."""

    STAFF = auto()
    SERVICE = auto()
    SYSTEM = auto()


@strawberry.input
class ReasonInput:
    """Why; ``code`` is of the action's list."""

    code: str
    note: str | None = UNSET
    ticket_ref: str | None = UNSET


@strawberry.type(directives=[INHERIT])
class Reason:
    """Why it was done, as given; the note is free text and masked."""

    code: str
    note: str | None = marked(pii(PiiClass.FREE_TEXT, PiiMask.REDACT))
    ticket_ref: str | None


@strawberry.type(directives=[INHERIT])
class ReasonCode:
    """One code of a reason list."""

    code: str
    list: ReasonList
    note_required: bool
    label: str


@strawberry.type(directives=[INHERIT])
class Money:
    """An amount in minor units of its currency."""

    amount_minor: int
    currency: str


@strawberry.input
class MoneyInput:
    """An amount in minor units of its currency."""

    amount_minor: int
    currency: str


@strawberry.input
class TimeRangeInput:
    """From (inclusive) to (exclusive)."""

    from_: AWSDateTime = marked(name="from")
    to: AWSDateTime


@strawberry.type(directives=[INHERIT])
class AuditRef:
    """The receipt of a mutation: its audit record; ``seq`` comes with the seal, ``hash`` is the leaf hash."""

    id: ID
    seq: float | None
    hash: str


@strawberry.type(directives=[INHERIT])
class ActorRef:
    """Who did it; no more than a reader of the object may know of him."""

    id: ID
    kind: ActorKind
    display_name: str
    roles: list[Role]


@strawberry.type(directives=[INHERIT])
class ActionHint:
    """Whether the caller may act, computed by the functions that enforce it."""

    action: str
    allowed: bool
    needs_reason: bool
    reason_list: ReasonList | None
    needs_approval: bool
    approvals: int
    approver_roles: list[Role]
    denied_code: str | None


@strawberry.type(directives=[INHERIT])
class TimelineEntry:
    """What happened, for people; the proof is the audit log."""

    at: AWSDateTime
    actor: ActorRef | None
    kind: str
    summary: str
    audit_id: ID | None


@strawberry.type(directives=[INHERIT])
class TimelineConnection:
    """A page of a timeline."""

    items: list[TimelineEntry]
    next_token: str | None


class Query:
    """The reason codes, for forms."""

    @signature(policy("reasonCode", "read"), audited("reasonCode.read", read=True))
    def reason_codes(self, action: str | None = UNSET, list: ReasonList | None = UNSET) -> list[ReasonCode]: ...
