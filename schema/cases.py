"""Cases and the queues they wait in: claiming, working on, deciding, resolving."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.approvals import ApprovalRequest
from schema.common import ActionHint, ActorRef, AuditRef, Outcome, ReasonInput, TimelineConnection
from schema.directives import (
    AWS_COGNITO_USER_POOLS,
    AWS_IAM,
    AWS_OIDC,
    FILTERABLE,
    IDEMPOTENT,
    INHERIT,
    OWN,
    Code,
    ReasonList,
    ScopeKey,
    audited,
    dual_control,
    policy,
    reasoned,
    scope,
    subscribes,
)
from schema.fields import get, index, listing, marked, pages, signature
from schema.filters import Connection
from schema.moderation import Decision, DecisionGround, DecisionKind, Report, Subject
from schema.scalars import AWSDateTime


@strawberry.enum
class CaseKind(Code):
    """What a case is about; decides who works on it."""

    MODERATION = auto()
    VERIFICATION = auto()
    REFUND = auto()
    DISPUTE = auto()
    APPEAL = auto()
    ACCOUNT = auto()
    CITY = auto()


@strawberry.enum
class CaseState(Code):
    """The states of a case; its transitions are in ``services/cases/rules.py``."""

    OPEN = auto()
    CLAIMED = auto()
    PENDING_INFO = auto()
    PENDING_APPROVAL = auto()
    ESCALATED = auto()
    RESOLVED = auto()
    CLOSED = auto()


@strawberry.enum
class CaseOrder(Code):
    """How a list of cases is sorted; the default is CREATED."""

    PRIORITY = auto()
    SLA = auto()
    CREATED = auto()


@strawberry.enum
class SlaState(Code):
    """Where a case stands on its clock."""

    ON_TRACK = auto()
    AT_RISK = auto()
    BREACHED = auto()
    PAUSED = auto()
    MET = auto()
    NONE = auto()


@strawberry.type(directives=[INHERIT])
class Lease:
    """An expiring exclusive claim; its token is shown to the holder alone."""

    holder: ActorRef
    token: ID | None = marked(OWN)
    expires_at: AWSDateTime


@strawberry.type(directives=[INHERIT])
class Sla:
    """The clock of a case; it stands still in PENDING_INFO."""

    policy_id: ID
    first_response_due_at: AWSDateTime | None
    resolve_due_at: AWSDateTime | None
    state: SlaState
    paused_seconds: int


@strawberry.type(directives=[INHERIT])
class Note:
    """What someone wrote on a case."""

    id: ID
    author: ActorRef
    body: str
    mentions: list[ActorRef]
    internal: bool
    created_at: AWSDateTime


@strawberry.type(
    directives=[policy("case", "read"), scope(ScopeKey.CITY, ScopeKey.CATEGORY, category="contentCategory")]
)
class Case:
    """A piece of work about one subject."""

    id: ID = marked(FILTERABLE)
    kind: CaseKind = marked(FILTERABLE)
    state: CaseState = marked(FILTERABLE)
    subject_id: ID = marked(FILTERABLE)
    subject: Subject
    queue_id: ID = marked(FILTERABLE)
    city_id: ID | None = marked(FILTERABLE)
    priority: int = marked(FILTERABLE)
    content_category: str = marked(FILTERABLE)
    version: int
    created_at: AWSDateTime = marked(FILTERABLE)
    first_claimed_at: AWSDateTime | None
    last_claimed_at: AWSDateTime | None
    assignee_id: ID | None = marked(FILTERABLE)
    assignee: ActorRef | None
    lease: Lease | None
    skips: int
    sla_state: SlaState = marked(FILTERABLE)
    resolve_due_at: AWSDateTime | None = marked(FILTERABLE)
    sla: Sla
    reports: Connection[Report] = pages()
    notes: Connection[Note] = pages()
    timeline: TimelineConnection = pages()
    allowed_actions: list[ActionHint]


@strawberry.type(directives=[INHERIT])
class QueueStats:
    """Counts of a queue, at the time of asking."""

    pending: int
    claimed: int
    escalated: int
    breached: int
    inbound24h: int
    oldest_created_at: AWSDateTime | None


@strawberry.type(directives=[policy("queue", "read"), scope(ScopeKey.CITY, ScopeKey.CATEGORY)])
class Queue:
    """Where cases of a kind wait."""

    id: ID = marked(FILTERABLE)
    name: str = marked(FILTERABLE)
    kind: CaseKind = marked(FILTERABLE)
    city_ids: list[ID] = marked(FILTERABLE)
    content_categories: list[str] = marked(FILTERABLE)
    enabled: bool = marked(FILTERABLE)
    version: int
    sla_policy_id: ID
    hidden_actions: list[str]
    stats: QueueStats


@strawberry.type(directives=[INHERIT])
class ClaimResult:
    """A claimed case with its lease token, or none; ``pending`` is what still waits."""

    outcome: Outcome
    case: Case | None
    lease_token: ID | None
    pending: int
    audit: AuditRef


@strawberry.type(directives=[INHERIT])
class LeasePayload:
    """A renewed lease."""

    outcome: Outcome
    lease: Lease
    audit: AuditRef


@strawberry.type(directives=[INHERIT])
class CasePayload:
    """A case after a change."""

    outcome: Outcome
    case: Case
    audit: AuditRef


@strawberry.type(directives=[INHERIT])
class NotePayload:
    """A note with its case."""

    outcome: Outcome
    note: Note
    case: Case
    audit: AuditRef


@strawberry.type(directives=[INHERIT])
class DecisionPayload:
    """A decision with its case, or the request that must be approved first."""

    outcome: Outcome
    decision: Decision | None
    case: Case | None
    approval_request: ApprovalRequest | None
    audit: AuditRef


@strawberry.input
class LeaseInput:
    """The lease to renew."""

    case_id: ID
    lease_token: ID


@strawberry.input
class CaseActionInput:
    """A step of a case; the lease token where the step needs the claim."""

    case_id: ID
    lease_token: ID | None = UNSET
    expected_version: int
    reason: ReasonInput


@strawberry.input
class NoteInput:
    """A note to add, internal or public.

    With ``templateId`` it is a message to the case's subject: the template of that name in the language of the case's city
    (the one named, where there is no other). Then ``internal`` is false and ``body`` empty: what leaves are the template's
    words alone. A variable that the case has no value for is refused at once.
    """

    case_id: ID
    body: str
    template_id: ID | None = UNSET
    mention_ids: list[ID] | None = UNSET
    internal: bool
    idempotency_key: ID


@strawberry.input
class StatementInput:
    """The statement of reasons, as far as a person has to write it."""

    ground: DecisionGround
    ground_reference: str
    facts: str
    explanation: str
    category: str
    content_type: list[str]
    territorial_scope: list[str] | None = UNSET
    automated_detection: bool


@strawberry.input
class DecideInput:
    """A decision on a claimed case; ``statement`` is needed by every restricting kind."""

    case_id: ID
    lease_token: ID
    expected_version: int
    idempotency_key: ID
    kind: DecisionKind
    severity: int
    reason: ReasonInput
    statement: StatementInput | None = UNSET
    duration_hours: int | None = UNSET
    reply_to_reporters: str | None = UNSET
    label: str | None = UNSET


@strawberry.type(directives=[INHERIT, AWS_IAM, AWS_OIDC, AWS_COGNITO_USER_POOLS])
class CaseEvent:
    """A change of a case, by ids only."""

    cursor: str | None
    case_id: ID = marked(FILTERABLE)
    queue_id: ID = marked(FILTERABLE)
    city_id: ID | None = marked(FILTERABLE)
    kind: str = marked(FILTERABLE)
    state: CaseState = marked(FILTERABLE)
    assignee_id: ID | None = marked(FILTERABLE)
    priority: int = marked(FILTERABLE)
    version: int = marked(FILTERABLE)
    at: AWSDateTime


@strawberry.input
class CaseEventInput:
    """An event as the outbox publishes it behind real AppSync."""

    cursor: str
    case_id: ID
    queue_id: ID
    city_id: ID | None = UNSET
    kind: str
    state: CaseState
    assignee_id: ID | None = UNSET
    priority: int
    version: int
    at: AWSDateTime


class Query:
    """Root fields that read cases and queues."""

    get_case = get(Case, "case.read")
    list_cases = listing(Case, "case.list", order_by=CaseOrder)
    list_cases_by_priority = index(Case, "case.list", partition="queue_id", sort="priority")
    list_cases_by_due = index(Case, "case.list", partition="queue_id", sort="resolve_due_at")
    list_cases_by_assignee = index(Case, "case.list", partition="assignee_id", sort="resolve_due_at")
    get_queue = get(Queue, "queue.read")
    list_queues = listing(Queue, "queue.list")


class Mutation:
    """The steps of a case."""

    @signature(policy("case", "claim"), audited("case.claim"), IDEMPOTENT)
    def claim_next_case(self, queue_id: ID, idempotency_key: ID | None = UNSET) -> ClaimResult: ...

    @signature(policy("case", "claim"), audited("case.claim"))
    def claim_case(self, case_id: ID) -> ClaimResult: ...

    @signature(policy("case", "claim"), audited("case.renew"))
    def renew_lease(self, input: LeaseInput) -> LeasePayload: ...

    @signature(policy("case", "claim"), reasoned(ReasonList.ROUTING), audited("case.release"))
    def release_case(self, input: CaseActionInput) -> CasePayload: ...

    @signature(policy("case", "skip"), reasoned(ReasonList.ROUTING), audited("case.skip"))
    def skip_case(self, input: CaseActionInput) -> CasePayload: ...

    @signature(policy("case", "escalate"), reasoned(ReasonList.ROUTING), audited("case.escalate"))
    def escalate_case(self, input: CaseActionInput) -> CasePayload: ...

    @signature(policy("case", "resolve"), reasoned(ReasonList.DECIDE), audited("case.resolve"))
    def resolve_case(self, input: CaseActionInput) -> CasePayload: ...

    @signature(policy("case", "route"), reasoned(ReasonList.REVERSE), audited("case.reopen"))
    def reopen_case(self, input: CaseActionInput) -> CasePayload: ...

    @signature(policy("case", "note"), audited("case.note"), IDEMPOTENT)
    def add_note(self, input: NoteInput) -> NotePayload: ...

    @signature(
        policy("case", "decide"),
        reasoned(ReasonList.DECIDE),
        dual_control("case.decide"),
        audited("case.decide"),
        IDEMPOTENT,
    )
    def decide_case(self, input: DecideInput) -> DecisionPayload: ...

    @signature(policy("event", "publish"), audited("event.publish"), AWS_IAM)
    def publish_case_event(self, input: CaseEventInput) -> CaseEvent | None: ...


class Subscription:
    """Every change of a case, notes included, within the subscriber's scope."""

    @signature(
        policy("case", "read"),
        audited("case.subscribe", read=True),
        subscribes("publishCaseEvent"),
        filtered=CaseEvent,
    )
    def on_case_event(
        self,
        queue_id: ID | None = UNSET,
        case_id: ID | None = UNSET,
        city_id: ID | None = UNSET,
        assignee_id: ID | None = UNSET,
    ) -> CaseEvent | None: ...
