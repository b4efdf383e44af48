"""Bind parameters of a plan: named once when it is compiled, fetched from the request each time it runs.

No value of a request is in the text of a statement. A value that cannot be bound (a bad date, a foreign token, a limit
of 1,000) fails the root field it belongs to; the statement still runs for the others, with a harmless value in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BindParameter, Text, bindparam
from sqlalchemy.types import TypeEngine

from authz.caller import Caller
from authz.enforcer import Snapshot
from resolvers.tokens import Cursor
from schema.errors import ConsoleError


@dataclass
class Binding:
    """What one run of a plan binds from. ``arguments`` and ``cursors`` are by list or root (its site)."""

    caller: Caller
    snapshot: Snapshot
    salt: str
    arguments: Sequence[Mapping[str, Any]] = ()
    cursors: dict[int, Cursor] = field(default_factory=dict)
    refs: Mapping[str, Any] = field(default_factory=dict)
    errors: dict[str, ConsoleError] = field(default_factory=dict)  # by response key of the root
    hinted: dict[Any, Any] = field(default_factory=dict)  # by class of row, what hints have found (``hints.actions``)

    def refuse(self, root: str, error: ConsoleError) -> None:
        self.errors.setdefault(root, error)


Fetch = Callable[[Binding], Any]


@dataclass(frozen=True)
class _Fetched:
    fetch: Fetch
    root: str | None
    instead: Any


class Bound:
    """The values of one plan's parameters, by name. It outlives the compilation, so nothing of SQLAlchemy is in it."""

    __slots__ = ("_fetched",)

    def __init__(self, fetched: Mapping[str, _Fetched]) -> None:
        self._fetched = fetched

    def values(self, names: Sequence[str], binding: Binding) -> list[Any]:
        """The values in the order of the statement's placeholders."""
        return [self._value(self._fetched[name], binding) for name in names]

    @staticmethod
    def _value(param: _Fetched, binding: Binding) -> Any:
        try:
            return param.fetch(binding)
        except ConsoleError as error:
            if param.root is None:
                raise
            binding.refuse(param.root, error)
            return param.instead


class Params:
    """The parameters of a statement in the making. A ``fetch`` is kept: it must hold no column and no parameter."""

    def __init__(self) -> None:
        self._placed: dict[str, BindParameter[Any]] = {}
        self._fetched: dict[str, _Fetched] = {}

    def shared(self, name: str, of: TypeEngine[Any], fetch: Fetch) -> BindParameter[Any]:
        """A parameter that many places use: the caller, a grant's cities."""
        if name not in self._placed:
            self._place(name, of, _Fetched(fetch, None, None))
        return self._placed[name]

    def own(self, of: TypeEngine[Any], fetch: Fetch, *, root: str | None, instead: Any = None) -> BindParameter[Any]:
        """A parameter of one place. Where ``fetch`` refuses, the root fails and ``instead`` is bound."""
        return self._place(f"p{len(self._placed)}", of, _Fetched(fetch, root, instead))

    def _place(self, name: str, of: TypeEngine[Any], fetched: _Fetched) -> BindParameter[Any]:
        self._fetched[name] = fetched
        placed = self._placed[name] = bindparam(name, type_=of)
        return placed

    def bound(self) -> Bound:
        """What is kept of them."""
        return Bound(self._fetched)


def caller_param(params: Params) -> BindParameter[Any]:
    return params.shared("caller", Text(), lambda b: b.caller.id)
