"""Plans by (document, operation, roles, policy, shape of the variables): compiled once, kept in a bounded LRU.

The key holds everything that the text of a statement depends on and nothing that identifies a person. A policy change
changes the digest in it, so no stale plan lives on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from authz.caller import Caller
from authz.enforcer import Snapshot

CAPACITY: Final = 1_000
CAPACITY_BYTES: Final = 12 * 1024 * 1024
T = TypeVar("T")


def shape(value: Any) -> Hashable:
    """What of a variable's value a plan depends on: keys, nulls, enum members, booleans; of other scalars only the kind."""
    kind = type(value)
    if kind is str or kind is int:  # most of them
        return kind.__name__
    if isinstance(value, Mapping):
        return tuple((key, shape(value[key])) for key in sorted(value))
    if isinstance(value, list | tuple):
        # Scalars are bound as one array whatever their number; objects are conditions of their own.
        return tuple(shape(item) for item in value) if any(isinstance(item, Mapping) for item in value) else "list"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return value.name
    return kind.__name__


def rights(caller: Caller, snapshot: Snapshot) -> Hashable:
    """The caller's part of a key."""
    return (caller.role_set, tuple(sorted(caller.facts.items())), snapshot.policy.digest)


class PlanCache(Generic[T]):
    """An LRU, bounded by number and by size, that counts. Two requests that meet a missing plan may both build it."""

    def __init__(
        self, capacity: int = CAPACITY, *, size: int = CAPACITY_BYTES, weigh: Callable[[T], int] = lambda _: 0
    ) -> None:
        self._capacity = capacity
        self._capacity_bytes = size
        self._weigh = weigh
        self._plans: OrderedDict[Hashable, T] = OrderedDict()
        self.size = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """The plan of this key, built when it is not there. A build that raises leaves nothing."""
        found = self._plans.get(key)
        if found is not None:
            self.hits += 1
            self._plans.move_to_end(key)
            return found
        self.misses += 1
        made = self._plans[key] = build()
        self.size += self._weigh(made)
        while len(self._plans) > self._capacity or (self.size > self._capacity_bytes and len(self._plans) > 1):
            _, old = self._plans.popitem(last=False)
            self.size -= self._weigh(old)
        return made
