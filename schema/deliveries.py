"""Calls to other systems as people see them: where one stands, and taking up again what was given up.

A delivery belongs to whatever it is about (a refund, a note) and is seen with it.
"""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID

from schema.common import AuditRef, Outcome
from schema.directives import FILTERABLE, INHERIT, Code, audited, policy
from schema.fields import get, listing, marked, signature
from schema.scalars import AWSDateTime


@strawberry.enum
class DeliveryState(Code):
    """Where a call to another system stands."""

    PENDING = auto()
    DELIVERED = auto()
    RETRYING = auto()
    DEAD = auto()


@strawberry.type(directives=[policy("delivery", "read")])
class Delivery:
    """A call to another system, made after the commit at least once."""

    id: ID = marked(FILTERABLE)
    port: str = marked(FILTERABLE)
    operation: str = marked(FILTERABLE)
    target_type: str = marked(FILTERABLE)
    target_id: ID = marked(FILTERABLE)
    state: DeliveryState = marked(FILTERABLE)
    attempts: int = marked(FILTERABLE)
    last_error_code: str | None
    created_at: AWSDateTime = marked(FILTERABLE)
    next_attempt_at: AWSDateTime | None
    delivered_at: AWSDateTime | None


@strawberry.type(directives=[INHERIT])
class DeliveryPayload:
    """A delivery that is on its way again."""

    outcome: Outcome
    delivery: Delivery
    audit: AuditRef


class Query:
    """Root fields that read deliveries."""

    get_delivery = get(Delivery, "delivery.read")
    list_deliveries = listing(Delivery, "delivery.list")


class Mutation:
    """Taking up again what was given up: under its old key, so the receiver makes one effect of it."""

    @signature(policy("delivery", "retry"), audited("delivery.retry"))
    def retry_delivery(self, id: ID) -> DeliveryPayload: ...
