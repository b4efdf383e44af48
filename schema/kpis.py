"""Figures over what was done."""

from __future__ import annotations

import strawberry
from strawberry import ID

from schema.common import TimeRangeInput
from schema.directives import audited, policy
from schema.fields import signature


@strawberry.type(directives=[policy("metrics", "read")])
class ApprovalMetric:
    """How one person decided another's requests; small counts are suppressed."""

    requester_id: ID
    approver_id: ID
    approved: int
    rejected: int
    share: float
    median_seconds: int
    suppressed: bool


class Query:
    """Root fields that read figures."""

    @signature(policy("metrics", "read"), audited("metrics.approvals", read=True))
    def approval_metrics(self, at: TimeRangeInput) -> list[ApprovalMetric]: ...
