"""Statements as telemetry knows them: verb and table, told by the connection itself. Neither text nor parameters.

The text of a compiled read holds the response keys of a client's document, so no part of it is repeated: what stands for a
statement is chosen from our own names (security-contract PV-1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Final

import asyncpg

from schema import telemetry
from schema.telemetry import Attributes, Key, Value

_TEXTS: Final = 2_048
_VERB: Final = re.compile(r"\s*(?:--[^\n]*\n\s*)*([A-Za-z]+)")
_VERBS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT"} | {"RELEASE", "SET", "LISTEN", "NOTIFY", "COPY"})  # fmt: skip
_WRITES: Final = re.compile(r"(?<!FOR )\b(INSERT|UPDATE|DELETE)\s")  # a response key has its quote there
_TABLE: Final = re.compile(r"\b(?:FROM|INTO|UPDATE|JOIN)\s+(?:ONLY\s+)?([a-z_]+(?:\.[a-z_]+)?)\b")
_FUNCTION: Final = re.compile(r"\b(audit\.[a-z_]+)\s*\(")


@cache
def _tables() -> frozenset[str]:
    from db.tables import metadata

    return frozenset(metadata.tables)


@lru_cache(maxsize=_TEXTS)
def summary(query: str) -> Attributes:
    """Verb and table of a statement: ``UPDATE case_file``; a name that is none of ours is left out."""
    found = _VERB.match(query)
    verb = found[1].upper() if found else ""
    if verb == "WITH":
        wrote = _WRITES.search(query)
        verb = wrote[1] if wrote else "SELECT"
    table = next((name for name in _TABLE.findall(query) if _ours(name)), None)
    if table is None:
        called = _FUNCTION.search(query)
        table = called[1] if called else None
    told: dict[Key, Value] = {"db.system.name": "postgresql"}
    told["db.operation.name"] = verb if verb in _VERBS else "OTHER"
    if table is not None:
        told["db.collection.name"] = table
    told["db.query.summary"] = " ".join(str(told[key]) for key in _SUMMED if key in told)
    return MappingProxyType(told)


_SUMMED: Final[tuple[Key, ...]] = ("db.operation.name", "db.collection.name")


def _ours(name: str) -> bool:
    # A response key has no dot in it, so what begins with our schema's name is ours.
    return name.startswith("audit.") or name in _tables()


class ToldConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection whose statements are told. Given to pools only while telemetry is on: otherwise nothing is in the way."""

    __slots__ = ()

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        with telemetry.statement(summary(query)):
            tag: str = await super().execute(query, *args, **options)
        return tag

    async def executemany(self, command: str, args: Iterable[Any], **options: Any) -> None:
        with telemetry.statement(summary(command)):
            await super().executemany(command, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        with telemetry.statement(summary(query)):
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        with telemetry.statement(summary(query)):
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        with telemetry.statement(summary(query)):
            return await super().fetchval(query, *args, **options)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        where = f"{options.get('schema_name') or 'public'}.{table_name}".removeprefix("public.")
        with telemetry.statement(summary(f"COPY INTO {where}")):
            tag: str = await super().copy_records_to_table(table_name, **options)
        return tag


def connection_class() -> Mapping[str, Any]:
    """What ``asyncpg.connect`` and ``create_pool`` are told beside the address: nothing while telemetry is off."""
    return {"connection_class": ToldConnection} if telemetry.on() else {}
