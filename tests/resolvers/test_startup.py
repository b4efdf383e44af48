"""The start-up check: schema, policy, commands and sources as shipped fit, and what does not is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, Table

from resolvers.source_fields import Actor, Computed, Embedded, Order, Plain
from resolvers.sources import SOURCES
from resolvers.startup import findings


def test_what_is_shipped_fits_together() -> None:
    assert findings() == []


def test_a_field_without_a_column_is_named() -> None:
    queue = SOURCES["Queue"]
    without = {name: spec for name, spec in queue.fields.items() if name != "stats"}
    assert findings(sources={**SOURCES, "Queue": replace(queue, fields=without)}) == [
        "Queue.stats: no column stats, and resolvers/sources.py says nothing else"
    ]
    misnamed = {**queue.fields, "name": Plain("title")}
    assert findings(sources={**SOURCES, "Queue": replace(queue, fields=misnamed)}) == [
        "Queue.name: no column title, and resolvers/sources.py says nothing else"
    ]


def test_a_source_of_a_type_that_is_not_there_is_named() -> None:
    assert findings(sources={**SOURCES, "Payout": SOURCES["Refund"]}) == [
        "Payout: a source whose type is not in the schema"
    ]


CASE = SOURCES["Case"]
CITYLESS = Table(
    "macro_run", MetaData(), *(Column(one.name) for one in SOURCES["MacroRun"].table.c if one.name != "city_id")
)


@pytest.mark.parametrize(
    ("of", "changed", "complaint"),
    [
        (
            "Case",
            {"fields": {**CASE.fields, "allowedActions": Computed(("id", "gone"))}},
            "Case.allowedActions: no column",
        ),
        ("Case", {"fields": {**CASE.fields, "assignee": Actor("gone")}}, "Case.assignee: no column gone"),
        (
            "OrderLedger",
            {"fields": {**SOURCES["OrderLedger"].fields, "captured": Embedded("Money", {"currency": Plain("gone")})}},
            "OrderLedger.captured.currency: no column gone",
        ),
        ("Case", {"orders": {"DUE": Order(("gone",))}}, "Case.order: no column gone"),
        ("Case", {"facts": {"caseKind": "gone"}}, "Case.facts: no column gone"),
        ("Refund", {"owners": ("gone",)}, "Refund.owners: no column gone"),
        ("ApprovalRequest", {"amount": None}, "ApprovalRequest: scoped by AMOUNT, and"),
        ("MacroRun", {"table": CITYLESS}, "MacroRun: scoped by CITY, and"),
    ],
)
def test_a_column_that_a_source_names_and_its_table_lacks_is_named(
    of: str, changed: dict[str, Any], complaint: str
) -> None:
    [found] = findings(sources={**SOURCES, of: replace(SOURCES[of], **changed)})
    assert found.startswith(complaint)
