"""The operations that GraphiQL opens with: the demo's main job, to be run from left to right by the people named."""

from __future__ import annotations

from typing import Final

from resolvers.graphiql import Tab

TABS: Final = (
    Tab(
        """# As anybody: who am I, and what waits?
query Desk {
  me { staff { id displayName roles } permissions policyVersion }
  listQueues(limit: 10) { items { id name kind stats { pending claimed breached } } }
  listCases(limit: 5, orderBy: PRIORITY) {
    items { id kind state cityId priority subject { id displayNameMasked } allowedActions { action allowed deniedCode } }
    nextToken
  }
}
"""
    ),
    Tab(
        """# As finance-senior: leave this open, then run the next tab as support-agent.
subscription LiveApprovals {
  onApprovalEvent { cursor requestId action requesterId cityId state execution at }
}
"""
    ),
    Tab(
        """# As support-agent: above his own ceiling, so a second person must countersign. Change the key for another refund.
mutation RequestRefund($input: RequestRefundInput!) {
  requestRefund(input: $input) {
    outcome
    refund { id state amount { amountMinor currency } }
    ledger { orderId refundable { amountMinor } reserved { amountMinor } }
    approvalRequest { id summary payloadHash approvalsNeeded approveBy }
    audit { id hash }
  }
}
""",
        """{
  "input": {
    "orderId": "o_1042",
    "amount": { "amountMinor": 12000, "currency": "EUR" },
    "idempotencyKey": "graphiql-first-refund",
    "reason": { "code": "SERVICE_NOT_PROVIDED" }
  }
}
""",
    ),
    Tab(
        """# As finance-senior: the requests that wait for him; copy id and payloadHash into the vote.
query Waiting {
  listApprovalRequests(filter: { state: { eq: PENDING } }, limit: 5) {
    items { id action summary requester { displayName } payloadHash approveBy eligible }
  }
}

mutation Vote($input: VoteInput!) {
  voteOnApproval(input: $input) {
    outcome
    request { id state execution votes { voter { displayName } vote at } }
    audit { id hash }
  }
}
""",
        """{
  "input": { "requestId": "", "vote": "APPROVE", "payloadHash": "" }
}
""",
    ),
    Tab(
        """# As auditor: what has been done and read, by whom, under which policy.
query Audit {
  listAudit(limit: 20, sortDirection: DESC) {
    items { seq at kind actor { displayName } action verdict code targetType targetId policyVersion hash }
    nextToken
  }
}
"""
    ),
)
