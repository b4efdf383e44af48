"""The outbox at work: what is due and anchored goes to its port, the answer settles the aggregate it came from.

At least once: the row is claimed before the call and marked in the transaction that notes the answer. A crash between
the port's effect and our note leaves the claim to run out; the repeat carries the same key and is the same effect.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from db import outbox
from db.pool import connection
from db.unit_of_work import Row, UnitOfWork
from resolvers.pipeline import Fault, Pipeline, no_fault
from schema.errors import ConsoleError
from services.alerts.deliveries import DeadLetterInput
from services.money.commands import PORT, SUBMIT, AnswerInput
from services.money.rules import ANSWERS
from services.ports import KernelRefund, OrdersRefundKernel, PortRefusedError, PortUnavailableError
from services.telling import document

logger: Final = logging.getLogger(__name__)

CALL_SECONDS: Final = 10.0
CLAIM: Final = timedelta(seconds=30)  # longer than a call may take, so that nobody else makes it meanwhile
AT_ONCE: Final = 8
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

    def succeeded(self) -> None:
        self.failures = 0

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= self.limit:
            self._closed_until = self.clock() + self.pause_seconds


class Deliveries:
    """Takes the outbox to the Orders & Refund Kernel and brings its word back."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        pipeline: Pipeline,
        kernel: OrdersRefundKernel,
        *,
        fault: Fault = no_fault,
        call_seconds: float = CALL_SECONDS,
        breaker: Breaker | None = None,
    ) -> None:
        self._pool = pool
        self._pipeline = pipeline
        self._kernel = kernel
        self._fault = fault
        self._call_seconds = call_seconds
        self._breaker = breaker or Breaker()

    async def run_once(self) -> int:
        """Deliver what is due, side by side; how many rows were taken."""
        if self._breaker.open:
            return 0
        async with connection(self._pool) as conn:
            now: datetime = await conn.fetchval(_NOW)
            rows = await outbox.claim(conn, now, lease=CLAIM, limit=AT_ONCE)
        # A round is over when all its calls are: one that fails leaves none running behind the next round's back.
        ended = await asyncio.gather(*(self._deliver(row) for row in rows), return_exceptions=True)
        for failure in ended:
            if failure is not None:
                raise failure
        return len(rows)

    async def poll_once(self) -> int:
        """Settle what the kernel says of itself: late answers, and those to calls whose answer never reached us."""
        if self._breaker.open:
            return 0
        try:
            async with asyncio.timeout(self._call_seconds):
                changes = await self._kernel.changes(CHANGES)
        except (PortUnavailableError, TimeoutError):
            self._breaker.failed()
            return 0
        self._breaker.succeeded()
        for refund in changes:
            await self._settle(refund, None)
            await self._kernel.acknowledge([refund])
        return len(changes)

    async def _deliver(self, row: Row) -> None:
        try:
            async with asyncio.timeout(self._call_seconds):
                answer = await self._call(row)
        except PortRefusedError as error:
            self._breaker.succeeded()  # it answers, it just says no
            await self._give_up(row, error.code)
            return
        except (PortUnavailableError, TimeoutError) as error:
            self._breaker.failed()
            code = error.code if isinstance(error, PortUnavailableError) else "TIMEOUT"
            await (self._give_up(row, code) if outbox.exhausted(row) else self._again(row, code))
            return
        self._breaker.succeeded()
        await self._fault("after_kernel_effect")
        try:
            await self._settle(answer, row)
        except ConsoleError as error:  # the database is busy or away: the claim runs out, the call is made again
            logger.warning("delivery %s was answered but not noted: %s", row["id"], error.code)

    async def _call(self, row: Row) -> KernelRefund:
        if (row["port"], row["operation"]) != (PORT, SUBMIT):
            raise PortRefusedError("UNKNOWN_OPERATION")
        arguments: Mapping[str, Any] = document(row["arguments"])
        return await self._kernel.submit_refund(
            key=row["key"],
            order_id=arguments["orderId"],
            amount_minor=arguments["amountMinor"],
            currency=arguments["currency"],
        )

    async def _settle(self, answer: KernelRefund, row: Row | None) -> None:
        """Note the answer and, in the same transaction, the delivery that brought it."""

        async def mark(uow: UnitOfWork) -> None:
            if row is not None:
                await outbox.delivered(uow.conn, row["id"], uow.now)

        if answer.state not in ANSWERS:
            logger.error("the kernel gave refund %s a state that is unknown here", answer.key)
            return
        wanted = AnswerInput(answer.key, answer.state, answer.external_ref, answer.failure_code)
        noted = await self._pipeline.system("refund.settle", wanted, also=mark)
        if noted is None and row is not None:  # the kernel's own word came first; only the delivery is left to mark
            async with connection(self._pool) as conn:
                await outbox.delivered(conn, row["id"], await conn.fetchval(_NOW))

    async def _again(self, row: Row, code: str) -> None:
        async with connection(self._pool) as conn:
            await outbox.again(conn, row, await conn.fetchval(_NOW), code)

    async def _give_up(self, row: Row, code: str) -> None:
        await self._pipeline.system("delivery.fail", DeadLetterInput(row["id"], code))
