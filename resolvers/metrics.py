"""``approvalMetrics``: who decided whose requests, and how; figures over few votes are told only to those close to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Float, FromClause, Integer, Text, case, func, literal_column, or_, select

from db import tables
from resolvers.scoping import Scoping
from resolvers.source_fields import Expression, FieldSpec, Source, snake

SMALL_CELL: Final = 5  # a figure over fewer votes says too much about one person
_FIGURES: Final = ("approved", "rejected", "share", "medianSeconds")


def approval_metrics(
    scoping: Scoping, start: ColumnElement[Any], end: ColumnElement[Any]
) -> tuple[FromClause, Mapping[str, FieldSpec]]:
    """The pairs within the caller's relation, in order, and their fields.

    Under five votes only the two people and their lead see figures; the others see zeros, marked as suppressed.
    """
    pairs = _pairs(start, end)
    source = Source(pairs, key="requester_id", owners=("requester_id", "approver_id"))
    listed = select(*pairs.c).where(scoping.pairs(source, pairs)).order_by(pairs.c.requester_id, pairs.c.approver_id)

    def shown(row: FromClause) -> ColumnElement[bool]:
        return or_(row.c.votes >= literal_column(str(SMALL_CELL)), scoping.near(source, row))

    def figure(column: str) -> Expression:
        return Expression(lambda row, _: case((shown(row), row.c[column]), else_=literal_column("0")))

    fields: dict[str, FieldSpec] = {name: figure(snake(name)) for name in _FIGURES}
    fields["suppressed"] = Expression(lambda row, _: ~shown(row))
    return listed.subquery("pairs"), fields


def _pairs(start: ColumnElement[Any], end: ColumnElement[Any]) -> FromClause:
    """Who decided whose requests between two instants: counts, share of the requester's votes, median seconds to the vote."""
    request, vote = tables.approval_request.alias(), tables.approval_vote.alias()
    seconds = func.date_part(literal_column("'epoch'"), vote.c.at - request.c.created_at, type_=Float)
    votes = func.count(literal_column("*"))
    found = (
        select(
            request.c.requester_id.label("requester_id"),
            vote.c.voter_id.label("approver_id"),
            votes.filter(vote.c.vote == literal_column("'APPROVE'", Text)).label("approved"),
            votes.filter(vote.c.vote == literal_column("'REJECT'", Text)).label("rejected"),
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
