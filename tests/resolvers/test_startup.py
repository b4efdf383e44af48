"""The start-up check: schema, policy, commands and sources as shipped fit, and what does not is named."""

from __future__ import annotations

from dataclasses import replace

from resolvers.source_fields import Plain
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
