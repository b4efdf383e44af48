"""Every table of the console, once: SQLAlchemy Core metadata that reads compile against and a test holds to the migrations.

Ids are text, times are timestamptz, money is minor units in integers. The audit log has its own schema and its own roles.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

metadata = MetaData()


def _at(name: str, *, null: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=null)


def _texts(name: str) -> Column[object]:
    return Column(name, ARRAY(Text), nullable=False, server_default="{}")


# ---------- people ----------
staff = Table(
    "staff",
    metadata,
    Column("id", Text, primary_key=True),
    Column("handle", Text, nullable=False, unique=True),
    Column("display_name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="ACTIVE"),
    _at("not_before"),  # tokens issued earlier are dead
    Column("version", Integer, nullable=False, server_default="1"),
    CheckConstraint("state IN ('INVITED','ACTIVE','LOCKED','OFFBOARDED')", name="staff_state"),
)

staff_grant = Table(
    "staff_grant",
    metadata,
    Column("id", Text, primary_key=True),
    Column("staff_id", Text, ForeignKey("staff.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("tier", Text, nullable=False),
    _texts("city_ids"),  # {"*"} = every city
    _texts("content_categories"),
    _at("expires_at"),
    Index("staff_grant_staff", "staff_id"),
)

# One row; a trigger on staff and staff_grant counts it up, and every statement compares it with its snapshot.
authz_version = Table(
    "authz_version",
    metadata,
    Column("one", Boolean, primary_key=True),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("one", name="authz_version_one"),
)

# ---------- subjects, reports, cases ----------
subject = Table(
    "subject",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="ACTIVE"),
    Column("city_id", Text),
    Column("content_category", Text, nullable=False, server_default="NSFW"),
    Column("display_name", Text, nullable=False),
    Column("staff_id", Text, ForeignKey("staff.id")),  # the staff member whose own account this is
    _texts("protected_tags"),
    _texts("tags"),
    Column("total_strikes", Integer, nullable=False, server_default="0"),
    Column("version", Integer, nullable=False, server_default="1"),
    UniqueConstraint("id", "city_id", name="subject_city"),
)

sla_policy = Table(
    "sla_policy",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("first_response_seconds", Integer, nullable=False),
    Column("resolve_seconds", Integer, nullable=False),
    Column("at_risk_percent", Integer, nullable=False, server_default="75"),
    Column("version", Integer, nullable=False, server_default="1"),
)

queue = Table(
    "queue",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    _texts("city_ids"),
    _texts("content_categories"),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    _texts("hidden_actions"),
    Column("sla_policy_id", Text, ForeignKey("sla_policy.id"), nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
)

case_file = Table(  # "case" is a reserved word
    "case_file",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="OPEN"),
    Column("subject_id", Text, ForeignKey("subject.id"), nullable=False),
    Column("city_id", Text),
    Column("content_category", Text, nullable=False),
    Column("queue_id", Text, ForeignKey("queue.id"), nullable=False),
    Column("order_id", Text, ForeignKey("order_ledger.order_id")),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("skips", Integer, nullable=False, server_default="0"),
    _at("created_at", null=False),
    _at("first_claimed_at"),
    _at("last_claimed_at"),
    _at("resolved_at"),
    Column(
        "assignee_id", Text, ForeignKey("staff.id")
    ),  # holder of the lease; while an approval waits, the one it returns to
    Column("lease_token", Text),
    _at("lease_started_at"),
    _at("lease_expires_at"),
    Column("sla_policy_id", Text, ForeignKey("sla_policy.id"), nullable=False),
    _at("first_response_due_at"),
    _at("resolve_due_at"),
    _at("sla_paused_at"),
    Column("sla_paused_seconds", Integer, nullable=False, server_default="0"),
    Column("approval_request_id", Text),
    Column("version", Integer, nullable=False, server_default="1"),
    ForeignKeyConstraint(["subject_id", "city_id"], ["subject.id", "subject.city_id"], name="case_subject_city"),
    UniqueConstraint("id", "city_id", name="case_city"),
    CheckConstraint("(state = 'CLAIMED') = (lease_token IS NOT NULL)", name="case_claimed_has_lease"),
    CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name="case_lease_expires"),
    Index(
        "case_open_once", "subject_id", "kind", unique=True, postgresql_where=text("state NOT IN ('RESOLVED','CLOSED')")
    ),
    Index("case_by_due", "queue_id", "resolve_due_at", "id"),
    Index("case_by_priority", "queue_id", "priority", "id"),
    Index("case_by_created", "created_at", "id"),
    Index("case_by_assignee", "assignee_id", "resolve_due_at", "id"),
    Index("case_by_subject", "subject_id", "id"),
    Index("case_leases", "lease_expires_at", postgresql_where=text("lease_token IS NOT NULL")),
)

case_skip = Table(
    "case_skip",
    metadata,
    Column("case_id", Text, ForeignKey("case_file.id"), primary_key=True),
    Column("staff_id", Text, ForeignKey("staff.id"), primary_key=True),
    _at("until", null=False),
)

report = Table(
    "report",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False, server_default="RECEIVED"),
    Column("subject_id", Text, ForeignKey("subject.id"), nullable=False),
    Column("case_id", Text, ForeignKey("case_file.id")),
    Column("city_id", Text),
    Column("content_category", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("external_id", Text, nullable=False),
    Column("reporter_id", Text),
    Column("reporter_accuracy", Float),
    Column("reporter_muted", Boolean, nullable=False, server_default=text("false")),
    Column("automated", Boolean, nullable=False, server_default=text("false")),
    Column("detail", Text),
    Column("public_reply", Text),
    _at("created_at", null=False),
    UniqueConstraint("source", "external_id", name="report_source_external"),
    Index("report_by_case", "case_id", "created_at", "id"),
    Index("report_by_created", "created_at", "id"),
)

note = Table(
    "note",
    metadata,
    Column("id", Text, primary_key=True),
    Column("case_id", Text, ForeignKey("case_file.id"), nullable=False),
    Column("city_id", Text),
    Column("author_id", Text, ForeignKey("staff.id"), nullable=False),
    Column("body", Text, nullable=False),
    Column("internal", Boolean, nullable=False),
    _texts("mention_ids"),
    Column("template_id", Text),  # of a note that was sent: which text of which version it is
    Column("template_version", Integer),
    _at("created_at", null=False),
    Index("note_by_case", "case_id", "created_at", "id"),
)

timeline = Table(  # what happened to a case or an approval request, for people; the proof is the audit log
    "timeline",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("target_type", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("city_id", Text),
    _at("at", null=False),
    Column("actor_id", Text),
    Column("kind", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("audit_id", Text),
    Index("timeline_by_target", "target_type", "target_id", "at", "id"),
)

decision = Table(
    "decision",
    metadata,
    Column("id", Text, primary_key=True),
    Column("case_id", Text, ForeignKey("case_file.id")),
    Column("subject_id", Text, ForeignKey("subject.id"), nullable=False),
    Column("city_id", Text),
    Column("content_category", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("family", Text, nullable=False),  # at most one EFFECTIVE decision per (subject, family)
    Column("state", Text, nullable=False),
    Column("reason_code", Text, nullable=False),
    Column("reason_note", Text),
    Column("reason_ticket", Text),
    Column("decided_by_id", Text, ForeignKey("staff.id"), nullable=False),
    _texts("approved_by_ids"),
    _at("effective_at"),
    _at("expires_at"),
    Column("severity", Integer, nullable=False),
    Column("strikes", Integer, nullable=False, server_default="0"),
    Column("label", Text),
    Column("statement", JSONB),
    Column("reverses_id", Text, ForeignKey("decision.id")),
    Column("reversed_by_id", Text, ForeignKey("decision.id")),
    Column("approval_request_id", Text),
    _at("created_at", null=False),
    Index("decision_effective_once", "subject_id", "family", unique=True, postgresql_where=text("state = 'EFFECTIVE'")),
    Index("decision_by_subject", "subject_id", "created_at", "id"),
    Index("decision_to_expire", "expires_at", postgresql_where=text("state = 'EFFECTIVE'")),
    Index("decision_by_created", "created_at", "id"),
)

# ---------- money ----------
order_ledger = Table(
    "order_ledger",
    metadata,
    Column("order_id", Text, primary_key=True),
    Column("buyer_id", Text, nullable=False),
    Column("city_id", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("captured_minor", Integer, nullable=False),
    Column("succeeded_minor", Integer, nullable=False, server_default="0"),
    Column("reserved_minor", Integer, nullable=False, server_default="0"),
    Column("disputed_minor", Integer, nullable=False, server_default="0"),
    Column("charge_refundable", Boolean, nullable=False, server_default=text("true")),
    Column("version", Integer, nullable=False, server_default="1"),
    CheckConstraint("succeeded_minor >= 0 AND reserved_minor >= 0 AND disputed_minor >= 0", name="ledger_parts"),
    CheckConstraint(
        "captured_minor - succeeded_minor - reserved_minor - disputed_minor >= 0", name="ledger_refundable"
    ),
    UniqueConstraint("order_id", "city_id", name="ledger_city"),
    Index("ledger_by_city", "city_id", "order_id"),
)

refund = Table(
    "refund",
    metadata,
    Column("id", Text, primary_key=True),
    Column("order_id", Text, ForeignKey("order_ledger.order_id"), nullable=False),
    Column("buyer_id", Text, nullable=False),
    Column("city_id", Text, nullable=False),
    Column("case_id", Text, ForeignKey("case_file.id")),
    Column("amount_minor", Integer, nullable=False),
    Column("currency", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("destination", Text, nullable=False, server_default="ORIGINAL"),
    Column("reason_code", Text, nullable=False),
    Column("reason_note", Text),
    Column("reason_ticket", Text),
    Column("requester_id", Text, ForeignKey("staff.id"), nullable=False),
    _texts("approved_by_ids"),
    Column("approval_request_id", Text),
    Column("external_ref", Text),
    Column("failure_reason", Text),
    _at("created_at", null=False),
    Column("version", Integer, nullable=False, server_default="1"),
    CheckConstraint("amount_minor > 0", name="refund_positive"),
    ForeignKeyConstraint(
        ["order_id", "city_id"], ["order_ledger.order_id", "order_ledger.city_id"], name="refund_order_city"
    ),
    Index("refund_by_order", "order_id", "created_at", "id"),
    Index("refund_by_pair", "requester_id", "buyer_id", "created_at"),
    Index("refund_by_created", "created_at", "id"),
)

# ---------- dual control ----------
approval_request = Table(
    "approval_request",
    metadata,
    Column("id", Text, primary_key=True),
    Column("action", Text, nullable=False),  # approval key, refund.request
    Column("command", Text, nullable=False),  # root field that runs at quorum, requestRefund
    Column("target_type", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("target_version", Integer),
    Column("entity_id", Text),  # what the request made and holds: the refund, the proposed decision
    Column("city_id", Text),
    Column("content_category", Text),
    Column("summary", Text, nullable=False),
    Column("payload", Text, nullable=False),  # canonical JSON, as hashed
    Column("payload_hash", Text, nullable=False),
    Column("diff", JSONB, nullable=False),
    Column("facts", JSONB, nullable=False),  # as they stood when asked; conditions of votes read them
    Column("policy_id", Text, nullable=False),
    Column("policy_version", BigInteger, nullable=False),
    Column("seats", JSONB, nullable=False),  # per policy: approvals, seats (role, least tier), must include
    Column("approvals_needed", Integer, nullable=False),
    # Steps that need approval by themselves (authz.requirements.Gate); a macro's request has them.
    Column("gates", JSONB, nullable=False, server_default=text("'[]'")),
    Column("contributor_ids", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # wrote it; may not vote
    Column("requester_id", Text, ForeignKey("staff.id"), nullable=False),
    Column("requester_role", Text, nullable=False),
    Column("requester_tier", Text, nullable=False),
    Column("subject_staff_id", Text),  # the staff member whose own account or grant it is about; may not vote
    Column("amount_minor", Integer),
    Column("window_sum_minor", Integer),
    Column("currency", Text),
    Column("reason_code", Text, nullable=False),
    Column("reason_note", Text),
    Column("reason_ticket", Text),
    Column("state", Text, nullable=False, server_default="PENDING"),
    Column("execution", Text, nullable=False, server_default="NOT_STARTED"),
    Column("execution_error", Text),
    Column("invalidated_because", Text),
    Column("execute_within_seconds", Integer, nullable=False),
    _at("created_at", null=False),
    _at("approve_by", null=False),
    _at("execute_by"),
    _at("apply_at"),
    _at("closed_at"),
    _at("executed_at"),
    Column("expiring_alerted", Boolean, nullable=False, server_default=text("false")),
    Column("version", Integer, nullable=False, server_default="1"),
    Index("approval_by_created", "created_at", "id"),
    Index("approval_by_due", "approve_by", "id"),
    Index("approval_pending", "state", "approve_by"),
    Index(
        "approval_to_execute",
        "execute_by",
        postgresql_where=text("state = 'APPROVED' AND execution IN ('NOT_STARTED','FAILED')"),
    ),
    Index("approval_by_requester", "requester_id", "created_at"),
)

approval_vote = Table(
    "approval_vote",
    metadata,
    Column("id", Text, primary_key=True),
    Column("request_id", Text, ForeignKey("approval_request.id"), nullable=False),
    Column("voter_id", Text, ForeignKey("staff.id"), nullable=False),
    Column("role", Text, nullable=False),  # of the grant that the vote rests on
    Column("tier", Text, nullable=False),
    Column("vote", Text, nullable=False),
    Column("payload_hash", Text, nullable=False),
    Column("comment", Text),
    Column("counts", Boolean, nullable=False, server_default=text("true")),
    Column("voided_because", Text),
    _at("at", null=False),
    _at("withdrawn_at"),
    Index("vote_once", "request_id", "voter_id", unique=True, postgresql_where=text("withdrawn_at IS NULL")),
)

approval_execution = Table(  # its primary key is what makes an execution happen once
    "approval_execution",
    metadata,
    Column("request_id", Text, ForeignKey("approval_request.id"), primary_key=True),
    _at("at", null=False),
)

approval_policy = Table(  # the overlay: every version of every policy, append-only; of each id one is the current one
    "approval_policy",
    metadata,
    Column("id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("action", Text, nullable=False),  # approval key
    Column("condition", JSONB(none_as_null=True)),  # None: it always applies
    Column("seats", JSONB, nullable=False),  # per seat the roles with their least tier; or the text STEPS
    Column("approve_within_seconds", Integer, nullable=False),
    Column("execute_within_seconds", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("shipped", Boolean, nullable=False, server_default=text("false")),  # brought by a release, not by people
    Column("current", Boolean, nullable=False, server_default=text("true")),
    _at("created_at", null=False),
    Column("created_by_id", Text, ForeignKey("staff.id")),
    Column("request_id", Text, ForeignKey("approval_execution.request_id")),
    CheckConstraint("version >= 1", name="approval_policy_version"),
    CheckConstraint("approve_within_seconds > 0 AND execute_within_seconds > 0", name="approval_policy_clocks"),
    CheckConstraint(
        "(request_id IS NULL) = shipped AND (created_by_id IS NULL) = shipped", name="approval_policy_made_by"
    ),
    UniqueConstraint("request_id", name="approval_policy_execution_once"),
    Index("approval_policy_current", "id", unique=True, postgresql_where=text("current")),
    Index("approval_policy_by_action", "action", "id", postgresql_where=text("current")),
)

# ---------- macros ----------
macro = Table(  # every version of every macro; of each id one is the current one: the published, else the newest
    "macro",
    metadata,
    Column("id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("current", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    _texts("allowed_roles"),
    _texts("case_kinds"),
    Column("parameters", JSONB, nullable=False),  # JSON Schema
    Column("steps", JSONB, nullable=False),  # key, action, argsTemplate, when
    Column("author_id", Text, ForeignKey("staff.id"), nullable=False),
    _at("created_at", null=False),
    CheckConstraint("version >= 1", name="macro_version"),
    CheckConstraint("state IN ('DRAFT','PUBLISHED','RETIRED')", name="macro_state"),
    CheckConstraint("jsonb_array_length(steps) BETWEEN 1 AND 12", name="macro_steps"),
    Index("macro_published_once", "id", unique=True, postgresql_where=text("state = 'PUBLISHED'")),
    Index("macro_current_once", "id", unique=True, postgresql_where=text("current")),
    Index("macro_by_name", "name", "id", postgresql_where=text("current")),
)

macro_run = Table(
    "macro_run",
    metadata,
    Column("id", Text, primary_key=True),
    Column("macro_id", Text, nullable=False),
    Column("macro_version", Integer, nullable=False),
    Column("case_id", Text, nullable=False),
    Column("city_id", Text),
    Column("plan_hash", Text, nullable=False),
    Column("bound_hash", Text, nullable=False),  # of what an approval is for: the plan without versions
    Column("state", Text, nullable=False),
    Column("steps", JSONB, nullable=False),  # the plan as it was run or approved
    Column("requester_id", Text, ForeignKey("staff.id"), nullable=False),
    Column("approval_request_id", Text),
    _at("created_at", null=False),
    Column("version", Integer, nullable=False, server_default="1"),
    CheckConstraint("state IN ('PENDING_APPROVAL','EXECUTED','FAILED','REJECTED','EXPIRED')", name="macro_run_state"),
    ForeignKeyConstraint(["macro_id", "macro_version"], ["macro.id", "macro.version"], name="macro_run_macro"),
    ForeignKeyConstraint(["case_id"], ["case_file.id"], name="macro_run_case"),
    ForeignKeyConstraint(["case_id", "city_id"], ["case_file.id", "case_file.city_id"], name="macro_run_case_city"),
    Index("macro_run_by_created", "created_at", "id"),
    Index("macro_run_by_case", "case_id", "created_at", "id"),
)

# ---------- what leaves after the commit ----------
alert = Table(
    "alert",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("severity", Integer, nullable=False),
    Column("city_id", Text),
    Column("target_type", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("summary", Text, nullable=False),
    _texts("recipient_ids"),  # alert-to: the staff members it is for
    _at("created_at", null=False),
    _at("acknowledged_at"),
    Column("acknowledged_by_id", Text),
    Index("alert_by_created", "created_at", "id"),
    Index("alert_pair", "target_id", "created_at", postgresql_where=text("kind = 'APPROVAL_PAIR'")),
)

event = Table(  # one row per thing subscribers hear; position is given after the commit, by one sequencer, in order
    "event",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("position", BigInteger, unique=True),
    Column("topic", Text, nullable=False),  # CaseEvent, ApprovalEvent, Alert
    Column("city_id", Text),
    Column("payload", JSONB, nullable=False),  # the GraphQL object, without cursor
    Column("facts", JSONB, nullable=False),  # what conditions and scope ask: caseKind, contentCategory, recipients…
    _at("created_at", null=False),
    Index("event_unnumbered", "id", postgresql_where=text("position IS NULL")),
)

outbox = Table(  # calls to other systems; a GraphQL Delivery
    "outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("port", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("key", Text, nullable=False),  # derived from the aggregate, the same at every attempt
    Column("target_type", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("city_id", Text),
    Column("arguments", JSONB, nullable=False),
    Column("audit_id", UUID(as_uuid=False)),  # leaves only once this record is anchored
    Column("state", Text, nullable=False, server_default="PENDING"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("last_error_code", Text),
    _at("created_at", null=False),
    _at("next_attempt_at"),
    _at("delivered_at"),
    Column("lane", Text),  # calls of one lane leave in the order they were queued in, never two at once
    UniqueConstraint("port", "operation", "key", name="outbox_key"),
    Index("outbox_due", "port", "next_attempt_at", "id", postgresql_where=text("state IN ('PENDING','RETRYING')")),
    Index("outbox_by_target", "target_type", "target_id", "created_at"),
    Index(
        "outbox_lane",
        "port",
        "lane",
        "created_at",
        "id",
        postgresql_where=text("state IN ('PENDING','RETRYING')"),
    ),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("caller_id", Text, primary_key=True),
    Column("mutation", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("arguments_hash", LargeBinary, nullable=False),
    Column("result", JSONB),
    _at("created_at", null=False),
)

rate_counter = Table(  # a bucket of tokens that processes share
    "rate_counter",
    metadata,
    Column("name", Text, primary_key=True),
    Column("person_id", Text, primary_key=True),
    _at("full_at", null=False),
    Index("rate_counter_by_time", "full_at"),
)

# ---------- the embedded Orders & Refund Kernel: another system that happens to live in the same Postgres ----------
kernel_refund = Table(
    "kernel_refund",
    metadata,
    Column("key", Text, primary_key=True),  # refund id: one refund per key whatever the repeats
    Column("order_id", Text, nullable=False),
    Column("amount_minor", Integer, nullable=False),
    Column("currency", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("external_ref", Text, nullable=False),
    Column("failure_code", Text),
    _at("created_at", null=False),
    _at("settles_at"),  # a pending one turns into its outcome then
    Column("outcome", Text, nullable=False),
    _at("notified_at"),
)

kernel_order = Table(  # what the demo tells the kernel to do with an order's refunds: sim = succeed | fail:CODE | pending:SECONDS | requires_action
    "kernel_order",
    metadata,
    Column("order_id", Text, primary_key=True),
    Column("sim", Text, nullable=False, server_default="succeed"),
)

# ---------- messages ----------
city = Table(  # what a city is called and speaks; one without a row is called by its id
    "city",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("locale", Text, nullable=False),
)

template = Table(
    "template",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("locale", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    _texts("variables"),  # of subject and body, in their order
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    Column("version", Integer, nullable=False, server_default="1"),
    UniqueConstraint("name", "locale", name="template_name_locale"),
)

template_version = Table(  # every text there ever was: a message that waits goes out in the version its author saw
    "template_version",
    metadata,
    Column("template_id", Text, ForeignKey("template.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("saved_by_id", Text, nullable=False),
    _at("saved_at", null=False),
)

# ---------- the embedded Help Center: another system that happens to live in the same Postgres ----------
help_message = Table(
    "help_message",
    metadata,
    Column("key", Text, primary_key=True),  # note id: one message per key whatever the repeats
    Column("template", Text, nullable=False),
    Column("locale", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("variables", JSONB, nullable=False),
    Column("recipient", Text, nullable=False),  # a reference: whom it stands for is the help center's to know
    Column("external_ref", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    _at("created_at", null=False),
)

help_sim = Table(  # what the demo lets go wrong: sim = unavailable:TIMES | lost:TIMES | slow:SECONDS | refuse:CODE
    "help_sim",
    metadata,
    Column("kind", Text, primary_key=True),  # template or recipient
    Column("name", Text, primary_key=True),
    Column("sim", Text, nullable=False),
    Column("calls", Integer, nullable=False, server_default="0"),
    CheckConstraint("kind IN ('template', 'recipient')", name="help_sim_kind"),
)
