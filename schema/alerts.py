"""Alerts: what someone must know, until he has acknowledged it."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.common import AuditRef, Outcome
from schema.directives import (
    AWS_COGNITO_USER_POOLS,
    AWS_IAM,
    AWS_OIDC,
    FILTERABLE,
    INHERIT,
    Code,
    ScopeKey,
    audited,
    policy,
    scope,
    subscribes,
)
from schema.fields import get, listing, marked, signature
from schema.scalars import AWSDateTime


@strawberry.enum
class AlertKind(Code):
    """What an alert is about."""

    SLA_AT_RISK = auto()
    SLA_BREACHED = auto()
    APPROVAL_WAITING = auto()
    APPROVAL_EXPIRING = auto()
    APPROVAL_PAIR = auto()
    BREAK_GLASS = auto()
    DISPUTE_DEADLINE = auto()
    REFUND_FAILED = auto()
    DELIVERY_FAILED = auto()
    AUDIT_CHAIN = auto()
    MASS_ACTION = auto()
    PII_SPIKE = auto()
    MENTION = auto()
    EXPOSURE_LIMIT = auto()
    PIPELINE_LAG = auto()
    PIPELINE_FAULT = auto()
    DLQ_RATE = auto()
    SRM = auto()
    COST = auto()
    GOLD_STALE = auto()
    DSAR_OVERDUE = auto()


@strawberry.type(
    directives=[policy("alert", "read"), scope(ScopeKey.CITY, ScopeKey.TEAM), AWS_IAM, AWS_OIDC, AWS_COGNITO_USER_POOLS]
)
class Alert:
    """Something its recipients must know."""

    id: ID = marked(FILTERABLE)
    cursor: str | None
    kind: AlertKind = marked(FILTERABLE)
    severity: int = marked(FILTERABLE)
    city_id: ID | None = marked(FILTERABLE)
    target_type: str = marked(FILTERABLE)
    target_id: ID = marked(FILTERABLE)
    summary: str
    created_at: AWSDateTime = marked(FILTERABLE)
    acknowledged_at: AWSDateTime | None = marked(FILTERABLE)
    acknowledged_by_id: ID | None = marked(FILTERABLE)


@strawberry.type(directives=[INHERIT])
class AlertPayload:
    """An alert, acknowledged."""

    outcome: Outcome
    alert: Alert
    audit: AuditRef


@strawberry.input
class AlertInput:
    """An alert as the outbox publishes it behind real AppSync."""

    id: ID
    cursor: str
    kind: AlertKind
    severity: int
    city_id: ID | None = UNSET
    target_type: str
    target_id: ID
    summary: str
    created_at: AWSDateTime


class Query:
    """Root fields that read alerts."""

    get_alert = get(Alert, "alert.read")
    list_alerts = listing(Alert, "alert.list")


class Mutation:
    """Taking note of an alert; saying it twice says it once."""

    @signature(policy("alert", "ack"), audited("alert.acknowledge"))
    def acknowledge_alert(self, id: ID) -> AlertPayload: ...

    @signature(policy("event", "publish"), audited("event.publish"), AWS_IAM)
    def publish_alert(self, input: AlertInput) -> Alert | None: ...


class Subscription:
    """Every alert for the subscriber, once."""

    @signature(
        policy("alert", "read"),
        audited("alert.subscribe", read=True),
        subscribes("publishAlert"),
        filtered=Alert,
        unfiltered=("id", "created_at", "acknowledged_at", "acknowledged_by_id"),
    )
    def on_alert(self, kind: AlertKind | None = UNSET, city_id: ID | None = UNSET) -> Alert | None: ...
