"""The start-up lint of non-null edges: what holds one inside its scope, and that a planted breach is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files

import pytest
from sqlalchemy import ForeignKeyConstraint, MetaData, Table

from authz.policy import FILES, Policy
from db import tables
from resolvers.scope_edges import REVIEWED, crossing
from resolvers.source_fields import Source
from resolvers.sources import SOURCES
from schema.build import console

EDGE = "Case.subject: non-null, but "


def found(sources: Mapping[str, Source] = SOURCES, policy: Policy | None = None, **reviewed: str) -> list[str]:
    return list(crossing(console(), policy or Policy.shipped(), sources, reviewed or REVIEWED))


def case_table(*, keep_key: bool) -> Table:
    """The table of cases with or without its composite foreign key to the subject's city."""
    copy = MetaData()
    made = tables.case_file.to_metadata(copy)
    for constraint in list(made.constraints):
        if isinstance(constraint, ForeignKeyConstraint) and not (keep_key and len(constraint.elements) > 1):
            made.constraints.remove(constraint)
    for other in (tables.subject, tables.queue, tables.sla_policy, tables.order_ledger, tables.staff):
        other.to_metadata(copy)
    return made


@pytest.mark.contract("AZ-5")
def test_every_non_null_edge_of_the_console_stays_inside_its_scope() -> None:
    assert found() == []


@pytest.mark.contract("AZ-5")
def test_an_edge_without_its_composite_key_is_named() -> None:
    without = {**SOURCES, "Case": replace(SOURCES["Case"], table=case_table(keep_key=False))}
    assert found(without) == [
        EDGE
        + "no foreign key carries city_id together with subject_id: a Subject out of reach would null the whole answer"
    ]
    assert found({**without, "Subject": replace(SOURCES["Subject"], table=tables.order_ledger)})


def test_a_key_of_another_column_or_to_another_table_holds_nothing() -> None:
    other = {**SOURCES, "Subject": replace(SOURCES["Subject"], table=tables.order_ledger, key="order_id")}
    assert [line.partition(":")[0] for line in found(other)] == ["Case.subject"]


def test_a_condition_at_the_end_that_the_start_has_not_is_named() -> None:
    lines, *rest = (files("authz").joinpath(name).read_text() for name in FILES)
    plain = "p, ADMIN, AGENT, subject, read, allow,\n"
    assert plain in lines
    narrowed = Policy.load(lines.replace(plain, plain.replace("allow,\n", "allow, own\n")), *rest)
    assert found(policy=narrowed) == [
        EDGE + f"ADMIN {tier} reads subject:read on conditions only" for tier in ("AGENT", "SENIOR", "LEAD")
    ]


def test_a_reviewed_edge_must_still_be_one() -> None:
    assert found(**{**REVIEWED, "Case.queue": "Queues have several cities."}) == [
        "Case.queue: reviewed in resolvers/scope_edges.py, but it is no non-null edge"
    ]
