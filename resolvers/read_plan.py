"""A read plan: the statements that an operation was compiled to, and what its run must bind, record and complete.

Everything in it depends on the operation and on the caller's roles, nothing on who exactly asks or with which values; so it
is kept and shared (``plan_cache``). Nobody changes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from graphql import FieldNode, GraphQLField
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from resolvers.binding import Params
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from resolvers.documents import Operation

_DIALECT: Final = dialect()  # type: ignore[no-untyped-call] # as SQLAlchemy has it


@dataclass(frozen=True)
class Statement:
    """Text and the names of its parameters, in order."""

    role: str
    text: str
    names: tuple[str, ...]


def compiled(role: str, query: Select[Any]) -> Statement:
    """The statement as asyncpg takes it: numbered, typed placeholders."""
    made = query.compile(dialect=_DIALECT)
    return Statement(role, str(made), tuple(made.positiontup or ()))


@dataclass(frozen=True)
class Site:
    """A field with arguments whose values a run needs: a root, or a list below one."""

    index: int
    place: str  # Query.listCases, Case.reports
    root: str  # response key of its root
    definition: GraphQLField
    node: FieldNode
    pages: bool


@dataclass
class Root:
    """One root field instance: where its value comes from, and what its audit record says of it."""

    key: str
    name: str
    type: str  # of the objects it returns
    shape: str  # one, page, list, function, introspection
    site: Site
    action: str = ""
    policy_row: str | None = None
    error: ConsoleError | None = None
    role: str = "app"
    fields: set[str] = field(default_factory=set)
    masked: set[str] = field(default_factory=set)
    pii: dict[str, str] = field(default_factory=dict)  # Type.field -> class


@dataclass(frozen=True)
class Plan:
    """One operation for one set of roles."""

    roots: tuple[Root, ...]
    statements: tuple[Statement, ...]
    sites: tuple[Site, ...]
    params: Params
    denied: frozenset[tuple[str, str]]
    by_node: Mapping[int, Site]
    inner: Mapping[int, Mapping[str, str]]  # by site: response key of a second ``items`` -> its column
    operation: Operation  # kept: ``by_node`` knows its nodes by identity
