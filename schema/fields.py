"""How fields are declared: marks on a column, lists inside a type, and the root fields.

A root field is a signature and its directives, nothing else; behaviour is attached by name elsewhere. ``get``, ``listing``
and ``index`` declare the reads of a type under Amplify's names, with the type's own policy row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import strawberry
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.base import get_object_definition
from strawberry.types.field import StrawberryField
from strawberry.types.unset import UNSET

from schema.directives import Policy, audited
from schema.filters import (
    Connection,
    ModelSortDirection,
    field_of,
    filter_input,
    key_condition_input,
    subscription_filter_input,
)

_PAGE: Final[dict[str, Any]] = {"limit": int | None, "next_token": str | None}


def _argument(name: str, annotation: object) -> StrawberryArgument:
    # UNSET, never None: None would print as a default, which AppSync does not know.
    return StrawberryArgument(name, None, StrawberryAnnotation(annotation), default=UNSET)


def _root(returns: object, arguments: Mapping[str, Any], directives: list[object]) -> Any:
    field = StrawberryField(type_annotation=StrawberryAnnotation(returns), directives=directives)
    field.arguments = [_argument(name, annotation) for name, annotation in arguments.items()]
    return field


def _rows_of(of: type) -> Policy:
    directives = get_object_definition(of, strict=True).directives or ()
    found = next((d for d in directives if isinstance(d, Policy)), None)
    if found is None:
        raise TypeError(f"{of.__name__} has no @policy, so its reads have no row")
    return found


def marked(*directives: object, name: str | None = None, default: Any = ...) -> Any:
    """Declare a field with directives, or with a name that Python reserves; ``default`` belongs to inputs alone."""
    if default is ...:
        return strawberry.field(directives=directives, name=name)
    return strawberry.field(directives=directives, name=name, default=default)


def pages() -> Any:
    """Declare a list inside a type: its own ``limit`` and ``nextToken``."""
    field = strawberry.field()
    field.arguments = [_argument(name, annotation) for name, annotation in _PAGE.items()]
    return field


def signature(
    *directives: object, filtered: type | None = None, unfiltered: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Turn a typed method without a body into a root field.

    ``filtered`` adds a subscription's ``filter`` over the events of that type, but for the keys in ``unfiltered``.
    """

    def declare(method: Callable[..., Any]) -> Any:
        field: StrawberryField = strawberry.field(resolver=method, directives=directives)
        if filtered is not None:
            field.arguments = [
                *field.arguments,
                _argument("filter", subscription_filter_input(filtered, unfiltered) | None),
            ]
        return field

    return declare


def get(of: Any, action: str, *, key: str = "id", versioned: bool = False) -> Any:
    """Declare getN: one object by its key, or null. ``versioned``: of several versions, the named or else the current one."""
    arguments: dict[str, Any] = {key: strawberry.ID}
    if versioned:
        arguments["version"] = int | None
    return _root(of | None, arguments, [_rows_of(of), audited(action, read=True)])


def listing(of: Any, action: str, *, key: str | None = None, order_by: Any = None, text: bool = False) -> Any:
    """Declare listP: a page of what the caller may see.

    ``key``: the type's key where it is not ``id``, which Amplify passes as an argument. ``text``: takes a full-text query.
    """
    arguments: dict[str, Any] = {key: strawberry.ID | None} if key else {}
    arguments["filter"] = filter_input(of) | None
    if text:
        arguments["text"] = str | None
    if order_by is not None:
        arguments["order_by"] = order_by | None
    arguments["sort_direction"] = ModelSortDirection | None
    return _root(Connection[of], {**arguments, **_PAGE}, [_rows_of(of), audited(action, read=True)])


def index(of: Any, action: str, *, partition: str, sort: str) -> Any:
    """Declare an Amplify index query: a partition key, and the sort key as a condition."""
    arguments = {
        partition: strawberry.ID,
        sort: key_condition_input(field_of(of, sort)) | None,
        "filter": filter_input(of) | None,
        "sort_direction": ModelSortDirection | None,
    }
    return _root(Connection[of], {**arguments, **_PAGE}, [_rows_of(of), audited(action, read=True)])
