"""Which events a subscription asked for: its arguments and its Amplify filter, as pure functions over an event's payload.

An argument given is an equality with the payload's field of that name; given as null it asks for null; left out, or bound
to a variable left out, it asks nothing. A field that is missing or null satisfies no operator but ``ne``, ``notIn`` and
``notContains``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from resolvers.documents import LIST_INPUT
from schema.errors import ConsoleError

Payload = Mapping[str, Any]
Predicate = Callable[[Payload], bool]
Item = TypeVar("Item")

_ENDS: Final = 2  # of a between
_CLAUSES: Final = 100  # operators of one filter, all its branches counted


def _plain(value: Any) -> Any:
    """Enum members as their names: a payload holds names."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _comparable(value: Any, operand: Any) -> bool:
    """Ordered operators compare numbers with numbers and text with text (lexicographic); anything else is no match."""
    if isinstance(value, bool) or isinstance(operand, bool):
        return False
    numbers = isinstance(value, int | float) and isinstance(operand, int | float)
    return numbers or (isinstance(value, str) and isinstance(operand, str))


def _contains(value: Any, operand: Any) -> bool:
    if isinstance(value, str):
        return isinstance(operand, str) and operand in value
    return isinstance(value, list | tuple) and operand in value


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "eq": lambda value, operand: bool(value == operand),
    "ne": lambda value, operand: bool(value != operand),
    "lt": lambda value, operand: _comparable(value, operand) and value < operand,
    "le": lambda value, operand: _comparable(value, operand) and value <= operand,
    "gt": lambda value, operand: _comparable(value, operand) and value > operand,
    "ge": lambda value, operand: _comparable(value, operand) and value >= operand,
    "contains": _contains,
    "notContains": lambda value, operand: not _contains(value, operand),
    "beginsWith": lambda value, operand: (
        isinstance(value, str) and isinstance(operand, str) and value.startswith(operand)
    ),
    "between": lambda value, pair: all(_comparable(value, end) for end in pair) and pair[0] <= value <= pair[1],
    "in": lambda value, options: value in options,
    "notIn": lambda value, options: value not in options,
}
_TRUE_OF_NOTHING: Final = frozenset({"ne", "notIn", "notContains"})
_LISTS: Final = frozenset({"in", "notIn", "between"})


@dataclass(frozen=True)
class Match:
    """A compiled subscription: ``equals`` are its plain arguments, ``wanted`` its filter."""

    equals: Mapping[str, Any]
    wanted: Predicate

    def holds(self, payload: Payload) -> bool:
        return all(payload.get(name) == value for name, value in self.equals.items()) and self.wanted(payload)

    @property
    def key(self) -> tuple[str, Any] | None:
        """The (field, value) to index by: the first argument that asks for a value; None = look at every event."""
        return next(((name, value) for name, value in self.equals.items() if value is not None), None)


def compile_match(arguments: Mapping[str, Any]) -> Match:
    """Compile coerced arguments (those absent are left out). Refuses a filter it cannot evaluate with BAD_REQUEST."""
    equals = {name: _plain(value) for name, value in arguments.items() if name != "filter"}
    tree = arguments.get("filter")
    budget = [_CLAUSES]
    return Match(equals, _filter(tree, budget) if tree is not None else lambda _: True)


def _filter(tree: Mapping[str, Any], budget: list[int]) -> Predicate:
    tests: list[Predicate] = []
    for name, value in tree.items():
        if value is None:
            continue
        if name in ("and", "or"):
            branches = [_filter(branch, budget) for branch in _branches(value) if branch is not None]
            tests.append(_all(branches) if name == "and" else _any(branches))
        else:
            tests.extend(_clause(name, operator, operand, budget) for operator, operand in value.items())
    return _all(tests)


def _branches(value: Any) -> list[Any]:
    branches = value if isinstance(value, list | tuple) else [value]
    if len(branches) > LIST_INPUT:
        raise ConsoleError("LIMIT_EXCEEDED", limit="listItems", max=LIST_INPUT)
    return list(branches)


def _all(tests: list[Predicate]) -> Predicate:
    if len(tests) == 1:
        return tests[0]
    return lambda payload: all(test(payload) for test in tests)


def _any(tests: list[Predicate]) -> Predicate:
    # An empty `or` asks nothing, as it does in the query filters.
    return (lambda payload: any(test(payload) for test in tests)) if tests else (lambda _: True)


def _clause(name: str, operator: str, operand: Any, budget: list[int]) -> Predicate:
    budget[0] -= 1
    if budget[0] < 0:
        raise ConsoleError("LIMIT_EXCEEDED", limit="filterOperators", max=_CLAUSES)
    test = _OPERATORS[operator]
    value = _plain(operand)
    if operator in _LISTS:
        if (
            not isinstance(value, list)
            or len(value) > LIST_INPUT
            or (operator == "between" and (len(value) != _ENDS or None in value))
        ):
            raise ConsoleError(
                "BAD_REQUEST", f"The operator {operator} of {name} takes a list of fitting length.", field=name
            )
    elif value is None:
        if operator not in ("eq", "ne"):
            raise ConsoleError("BAD_REQUEST", f"The operator {operator} of {name} takes a value.", field=name)
        null_wanted = operator == "eq"
        return lambda payload: (payload.get(name) is None) is null_wanted
    of_nothing = operator in _TRUE_OF_NOTHING

    def clause(payload: Payload) -> bool:
        actual = payload.get(name)
        return of_nothing if actual is None else test(actual, value)

    return clause


@dataclass
class Index(Generic[Item]):
    """Subscribers by what they asked: an event looks up its own values instead of asking each subscriber."""

    _by_value: dict[tuple[str, str, Any], set[Item]] = field(default_factory=dict)
    # (root field, argument) -> how many are indexed by it
    _names: dict[tuple[str, str], int] = field(default_factory=dict)
    _any: dict[str, set[Item]] = field(default_factory=dict)

    def add(self, root_field: str, match: Match, item: Item) -> None:
        key = match.key
        if key is None:
            self._any.setdefault(root_field, set()).add(item)
            return
        name, value = key
        self._by_value.setdefault((root_field, name, value), set()).add(item)
        self._names[root_field, name] = self._names.get((root_field, name), 0) + 1

    def remove(self, root_field: str, match: Match, item: Item) -> None:
        key = match.key
        if key is None:
            self._drop(self._any, root_field, item)
            return
        name, value = key
        if self._drop(self._by_value, (root_field, name, value), item):
            self._names[root_field, name] -= 1
            if not self._names[root_field, name]:
                del self._names[root_field, name]

    @staticmethod
    def _drop(table: dict[Any, set[Item]], key: Any, item: Item) -> bool:
        items = table.get(key)
        if items is None or item not in items:
            return False
        items.discard(item)
        if not items:
            del table[key]
        return True

    def candidates(self, root_field: str, payload: Payload) -> Iterable[Item]:
        """Those who may want the event; ``Match.holds`` says who does."""
        yield from self._any.get(root_field, ())
        for indexed_field, name in self._names:
            if indexed_field == root_field:
                yield from self._by_value.get((root_field, name, payload.get(name)), ())
