"""The staff directory: who works here and what each was granted, read in one statement so that it is of one version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final

import asyncpg

from authz.caller import Grant, StaffRow
from authz.scope import grant_problem

STATES: Final = frozenset({"INVITED", "ACTIVE", "LOCKED", "OFFBOARDED"})

_VERSION: Final = "SELECT version FROM authz_version"
_DIRECTORY: Final = """
SELECT a.version, s.id, s.handle, s.display_name, s.state, s.not_before,
       g.id AS grant_id, g.role, g.tier, g.city_ids, g.content_categories, g.expires_at
FROM authz_version a
LEFT JOIN staff s ON true
LEFT JOIN staff_grant g ON g.staff_id = s.id
ORDER BY s.id, g.id
"""


class DirectoryError(Exception):
    """A stored row that no decision may rest on; the message names it. The whole directory is refused (FC-5)."""


async def load_version(conn: asyncpg.Connection[Any]) -> int:
    """The authorization version: it grows with every change of staff and grants."""
    version = await conn.fetchval(_VERSION)
    if version is None:
        raise DirectoryError("authz_version has no row")
    return int(version)


async def load_staff(conn: asyncpg.Connection[Any]) -> tuple[int, Mapping[str, StaffRow]]:
    """Everybody by id, with the version they are of. Locked and offboarded people are in it, for their names."""
    rows = await conn.fetch(_DIRECTORY)
    if not rows:
        raise DirectoryError("authz_version has no row")
    people = (_person(list(joined)) for staff_id, joined in groupby(rows, itemgetter("id")) if staff_id is not None)
    return rows[0]["version"], MappingProxyType({person.id: person for person in people})


def _person(rows: Sequence[Mapping[str, Any]]) -> StaffRow:
    """One person of the rows that his grants make of him; without a grant it is one row."""
    one = rows[0]
    if one["state"] not in STATES:
        raise DirectoryError(f"staff {one['id']}: unknown state")
    grants = tuple(_grant(row) for row in rows if row["grant_id"] is not None)
    return StaffRow(one["id"], one["handle"], one["display_name"], one["state"], one["not_before"], grants)


def _grant(row: Mapping[str, Any]) -> Grant:
    grant = Grant(
        row["grant_id"],
        row["role"],
        row["tier"],
        tuple(row["city_ids"]),
        tuple(row["content_categories"]),
        row["expires_at"],
    )
    problem = grant_problem(grant)
    if problem:
        raise DirectoryError(f"staff_grant {grant.id}: {problem}")
    return grant
