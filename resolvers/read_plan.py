"""A read plan: the statements that an operation was compiled to, and what its run must bind, record and complete.

Everything in it depends on the operation and on the caller's roles, nothing on who exactly asks or with which values; so it
is kept and shared (``plan_cache``). Nobody changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from graphql import FieldNode
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from audit.record import Encoded
from resolvers.arguments import Arguments
from resolvers.binding import Bound
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from resolvers.run import Run

# From a value of the row to the value of the answer. Raises ``DeviationError``.
Complete = Callable[["Run", Any], Any]

IDS: Final = 0  # places in the column of a root page: ids, the last row's sort key, then its rows
LAST: Final = 1
FIRST_ITEMS: Final = 2
BYTES: Final = "bytes"
COMPILED: Final = "compiled"
COMPLETED: Final = "completed"
_PLAN_BYTES: Final = 6_144  # roots, sites and closures
_DIALECT: Final = dialect()  # type: ignore[no-untyped-call] # as SQLAlchemy has it


class DeviationError(Exception):
    """The compiled finish cannot say what GraphQL says of this value; graphql-core completes the rows instead."""


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
    arguments: Arguments
    pages: bool


class Told:
    """What a root reads, as its records say it."""

    __slots__ = ("encoded", "fields", "masked", "pii")

    def __init__(self, fields: Iterable[str], masked: Iterable[str], pii: Mapping[str, str]) -> None:
        self.fields: Final = tuple(sorted(fields))
        self.masked: Final = tuple(sorted(masked))
        self.pii: Final = dict(pii)
        self.encoded: Final = Encoded("fields", {"read": self.fields, "masked": self.masked, "pii": self.pii})


def place_of(node: FieldNode) -> int:
    """Where a field begins in the text of its document: what tells it from every other."""
    assert node.loc is not None  # noqa: S101 # documents are parsed with locations
    return node.loc.start


@dataclass
class Root:
    """One root field instance: where its value comes from, how it is finished, and what its audit record says of it."""

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
    complete: Complete | None = None  # of a row or of a function's value; None: the database's text is the answer
    entries: Sequence[tuple[str, str, int, Complete | None]] = ()  # of a page: response key, field, place in the column
    plain: list[tuple[str, str]] = field(default_factory=list)  # of a payload: column and field that the command fills
    required: bool = False  # never null

    @cached_property
    def told(self) -> Told:
        """What it reads; asked once its plan is made."""
        return Told(self.fields, self.masked, self.pii)

    @property
    def is_read(self) -> bool:
        """Whether it reads anything of the console's; introspection does not."""
        return self.shape != "introspection"


@dataclass(frozen=True)
class Plan:
    """One operation for one set of roles."""

    roots: tuple[Root, ...]
    layout: tuple[tuple[str, Root | str], ...]  # response key -> its root, or the name of the root type
    statements: tuple[Statement, ...]
    sites: tuple[Site, ...]
    bound: Bound
    denied: frozenset[tuple[str, str]]
    by_place: Mapping[
        int, Site
    ]  # by where its field begins in the text: a document is parsed again once it was forgotten
    inner: Mapping[int, Mapping[str, str]]  # by site: response key of a second ``items`` -> its column
    finish: str = BYTES  # which of the finishes it can have, at best
    reason: str | None = None  # why not a better one

    @property
    def size(self) -> int:
        """About how many bytes it takes, for the bound of the cache."""
        return _PLAN_BYTES + sum(len(one.text) + 80 * len(one.names) for one in self.statements)
