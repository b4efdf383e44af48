"""The peer: the same four shapes as one would write them with Strawberry, tuned. No token, no policy, no record.

Parser and validation caches, data loaders (one statement per level), a pool without resets, orjson. Field names and
arguments are those of the console, so that it takes the same documents.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, cast

import asyncpg
import orjson
import strawberry
from strawberry import ID
from strawberry.dataloader import DataLoader
from strawberry.extensions import ParserCache, ValidationCache
from strawberry.types import Info

from benchmarks.bare import Bare
from countersign.settings import Settings

_SUBJECTS: Final = "SELECT id, kind, state FROM subject WHERE id = ANY($1::text[])"
_STAFF: Final = "SELECT id, display_name FROM staff WHERE id = ANY($1::text[])"
_REPORTS: Final = """
SELECT r.case_id, r.id, r.category, r.created_at FROM unnest($1::text[]) wanted(id)
CROSS JOIN LATERAL (SELECT * FROM report WHERE case_id = wanted.id ORDER BY created_at DESC, id DESC LIMIT 3) r
"""
_BY_PRIORITY: Final = (
    "SELECT * FROM case_file WHERE queue_id = $1 AND priority < $2 ORDER BY priority DESC, id DESC LIMIT $3"
)
_BY_CREATED: Final = (
    "SELECT * FROM case_file WHERE city_id = $1 AND created_at < $2 ORDER BY created_at DESC, id DESC LIMIT $3"
)
_RENEW: Final = """
UPDATE case_file SET lease_expires_at = least(now() + interval '15 minutes', lease_started_at + interval '8 hours')
WHERE id = $1 AND lease_token = $2 AND state = 'CLAIMED' AND lease_expires_at > now() RETURNING lease_token, assignee_id
"""


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Context(dict[str, Any]):
    """Of one request: the pool and fresh loaders, so that nothing is remembered between requests."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        super().__init__()
        self.pool = pool
        self.subjects = DataLoader(load_fn=self._subjects)
        self.people = DataLoader(load_fn=self._people)
        self.reports = DataLoader(load_fn=self._reports)

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        async with self.pool.acquire() as conn:
            return list(await conn.fetch(sql, *arguments))

    async def _subjects(self, keys: list[str]) -> list[Any]:
        found = {row["id"]: Subject(row) for row in await self.fetch(_SUBJECTS, keys)}
        return [found.get(key) for key in keys]

    async def _people(self, keys: list[str]) -> list[Any]:
        found = {row["id"]: Actor(row) for row in await self.fetch(_STAFF, keys)}
        return [found.get(key) for key in keys]

    async def _reports(self, keys: list[str]) -> list[Any]:
        found: dict[str, list[Report]] = {key: [] for key in keys}
        for row in await self.fetch(_REPORTS, keys):
            found[row["case_id"]].append(Report(row))
        return [found[key] for key in keys]


def _of(info: Info) -> Context:
    return cast("Context", info.context)


@strawberry.type
class Subject:
    """A marketplace subject."""

    id: ID
    kind: str
    state: str

    def __init__(self, row: Any) -> None:
        self.id, self.kind, self.state = ID(row["id"]), row["kind"], row["state"]


@strawberry.type
class Actor:
    """A member of staff."""

    id: ID
    display_name: str

    def __init__(self, row: Any) -> None:
        self.id, self.display_name = ID(row["id"]), row["display_name"]


@strawberry.type
class Report:
    """A complaint."""

    id: ID
    category: str
    created_at: str

    def __init__(self, row: Any) -> None:
        self.id, self.category, self.created_at = ID(row["id"]), row["category"], _instant(row["created_at"])


@strawberry.type
class ReportConnection:
    """A page of reports."""

    items: list[Report]


@strawberry.type
class Case:
    """A case with its edges behind loaders."""

    id: ID
    kind: str
    state: str
    subject_id: ID
    queue_id: ID
    city_id: ID | None
    priority: int
    content_category: str
    version: int
    created_at: str
    assignee_id: ID | None
    skips: int

    def __init__(self, row: Any) -> None:
        for name in ("id", "kind", "state", "subject_id", "queue_id", "city_id", "priority", "content_category"):
            setattr(self, name, row[name])
        self.version, self.assignee_id, self.skips = row["version"], row["assignee_id"], row["skips"]
        self.created_at = _instant(row["created_at"])

    @strawberry.field
    async def subject(self, info: Info) -> Subject:
        return cast("Subject", await _of(info).subjects.load(self.subject_id))

    @strawberry.field
    async def assignee(self, info: Info) -> Actor | None:
        return None if self.assignee_id is None else cast("Actor", await _of(info).people.load(self.assignee_id))

    @strawberry.field
    async def reports(self, info: Info, limit: int) -> ReportConnection:
        return ReportConnection(items=(await _of(info).reports.load(self.id))[:limit])


@strawberry.type
class CaseConnection:
    """A page of cases."""

    items: list[Case]
    next_token: str | None


@strawberry.input
class Comparison:
    """The operators that the documents use."""

    eq: ID | None = None
    lt: str | None = None


@strawberry.input
class NumberComparison:
    """The operator that the documents use on a number."""

    lt: int


@strawberry.input
class CaseFilter:
    """Two filters."""

    city_id: Comparison
    created_at: Comparison


@strawberry.enum
class Direction(Enum):
    """Only one is asked for."""

    DESC = "DESC"


@strawberry.type
class Lease:
    """A claim."""

    token: ID
    holder: Actor


@strawberry.type
class LeasePayload:
    """A renewed claim."""

    outcome: str
    lease: Lease


@strawberry.input
class LeaseInput:
    """The claim to renew."""

    case_id: ID
    lease_token: ID


def _page(rows: list[Any], limit: int) -> CaseConnection:
    more = len(rows) > limit
    return CaseConnection(
        items=[Case(row) for row in rows[:limit]], next_token=str(rows[limit - 1]["id"]) if more else None
    )


@strawberry.type
class Query:
    """The reads."""

    @strawberry.field
    async def get_case(self, info: Info, id: ID) -> Case | None:  # noqa: A002 - GraphQL's name
        rows = await _of(info).fetch("SELECT * FROM case_file WHERE id = $1", id)
        return Case(rows[0]) if rows else None

    @strawberry.field
    async def list_cases_by_priority(
        self, info: Info, queue_id: ID, priority: NumberComparison, sort_direction: Direction, limit: int
    ) -> CaseConnection:
        return _page(await _of(info).fetch(_BY_PRIORITY, queue_id, priority.lt, limit + 1), limit)

    @strawberry.field
    async def list_cases(
        self,
        info: Info,
        filter: CaseFilter,  # noqa: A002 - GraphQL's name
        sort_direction: Direction,
        limit: int,
    ) -> CaseConnection:
        before = datetime.fromisoformat(filter.created_at.lt or "")
        return _page(await _of(info).fetch(_BY_CREATED, filter.city_id.eq, before, limit + 1), limit)


@strawberry.type
class Mutation:
    """The write."""

    @strawberry.mutation
    async def renew_lease(self, info: Info, input: LeaseInput) -> LeasePayload:  # noqa: A002 - GraphQL's name
        row = (await _of(info).fetch(_RENEW, input.case_id, input.lease_token))[0]
        holder = await _of(info).people.load(row["assignee_id"])
        return LeasePayload(outcome="EXECUTED", lease=Lease(token=row["lease_token"], holder=holder))


class Peer(Bare):
    """The ASGI application around the schema."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "cs_owner")
        # Instances: a class or a function would be called anew for each request, and with it an empty cache.
        extensions: Any = [ParserCache(maxsize=1000), ValidationCache(maxsize=1000)]
        self._schema = strawberry.Schema(Query, Mutation, extensions=extensions)

    async def answer(self, document: str, variables: dict[str, Any]) -> bytes:
        result = await self._schema.execute(document, variable_values=variables, context_value=Context(self.pool))
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer["errors"] = [str(error) for error in result.errors]
        return orjson.dumps(answer)
