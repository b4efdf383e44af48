"""Rows by id without the reader's scope: for the system's own deeds, whose database role sees every row it may touch."""

from __future__ import annotations

from db.unit_of_work import Row, UnitOfWork
from resolvers.sources import SOURCES
from schema.errors import ConsoleError
from services.command import Finder


def unscoped(uow: UnitOfWork) -> Finder:
    """Finds the row, or ``NOT_FOUND``; row-level security of the unit's role still holds."""

    async def find(type_name: str, object_id: str) -> Row:
        source = SOURCES[type_name]
        which = " AND current" if source.versioned else ""  # several rows of one key: the current one is meant
        sql = f"SELECT * FROM {source.table} WHERE {source.key} = $1{which}"  # noqa: S608  names are ours
        row = await uow.fetchrow(sql, object_id)
        if row is None:
            raise ConsoleError("NOT_FOUND")
        return row

    return find
