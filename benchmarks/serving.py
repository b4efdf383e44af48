"""One row of the benchmark as a serving process of its own: ``python -m benchmarks.serving ROW ASSIGNMENT``.

Every row runs in the product's own serving process (same sockets, same uvicorn options, same loop); only the ASGI
application behind it differs.
"""

from __future__ import annotations

import cProfile
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from audit.writer import Receipt, Writer
from authz.caller import Grant
from authz.conditions import Facts
from authz.enforcer import NO_FACTS, Authorizer, Held, Snapshot, Verdict
from authz.policy import Line
from countersign import worker_process
from countersign.settings import Settings, load

if TYPE_CHECKING:
    import asyncpg

    from db.unit_of_work import UnitOfWork

_NOTED: Final = "SELECT set_config('countersign.appended', pg_current_xact_id()::text, true)"
PROFILE: Final = "profile:"  # ROW may be profile:FILE:ROW


class Unrecorded(Writer):
    """Appends nothing. Only here: the product has no such switch.

    A mutation keeps the round trip of the append, which tells the completeness net what it wants to hear.
    """

    async def recorder(self, uow: UnitOfWork) -> None:
        await uow.execute(_NOTED)
        uow.receipts = [Receipt(record["id"], "0" * 64) for record in uow.records]

    async def reads(self, pool: asyncpg.Pool[Any], records: Sequence[dict[str, Any]]) -> list[Receipt]:
        return [Receipt(record["id"], "0" * 64) for record in records]


@dataclass(frozen=True)
class OpenSnapshot(Snapshot):
    """Says yes to every question, at once and without a condition: what is left is the request without its authorization."""

    def opens(self, grants: Sequence[Grant], object_: str, action: str, static_facts: Facts = NO_FACTS) -> bool:
        return True

    def holding(
        self, grants: Sequence[Grant], object_: str, action: str, static_facts: Facts = NO_FACTS
    ) -> tuple[Held, ...]:
        return tuple(Held(grant, self._line(object_, action)) for grant in grants)

    def permits(self, grants: Sequence[Grant], object_: str, action: str, facts: Facts, **_: Any) -> Verdict:
        return Verdict(True, None, grants[0], self._line(object_, action))

    def _line(self, object_: str, action: str) -> Line:
        return Line("*", "AGENT", object_, action, allow=True)


class OpenAuthorizer(Authorizer):
    """Hands out the open twin of every snapshot."""

    _twins: tuple[Snapshot | None, OpenSnapshot | None] = (None, None)

    async def current(self, version: int | None = None, *, writing: bool = False) -> Snapshot:
        found = await super().current(version, writing=writing)
        if self._twins[0] is not found:
            self._twins = (found, OpenSnapshot(found.version, found.policy, found.staff, found.loaded_at))
        return self._twins[1] or found


def _product(settings: Settings) -> Any:
    import app

    return app.create_app(settings)


def _unaudited(settings: Settings) -> Any:
    import app

    vars(app)["Writer"] = Unrecorded  # composition is the one place that makes a writer
    return app.create_app(settings)


def _open(settings: Settings) -> Any:
    import app

    vars(app)["Authorizer"] = OpenAuthorizer
    return app.create_app(settings)


def _compiled(settings: Settings) -> Any:
    import app
    from resolvers.read_plan import COMPILED
    from resolvers.reader import Reader

    vars(app)["Reader"] = partial(Reader, best_finish=COMPILED)
    return app.create_app(settings)


def _peer(settings: Settings) -> Any:
    from benchmarks.peer import Peer

    return Peer(settings)


def _limit(settings: Settings, *, audited: bool) -> Any:
    from benchmarks.limit import Limit

    return Limit(settings, audited=audited)


ROWS: Final[dict[str, Callable[[Settings], Any]]] = {
    "product": _product,
    "unaudited": _unaudited,
    "compiled": _compiled,
    "open": _open,
    "limit": lambda settings: _limit(settings, audited=False),
    "limit+audit": lambda settings: _limit(settings, audited=True),
    "strawberry": _peer,
}


def main(row: str, assignment: str) -> None:
    """Serve one row until told to stop."""
    profiled: Path | None = None
    if row.startswith(PROFILE):
        file, row = row.removeprefix(PROFILE).rsplit(":", 1)
        profiled = Path(file)
    served = ModuleType("app")
    served.app = ROWS[row](load())  # type: ignore[attr-defined] # the one name that the serving process asks it for
    sys.modules["app"] = served
    if profiled is None:
        worker_process.main(assignment)
        return
    profile = cProfile.Profile()
    try:
        profile.runcall(worker_process.main, assignment)
    finally:
        profile.dump_stats(profiled)


if __name__ == "__main__":
    main(*sys.argv[1:])
