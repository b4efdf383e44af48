"""What a root field showed, as its audit record says it: taken from what the statement returned beside the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from resolvers.digestible import digestible
from resolvers.labels import ROW
from resolvers.read_plan import IDS, Root
from resolvers.source_fields import snake
from resolvers.sources import SOURCES
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from audit.record import Encoded
    from resolvers.binding import Binding

LISTED_IDS: Final = 100


@dataclass(frozen=True)
class RootRead:
    """What one root field instance showed, for its audit record."""

    key: str  # response key
    field: str  # Query.listCases
    action: str
    arguments: Mapping[str, Any]
    object_type: str
    ids: tuple[str, ...]  # those returned, up to 100
    count: int
    filter_digest: str | None
    fields: tuple[str, ...]  # Type.field, sorted
    masked: tuple[str, ...]
    pii: Mapping[str, str]  # Type.field -> class
    policy_row: str | None
    encoded: Encoded  # the three as a record has them, of a root that was not refused
    error: ConsoleError | None = None  # the root was refused: nothing of it was shown
    sought: str | None = None  # the id that was asked for and led to no object within the caller's scope


def read_of(root: Root, value: Any, binding: Binding, digest: str | None) -> RootRead:
    """What ``value`` showed: a root's column, a function's value, or the error of the root."""
    refused = value if isinstance(value, ConsoleError) else None
    ids, count = ((), 0) if refused else _told(root, value)
    given = binding.arguments[root.site.index]
    # A function takes what a mutation takes, lease token and free text too; a list's arguments are filters.
    arguments = digestible(given) if root.shape == "function" else given
    return RootRead(
        root.key,
        f"Query.{root.name}",
        root.action,
        arguments,
        root.type,
        ids,
        count,
        digest or None,
        () if refused else root.told.fields,
        () if refused else root.told.masked,
        {} if refused else root.told.pii,
        root.policy_row,
        root.told.encoded,
        refused,
        _sought(root, arguments) if value is None else None,
    )


def _told(root: Root, value: Any) -> tuple[tuple[str, ...], int]:
    """The ids that a root showed, up to a hundred, and how many objects."""
    if value is None:
        return (), 0
    if root.shape == "function":
        named = isinstance(value, dict) and ROW in value  # one that says which object it shows
        return (str(value[ROW]),) if named else (), len(value) if isinstance(value, list) else 1
    if root.shape == "list":
        return (), int(value[1])
    if root.shape == "one":
        return (value[1],), 1
    ids = orjson.loads(value[IDS] or "[]")
    return tuple(ids[:LISTED_IDS]), len(ids)


def _sought(root: Root, arguments: Mapping[str, Any]) -> str | None:
    """The id that a ``get`` names."""
    key = SOURCES[root.type].key if root.type in SOURCES else "id"
    return next((str(value) for name, value in arguments.items() if snake(name) == key), None)
