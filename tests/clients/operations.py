"""The operations that the console's front end sends in this story."""

CLAIM = """
mutation Claim($queueId: ID!, $idempotencyKey: ID) {
  claimNextCase(queueId: $queueId, idempotencyKey: $idempotencyKey) {
    outcome leaseToken pending
    case {
      id version state kind contentCategory priority cityId lease { expiresAt holder { id displayName } } sla { state resolveDueAt }
      subject { id state displayNameMasked protectedTags totalStrikes }
      reports(limit: 10) { items { id category reporterMasked detail createdAt } nextToken }
      timeline(limit: 20) { items { at kind summary actor { displayName } } nextToken }
      allowedActions { action allowed needsReason needsApproval deniedCode }
    }
    audit { id hash }
  }
}
"""

DECIDE = """
mutation DecideCase($input: DecideInput!) {
  decideCase(input: $input) {
    outcome
    decision { id kind state severity strikes effectiveAt statement { puid ground category restrictions applicationDate } }
    case { id state version }
    approvalRequest { id state approvalsNeeded approveBy payloadHash }
    audit { id seq hash }
  }
}
"""

GET_CASE = "query GetCase($id: ID!) { getCase(id: $id) { id state version cityId assigneeId subject { id } reports(limit: 3) { items { id } nextToken } } }"

REQUEST_REFUND = """
mutation RequestRefund($input: RequestRefundInput!) {
  requestRefund(input: $input) {
    outcome
    refund { id state version amount { amountMinor currency } }
    ledger { orderId version refundable { amountMinor currency } reserved { amountMinor currency } }
    approvalRequest { id summary payloadHash approvalsNeeded approveBy state version }
    audit { id hash }
  }
}
"""

VOTE = """
mutation Vote($input: VoteInput!) {
  voteOnApproval(input: $input) {
    outcome
    request {
      id state execution executionError approvalsNeeded version
      votes { voter { id displayName } vote at counts voidedBecause }
      timeline(limit: 10) { items { at kind summary } nextToken }
    }
    audit { id seq hash }
  }
}
"""

GET_REFUND = "query GetRefund($id: ID!) { getRefund(id: $id) { id state version externalRef failureReason approvedBy { id } deliveries { port operation state attempts } } }"
GET_LEDGER = """
query GetLedger($orderId: ID!) { getOrderLedger(orderId: $orderId) {
  orderId version captured { amountMinor } succeeded { amountMinor } reserved { amountMinor } disputed { amountMinor } refundable { amountMinor }
} }
"""
GET_APPROVAL = "query GetApproval($id: ID!) { getApprovalRequest(id: $id) { id state execution payloadHash eligible ineligibleCode approvalsNeeded version votes { vote counts } } }"

LIVE_APPROVALS = """
subscription LiveApprovals($cityId: ID, $filter: ModelSubscriptionApprovalEventFilterInput) {
  onApprovalEvent(cityId: $cityId, filter: $filter) { cursor requestId action requesterId cityId state execution at }
}
"""
LIVE_ALERTS = (
    "subscription LiveAlerts { onAlert { cursor id kind severity cityId targetType targetId summary createdAt } }"
)
LIVE_CASES = "subscription LiveCases($caseId: ID) { onCaseEvent(caseId: $caseId) { cursor caseId kind state assigneeId version at } }"

LIST_AUDIT = """
query ListAudit($filter: ModelAuditRecordFilterInput, $text: String, $sortDirection: ModelSortDirection, $limit: Int, $nextToken: String) {
  listAudit(filter: $filter, text: $text, sortDirection: $sortDirection, limit: $limit, nextToken: $nextToken) {
    items { id seq at sealedAt kind actor { id kind displayName } action field verdict code targetType targetId reason { code ticketRef } approvalRequestId
      approvalStep policyVersion policyRowId fieldsRead fieldsMasked resultOutcome hash }
    nextToken
  }
}
"""
METRICS = "query Metrics($at: TimeRangeInput!) { approvalMetrics(at: $at) { requesterId approverId approved rejected share medianSeconds suppressed } }"

STATEMENT = {
    "ground": "INCOMPATIBLE_CONTENT",
    "groundReference": "Community rules, section 4",
    "facts": "The listing asks for payment outside the marketplace.",
    "explanation": "Such payments take away the buyer's protection.",
    "category": "SCAM_AND_FRAUD",
    "contentType": ["TEXT"],
    "automatedDetection": False,
}

ADD_NOTE = """
mutation AddNote($input: NoteInput!) {
  addNote(input: $input) { outcome note { id body internal } case { id version } audit { id hash } }
}
"""
MESSAGE_DELIVERIES = """
query MessageDeliveries($note: ID) {
  listDeliveries(filter: { targetType: { eq: "Note" }, targetId: { eq: $note } }) {
    items { id port operation state attempts lastErrorCode } nextToken
  }
}
"""
RETRY_DELIVERY = """
mutation RetryDelivery($id: ID!) {
  retryDelivery(id: $id) { outcome delivery { id state attempts } audit { id hash } }
}
"""
