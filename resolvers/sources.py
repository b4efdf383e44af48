"""GraphQL type -> table, columns, joins, facts. Every read of a type goes through its one ``Source``.

A field that is not listed is the column of its name (``cityId`` -> ``city_id``). Who may see which row is not said here:
policy row and ``@scope`` come from the schema's rules, this file only says which column is whose fact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Float,
    FromClause,
    Integer,
    Interval,
    Text,
    and_,
    case,
    func,
    literal_column,
    not_,
    null,
    select,
    table,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from db import tables
from resolvers.source_fields import (
    Actor,
    Actors,
    Build,
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


def _about(target_type: str, remote: str = "id") -> Match:
    return lambda parent, child: and_(
        child.c.target_type == literal_column(f"'{target_type}'"), child.c.target_id == parent.c[remote]
    )


# ---------- cases ----------
DONE: Final = ("RESOLVED", "CLOSED")


def _in(column: ColumnElement[Any], *values: str) -> ColumnElement[bool]:
    return column.in_([literal_column(f"'{value}'") for value in values])


def _says(value: str) -> ColumnElement[str]:
    return literal_column(f"'{value}'", Text)


def _seconds(number: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.make_interval(literal_column("0, 0, 0, 0, 0, 0"), number, type_=Interval)


def sla_state(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    """Where a case stands: its next deadline is the first response until someone has claimed it, then the resolution.

    AT_RISK from the policy's percentage of the time between creation and deadline.
    """
    resolve = t.c.resolve_due_at
    paused = _seconds(t.c.sla_paused_seconds)  # the clock stood still for so long
    due = case((t.c.first_claimed_at.is_(None), func.least(t.c.first_response_due_at, resolve)), else_=resolve) + paused
    policy = tables.sla_policy.alias()
    percent = select(policy.c.at_risk_percent).where(policy.c.id == t.c.sla_policy_id).correlate(t).scalar_subquery()
    at_risk = t.c.created_at + _seconds(
        func.date_part(literal_column("'epoch'"), due - t.c.created_at, type_=Float) * percent / literal_column("100.0")
    )
    return case(
        (resolve.is_(None), _says("NONE")),
        (t.c.state == _says("PENDING_INFO"), _says("PAUSED")),
        (_in(t.c.state, *DONE), case((t.c.resolved_at <= resolve + paused, _says("MET")), else_=_says("BREACHED"))),
        (reach.now > due, _says("BREACHED")),
        (reach.now >= at_risk, _says("AT_RISK")),
        else_=_says("ON_TRACK"),
    )


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
    *(
        "kind",
        "state",
        "city_id",
        "content_category",
        "assignee_id",
        "lease_token",
        "lease_expires_at",
        "last_claimed_at",
        "resolved_at",
    ),
    *("now", "hidden_actions", "leases", "subject_staff_id", "subject_tags"),
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
)


def _cases_of(
    t: FromClause, reach: Reach, what: ColumnElement[Any], *conditions: Callable[[FromClause], ColumnElement[bool]]
) -> ColumnElement[Any]:
    """An aggregate over the visible cases of a queue."""
    row = tables.case_file.alias()
    found = (
        select(what)
        .select_from(row)
        .where(row.c.queue_id == t.c.id, reach.visible("Case", row), *(condition(row) for condition in conditions))
    )
    return found.correlate(t).scalar_subquery()


def _count(*conditions: Callable[[FromClause, Reach], ColumnElement[bool]]) -> Expression:
    def build(t: FromClause, reach: Reach) -> ColumnElement[Any]:
        bound = [lambda row, c=condition: c(row, reach) for condition in conditions]
        return _cases_of(t, reach, func.count(literal_column("*")), *bound)

    return Expression(build)


def _oldest(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    row = tables.case_file.alias()
    found = select(func.min(row.c.created_at)).where(
        row.c.queue_id == t.c.id, row.c.state == _says("OPEN"), reach.visible("Case", row)
    )
    return found.correlate(t).scalar_subquery()


QUEUE: Final = Source(
    tables.queue,
    fields={
        "stats": Embedded(
            "QueueStats",
            {
                "pending": _count(lambda t, _: t.c.state == _says("OPEN")),
                "claimed": _count(lambda t, _: t.c.state == _says("CLAIMED")),
                "escalated": _count(lambda t, _: t.c.state == _says("ESCALATED")),
                "breached": _count(
                    lambda t, _: not_(_in(t.c.state, *DONE)), lambda t, reach: sla_state(t, reach) == _says("BREACHED")
                ),
                "inbound24h": _count(
                    lambda t, reach: t.c.created_at > reach.now - literal_column("interval '24 hours'")
                ),
                "oldestCreatedAt": Expression(_oldest),
            },
        )
    },
    order=Order(("name",)),
    facts={"caseKind": "kind", "contentCategory": "content_categories"},
)


def _open_cases(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    row = tables.case_file.alias()
    found = select(func.count(literal_column("*"))).select_from(row)
    return (
        found.where(row.c.subject_id == t.c.id, not_(_in(row.c.state, *DONE)), reach.visible("Case", row))
        .correlate(t)
        .scalar_subquery()
    )


SUBJECT: Final = Source(
    tables.subject,
    fields={
        "displayNameMasked": Plain("display_name"),
        "openCaseCount": Expression(_open_cases),
        "decisions": ToMany("Decision", _of("subject_id")),
        "allowedActions": Computed(("kind", "state", "city_id", "content_category", "staff_id", "protected_tags")),
    },
    owners=("staff_id",),
)


def _submitted(t: FromClause, caller: ColumnElement[str]) -> ColumnElement[bool]:
    """A report's source is its submitter's (``services.cases.commands``)."""
    return t.c.source == _says("staff:").concat(caller)


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

DELIVERY: Final = Source(tables.outbox, order=Order(("created_at",), descending=True), targets=("Refund",))


# ---------- dual control ----------
def _asked_30d(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    """How often the requester asked for the same action in the 30 days before; row-level security keeps it to the reader's cities."""
    other = tables.approval_request.alias()
    found = select(func.count(literal_column("*"))).select_from(other)
    since = reach.now - literal_column("interval '30 days'")
    return (
        found.where(other.c.requester_id == t.c.requester_id, other.c.action == t.c.action, other.c.created_at > since)
        .correlate(t)
        .scalar_subquery()
    )


# What a vote is judged by; the caller's own vote comes with the row.
_BALLOT: Final = (
    *("action", "state", "requester_id", "subject_staff_id", "city_id", "content_category", "facts", "seats"),
    *("voted", "overdue"),
)


APPROVAL: Final = Source(
    tables.approval_request,
    fields={
        "requester": Actor("requester_id"),
        "requesterCount30d": Expression(_asked_30d),
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

VOTE: Final = Source(
    tables.approval_vote,
    fields={"voter": Actor("voter_id")},
    order=Order(("at",)),
    parent=("request_id", "ApprovalRequest"),
)


# ---------- staff ----------
def _roles(t: FromClause, _: Reach) -> ColumnElement[Any]:
    grant = tables.staff_grant.alias()
    found = select(grant.c.role).where(grant.c.staff_id == t.c.id).distinct().order_by(grant.c.role).correlate(t)
    return func.array(found.scalar_subquery(), type_=ARRAY(Text))


STAFF: Final = Source(
    tables.staff,
    fields={"roles": Expression(_roles), "grants": ToMany("Grant", _of("staff_id"))},
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


def _never(_: FromClause, __: Reach) -> ColumnElement[Any]:
    return literal_column("NULL::text", Text)


ALERT: Final = Source(
    tables.alert,
    fields={"cursor": Expression(_never)},
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
            "Reason", {**_REASON.fields, "note": Expression(_never)}, _REASON.when
        ),  # its text is sealed in the body
    },
    order=Order(("seq",), descending=True),
    owners=("actor_id",),
    own_anywhere=True,
    role="audit",
    text=("action", "field", "target_id", "code"),
)


SMALL_CELL: Final = 5  # a figure over fewer votes says too much about one person


def pair_metrics(start: ColumnElement[Any], end: ColumnElement[Any]) -> FromClause:
    """Who decided whose requests between two instants: counts, share of the requester's votes, median seconds to the vote."""
    request, vote = tables.approval_request.alias(), tables.approval_vote.alias()
    seconds = func.date_part(literal_column("'epoch'"), vote.c.at - request.c.created_at, type_=Float)
    votes = func.count(literal_column("*"))
    found = (
        select(
            request.c.requester_id.label("requester_id"),
            vote.c.voter_id.label("approver_id"),
            votes.filter(vote.c.vote == _says("APPROVE")).label("approved"),
            votes.filter(vote.c.vote == _says("REJECT")).label("rejected"),
            (votes * literal_column("1.0") / func.sum(votes).over(partition_by=request.c.requester_id))
            .cast(Float)
            .label("share"),
            func.percentile_cont(literal_column("0.5")).within_group(seconds).cast(Integer).label("median_seconds"),
            votes.label("votes"),
        )
        .select_from(request.join(vote, vote.c.request_id == request.c.id))
        .where(vote.c.withdrawn_at.is_(None), vote.c.counts, request.c.created_at >= start, request.c.created_at < end)
        .group_by(request.c.requester_id, vote.c.voter_id)
    )
    return found.subquery()


# ---------- needs of computed fields that are no columns of the row ----------
def _voted(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    vote = tables.approval_vote.alias()
    found = select(vote.c.vote).where(
        vote.c.request_id == t.c.id, vote.c.voter_id == reach.caller, vote.c.withdrawn_at.is_(None)
    )
    return found.correlate(t).scalar_subquery()


def _overdue(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    return t.c.approve_by <= reach.now


def _hidden_actions(t: FromClause, _: Reach) -> ColumnElement[Any]:
    row = tables.queue.alias()
    return select(row.c.hidden_actions).where(row.c.id == t.c.queue_id).correlate(t).scalar_subquery()


def _leases(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    """How many running leases the caller holds; of no row in particular."""
    row = tables.case_file.alias()
    running = (row.c.assignee_id == reach.caller, row.c.state == _says("CLAIMED"), row.c.lease_expires_at > reach.now)
    return select(func.count(literal_column("*"))).select_from(row).where(*running).correlate(t).scalar_subquery()


def _of_subject(column: str) -> Build:
    def build(t: FromClause, _: Reach) -> ColumnElement[Any]:
        row = tables.subject.alias()
        return select(row.c[column]).where(row.c.id == t.c.subject_id).correlate(t).scalar_subquery()

    return build


DERIVED: Final[Mapping[str, Build]] = MappingProxyType(
    {
        "voted": _voted,
        "overdue": _overdue,
        "now": lambda _, reach: reach.now,
        "hidden_actions": _hidden_actions,
        "leases": _leases,
        "subject_staff_id": _of_subject("staff_id"),
        "subject_tags": _of_subject("protected_tags"),
    }
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
        "ApprovalRequest": APPROVAL,
        "ApprovalVote": VOTE,
        "StaffMember": STAFF,
        "Grant": GRANT,
        "Viewer": VIEWER,
        "Alert": ALERT,
        "AuditRecord": AUDIT_RECORD,
    }
)
