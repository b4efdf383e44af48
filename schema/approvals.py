"""Dual control: requests that wait for a second person, votes on them, and the policies that say when one is needed."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.common import ActorRef, AuditRef, Money, Outcome, Reason, ReasonInput, Role, Tier, TimelineConnection
from schema.directives import (
    AWS_COGNITO_USER_POOLS,
    AWS_IAM,
    AWS_OIDC,
    FILTERABLE,
    IDEMPOTENT,
    INHERIT,
    Code,
    DualControlMode,
    ReasonList,
    ScopeKey,
    audited,
    dual_control,
    policy,
    reasoned,
    scope,
    subscribes,
)
from schema.fields import get, listing, marked, pages, signature
from schema.scalars import AWSJSON, AWSDateTime


@strawberry.enum
class ApprovalState(Code):
    """What the votes came to; kept apart from the execution."""

    PENDING = auto()
    APPROVED = auto()
    REJECTED = auto()
    CANCELED = auto()
    EXPIRED = auto()
    INVALIDATED = auto()


@strawberry.enum
class ExecutionState(Code):
    """What became of the stored command."""

    NOT_STARTED = auto()
    EXECUTED = auto()
    FAILED = auto()
    EXPIRED = auto()


@strawberry.enum
class ApprovalOrder(Code):
    """How a list of requests is sorted; the default is CREATED."""

    CREATED = auto()
    APPROVE_BY = auto()


@strawberry.enum
class Vote(Code):
    """For or against."""

    APPROVE = auto()
    REJECT = auto()


@strawberry.type(directives=[INHERIT])
class ApprovalVote:
    """One person's vote; ``counts`` is false once its owner lost the right."""

    voter: ActorRef
    vote: Vote
    comment: str | None
    at: AWSDateTime
    counts: bool
    voided_because: str | None


@strawberry.type(
    directives=[policy("approval", "read"), scope(ScopeKey.CITY, ScopeKey.AMOUNT, ScopeKey.OWN, owner="requesterId")]
)
class ApprovalRequest:
    """A stored, bound command that waits for votes; ``payloadHash`` is what a voter presents."""

    id: ID = marked(FILTERABLE)
    action: str = marked(FILTERABLE)
    target_type: str = marked(FILTERABLE)
    target_id: ID = marked(FILTERABLE)
    city_id: ID | None = marked(FILTERABLE)
    summary: str
    payload: AWSJSON
    diff: AWSJSON
    payload_hash: ID
    target_version: int | None
    policy_id: ID = marked(FILTERABLE)
    policy_version: int
    requester_id: ID = marked(FILTERABLE)
    requester: ActorRef
    requester_count30d: int
    window_sum: Money | None
    reason: Reason
    state: ApprovalState = marked(FILTERABLE)
    execution: ExecutionState = marked(FILTERABLE)
    execution_error: str | None
    approvals_needed: int
    votes: list[ApprovalVote]
    eligible: bool = marked(FILTERABLE)
    ineligible_code: str | None
    timeline: TimelineConnection = pages()
    created_at: AWSDateTime = marked(FILTERABLE)
    approve_by: AWSDateTime = marked(FILTERABLE)
    execute_by: AWSDateTime | None = marked(FILTERABLE)
    apply_at: AWSDateTime | None
    executed_at: AWSDateTime | None
    invalidated_because: str | None
    version: int


@strawberry.type(directives=[policy("approvalPolicy", "read")])
class ApprovalPolicy:
    """When an action needs approval, and whose; ``condition`` null is always, ``mustInclude`` lists the narrower seats."""

    id: ID = marked(FILTERABLE)
    action: str = marked(FILTERABLE)
    version: int
    condition: AWSJSON
    approvals: int
    floor: int
    approver_roles: list[Role]
    min_tier: Tier
    must_include: AWSJSON | None
    approve_within_seconds: int
    execute_within_seconds: int
    enabled: bool = marked(FILTERABLE)


@strawberry.type(directives=[INHERIT, AWS_IAM, AWS_OIDC, AWS_COGNITO_USER_POOLS])
class ApprovalEvent:
    """A change of an approval request, by ids only."""

    cursor: str | None
    request_id: ID = marked(FILTERABLE)
    action: str = marked(FILTERABLE)
    requester_id: ID = marked(FILTERABLE)
    city_id: ID | None = marked(FILTERABLE)
    state: ApprovalState = marked(FILTERABLE)
    execution: ExecutionState = marked(FILTERABLE)
    at: AWSDateTime


@strawberry.type(directives=[INHERIT])
class ApprovalPayload:
    """An approval request after a vote, a withdrawal, a cancellation or a retry."""

    outcome: Outcome
    request: ApprovalRequest
    audit: AuditRef


@strawberry.type(directives=[INHERIT])
class ApprovalPolicyPayload:
    """The policy as it stands, and the request that two people must approve first."""

    outcome: Outcome
    policy: ApprovalPolicy | None
    approval_request: ApprovalRequest | None
    audit: AuditRef


@strawberry.input
class VoteInput:
    """A vote on what the voter was shown: ``payloadHash`` binds it."""

    request_id: ID
    vote: Vote
    payload_hash: ID
    comment: str | None = UNSET


@strawberry.input
class ApprovalActionInput:
    """Cancel or retry a request."""

    request_id: ID
    expected_version: int
    reason: ReasonInput


@strawberry.input
class ApprovalPolicyInput:
    """A policy as it shall be: a new one without ``id`` and ``expectedVersion``."""

    id: ID | None = UNSET
    action: str
    condition: AWSJSON
    approvals: int
    approver_roles: list[Role]
    min_tier: Tier
    must_include: AWSJSON | None = UNSET
    approve_within_seconds: int
    execute_within_seconds: int
    enabled: bool
    expected_version: int | None = UNSET
    idempotency_key: ID | None = UNSET
    reason: ReasonInput


@strawberry.input
class ApprovalEventInput:
    """An event as the outbox publishes it behind real AppSync."""

    cursor: str
    request_id: ID
    action: str
    requester_id: ID
    city_id: ID | None = UNSET
    state: ApprovalState
    execution: ExecutionState
    at: AWSDateTime


class Query:
    """Root fields that read approval requests and policies."""

    get_approval_request = get(ApprovalRequest, "approval.read")
    list_approval_requests = listing(ApprovalRequest, "approval.list", order_by=ApprovalOrder)
    get_approval_policy = get(ApprovalPolicy, "approvalPolicy.read", versioned=True)
    list_approval_policies = listing(ApprovalPolicy, "approvalPolicy.list")


class Mutation:
    """Votes, what the requester may do with his own request, and changes of the policies themselves."""

    @signature(policy("approval", "vote"), audited("approval.vote"))
    def vote_on_approval(self, input: VoteInput) -> ApprovalPayload: ...

    @signature(policy("approval", "vote"), audited("approval.withdraw"))
    def withdraw_vote(self, request_id: ID) -> ApprovalPayload: ...

    @signature(policy("approval", "cancel"), reasoned(ReasonList.ROUTING), audited("approval.cancel"))
    def cancel_approval(self, input: ApprovalActionInput) -> ApprovalPayload: ...

    @signature(policy("approval", "cancel"), reasoned(ReasonList.ROUTING), audited("approval.retry"))
    def retry_approval(self, input: ApprovalActionInput) -> ApprovalPayload: ...

    @signature(
        policy("approvalPolicy", "propose"),
        reasoned(ReasonList.STAFF_POLICY),
        dual_control("approvalPolicy.propose", DualControlMode.ALWAYS),
        audited("approvalPolicy.change"),
        IDEMPOTENT,
    )
    def save_approval_policy(self, input: ApprovalPolicyInput) -> ApprovalPolicyPayload: ...

    @signature(policy("event", "publish"), audited("event.publish"), AWS_IAM)
    def publish_approval_event(self, input: ApprovalEventInput) -> ApprovalEvent | None: ...


class Subscription:
    """Every change of a request, within the subscriber's scope."""

    @signature(
        policy("approval", "read"),
        audited("approval.subscribe", read=True),
        subscribes("publishApprovalEvent"),
        filtered=ApprovalEvent,
    )
    def on_approval_event(
        self,
        requester_id: ID | None = UNSET,
        request_id: ID | None = UNSET,
        action: str | None = UNSET,
        city_id: ID | None = UNSET,
    ) -> ApprovalEvent | None: ...
