"""A log of its own for a test: keys, signer, anchor, writer and sealer over the test's database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from audit.anchor import DirectoryAnchor
from audit.keys import Keys, Signer
from audit.live import Trust, verify
from audit.record import new_record, staff_actor
from audit.sealer import Sealer
from audit.verify import Report
from audit.writer import Limits, Writer
from db.unit_of_work import uuid7
from tests.conftest import Database, Pools

ORIGIN = "countersign.local/audit/test"
_GUARDS = """
SELECT tgrelid::regclass::text AS relation, tgname FROM pg_trigger
 WHERE tgname LIKE 'guard%' AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'audit'::regnamespace)
"""


def record(action: str = "case.decide", **given: Any) -> dict[str, Any]:
    """A record as the pipeline makes it."""
    defaults: dict[str, Any] = {
        "id": str(uuid7()),
        "at": datetime.now(UTC),
        "kind": "mutation",
        "action": action,
        "field": "Mutation.decideCase",
        "actor": staff_actor("usr_17", ["TRUST_SAFETY"], session="s1", client="web"),
        "request": {"id": "req_1", "trace": "t1"},
        "object": {"type": "Case", "id": "case_881", "version": {"before": 3, "after": 4}, "city": "lisbon"},
        "policy": {"base": "sha256:p", "version": 7, "row": "ts-decide"},
        "result": {"code": None, "count": 1, "outcome": "EXECUTED"},
    }
    return new_record(**(defaults | given))


async def until(holds: Callable[[], Awaitable[Any]], what: str) -> None:
    """Wait until it holds; ten seconds are a failure, not a slow machine."""
    for _ in range(200):
        if await holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"never: {what}")


@dataclass
class Log:
    """What a test works with. ``sealer`` may be replaced by ``another``: a second process, or the same after a restart."""

    database: Database
    folder: Path
    keys: Keys
    signer: Signer
    anchor: DirectoryAnchor
    writer: Writer
    app: asyncpg.Pool[Any]
    reader: asyncpg.Pool[Any]
    alarms: list[tuple[str, str]] = field(default_factory=list)
    sealers: list[Sealer] = field(default_factory=list)

    @property
    def sealer(self) -> Sealer:
        return self.sealers[0] if self.sealers else self.another()

    def another(self, fault: Callable[[str], None] = lambda _: None, **options: Any) -> Sealer:
        async def alarm(code: str, text: str) -> None:
            self.alarms.append((code, text))

        made = Sealer(
            self.database.dsn("cs_sealer"),
            keys=self.keys,
            signer=self.signer,
            anchor=self.anchor,
            writer=Writer(self.keys, origin=ORIGIN),
            alarm=alarm,
            fault=fault,
            **options,
        )
        self.sealers.append(made)
        return made

    async def append(self, count: int = 1, **given: Any) -> list[str]:
        """Append records through the group commit of reads; returns their ids."""
        ids = []
        for start in range(0, count, 400):
            part = [record(**given) for _ in range(min(400, count - start))]
            ids.extend(receipt.id for receipt in await self.writer.reads(self.app, part))
        return ids

    async def seal(self, *, anchor: bool = True) -> int:
        """Seal all, and anchor; returns the size."""
        while (await self.sealer.run_once()).records:
            pass
        return await self.sealer.anchor_once() if anchor else 0

    def trust(self, **given: Any) -> Trust:
        defaults: dict[str, Any] = {
            "vkeys": (self.signer.vkey,),
            "anchor": self.anchor.directory,
            "writer_keys": self.keys.writer_keys,
        }
        return Trust(ORIGIN, **(defaults | given))

    async def verify(self, from_seq: int | None = None, to_seq: int | None = None, **trust: Any) -> Report:
        return await verify(self.reader, self.trust(**trust), from_seq, to_seq)

    async def tamper(self, *statements: str) -> None:
        """What a database superuser can do: switch the guards off, change, switch them on again."""
        conn = await asyncpg.connect(**self.database.superuser)
        try:
            async with conn.transaction():
                for table in ("record", "leaf", "tile", "head", "checkpoint", "intake", "quarantine"):
                    await conn.execute(f"ALTER TABLE audit.{table} DISABLE TRIGGER USER")
                for statement in statements:
                    await conn.execute(statement)
                for row in await conn.fetch(_GUARDS):
                    await conn.execute(f"ALTER TABLE {row['relation']} ENABLE ALWAYS TRIGGER {row['tgname']}")
        finally:
            await conn.close()

    async def look(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        conn = await asyncpg.connect(**self.database.superuser)
        try:
            return [tuple(row) for row in await conn.fetch(sql, *args)]
        finally:
            await conn.close()


@pytest_asyncio.fixture(loop_scope="session")
async def log(database: Database, pools: Pools, tmp_path: Path) -> AsyncIterator[Log]:
    keys = Keys.open(tmp_path / "keys")
    signer = Signer.open(tmp_path / "signer", ORIGIN)
    made = Log(
        database,
        tmp_path,
        keys,
        signer,
        DirectoryAnchor(tmp_path / "anchor"),
        Writer(keys, origin=ORIGIN, limits=Limits()),
        await pools("cs_app"),
        await pools("cs_audit_reader"),
    )
    yield made
    await made.writer.close()
    for sealer in made.sealers:
        await sealer.close()
