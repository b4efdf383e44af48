"""``approvalMetrics``: who decided whose requests, and how; figures over few votes are told only to those close to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    FromClause,
    Integer,
    Text,
    case,
    column,
    func,
    literal_column,
    or_,
    select,
)

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
    """Who decided whose requests between two instants, by the function that the alert about a pair asks too (DC-8)."""
    return func.approval_pairs(start, end).table_valued(
        column("requester_id", Text),
        column("approver_id", Text),
        column("approved", BigInteger),
        column("rejected", BigInteger),
        column("share", Float),
        column("median_seconds", Integer),
        column("votes", BigInteger),
        name="found",
    )
