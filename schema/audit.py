"""The audit log as its readers see it: records, proofs, checkpoints, verification, health."""

from __future__ import annotations

from enum import auto

import strawberry
from strawberry import ID
from strawberry.types.unset import UNSET

from schema.common import ActorRef, Reason
from schema.directives import FILTERABLE, INHERIT, Code, PiiClass, ScopeKey, audited, policy, scope
from schema.fields import get, listing, marked, signature
from schema.filters import Connection, ModelSortDirection
from schema.scalars import AWSJSON, AWSDateTime


@strawberry.enum
class AuditVerdict(Code):
    """How the attempt ended."""

    ALLOWED = auto()
    DENIED = auto()
    FAILED = auto()


@strawberry.enum
class AuditKind(Code):
    """What a record records."""

    MUTATION = auto()
    READ = auto()
    DENIED = auto()
    AUTH = auto()
    SYSTEM = auto()
    SUBSCRIPTION = auto()
    EXPORT = auto()
    KEY = auto()
    ERASE = auto()
    HEARTBEAT = auto()


@strawberry.enum
class ApprovalStep(Code):
    """Which step of an approval a record is."""

    REQUESTED = auto()
    VOTED = auto()
    EXECUTED = auto()


@strawberry.enum
class AuditTrust(Code):
    """What a verification leans on."""

    KEY = auto()
    PIN = auto()
    ANCHOR = auto()
    WITNESS = auto()
    WRITER_MAC = auto()
    STATE = auto()


@strawberry.type(
    directives=[policy("audit", "read"), scope(ScopeKey.CITY, ScopeKey.OWN, ScopeKey.TEAM, owner="actorId")]
)
class AuditRecord:
    """One leaf of the log; seq, sealedAt and chainHash come with the seal."""

    id: ID = marked(FILTERABLE)
    seq: float | None = marked(FILTERABLE)
    at: AWSDateTime = marked(FILTERABLE)
    sealed_at: AWSDateTime | None
    kind: AuditKind = marked(FILTERABLE)
    actor_id: ID | None = marked(FILTERABLE)
    actor: ActorRef | None
    on_behalf_of: ID | None
    action: str = marked(FILTERABLE)
    field: str = marked(FILTERABLE)
    operation_name: str | None = marked(FILTERABLE)
    read: bool = marked(FILTERABLE)
    verdict: AuditVerdict = marked(FILTERABLE)
    code: str | None = marked(FILTERABLE)
    target_type: str | None = marked(FILTERABLE)
    target_id: ID | None = marked(FILTERABLE)
    target_version: int | None
    target_ids: list[ID]
    target_count: int
    filter_digest: str | None
    city_id: ID | None = marked(FILTERABLE)
    subject_tag: ID | None = marked(FILTERABLE)
    reason: Reason | None
    approval_request_id: ID | None = marked(FILTERABLE)
    approval_step: ApprovalStep | None
    break_glass_id: ID | None = marked(FILTERABLE)
    cause_id: ID | None = marked(FILTERABLE)
    policy_version: int = marked(FILTERABLE)
    policy_row_id: ID | None
    obligations: list[str]
    request_id: ID = marked(FILTERABLE)
    trace_id: ID | None = marked(FILTERABLE)
    args_digest: str
    diff: AWSJSON | None
    fields_read: list[str]
    fields_masked: list[str]
    pii_classes: list[PiiClass] = marked(FILTERABLE)
    result_count: int | None
    result_outcome: str | None
    erased_fields: list[str]
    truncated: bool
    hash: str
    chain_hash: str | None
    body: str | None = marked(policy("audit", "body"))


@strawberry.type(directives=[INHERIT])
class AuditProof:
    """Proof that a record is in a checkpoint; ``bundle`` is tlog-proof text."""

    record_id: ID
    seq: float
    hash: str
    size: float
    root_hash: str
    path: list[str]
    checkpoint: str
    bundle: str


@strawberry.type(directives=[policy("audit", "verify")])
class AuditCheckpoint:
    """A signed tree head."""

    size: float
    root_hash: str
    note: str
    signed_by: list[str]
    cosigned_by: list[str]
    at: AWSDateTime
    anchored_at: AWSDateTime | None
    anchor: str | None
    worm: bool


@strawberry.type(directives=[INHERIT])
class AuditFinding:
    """One thing that is wrong with the log."""

    code: str
    severity: int
    seq: float | None
    from_seq: float | None
    to_seq: float | None
    record_id: ID | None
    expected: str | None
    found: str | None
    written_by: str | None
    neighbours_intact: bool | None
    text: str


@strawberry.type(directives=[policy("audit", "verify")])
class AuditVerification:
    """What a verification found, and what it did not check."""

    ok: bool
    from_seq: float
    to_seq: float
    checked: int
    head_size: float
    head_hash: str
    checkpoint_size: float | None
    first_bad_seq: float | None
    findings: list[AuditFinding]
    finding_count: int
    trusted: list[AuditTrust]
    not_checked: list[AuditTrust]
    erased_fields: int
    pending: int


@strawberry.type(directives=[policy("audit", "verify")])
class AuditHealth:
    """How far sealing and anchoring are behind."""

    size: float
    pending: int
    oldest_pending_seconds: int
    anchored_size: float
    anchor_age_seconds: int
    quarantined: int
    writer_gaps: int
    fail_closed: bool
    key_ids: list[str]
    worm: bool


class Query:
    """Root fields that read and check the log."""

    get_audit_record = get(AuditRecord, "audit.read")
    list_audit = listing(AuditRecord, "audit.list", text=True)

    @signature(policy("audit", "verify"), audited("audit.verify", read=True))
    def verify_audit(self, from_seq: float | None = UNSET, to_seq: float | None = UNSET) -> AuditVerification: ...

    @signature(policy("audit", "verify"), audited("audit.prove", read=True))
    def get_audit_proof(self, id: ID) -> AuditProof | None: ...

    @signature(policy("audit", "verify"), audited("audit.checkpoint", read=True))
    def get_audit_checkpoint(self, size: float | None = UNSET) -> AuditCheckpoint | None: ...

    @signature(policy("audit", "verify"), audited("audit.checkpoint", read=True))
    def list_audit_checkpoints(
        self,
        sort_direction: ModelSortDirection | None = UNSET,
        limit: int | None = UNSET,
        next_token: str | None = UNSET,
    ) -> Connection[AuditCheckpoint]: ...

    @signature(policy("audit", "verify"), audited("audit.health", read=True))
    def audit_health(self) -> AuditHealth: ...
