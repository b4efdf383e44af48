"""Rows by id without the reader's scope: for the system's own deeds, whose database role sees every row it may touch."""

from __future__ import annotations

from typing import Final

from db.unit_of_work import Row, UnitOfWork
from schema.errors import ConsoleError
from services.command import Finder

_TABLES: Final = {
    "Case": ("case_file", "id"),
    "Subject": ("subject", "id"),
    "Decision": ("decision", "id"),
    "OrderLedger": ("order_ledger", "order_id"),
    "Refund": ("refund", "id"),
    "ApprovalRequest": ("approval_request", "id"),
    "Delivery": ("outbox", "id"),
}


def unscoped(uow: UnitOfWork) -> Finder:
    """Finds the row, or ``NOT_FOUND``; row-level security of the unit's role still holds."""

    async def find(type_name: str, object_id: str) -> Row:
        table, key = _TABLES[type_name]
        row = await uow.fetchrow(f"SELECT * FROM {table} WHERE {key} = $1", object_id)  # noqa: S608  names are ours
        if row is None:
            raise ConsoleError("NOT_FOUND")
        return row

    return find
