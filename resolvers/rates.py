"""Token buckets and in-flight counts of one process (security-contract RT-1), bounded in memory.

What must hold across processes (votes) is counted in rows instead (db/counters.py); these protect the process itself.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from typing import Final

from schema import telemetry
from schema.errors import ConsoleError

_KEPT: Final = 20_000  # buckets; the longest unused one goes, and a bucket that long unused is full again


class Buckets:
    """One rate for many keys: ``rate`` tokens a second up to ``burst``."""

    def __init__(
        self, rate: tuple[float, int], clock: Callable[[], float] = time.monotonic, *, name: str = "other"
    ) -> None:
        """``name`` is what telemetry calls the limit."""
        self._per_second, self._burst = rate
        self._name = name
        self._clock = clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, count: int = 1) -> int | None:
        """Take ``count`` tokens; None when they were there, else the milliseconds until they will be."""
        now = self._clock()
        level, at = self._levels.pop(key, (float(self._burst), now))
        level = min(float(self._burst), level + (now - at) * self._per_second)
        wait = None
        if level >= count:
            level -= count
        else:
            wait = int((count - level) / self._per_second * 1000) + 1
            telemetry.count(telemetry.RATE_LIMITED, labels={"countersign.limit": self._name})
        self._levels[key] = (level, now)
        if len(self._levels) > _KEPT:
            self._levels.popitem(last=False)
        return wait

    def require(self, key: Hashable, count: int = 1) -> None:
        """Take ``count`` tokens or refuse with RATE_LIMITED and ``retryAfterMs``."""
        wait = self.take(key, count)
        if wait is not None:
            raise ConsoleError("RATE_LIMITED", retryAfterMs=wait)


class Counts:
    """How many of something each key has at this moment."""

    def __init__(self, most: int, *, name: str = "other") -> None:
        self._most = most
        self._name = name
        self._now: dict[Hashable, int] = {}

    def enter(self, key: Hashable) -> bool:
        """Count one more; False (and nothing counted) when the key has its most."""
        count = self._now.get(key, 0)
        if count >= self._most:
            telemetry.count(telemetry.RATE_LIMITED, labels={"countersign.limit": self._name})
            return False
        self._now[key] = count + 1
        return True

    def leave(self, key: Hashable) -> None:
        count = self._now.get(key, 0)
        if count <= 1:
            self._now.pop(key, None)
        else:
            self._now[key] = count - 1

    def of(self, key: Hashable) -> int:
        return self._now.get(key, 0)

    @contextmanager
    def inside(self, key: Hashable) -> Generator[None, None, None]:
        """Hold one place, or refuse with RATE_LIMITED."""
        if not self.enter(key):
            raise ConsoleError("RATE_LIMITED", "Too many operations at once.", retryAfterMs=100)
        try:
            yield
        finally:
            self.leave(key)
