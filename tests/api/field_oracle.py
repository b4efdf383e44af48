"""The role table of the console domain once more, by hand: no engine, no policy file, nothing imported from the product.

Answers one question about the field matrix: is this field denied to the holder of this handle. What a person may ask at
all depends on role and tier alone; a few acts also on whose object it is, as the matrix chooses its objects.
"""

from __future__ import annotations

AGENT, SENIOR, LEAD, NOBODY = 0, 1, 2, 9
BUSINESS = ("SUPPORT", "TRUST_SAFETY", "FINANCE", "CONTENT_EDITOR", "CITY_OPS")
EVERYBODY = (*BUSINESS, "ADMIN", "AUDITOR")


def _all(*roles: str, least: int = AGENT) -> dict[str, int]:
    return dict.fromkeys(roles, least)


# row -> role -> least tier
ROWS: dict[str, dict[str, int]] = {
    "own": _all(*EVERYBODY),
    "alert:read": _all(*EVERYBODY),
    "approval:read": _all(*EVERYBODY),
    "audit:read": _all(*EVERYBODY),
    "audit:body": _all("AUDITOR"),
    # "own" proofs and checkpoints; the whole log is verified by those who administer or audit
    "proof": _all(*EVERYBODY),
    "audit:verify": _all("ADMIN", "AUDITOR"),
    "case:read": _all(*EVERYBODY),
    "queue:read": _all(*EVERYBODY),
    "subject:read": _all(*EVERYBODY),
    "report:read": _all(*EVERYBODY),
    "decision:read": _all(*EVERYBODY),
    "delivery:read": _all(*EVERYBODY),
    "delivery:retry": _all("TRUST_SAFETY", "FINANCE", least=LEAD) | _all("ADMIN"),
    "template:read": _all(*EVERYBODY),
    "template:edit": _all(*BUSINESS, least=LEAD),
    "macro:read": _all(*EVERYBODY),
    "macro:preview": _all(*BUSINESS),
    "macro:run": _all(*BUSINESS),
    "macro:edit": _all("SUPPORT", "TRUST_SAFETY", "FINANCE", least=LEAD),
    "macro:publish": _all("SUPPORT", "TRUST_SAFETY", "FINANCE", least=LEAD),
    "approvalPolicy:read": _all("ADMIN", "AUDITOR"),
    "approvalPolicy:propose": _all("ADMIN"),
    "ledger:read": _all("SUPPORT", "TRUST_SAFETY", "FINANCE", "ADMIN", "AUDITOR"),
    "refund:read": _all("SUPPORT", "TRUST_SAFETY", "FINANCE", "ADMIN", "AUDITOR"),
    "metrics:read": _all(*EVERYBODY),
    "reasonCode:read": _all(*EVERYBODY),
    "staff:read": _all(*EVERYBODY),
    "staff:contact": _all("ADMIN"),
    "case:claim": _all(*BUSINESS),
    "case:skip": _all(*BUSINESS),
    "case:escalate": _all(*BUSINESS),
    "case:resolve": _all(*BUSINESS),
    "case:note": _all(*BUSINESS),
    "case:route": _all("SUPPORT", "TRUST_SAFETY", "FINANCE", least=SENIOR) | _all("CONTENT_EDITOR", "CITY_OPS", least=LEAD),
    "case:decide": _all("SUPPORT", "TRUST_SAFETY", "CONTENT_EDITOR"),
    "report:submit": _all("SUPPORT", "TRUST_SAFETY", "CONTENT_EDITOR"),
    "refund:request": _all("SUPPORT", "FINANCE"),
    "refund:cancel": _all("SUPPORT", "FINANCE"),
    "approval:vote": {"SUPPORT": LEAD, "TRUST_SAFETY": SENIOR, "FINANCE": AGENT, "CITY_OPS": LEAD, "ADMIN": AGENT, "AUDITOR": AGENT},
    "approval:cancel": _all(*EVERYBODY),
    "alert:ack": _all(*BUSINESS, "ADMIN"),
    "event:publish": {},
}  # fmt: skip
# Root field -> row, where the name does not say it; Type or Type.field -> row, at the first place that leads to it.
QUERIES: dict[str, str] = {
    "reasonCodes": "reasonCode:read", "me": "own", "verifyAudit": "audit:verify", "auditHealth": "audit:verify",
    "getAuditProof": "proof", "getAuditCheckpoint": "proof", "listAuditCheckpoints": "proof",
    "getAuditRecord": "audit:read", "listAudit": "audit:read", "approvalMetrics": "metrics:read",
    "getCase": "case:read", "listCases": "case:read", "listCasesByPriority": "case:read", "listCasesByDue": "case:read",
    "listCasesByAssignee": "case:read", "getQueue": "queue:read", "listQueues": "queue:read",
    "getSubject": "subject:read", "listSubjects": "subject:read", "getReport": "report:read", "listReports": "report:read",
    "getDecision": "decision:read", "listDecisions": "decision:read", "getOrderLedger": "ledger:read",
    "listOrderLedgers": "ledger:read", "getRefund": "refund:read", "listRefunds": "refund:read",
    "getMacro": "macro:read", "listMacros": "macro:read", "getMacroRun": "macro:read", "listMacroRuns": "macro:read",
    "previewMacro": "macro:preview",
    "getApprovalPolicy": "approvalPolicy:read", "listApprovalPolicies": "approvalPolicy:read",
    "getTemplate": "template:read", "listTemplates": "template:read",
    "getDelivery": "delivery:read", "listDeliveries": "delivery:read", "getApprovalRequest": "approval:read",
    "listApprovalRequests": "approval:read", "getStaffMember": "staff:read", "listStaffMembers": "staff:read",
    "getAlert": "alert:read", "listAlerts": "alert:read",
}  # fmt: skip
SUBSCRIPTIONS = {"onCaseEvent": "case:read", "onApprovalEvent": "approval:read", "onAlert": "alert:read"}
FIELDS: dict[str, str] = {
    "Case": "case:read", "Lease": "case:read", "Sla": "case:read", "ActorRef": "case:read", "ActionHint": "case:read",
    "ReportConnection": "case:read", "NoteConnection": "case:read", "Note": "case:read", "TimelineConnection": "case:read",
    "TimelineEntry": "case:read", "CaseConnection": "case:read", "CaseEvent": "case:read",
    "Queue": "queue:read", "QueueStats": "queue:read", "QueueConnection": "queue:read",
    "Subject": "subject:read", "SubjectConnection": "subject:read", "DecisionConnection": "subject:read",
    "Report": "report:read", "Decision": "decision:read", "StatementOfReasons": "decision:read", "Reason": "decision:read",
    "OrderLedger": "ledger:read", "OrderLedgerConnection": "ledger:read", "RefundConnection": "ledger:read",
    "Money": "ledger:read", "Refund": "refund:read", "Delivery": "delivery:read", "DeliveryConnection": "delivery:read",
    "Template": "template:read", "TemplateConnection": "template:read",
    "Macro": "macro:read", "MacroStep": "macro:read", "MacroConnection": "macro:read", "MacroRun": "macro:read",
    "StepPlan": "macro:read", "MacroRunConnection": "macro:read", "MacroPlan": "macro:preview",
    "ApprovalPolicy": "approvalPolicy:read", "ApprovalPolicyConnection": "approvalPolicy:read",
    "ApprovalRequest": "approval:read", "ApprovalVote": "approval:read", "ApprovalRequestConnection": "approval:read",
    "ApprovalEvent": "approval:read", "ApprovalMetric": "metrics:read",
    "StaffMember": "staff:read", "StaffMember.email": "staff:contact", "StaffMemberConnection": "staff:read",
    "Grant": "staff:read", "Viewer": "own", "ReasonCode": "reasonCode:read",
    "Alert": "alert:read", "AlertConnection": "alert:read",
    "AuditRecord": "audit:read", "AuditRecord.body": "audit:body", "AuditRecordConnection": "audit:read",
    "AuditProof": "proof", "AuditCheckpoint": "proof", "AuditCheckpointConnection": "proof",
    "AuditVerification": "audit:verify", "AuditFinding": "audit:verify", "AuditHealth": "audit:verify",
}  # fmt: skip
# Payload -> the mutation it is asked at.
PAYLOADS = {
    "ReportPayload": "submitReport", "AuditRef": "submitReport", "ClaimResult": "claimNextCase", "LeasePayload": "renewLease",
    "CasePayload": "releaseCase", "NotePayload": "addNote", "DecisionPayload": "decideCase", "RefundPayload": "requestRefund",
    "ApprovalPayload": "voteOnApproval", "AlertPayload": "acknowledgeAlert",
    "MacroPayload": "saveMacro", "ApprovalPolicyPayload": "saveApprovalPolicy",
    "TemplatePayload": "saveTemplate", "DeliveryPayload": "retryDelivery",
}  # fmt: skip
MUTATIONS: dict[str, str] = {
    "submitReport": "report:submit", "claimNextCase": "case:claim", "claimCase": "case:claim", "renewLease": "case:claim",
    "releaseCase": "case:claim", "skipCase": "case:skip", "escalateCase": "case:escalate", "resolveCase": "case:resolve",
    "reopenCase": "case:route", "addNote": "case:note", "decideCase": "case:decide", "requestRefund": "refund:request",
    "cancelRefund": "refund:cancel", "voteOnApproval": "approval:vote", "withdrawVote": "approval:vote",
    "cancelApproval": "approval:cancel", "retryApproval": "approval:cancel", "acknowledgeAlert": "alert:ack",
    "saveMacro": "macro:edit", "publishMacro": "macro:publish", "retireMacro": "macro:edit", "runMacro": "macro:run",
    "saveApprovalPolicy": "approvalPolicy:propose", "saveTemplate": "template:edit", "retryDelivery": "delivery:retry",
    "publishCaseEvent": "event:publish", "publishApprovalEvent": "event:publish", "publishAlert": "event:publish",
}  # fmt: skip
_ROLES = {
    "support": "SUPPORT", "ts": "TRUST_SAFETY", "finance": "FINANCE", "content": "CONTENT_EDITOR", "cityops": "CITY_OPS",
    "admin": "ADMIN", "auditor": "AUDITOR",
}  # fmt: skip


def _person(handle: str) -> tuple[str, int]:
    words = handle.split("-")
    role = _ROLES[words[0]]
    tiers = {"agent": AGENT, "senior": SENIOR}
    return role, next((tiers[word] for word in words if word in tiers), LEAD)


def _holds(row: str, handle: str) -> bool:
    role, tier = _person(handle)
    return tier >= ROWS[row].get(role, NOBODY)


def denied(name: str, handle: str, place: str) -> bool:
    """Whether ``handle`` is denied ``Type.field`` in this place (own, other, category)."""
    of, _, field = name.partition(".")
    if of == "Mutation" or of in PAYLOADS:
        return _act_denied(field if of == "Mutation" else PAYLOADS[of], handle, place)
    if of == "Query":
        return not _holds(QUERIES[field], handle)
    if of == "Subscription":
        return not _holds(SUBSCRIPTIONS[field], handle)
    if name in FIELDS:  # a row of its own: denied on an object that one sees, absent with one that one does not
        return not _holds(FIELDS[name], handle) and (place == "own" or _leads(handle, name))
    return not _holds(FIELDS[of], handle)


def _leads(handle: str, name: str) -> bool:
    """Whether he sees what is a colleague's: a lead of his team, and who administers or audits."""
    role, tier = _person(handle)
    business = ("TRUST_SAFETY", "FINANCE") if name.startswith("AuditRecord") else BUSINESS
    return tier == LEAD and (role in business or role in ("ADMIN", "AUDITOR"))


def _city(handle: str, place: str) -> str | None:
    """The city of the objects; None when it is not one of his."""
    berlin = handle.endswith("-berlin")
    if place == "other":
        return None if berlin else "berlin"
    return "berlin" if berlin else "lisbon"


def _asker(handle: str, city: str) -> str:
    """Who asked for the approval that this person is asked about, and for the refund: as the demo has it."""
    if _person(handle)[0] == "TRUST_SAFETY":
        return "ts-senior"
    return "support-senior" if city == "lisbon" else "support-agent"


def _sees_request(handle: str, asker: str) -> bool:
    """His own, those he may vote on, those of his team; an auditor all."""
    role, tier = _person(handle)
    votes = role == "FINANCE" or (role in ("SUPPORT", "TRUST_SAFETY") and tier == LEAD)
    if role == "TRUST_SAFETY":  # the vote row is a senior's, the seat of a ban a lead's
        votes = tier >= SENIOR
    return handle == asker or votes or role == "AUDITOR"


def _act_denied(mutation: str, handle: str, place: str) -> bool:
    if not _holds(MUTATIONS[mutation], handle):
        return True
    role, tier = _person(handle)
    city = _city(handle, place)
    if city is None:
        return False  # absent: he is told nothing of it
    asker = _asker(handle, city)
    if mutation == "submitReport":
        return place == "category" and role != "TRUST_SAFETY"
    of_team = tier == LEAD and role == _person(asker)[0]
    if mutation == "cancelRefund":
        asker = "support-senior" if city == "lisbon" else "support-agent"
        return handle != asker and not (tier == LEAD and role == "SUPPORT")
    if mutation in ("cancelApproval", "retryApproval", "voteOnApproval"):
        if not _sees_request(handle, asker):
            return False
        if mutation == "voteOnApproval":
            return handle == asker or role == "AUDITOR"
        return handle != asker and not (of_team and mutation == "cancelApproval")
    return False
