"""What decisions rest on and changes at run time: the staff directory with everybody's grants, and the approval policies.

All of it is read in one statement, so that it is of one authorization version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import asyncpg
import orjson

from authz.approval_book import BookError, read_book
from authz.caller import Grant, StaffRow
from authz.requirements import Book
from authz.scope import grant_problem

STATES: Final = frozenset({"INVITED", "ACTIVE", "LOCKED", "OFFBOARDED"})

_VERSION: Final = "SELECT version FROM authz_version"
_DIRECTORY: Final = """
SELECT a.version, s.id, s.handle, s.display_name, s.state, s.not_before,
       g.id AS grant_id, g.role, g.tier, g.city_ids, g.content_categories, g.expires_at, NULL::jsonb AS policy
FROM authz_version a
LEFT JOIN staff s ON true
LEFT JOIN staff_grant g ON g.staff_id = s.id
UNION ALL
SELECT a.version, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, to_jsonb(p)
FROM authz_version a
JOIN approval_policy p ON p.current AND p.enabled
ORDER BY id, grant_id
"""


class Directory(NamedTuple):
    """Everybody by id (locked and offboarded people are in it, for their names) and the policies in force, of one version."""

    version: int
    staff: Mapping[str, StaffRow]
    book: Book


class DirectoryError(Exception):
    """A stored row that no decision may rest on; the message names it. The whole directory is refused (FC-5)."""


async def load_version(conn: asyncpg.Connection[Any]) -> int:
    """The authorization version: it grows with every change of staff, grants and approval policies."""
    version = await conn.fetchval(_VERSION)
    if version is None:
        raise DirectoryError("authz_version has no row")
    return int(version)


async def load_directory(conn: asyncpg.Connection[Any]) -> Directory:
    """Read all of it. ``DirectoryError`` names the first row that is wrong, or says what is missing."""
    rows = await conn.fetch(_DIRECTORY)
    if not rows:
        raise DirectoryError("authz_version has no row")
    people = (_person(list(joined)) for staff_id, joined in groupby(rows, itemgetter("id")) if staff_id is not None)
    staff = MappingProxyType({person.id: person for person in people})
    stored = [orjson.loads(row["policy"]) for row in rows if row["policy"] is not None]
    if not stored:
        raise DirectoryError("approval_policy has no row in force; run `countersign migrate up`")
    try:
        book = read_book(stored)
    except BookError as error:
        raise DirectoryError(str(error)) from error
    return Directory(rows[0]["version"], staff, book)


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
