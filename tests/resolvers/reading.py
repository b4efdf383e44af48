"""A reader over real rows, asked as somebody: what the tests of reads share."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from authz.caller import Caller
from authz.enforcer import Snapshot
from db.pool import _no_reset
from resolvers.documents import Documents, Operation
from resolvers.reader import Answer, Reader
from resolvers.tokens import Tokens
from schema.build import console
from tests import factories
from tests.conftest import Database

# The audit's own root fields are answered by functions that these tests have nothing to say about.
ELSEWHERE = (
    "previewMacro",
    "verifyAudit",
    "getAuditProof",
    "getAuditCheckpoint",
    "listAuditCheckpoints",
    "auditHealth",
)


async def _unused(_: object) -> None:
    raise AssertionError("not asked here")


@dataclass
class Stage:
    """``conn`` writes everything; ``ask`` reads as a member of the staff. ``statements`` is what reads have sent."""

    conn: asyncpg.Connection[Any]
    reader: Reader
    documents: Documents
    statements: list[str] = field(default_factory=list)
    moment: float = field(default_factory=time.time)

    async def snapshot(self) -> Snapshot:
        return await factories.snapshot(self.conn)

    async def ask(
        self, staff_id: str, text: str, variables: Mapping[str, Any] | None = None, snapshot: Snapshot | None = None
    ) -> Answer:
        snapshot = snapshot or await self.snapshot()
        operation = self.documents.operation(text)
        bound = operation.bind(console().core, variables)
        return await self.reader.query(factories.caller(snapshot, staff_id), snapshot, operation, bound)

    async def data(self, staff_id: str, text: str, **variables: Any) -> Any:
        """The data of a query that must have no errors."""
        answer = await self.ask(staff_id, text, variables)
        assert answer.errors == []
        return answer.data

    async def who(self, staff_id: str) -> tuple[Caller, Snapshot]:
        snapshot = await self.snapshot()
        return factories.caller(snapshot, staff_id), snapshot

    def operation(self, text: str) -> Operation:
        return self.documents.operation(text)


@asynccontextmanager
async def stage(database: Database) -> AsyncIterator[Stage]:
    """Pools of the two reading roles, a writing connection, and a log of the reads' statements."""
    statements: list[str] = []

    async def watched(conn: asyncpg.Connection[Any]) -> None:
        conn.add_query_logger(lambda record: statements.append(record.query))

    conn = await asyncpg.connect(**database.superuser)
    pools = [
        await asyncpg.create_pool(
            min_size=1, max_size=3, init=watched, reset=_no_reset, **database.dsn(role).connect_kwargs()
        )
        for role in ("cs_app", "cs_audit_reader")
    ]
    found: list[Stage] = []
    tokens = Tokens({"k1": b"\1" * 32}, "k1", clock=lambda: found[0].moment)
    reader = Reader(console(), *pools, tokens, salt="pepper", functions=dict.fromkeys(ELSEWHERE, _unused))
    made = Stage(conn, reader, Documents(console().core), statements)
    found.append(made)
    try:
        yield made
    finally:
        for pool in pools:
            await pool.close()
        await conn.close()
