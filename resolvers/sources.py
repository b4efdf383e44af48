"""GraphQL type -> table, columns, joins, facts. Every read of a type goes through its one ``Source``.

A field that is not listed is the column of its name (``cityId`` -> ``city_id``). Who may see which row is not said here:
policy row and ``@scope`` come from the schema's rules, this file only says which column is whose fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Text,
    and_,
    case,
    null,
    or_,
    table,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from db import tables
from resolvers.derived import OPEN_CASES, QUEUE_STATS, active_strikes, asked_30d, never, roles, says, sla_state
from resolvers.source_fields import (
    Actor,
    Actors,
    Computed,
    Embedded,
    Expression,
    FieldSpec,
    Match,
    Order,
    Plain,
    Reach,
    Source,
    ToMany,
    ToOne,
)


def _money(column: str) -> Embedded:
    return Embedded("Money", {"amountMinor": Plain(column)}, lambda t, _: t.c[column].is_not(None))


_REASON: Final = Embedded(
    "Reason",
    {"code": Plain("reason_code"), "note": Plain("reason_note"), "ticketRef": Plain("reason_ticket")},
    lambda t, _: t.c.reason_code.is_not(None),
)


def _of(column: str, remote: str = "id") -> Match:
    return lambda parent, child: child.c[column] == parent.c[remote]


def _about(target_type: str) -> Match:
    return lambda parent, child: and_(child.c.target_type == says(target_type), child.c.target_id == parent.c.id)


# ---------- cases ----------
_LEASE: Final[Mapping[str, FieldSpec]] = MappingProxyType(
    {
        "holder": Actor("assignee_id"),
        "token": Expression(lambda t, reach: case((t.c.assignee_id == reach.caller, t.c.lease_token), else_=null())),
        "expiresAt": Plain("lease_expires_at"),
    }
)


def _leased(t: FromClause, _: Reach) -> ColumnElement[bool]:
    return t.c.lease_token.is_not(None)


_CASE_FACTS: Final = {"caseKind": "kind", "contentCategory": "content_category", "caseState": "state"}

_CASE_HINTS: Final = (
    *("id", "subject_id", "version", "kind", "state", "city_id", "content_category", "assignee_id", "lease_token"),
    *("lease_expires_at", "last_claimed_at", "resolved_at"),
    *("now", "hidden_actions", "leases", "subject_staff_id", "subject_tags"),  # of ``derived.NEEDS``
)

CASE: Final = Source(
    tables.case_file,
    fields={
        "subject": ToOne("Subject", "subject_id"),
        "assignee": Actor("assignee_id"),
        "lease": Embedded("Lease", _LEASE, _leased),
        "slaState": Expression(sla_state),
        "sla": Embedded(
            "Sla",
            {
                "policyId": Plain("sla_policy_id"),
                "state": Expression(sla_state),
                "pausedSeconds": Plain("sla_paused_seconds"),
            },
        ),
        "reports": ToMany("Report", _of("case_id")),
        "notes": ToMany("Note", _of("case_id")),
        "timeline": ToMany("TimelineEntry", _about("Case")),
        "allowedActions": Computed(_CASE_HINTS),
    },
    order=Order(("created_at",), descending=True),
    orders={
        "CREATED": Order(("created_at",), descending=True),
        "PRIORITY": Order(("priority",), descending=True),
        "SLA": Order(("resolve_due_at",)),
        "listCasesByPriority": Order(("priority",)),
        "listCasesByDue": Order(("resolve_due_at",)),
        "listCasesByAssignee": Order(("resolve_due_at",)),
    },
    facts=_CASE_FACTS,
    beside=("subject_staff_id", "subject_tags"),
)


QUEUE: Final = Source(
    tables.queue,
    fields={"stats": Embedded("QueueStats", QUEUE_STATS)},
    order=Order(("name",)),
    facts={"caseKind": "kind", "contentCategory": "content_categories"},
)


SUBJECT: Final = Source(
    tables.subject,
    fields={
        "displayNameMasked": Plain("display_name"),
        "activeStrikes": Expression(active_strikes),
        "openCaseCount": OPEN_CASES,
        "decisions": ToMany("Decision", _of("subject_id")),
        "allowedActions": Computed(("kind", "state", "city_id", "content_category", "staff_id", "protected_tags")),
    },
    owners=("staff_id",),
)


def _submitted(t: FromClause, caller: ColumnElement[str]) -> ColumnElement[bool]:
    """A report's source is its submitter's (``services.cases.commands``)."""
    return or_(*(t.c.source == says(kind).concat(caller) for kind in ("staff:", "service:")))


REPORT: Final = Source(
    tables.report,
    fields={"reporterMasked": Plain("reporter_id")},
    order=Order(("created_at",), descending=True),
    owned=_submitted,
)

NOTE: Final = Source(
    tables.note,
    fields={"author": Actor("author_id"), "mentions": Actors("mention_ids")},
    order=Order(("created_at",), descending=True),
    parent=("case_id", "Case"),
)

TIMELINE: Final = Source(
    tables.timeline,
    fields={"actor": Actor("actor_id")},
    order=Order(("at",), descending=True),
    targets=("Case", "ApprovalRequest"),
)

DECISION: Final = Source(
    tables.decision,
    fields={
        "reason": _REASON,
        "decidedBy": Actor("decided_by_id"),
        "approvedBy": Actors("approved_by_ids"),
        "statement": Computed(("statement",)),
        "reverses": Plain("reverses_id"),
        "reversedBy": Plain("reversed_by_id"),
    },
    order=Order(("created_at",), descending=True),
)


# ---------- money ----------
def _refundable(t: FromClause, _: Reach) -> ColumnElement[Any]:
    return t.c.captured_minor - t.c.succeeded_minor - t.c.reserved_minor - t.c.disputed_minor


LEDGER: Final = Source(
    tables.order_ledger,
    key="order_id",
    fields={
        "captured": _money("captured_minor"),
        "succeeded": _money("succeeded_minor"),
        "reserved": _money("reserved_minor"),
        "disputed": _money("disputed_minor"),
        "refundable": Embedded("Money", {"amountMinor": Expression(_refundable)}),
        "refunds": ToMany("Refund", _of("order_id", "order_id")),
        "allowedActions": Computed(
            (
                "order_id",
                "buyer_id",
                "city_id",
                "currency",
                "captured_minor",
                "succeeded_minor",
                "reserved_minor",
                "disputed_minor",
                "charge_refundable",
                "version",
                *("now", "buyer_staff_id", "buyer_protected"),  # of ``derived.NEEDS``
            )
        ),
    },
)

REFUND: Final = Source(
    tables.refund,
    fields={
        "amount": _money("amount_minor"),
        "reason": _REASON,
        "requestedBy": Actor("requester_id"),
        "approvedBy": Actors("approved_by_ids"),
        "deliveries": ToMany("Delivery", _about("Refund")),
    },
    order=Order(("created_at",), descending=True),
    owners=("requester_id",),
)

DELIVERY: Final = Source(tables.outbox, order=Order(("created_at",), descending=True), targets=("Refund", "Note"))


# ---------- messages ----------
TEMPLATE: Final = Source(tables.template, order=Order(("name", "locale")))


# ---------- dual control ----------
# What a vote is judged by; the caller's own vote comes with the row.
_BALLOT: Final = (
    *("state", "requester_id", "subject_staff_id", "city_id", "content_category", "facts", "seats", "gates"),
    "contributor_ids",
    *("voted", "overdue"),  # of ``derived.NEEDS``
)


APPROVAL: Final = Source(
    tables.approval_request,
    fields={
        "requester": Actor("requester_id"),
        "requesterCount30d": Expression(asked_30d),
        "windowSum": _money("window_sum_minor"),
        "reason": _REASON,
        "votes": ToMany(
            "ApprovalVote",
            lambda parent, child: and_(child.c.request_id == parent.c.id, child.c.withdrawn_at.is_(None)),
        ),
        "eligible": Computed(_BALLOT, lambda t, reach: reach.eligible(t)),
        "ineligibleCode": Computed(_BALLOT),
        "timeline": ToMany("TimelineEntry", _about("ApprovalRequest")),
    },
    order=Order(("created_at",), descending=True),
    orders={"CREATED": Order(("created_at",), descending=True), "APPROVE_BY": Order(("approve_by",))},
    owners=("requester_id",),
    vote_key="action",
    amount="amount_minor",
)

APPROVAL_POLICY: Final = Source(
    tables.approval_policy,
    fields={
        "condition": Computed(("condition",)),
        "floor": Computed(("action",)),
        **{name: Computed(("seats",)) for name in ("approvals", "approverRoles", "minTier", "mustInclude")},
    },
    order=Order(("action",)),
    versioned=True,
)

VOTE: Final = Source(
    tables.approval_vote,
    fields={"voter": Actor("voter_id")},
    order=Order(("at",)),
    parent=("request_id", "ApprovalRequest"),
)


# ---------- macros ----------
MACRO: Final = Source(tables.macro, fields={"steps": Computed(("steps",))}, order=Order(("name",)), versioned=True)

MACRO_RUN: Final = Source(
    tables.macro_run, fields={"steps": Computed(("steps",))}, order=Order(("created_at",), descending=True)
)


# ---------- staff ----------
STAFF: Final = Source(
    tables.staff,
    fields={"roles": Expression(roles), "grants": ToMany("Grant", _of("staff_id"))},
    order=Order(("display_name",)),
    owners=("id",),
    itself=True,
)

GRANT: Final = Source(
    tables.staff_grant,
    fields={name: Computed(("role", "tier")) for name in ("aloneCeiling", "requestCeiling", "approveCeiling")},
    parent=("staff_id", "StaffMember"),
)

VIEWER: Final = Source(
    tables.staff,
    fields={"staff": ToOne("StaffMember", "id"), "permissions": Computed(()), "policyVersion": Computed(())},
)


ALERT: Final = Source(
    tables.alert,
    fields={"cursor": Expression(never)},
    order=Order(("created_at",), descending=True),
    recipients="recipient_ids",
)


# ---------- audit: another database role ----------
def _entry() -> FromClause:
    """The view ``audit.entry``: one row per sealed record, columns named as the GraphQL fields."""
    texts = (
        "kind action field operation_name verdict code target_type target_id filter_digest city_id subject_tag reason_code reason_ticket "
        "approval_request_id approval_step break_glass_id policy_row_id request_id trace_id args_digest result_outcome "
        "hash chain_hash body actor_id actor_kind on_behalf_of cause_id"
    )
    columns: list[Column[Any]] = [Column(name, Text) for name in texts.split()]
    columns += [Column(name, DateTime(timezone=True)) for name in ("at", "sealed_at")]
    columns += [
        Column(name, ARRAY(Text))
        for name in ("target_ids", "obligations", "fields_read", "fields_masked", "pii_classes", "erased_fields")
    ]
    columns += [Column(name, Integer) for name in ("target_version", "target_count", "result_count")]
    columns += [Column(name, BigInteger, nullable=False) for name in ("seq", "policy_version")]
    columns += [
        Column("id", UUID(as_uuid=False)),
        Column("diff", JSONB),
        Column("read", Boolean),
        Column("truncated", Boolean),
    ]
    return table("entry", *columns, schema="audit")


AUDIT_RECORD: Final = Source(
    _entry(),
    fields={
        "actor": Actor("actor_id", kind="actor_kind"),
        "reason": Embedded(
            "Reason", {**_REASON.fields, "note": Expression(never)}, _REASON.when
        ),  # its text is sealed in the body
    },
    order=Order(("seq",), descending=True),
    owners=("actor_id",),
    own_anywhere=True,
    role="audit",
    text=("action", "field", "target_id", "code"),
)


SOURCES: Final[Mapping[str, Source]] = MappingProxyType(
    {
        "Case": CASE,
        "Lease": Source(tables.case_file, fields=_LEASE, parent=("id", "Case")),
        "Queue": QUEUE,
        "Subject": SUBJECT,
        "Report": REPORT,
        "Note": NOTE,
        "TimelineEntry": TIMELINE,
        "Decision": DECISION,
        "OrderLedger": LEDGER,
        "Refund": REFUND,
        "Delivery": DELIVERY,
        "Template": TEMPLATE,
        "ApprovalRequest": APPROVAL,
        "ApprovalVote": VOTE,
        "Macro": MACRO,
        "MacroRun": MACRO_RUN,
        "ApprovalPolicy": APPROVAL_POLICY,
        "StaffMember": STAFF,
        "Grant": GRANT,
        "Viewer": VIEWER,
        "Alert": ALERT,
        "AuditRecord": AUDIT_RECORD,
    }
)
