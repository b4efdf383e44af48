"""Moderation: subjects, reports about them, decisions on them. Deciding itself is a step of a case (``schema/cases.py``)."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.common import ActionHint, ActorRef, AuditRef, Outcome, Reason
from schema.directives import (
    AWS_COGNITO_USER_POOLS,
    AWS_IAM,
    AWS_OIDC,
    FILTERABLE,
    INHERIT,
    Code,
    PiiClass,
    PiiMask,
    ScopeKey,
    audited,
    pii,
    policy,
    scope,
)
from schema.fields import get, listing, marked, pages, signature
from schema.filters import Connection
from schema.scalars import AWSDate, AWSDateTime


@strawberry.enum
class SubjectKind(Code):
    """What a subject is on the marketplace."""

    USER = auto()
    STUDIO = auto()
    CREATOR = auto()
    PROFILE = auto()
    LISTING = auto()
    ORDER = auto()
    REVIEW = auto()
    MESSAGE = auto()
    ASSET = auto()
    PROMOTION = auto()


@strawberry.enum
class SubjectState(Code):
    """The strongest restriction in force."""

    ACTIVE = auto()
    RESTRICTED = auto()
    SUSPENDED = auto()
    BANNED = auto()
    DELETED = auto()


@strawberry.enum
class ReportState(Code):
    """RECEIVED -> ATTACHED -> ACTIONED | DISMISSED | INVALIDATED."""

    RECEIVED = auto()
    ATTACHED = auto()
    ACTIONED = auto()
    DISMISSED = auto()
    INVALIDATED = auto()


@strawberry.enum
class DecisionKind(Code):
    """What was decided; RESTORE reverses another."""

    NO_ACTION = auto()
    WARN = auto()
    LABEL = auto()
    RATE = auto()
    REMOVE_CONTENT = auto()
    RESTRICT = auto()
    SUSPEND = auto()
    BAN = auto()
    RESTORE = auto()


@strawberry.enum
class DecisionState(Code):
    """PROPOSED -> EFFECTIVE | REJECTED; EFFECTIVE -> REVERSED | SUPERSEDED | EXPIRED."""

    PROPOSED = auto()
    EFFECTIVE = auto()
    REVERSED = auto()
    SUPERSEDED = auto()
    EXPIRED = auto()
    REJECTED = auto()


@strawberry.enum
class DecisionGround(Code):
    """Against the law, or against the terms (DSA, article 17(3))."""

    ILLEGAL_CONTENT = auto()
    INCOMPATIBLE_CONTENT = auto()


@strawberry.type(directives=[INHERIT])
class StatementOfReasons:
    """What the DSA obliges us to tell the one concerned (article 17)."""

    puid: ID
    ground: DecisionGround
    ground_reference: str
    facts: str
    explanation: str
    restrictions: list[str]
    category: str
    content_type: list[str]
    source_type: str
    automated_detection: bool
    automated_decision: str
    territorial_scope: list[str]
    application_date: AWSDate
    end_date: AWSDate | None
    exported_at: AWSDateTime | None


@strawberry.type(directives=[policy("decision", "read"), scope(ScopeKey.CITY, ScopeKey.CATEGORY)])
class Decision:
    """An append-only moderation outcome."""

    id: ID = marked(FILTERABLE)
    case_id: ID | None = marked(FILTERABLE)
    subject_id: ID = marked(FILTERABLE)
    kind: DecisionKind = marked(FILTERABLE)
    state: DecisionState = marked(FILTERABLE)
    reason: Reason
    decided_by_id: ID = marked(FILTERABLE)
    decided_by: ActorRef
    approved_by: list[ActorRef]
    effective_at: AWSDateTime | None = marked(FILTERABLE)
    expires_at: AWSDateTime | None = marked(FILTERABLE)
    severity: int = marked(FILTERABLE)
    strikes: int
    statement: StatementOfReasons | None
    reverses: ID | None
    reversed_by: ID | None


@strawberry.type(directives=[policy("subject", "read"), scope(ScopeKey.CITY, ScopeKey.OWN, owner="staffId")])
class Subject:
    """A marketplace object under moderation."""

    id: ID = marked(FILTERABLE)
    kind: SubjectKind = marked(FILTERABLE)
    state: SubjectState = marked(FILTERABLE)
    city_id: ID | None = marked(FILTERABLE)
    version: int
    display_name_masked: str = marked(pii(PiiClass.CONTACT, PiiMask.INITIALS))
    protected_tags: list[str] = marked(FILTERABLE)
    tags: list[str] = marked(FILTERABLE)
    active_strikes: int = marked(FILTERABLE)
    total_strikes: int
    open_case_count: int = marked(FILTERABLE)
    allowed_actions: list[ActionHint]
    decisions: Connection[Decision] = pages()


@strawberry.type(directives=[policy("report", "read"), scope(ScopeKey.CITY, ScopeKey.CATEGORY)])
class Report:
    """A complaint about a subject."""

    id: ID = marked(FILTERABLE)
    state: ReportState = marked(FILTERABLE)
    subject_id: ID = marked(FILTERABLE)
    case_id: ID | None = marked(FILTERABLE)
    category: str = marked(FILTERABLE)
    reporter_masked: str = marked(pii(PiiClass.CONTACT, PiiMask.HASH))
    reporter_accuracy: float | None = marked(FILTERABLE)
    reporter_muted: bool
    automated: bool = marked(FILTERABLE)
    detail: str | None = marked(pii(PiiClass.FREE_TEXT, PiiMask.REDACT))
    created_at: AWSDateTime = marked(FILTERABLE)
    public_reply: str | None


@strawberry.type(directives=[INHERIT])
class ReportPayload:
    """A report as taken in."""

    outcome: Outcome
    report: Report
    audit: AuditRef


@strawberry.input
class ReportInput:
    """A complaint; the same ``externalId`` from the same source is one report."""

    subject_id: ID
    category: str
    detail: str | None = marked(pii(PiiClass.FREE_TEXT, PiiMask.REDACT), default=UNSET)
    reporter_id: ID | None = UNSET
    automated: bool | None = UNSET
    external_id: ID


class Query:
    """Root fields that read subjects, reports and decisions."""

    get_subject = get(Subject, "subject.read")
    list_subjects = listing(Subject, "subject.list")
    get_report = get(Report, "report.read")
    list_reports = listing(Report, "report.list")
    get_decision = get(Decision, "decision.read")
    list_decisions = listing(Decision, "decision.list")


class Mutation:
    """Complaints come in by staff or by the marketplace, so every mode of authentication leads here."""

    @signature(policy("report", "submit"), audited("report.submit"), AWS_IAM, AWS_OIDC, AWS_COGNITO_USER_POOLS)
    def submit_report(self, input: ReportInput) -> ReportPayload: ...
