"""A process of the console whose own clock is off: ``python -m tests.api.shifted SECONDS FOLDER DATABASE``.

Serves until its standard input ends; its first line out is where. The clock is moved before any of our modules is read.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
import time
from pathlib import Path
from typing import Any


def shift(seconds: float) -> None:
    """Every clock of this interpreter that tells a date is ``seconds`` off from now on."""
    real, wall, wall_ns, moved = dt.datetime, time.time, time.time_ns, dt.timedelta(seconds=seconds)

    class Kind(type):
        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, real)

    class Shifted(real, metaclass=Kind):
        """Makes plain datetimes, so nobody else meets another class."""

        def __new__(cls, *given: Any, **named: Any) -> Any:
            return real(*given, **named)

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return real.now(tz) + moved

    dt.datetime = Shifted  # type: ignore[misc]
    time.time = lambda: wall() + seconds
    time.time_ns = lambda: wall_ns() + round(seconds * 1e9)


async def serve(folder: Path, given: dict[str, Any]) -> None:
    from resolvers.limits import Front, Limits
    from tests.api.stage import Stage
    from tests.conftest import Database

    async with Stage.opened(Database(given["name"], given["server"]), folder, Limits(), Front()) as stage:
        print(stage.address, flush=True)  # noqa: T201 - what its parent waits for
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    shift(float(sys.argv[1]))
    asyncio.run(serve(Path(sys.argv[2]), json.loads(sys.argv[3])))
