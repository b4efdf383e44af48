"""How a field of a type is read: the words that ``resolvers.sources`` is written in and the planner compiles."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import ColumnElement, FromClause

Match = Callable[[FromClause, FromClause], ColumnElement[bool]]  # (parent, child)


class Reach(Protocol):
    """What a column expression may use beside the row: the caller, the clock, other types within the caller's scope."""

    @property
    def caller(self) -> ColumnElement[str]: ...

    @property
    def now(self) -> ColumnElement[Any]: ...

    def visible(self, type_name: str, row: FromClause) -> ColumnElement[bool]:
        """The scope predicate of another type: what is counted is filtered first."""

    def eligible(self, row: FromClause) -> ColumnElement[bool]:
        """Whether the caller may vote on this approval request: the SQL form of ``authz.dual_control.eligible``."""


Build = Callable[[FromClause, Reach], ColumnElement[Any]]


@dataclass(frozen=True)
class Plain:
    """A column of the row itself."""

    column: str


@dataclass(frozen=True)
class Expression:
    """A scalar in SQL."""

    build: Build


@dataclass(frozen=True)
class Embedded:
    """An object made of the row's own columns; null unless ``when`` holds."""

    type: str
    fields: Mapping[str, FieldSpec] = field(default_factory=dict)
    when: Build | None = None


@dataclass(frozen=True)
class ToOne:
    """One row of another type."""

    type: str
    local: str


@dataclass(frozen=True)
class ToMany:
    """Rows of another type: a connection or a plain list, as the schema says."""

    type: str
    match: Match


@dataclass(frozen=True)
class Actor:
    """A staff id that the finish turns into an ActorRef, from the staff directory of the same authorization version."""

    column: str
    kind: str | None = None  # a column that says STAFF, SERVICE or SYSTEM


@dataclass(frozen=True)
class Actors:
    """Several staff ids."""

    column: str


@dataclass(frozen=True)
class Computed:
    """What only Python can say (``resolvers.computed``), from these columns of the row."""

    needs: tuple[str, ...]
    filter: Build | None = None  # its SQL form, where it can be filtered by


FieldSpec = Plain | Expression | Embedded | ToOne | ToMany | Actor | Actors | Computed


@dataclass(frozen=True)
class Order:
    """A total order: these columns, then the key; all turn together. Only the first may be null (last when ascending)."""

    columns: tuple[str, ...] = ()
    descending: bool = False


@dataclass(frozen=True)
class Source:
    """One GraphQL type. ``orders`` by ``orderBy`` value or by the name of an index query."""

    table: FromClause
    key: str = "id"
    fields: Mapping[str, FieldSpec] = field(default_factory=dict)
    order: Order = field(default_factory=Order)
    orders: Mapping[str, Order] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)  # fact of conditions -> column
    owners: tuple[str, ...] = ()  # columns of the fact ``relation``
    owned: Callable[[FromClause, ColumnElement[str]], ColumnElement[bool]] | None = (
        None  # where no column is an owner's id
    )
    itself: bool = False  # the row is a staff member: relation says SELF, not OWN
    own_anywhere: bool = False  # CITY is asked only of rows that are others'
    recipients: str | None = None  # column of the fact ``alertTo``
    vote_key: str | None = None  # column of the fact ``voteRow``: the approval key
    amount: str | None = None  # column that AMOUNT compares with the approve ceiling
    parent: tuple[str, str] | None = None  # (column, type): no row of its own, visible where that parent is
    targets: tuple[str, ...] = ()  # visible with its target (target_type, target_id), one of these types
    role: str = "app"  # the database role whose statement reads it
    versioned: bool = (
        False  # several rows of one key: ``version`` tells them apart, ``current`` is the one meant by the key alone
    )
    text: tuple[str, ...] = ()  # columns that ``listAudit(text:)`` searches
    beside: tuple[str, ...] = ()  # of ``derived.NEEDS``: what the finder reads with the row, for commands


def snake(name: str) -> str:
    """``resolveDueAt`` -> ``resolve_due_at``, the convention between a field and its column."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
