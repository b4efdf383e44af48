"""Columns that no table has, as SQL over a row: where a case stands, counts of what the caller may see, needs of computed fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    FromClause,
    Interval,
    Text,
    case,
    exists,
    func,
    literal_column,
    not_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from db import tables
from resolvers.source_fields import Build, Expression, FieldSpec, Plain, Reach
from services.cases.rules import STRIKE_DAYS, STRIKING

_DONE: Final = ("RESOLVED", "CLOSED")
_EVERY: Final[ColumnElement[Any]] = func.count(literal_column("*"))

Condition = Callable[[FromClause, Reach], ColumnElement[bool]]


def says(value: str) -> ColumnElement[str]:
    """A word of ours inside the statement."""
    return literal_column(f"'{value}'", Text)


def never(_: FromClause, __: Reach) -> ColumnElement[Any]:
    """A text that is always null."""
    return literal_column("NULL::text", Text)


# ---------- subjects ----------
def active_strikes(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    """Unexpired points of a subject, as ``services.cases.rules.active_strikes`` counts them; points expire by themselves."""
    d = tables.decision.alias()
    days = case(*((d.c.severity == literal_column(str(n)), literal_column(str(age))) for n, age in STRIKE_DAYS.items()))
    until = d.c.effective_at + func.make_interval(literal_column("0, 0, 0"), days, type_=Interval)
    counted = select(func.coalesce(func.sum(d.c.strikes), literal_column("0")))
    mine = (d.c.subject_id == t.c.id, d.c.state.in_([says(state) for state in STRIKING]), until > reach.now)
    return counted.where(*mine).correlate(t).scalar_subquery()


# ---------- cases ----------
def _seconds(number: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.make_interval(literal_column("0, 0, 0, 0, 0, 0"), number, type_=Interval)


def _done(t: FromClause) -> ColumnElement[bool]:
    return t.c.state.in_([says(state) for state in _DONE])


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
        (resolve.is_(None), says("NONE")),
        (t.c.state == says("PENDING_INFO"), says("PAUSED")),
        (_done(t), case((t.c.resolved_at <= resolve + paused, says("MET")), else_=says("BREACHED"))),
        (reach.now > due, says("BREACHED")),
        (reach.now >= at_risk, says("AT_RISK")),
        else_=says("ON_TRACK"),
    )


def _over_cases(link: str, what: Callable[[FromClause], ColumnElement[Any]], *conditions: Condition) -> Expression:
    """An aggregate over those visible cases whose ``link`` is the row."""

    def build(t: FromClause, reach: Reach) -> ColumnElement[Any]:
        row = tables.case_file.alias()
        wanted = (row.c[link] == t.c.id, *(condition(row, reach) for condition in conditions))
        found = select(what(row)).select_from(row).where(*wanted, reach.visible("Case", row))
        return found.correlate(t).scalar_subquery()

    return Expression(build)


def _cases(link: str, *conditions: Condition) -> Expression:
    return _over_cases(link, lambda _: _EVERY, *conditions)


def _in_state(state: str) -> Condition:
    return lambda case_, _: case_.c.state == says(state)


def _unfinished(case_: FromClause, _: Reach) -> ColumnElement[bool]:
    return not_(_done(case_))


OPEN_CASES: Final = _cases("subject_id", _unfinished)
QUEUE_STATS: Final[Mapping[str, Expression]] = MappingProxyType(
    {
        "pending": _cases("queue_id", _in_state("OPEN")),
        "claimed": _cases("queue_id", _in_state("CLAIMED")),
        "escalated": _cases("queue_id", _in_state("ESCALATED")),
        "breached": _cases("queue_id", _unfinished, lambda case_, reach: sla_state(case_, reach) == says("BREACHED")),
        "inbound24h": _cases(
            "queue_id", lambda case_, reach: case_.c.created_at > reach.now - literal_column("interval '24 hours'")
        ),
        "oldestCreatedAt": _over_cases("queue_id", lambda case_: func.min(case_.c.created_at), _in_state("OPEN")),
    }
)


# ---------- dual control, staff ----------
def asked_30d(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    """How often the requester asked for the same action in the 30 days before; row-level security keeps it to the reader's cities."""
    other = tables.approval_request.alias()
    since = reach.now - literal_column("interval '30 days'")
    same = (other.c.requester_id == t.c.requester_id, other.c.action == t.c.action, other.c.created_at > since)
    return select(_EVERY).select_from(other).where(*same).correlate(t).scalar_subquery()


def roles(t: FromClause, _: Reach) -> ColumnElement[Any]:
    """The roles of a staff member, sorted."""
    grant = tables.staff_grant.alias()
    found = select(grant.c.role).where(grant.c.staff_id == t.c.id).distinct().order_by(grant.c.role).correlate(t)
    return func.array(found.scalar_subquery(), type_=ARRAY(Text))


def person(column: str) -> Mapping[str, FieldSpec]:
    """An ActorRef of the staff id in ``column``: what ``resolvers.computed.actor`` says by the directory of the same version."""

    def member(t: FromClause) -> tuple[FromClause, ColumnElement[bool]]:
        row = tables.staff.alias()
        return row, row.c.id == t.c[column]

    def kind(t: FromClause, _: Reach) -> ColumnElement[Any]:
        row, mine = member(t)
        return case((exists().where(mine).select_from(row).correlate(t), says("STAFF")), else_=says("SYSTEM"))

    def display_name(t: FromClause, _: Reach) -> ColumnElement[Any]:
        row, mine = member(t)
        return func.coalesce(select(row.c.display_name).where(mine).correlate(t).scalar_subquery(), says("System"))

    def held(t: FromClause, _: Reach) -> ColumnElement[Any]:
        grant = tables.staff_grant.alias()
        role = grant.c.role.collate("C")
        found = select(role).where(grant.c.staff_id == t.c[column]).distinct().order_by(role).correlate(t)
        return func.array(found.scalar_subquery(), type_=ARRAY(Text))

    return {
        "id": Plain(column),
        "kind": Expression(kind),
        "displayName": Expression(display_name),
        "roles": Expression(held),
    }


# ---------- needs of computed fields ----------
def _voted(t: FromClause, reach: Reach) -> ColumnElement[Any]:
    vote = tables.approval_vote.alias()
    found = select(vote.c.vote).where(
        vote.c.request_id == t.c.id, vote.c.voter_id == reach.caller, vote.c.withdrawn_at.is_(None)
    )
    return found.correlate(t).scalar_subquery()


def _leases(_: FromClause, reach: Reach) -> ColumnElement[Any]:
    """How many running leases the caller holds, in all cities as the claim counts them (migration 0001)."""
    return func.leases_held(reach.caller, reach.now, type_=BigInteger)


def _of_buyer(column: str) -> Build:
    """What the buyer's account says, whichever city it is of, as the refund asks it (migration 0001)."""

    def build(t: FromClause, _: Reach) -> ColumnElement[Any]:
        standing = func.subject_standing(t.c.buyer_id).table_valued(
            Column("staff_id", Text), Column("protected", Boolean)
        )
        return select(standing.c[column]).scalar_subquery()

    return build


def _hidden_actions(t: FromClause, _: Reach) -> ColumnElement[Any]:
    row = tables.queue.alias()
    return select(row.c.hidden_actions).where(row.c.id == t.c.queue_id).correlate(t).scalar_subquery()


def _of_subject(column: str) -> Build:
    def build(t: FromClause, _: Reach) -> ColumnElement[Any]:
        row = tables.subject.alias()
        return select(row.c[column]).where(row.c.id == t.c.subject_id).correlate(t).scalar_subquery()

    return build


NEEDS: Final[Mapping[str, Build]] = MappingProxyType(
    {
        "voted": _voted,
        "overdue": lambda t, reach: t.c.approve_by <= reach.now,
        "now": lambda _, reach: reach.now,
        "hidden_actions": _hidden_actions,
        "leases": _leases,
        "buyer_staff_id": _of_buyer("staff_id"),
        "buyer_protected": _of_buyer("protected"),
        "subject_staff_id": _of_subject("staff_id"),
        "subject_tags": _of_subject("protected_tags"),
    }
)
