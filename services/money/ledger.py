"""The one place that writes ``refund`` and ``order_ledger``: a refund's state and its order's sums move together.

Whoever calls it holds the ledger's row lock, which guards all refunds of the order.
"""

from __future__ import annotations

from typing import Any

from db.unit_of_work import Row
from services.command import Act
from services.money import rules
from services.money.rules import RefundEvent

_LOCK_LEDGER = "SELECT * FROM order_ledger WHERE order_id = $1 FOR UPDATE"
_LOCK_REFUND = "SELECT * FROM refund WHERE id = $1 FOR UPDATE"
_LEDGER = """
UPDATE order_ledger SET reserved_minor = reserved_minor + $2, succeeded_minor = succeeded_minor + $3,
  version = version + 1
WHERE order_id = $1 RETURNING *
"""


async def lock_ledger(act: Act[Any], order_id: str) -> Row:
    """The ledger under its row lock."""
    return await act.row(_LOCK_LEDGER, order_id)


async def lock_refund(act: Act[Any], refund_id: str) -> Row:
    """A refund as it stands under its ledger's lock, which is taken before."""
    return await act.row(_LOCK_REFUND, refund_id)


async def move_sums(act: Act[Any], order_id: str, before: str | None, after: str, amount_minor: int) -> None:
    """What a refund's move from ``before`` to ``after`` does to its order; nothing changes, nothing is written."""
    reserved, succeeded = rules.ledger_change(before, after, amount_minor)
    if reserved or succeeded:
        await act.uow.execute(_LEDGER, order_id, reserved, succeeded)


async def move(act: Act[Any], refund: Row, event: RefundEvent, **changes: Any) -> Row:
    """Take a locked refund through one event of its state table, with its order's sums."""
    after = rules.REFUND.next(refund["state"], event)
    row = await act.update("refund", refund["id"], {"state": after, **changes})
    await move_sums(act, refund["order_id"], refund["state"], after, refund["amount_minor"])
    return row
