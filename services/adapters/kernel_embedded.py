"""The embedded Orders & Refund Kernel: another system that happens to live in the same Postgres.

Deterministic by order: ``kernel_order.sim`` is ``succeed`` (also without a row), ``fail:CODE``, ``pending:SECONDS``
(succeeds then), ``pending:SECONDS:fail:CODE`` or ``requires_action``. Each call is a transaction of its own, never the
console's, so a crash between its effect and our note of it is as real as with a remote system.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from db.pool import connection
from schema.errors import ConsoleError
from services.ports import KernelRefund, PortRefusedError, PortUnavailableError

_SIM = "SELECT sim FROM kernel_order WHERE order_id = $1"
_SUBMIT = """
INSERT INTO kernel_refund
  (key, order_id, amount_minor, currency, state, external_ref, failure_code, created_at, settles_at, outcome)
VALUES ($1, $2, $3, $4, $5, $6, $7, console_now(), console_now() + make_interval(secs => $8), $9)
ON CONFLICT (key) DO NOTHING
"""
_GET = "SELECT * FROM kernel_refund WHERE key = $1"
_SETTLE = """
UPDATE kernel_refund
SET state = split_part(outcome, ':', 1), failure_code = nullif(split_part(outcome, ':', 2), ''), notified_at = NULL
WHERE state = 'PENDING' AND settles_at <= console_now()
"""
_CHANGES = """
SELECT * FROM kernel_refund WHERE notified_at IS NULL AND state <> 'PENDING' ORDER BY settles_at, key LIMIT $1
"""
_ACKNOWLEDGE = "UPDATE kernel_refund SET notified_at = console_now() WHERE key = $1 AND state = $2"
_MOVE = """
UPDATE kernel_refund SET state = $2, failure_code = $3, settles_at = console_now(), notified_at = NULL
WHERE key = $1 AND state IN ('PENDING', 'REQUIRES_ACTION')
"""
# state at once, seconds until the outcome, outcome (state, or state:code)
_Plan = tuple[str, float, str]
_SUCCEED: Final[_Plan] = ("SUCCEEDED", 0.0, "SUCCEEDED")


def plan(sim: str | None) -> _Plan:
    """What the kernel does with a refund of an order; ``ValueError`` for a sim it does not know."""
    word, _, rest = (sim or "succeed").partition(":")
    if word == "succeed" and not rest:
        return _SUCCEED
    if word == "requires_action" and not rest:
        return "REQUIRES_ACTION", 0.0, "REQUIRES_ACTION"
    if word == "fail" and rest:
        return "FAILED", 0.0, f"FAILED:{rest}"
    if word == "pending":
        seconds, _, then = rest.partition(":")
        return "PENDING", float(seconds), plan(then or None)[2]
    raise ValueError(f"no such sim: {sim}")


class EmbeddedKernel:
    """Adapter of ``OrdersRefundKernel`` on tables of its own."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def _conn(self) -> AsyncGenerator[asyncpg.Connection[Any], None]:
        try:
            async with connection(self._pool) as conn:
                yield conn
        except ConsoleError as error:  # of the pool: busy, or the database away
            raise PortUnavailableError(error.code) from error

    async def submit_refund(self, *, key: str, order_id: str, amount_minor: int, currency: str) -> KernelRefund:
        async with self._conn() as conn:
            state, seconds, outcome = plan(await conn.fetchval(_SIM, order_id))
            code = outcome.partition(":")[2] or None if state == "FAILED" else None
            reference = f"kr_{key}"
            await conn.execute(_SUBMIT, key, order_id, amount_minor, currency, state, reference, code, seconds, outcome)
            row = await conn.fetchrow(_GET, key)
        if row is None or (row["order_id"], row["amount_minor"], row["currency"]) != (order_id, amount_minor, currency):
            raise PortRefusedError("KEY_REUSED")
        return _refund(row)

    async def get_refund(self, key: str) -> KernelRefund | None:
        async with self._conn() as conn:
            row = await conn.fetchrow(_GET, key)
        return None if row is None else _refund(row)

    async def changes(self, limit: int) -> Sequence[KernelRefund]:
        async with self._conn() as conn:
            await conn.execute(_SETTLE)
            rows = await conn.fetch(_CHANGES, limit)
        return [_refund(row) for row in rows]

    async def acknowledge(self, refunds: Sequence[KernelRefund]) -> None:
        async with self._conn() as conn:
            await conn.executemany(_ACKNOWLEDGE, [(refund.key, refund.state) for refund in refunds])

    async def move(self, key: str, state: str, failure_code: str | None = None) -> None:
        """What the buyer or the bank does: end a refund that waits for them."""
        async with self._conn() as conn:
            await conn.execute(_MOVE, key, state, failure_code)


def _refund(row: Any) -> KernelRefund:
    return KernelRefund(row["key"], row["state"], row["external_ref"], row["failure_code"])
