"""Money: the ledger of an order and the refunds on it."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.approvals import ApprovalRequest
from schema.common import ActionHint, ActorRef, AuditRef, Money, MoneyInput, Outcome, Reason, ReasonInput
from schema.deliveries import Delivery
from schema.directives import (
    FILTERABLE,
    IDEMPOTENT,
    INHERIT,
    Code,
    ReasonList,
    ScopeKey,
    audited,
    dual_control,
    policy,
    reasoned,
    scope,
)
from schema.fields import get, listing, marked, pages, signature
from schema.filters import Connection
from schema.scalars import AWSDateTime


@strawberry.enum
class RefundState(Code):
    """The states of a refund; its transitions are in ``services/money/rules.py``."""

    REQUESTED = auto()
    PENDING_APPROVAL = auto()
    APPROVED = auto()
    SUBMITTED = auto()
    REQUIRES_ACTION = auto()
    SUCCEEDED = auto()
    FAILED = auto()
    REJECTED = auto()
    CANCELED = auto()
    EXPIRED = auto()


@strawberry.enum
class RefundDestination(Code):
    """Where the money goes."""

    ORIGINAL = auto()
    STORE_CREDIT = auto()
    OTHER_INSTRUMENT = auto()


@strawberry.type(directives=[policy("refund", "read"), scope(ScopeKey.CITY)])
class Refund:
    """Money on its way back."""

    id: ID = marked(FILTERABLE)
    order_id: ID = marked(FILTERABLE)
    city_id: ID = marked(FILTERABLE)
    amount: Money
    state: RefundState = marked(FILTERABLE)
    destination: RefundDestination = marked(FILTERABLE)
    reason: Reason
    requester_id: ID = marked(FILTERABLE)
    requested_by: ActorRef
    approved_by: list[ActorRef]
    approval_request_id: ID | None
    external_ref: str | None
    failure_reason: str | None
    deliveries: list[Delivery]
    created_at: AWSDateTime = marked(FILTERABLE)
    version: int


@strawberry.type(directives=[policy("ledger", "read"), scope(ScopeKey.CITY)])
class OrderLedger:
    """The sums of an order; ``refundable`` = captured - succeeded - reserved - disputed."""

    order_id: ID = marked(FILTERABLE)
    buyer_id: ID = marked(FILTERABLE)
    city_id: ID = marked(FILTERABLE)
    captured: Money
    succeeded: Money
    reserved: Money
    disputed: Money
    refundable: Money
    version: int
    refunds: Connection[Refund] = pages()
    allowed_actions: list[ActionHint]


@strawberry.type(directives=[INHERIT])
class RefundPayload:
    """A refund with its ledger, and the request that must be approved first."""

    outcome: Outcome
    refund: Refund
    ledger: OrderLedger
    approval_request: ApprovalRequest | None
    audit: AuditRef


@strawberry.input
class RequestRefundInput:
    """A refund to ask for."""

    order_id: ID
    amount: MoneyInput
    destination: RefundDestination | None = UNSET
    case_id: ID | None = UNSET
    expected_ledger_version: int | None = UNSET
    idempotency_key: ID
    reason: ReasonInput


@strawberry.input
class CancelRefundInput:
    """A refund to call off."""

    refund_id: ID
    expected_version: int
    reason: ReasonInput


class Query:
    """Root fields that read ledgers and refunds."""

    get_order_ledger = get(OrderLedger, "ledger.read", key="order_id")
    list_order_ledgers = listing(OrderLedger, "ledger.list", key="order_id")
    get_refund = get(Refund, "refund.read")
    list_refunds = listing(Refund, "refund.list")


class Mutation:
    """Asking for a refund, and calling it off."""

    @signature(
        policy("refund", "request"),
        reasoned(ReasonList.REFUND),
        dual_control("refund.request"),
        audited("refund.request"),
        IDEMPOTENT,
    )
    def request_refund(self, input: RequestRefundInput) -> RefundPayload: ...

    @signature(policy("refund", "cancel"), reasoned(ReasonList.REFUND), audited("refund.cancel"))
    def cancel_refund(self, input: CancelRefundInput) -> RefundPayload: ...
