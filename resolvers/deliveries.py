"""The outbox at work: what is due and anchored goes to its port, the answer settles the aggregate it came from.

At least once: the row is claimed before the call and marked in the transaction that notes the answer. A crash between
the port's effect and our note leaves the claim to run out; the repeat carries the same key and is the same effect. Each
port has its own rounds and its own circuit, so one that is down or slow holds up nobody else's (FC-11).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from db import outbox
from db.pool import connection
from db.unit_of_work import Row, UnitOfWork
from resolvers.pipeline import Fault, Pipeline, no_fault
from resolvers.routes import Route, Word, given_up
from schema import telemetry
from schema.errors import ConsoleError, described
from schema.telemetry import Attributes
from services.deliveries.standing import Standing, standing
from services.ports import PortRefusedError, PortUnavailableError
from services.telling import document

logger: Final = logging.getLogger(__name__)

CALL_SECONDS: Final = 10.0
CLAIM: Final = timedelta(seconds=30)  # longer than a call may take, so that nobody else makes it meanwhile
AT_ONCE: Final = 8  # calls to one port, side by side
CHANGES: Final = 100

_NOW = "SELECT console_now()"


@dataclass
class Breaker:
    """Stops asking a port that failed five times in a row; one call every 30 seconds tries it again (FC-11)."""

    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    limit: int = 5
    pause_seconds: float = 30.0
    _closed_until: float = field(default=0.0)

    @property
    def open(self) -> bool:
        """Whether calls are held back now."""
        return self.failures >= self.limit and self.clock() < self._closed_until

    def allows(self, most: int) -> int:
        """How many calls may be made now: none while it is open, then a single one that tries."""
        if self.failures < self.limit:
            return most
        return 0 if self.open else 1

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= self.limit:
            self._closed_until = self.clock() + self.pause_seconds


class _Port:
    """One system's routes by operation, and how it has been answering: calls, and questions for its own word, each by itself.

    A system that still says what happened may take no calls, and its word would close the circuit that keeps them back.
    """

    def __init__(self, routes: Sequence[Route], breaker: Breaker, hearing: Breaker) -> None:
        self.routes = {route.operation: route for route in routes}
        if len(self.routes) != len(routes):
            raise ValueError(f"two routes of {routes[0].port} have one operation")
        self.words = [route.word for route in routes if route.word is not None]
        self.breaker = breaker
        self.hearing = hearing


class Deliveries:
    """Takes the outbox to its ports and brings their word back."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        pipeline: Pipeline,
        routes: Sequence[Route],
        *,
        fault: Fault = no_fault,
        call_seconds: float = CALL_SECONDS,
        breaker: Callable[[], Breaker] = Breaker,
    ) -> None:
        """``breaker`` makes two for each port. What no route takes stays where it is, for a release that has one."""
        self._pool = pool
        self._pipeline = pipeline
        self._fault = fault
        self._call_seconds = call_seconds
        names = dict.fromkeys(route.port for route in routes)
        self._ports = {
            name: _Port([route for route in routes if route.port == name], breaker(), breaker()) for name in names
        }

    @property
    def ports(self) -> tuple[str, ...]:
        """Whom calls go to."""
        return tuple(self._ports)

    @property
    def held_back(self) -> Mapping[str, bool]:
        """By port, whether calls are held back now."""
        return {name: port.breaker.open for name, port in self._ports.items()}

    @property
    def speaking(self) -> tuple[str, ...]:
        """The ports that say something by themselves."""
        return tuple(name for name, port in self._ports.items() if port.words)

    async def run_once(self, port: str | None = None) -> int:
        """Deliver what is due, side by side, to one port or to all; how many rows were taken."""
        if port is None:
            return sum(await _all_of(self.run_once(name) for name in self._ports))
        of = self._ports[port]
        allowed = of.breaker.allows(AT_ONCE)
        if not allowed:
            return 0
        async with connection(self._pool) as conn:
            now: datetime = await conn.fetchval(_NOW)
            rows = await outbox.claim(conn, port, list(of.routes), now, lease=CLAIM, limit=allowed)
        await _all_of(self._deliver(of, row) for row in rows)
        return len(rows)

    async def poll_once(self, port: str | None = None) -> int:
        """Settle what ports say of themselves; how many words."""
        if port is None:
            return sum(await _all_of(self.poll_once(name) for name in self.speaking))
        of = self._ports[port]
        return sum([await self._hear(of, word) for word in of.words])

    async def _hear(self, port: _Port, word: Word) -> int:
        if port.hearing.open:
            return 0
        try:
            async with asyncio.timeout(self._call_seconds):
                changes = await word.changes(CHANGES)
        except (PortUnavailableError, TimeoutError):
            port.hearing.failed()
            return 0
        port.hearing.succeeded()
        failures: list[Exception] = []
        for change in changes:
            try:
                await self._note(word, change)
            except Exception as error:  # noqa: BLE001 - told below: it is said again, and holds up nothing that was said after it
                failures.append(error)
        if failures:
            raise failures[0]
        return len(changes)

    async def _note(self, word: Word, change: Any) -> None:
        deed = word.heard(change)
        if deed is None:
            logger.error("a port said what is unknown here: %s", type(change).__name__)
        else:
            await self._pipeline.system(*deed)
        await word.acknowledge([change])

    async def _deliver(self, port: _Port, row: Row) -> None:
        route = port.routes[row["operation"]]
        if outbox.worn_out(row):  # each attempt was claimed, and the process that made it died or could not note it
            await self._give_up(route, row, "NEVER_NOTED")
            return
        if not await self._wanted(route, row):
            return
        try:
            with _told(route, row):
                async with asyncio.timeout(self._call_seconds):
                    answer = await route.call(row["key"], document(row["arguments"]))
        except PortRefusedError as error:
            port.breaker.succeeded()  # it answers, it just says no
            await self._give_up(route, row, error.code)
        except (PortUnavailableError, TimeoutError) as error:
            port.breaker.failed()
            await self._failed(route, row, error.code if isinstance(error, PortUnavailableError) else "TIMEOUT")
        except Exception as error:  # noqa: BLE001 - a mistake of ours or the adapter's: it costs this row alone
            logger.error("delivery %s could not be called: %s", row["id"], described(error))  # noqa: TRY400 - without the message (PV-1)
            await self._failed(route, row, "CALL_FAILED")
        else:
            port.breaker.succeeded()
            await self._fault(route.point)
            await self._answered(route, row, answer)

    async def _wanted(self, route: Route, row: Row) -> bool:
        """Whether to call. What came about by itself is marked, what has ended is given up, without a call."""
        async with connection(self._pool) as conn:
            found = await standing(conn, row)
        if found is Standing.DONE:
            await self._mark(row)
        elif found is Standing.ENDED:
            await self._give_up(route, row, "TARGET_ENDED")
        return found is Standing.WANTED

    async def _answered(self, route: Route, row: Row, answer: Any) -> None:
        """Note the answer and, in the same transaction, the delivery that brought it."""

        async def mark(uow: UnitOfWork) -> None:
            await outbox.delivered(uow.conn, row["id"], uow.now)

        deed = route.answered(row, answer)
        if deed is None:
            logger.error("delivery %s was given an answer that is unknown here", row["id"])
            await self._failed(route, row, "ANSWER_UNKNOWN")
            return
        try:
            if await self._pipeline.system(*deed, also=mark) is None:
                await self._mark(row)  # the port's own word came first; only the delivery is left to mark
        except ConsoleError as error:  # the database is busy or away: the claim runs out, the call is made again
            logger.warning("delivery %s was answered but not noted: %s", row["id"], error.code)

    async def _mark(self, row: Row) -> None:
        async with connection(self._pool) as conn:
            await outbox.delivered(conn, row["id"], await conn.fetchval(_NOW))

    async def _failed(self, route: Route, row: Row, code: str) -> None:
        if outbox.exhausted(row):
            await self._give_up(route, row, code)
            return
        async with connection(self._pool) as conn:
            await outbox.again(conn, row, await conn.fetchval(_NOW), code)

    async def _give_up(self, route: Route, row: Row, code: str) -> None:
        if await self._pipeline.system(*route.failed(row, code)) is None:
            await self._pipeline.system(*given_up(row, code))  # the target is gone; the row must not go round for ever


@contextmanager
def _told(route: Route, row: Row) -> Generator[None, None, None]:
    """One call as telemetry has it; the record's id leads to the trace that caused it."""
    what: Attributes = {"countersign.port": route.port, "countersign.operation": route.operation}
    began = time.perf_counter()
    code: str | None = None
    try:
        with telemetry.span("delivery", {**what, "countersign.audit.id": str(row["audit_id"])}, kind="producer"):
            yield
    except BaseException as error:
        code = telemetry.code_of(error)
        raise
    finally:
        labels: Attributes = what if code is None else {**what, "error.type": code}
        telemetry.measure(telemetry.DELIVERIES, time.perf_counter() - began, labels)


async def _all_of(work: Iterable[Awaitable[Any]]) -> list[Any]:
    """A round is over when all of it is: what fails leaves nothing running behind the next round's back."""
    ended = await asyncio.gather(*work, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, BaseException):
            raise failure
    return ended
