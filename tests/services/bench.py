"""A console without its wire: real pipeline, reader, writer and authorizer over a clone of the migrated database."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest_asyncio

from audit.keys import Keys
from audit.writer import Writer
from authz.enforcer import Authorizer
from db.unit_of_work import UnitOfWork
from resolvers import macro_preview
from resolvers.context import Request
from resolvers.deliveries import Deliveries
from resolvers.pipeline import Fault, Pipeline
from resolvers.reader import Reader
from resolvers.routes import routes
from resolvers.tokens import Tokens
from resolvers.worker import Worker
from schema.build import console
from services.adapters.help_center_embedded import EmbeddedHelpCenter
from services.adapters.kernel_embedded import EmbeddedKernel
from services.command import Result
from tests import factories
from tests.conftest import Database, Pools

_numbers = itertools.count(1)
# Root fields of the audit that the process brings along; no command asks them.
_ELSEWHERE = ("auditHealth", "getAuditCheckpoint", "getAuditProof", "listAuditCheckpoints", "verifyAudit")


async def _unasked(_: object) -> None:
    raise NotImplementedError


@dataclass(frozen=True)
class Done:
    """What a client would build its payload from."""

    outcome: str
    refs: Mapping[str, Any]
    values: Mapping[str, Any]
    audit: Mapping[str, Any]
    receipt: Mapping[str, Any]


@dataclass
class Faults:
    """Stops the pipeline or the worker at a named point by raising, as a crash would."""

    armed: dict[str, BaseException] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)

    async def __call__(self, name: str) -> None:
        self.reached.append(name)
        if name in self.armed:
            raise self.armed.pop(name)


class CrashError(Exception):
    """The process died here."""


@dataclass
class Bench:
    """One console: ``conn`` is the superuser's, for arranging and for looking."""

    database: Database
    pools: Pools
    folder: Path
    conn: asyncpg.Connection[Any]
    app: asyncpg.Pool[Any]
    background: asyncpg.Pool[Any]
    authorizer: Authorizer
    reader: Reader
    writer: Writer
    pipeline: Pipeline
    kernel: EmbeddedKernel
    worker: Worker
    faults: Faults

    async def do(self, who: str, name: str, *, pipeline: Pipeline | None = None, **arguments: Any) -> Done:
        """Run one mutation as a staff member; raises what he would hear."""
        snapshot = await self.authorizer.current()
        request = Request(
            id=f"req-{next(_numbers)}",
            trace_id=None,
            caller=factories.caller(snapshot, who),
            snapshot=snapshot,
            operation_name=None,
            document_digest="0" * 64,
            client=None,
            ip="192.0.2.1",
            user_agent="bench",
            received_at=datetime.now(UTC),
        )

        async def answer(_uow: UnitOfWork, result: Result, extra: Mapping[str, Any]) -> Done:
            return Done(extra["outcome"], result.refs, result.values, extra["audit"], extra["receipt"])

        found: Done = await (pipeline or self.pipeline).run(request, name, arguments, answer)
        return found

    async def row(self, table: str, key: str, *, column: str = "id") -> Any:
        row = await self.conn.fetchrow(f"SELECT * FROM {table} WHERE {column} = $1", key)
        assert row is not None
        return row

    async def records(self) -> list[dict[str, Any]]:
        """All audit records in the order of their append."""
        return [orjson.loads(row["body"]) for row in await self.conn.fetch("SELECT body FROM audit.intake ORDER BY n")]

    async def events(self, topic: str) -> list[dict[str, Any]]:
        rows = await self.conn.fetch("SELECT payload FROM event WHERE topic = $1 ORDER BY id", topic)
        return [orjson.loads(row["payload"]) for row in rows]

    async def alerts(self, kind: str) -> list[Any]:
        return list(await self.conn.fetch("SELECT * FROM alert WHERE kind = $1 ORDER BY created_at, id", kind))

    async def anchor_all(self) -> None:
        """Everything counts as anchored: the sealer is not what is tested here."""
        await self.conn.execute(
            "CREATE OR REPLACE FUNCTION audit.anchored(record uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true'"
        )

    async def later(self, seconds: float) -> Bench:
        """The same console with its clock moved on."""
        return await build(self.database, self.pools, self.folder, self.conn, clock_offset_seconds=round(seconds))


async def build(
    database: Database,
    pools: Pools,
    folder: Path,
    conn: asyncpg.Connection[Any],
    *,
    clock_offset_seconds: int = 0,
) -> Bench:
    app = await pools("cs_app", size=6, clock_offset_seconds=clock_offset_seconds)
    background = await pools("cs_worker", size=4, clock_offset_seconds=clock_offset_seconds)
    keys = Keys.open(folder)
    writer = Writer(keys, origin="test/audit")
    authorizer = Authorizer(app)
    of = console()
    tokens = Tokens({"k": b"0" * 32}, "k", clock=lambda: 0.0)
    reader = Reader(
        of,
        app,
        app,
        tokens,
        salt="salt",
        functions={**dict.fromkeys(_ELSEWHERE, _unasked), **macro_preview.functions(lambda: pipeline)},
    )
    faults = Faults()
    fault: Fault = faults
    kernel = EmbeddedKernel(background)
    pipeline = Pipeline(app, authorizer, writer, reader.find, of.rules, fault=fault)
    system = Pipeline(background, authorizer, writer, reader.find, of.rules, fault=fault)
    help_center = EmbeddedHelpCenter(background)
    deliveries = Deliveries(background, system, routes(kernel, help_center), fault=fault, call_seconds=2.0)
    return Bench(
        database,
        pools,
        folder,
        conn,
        app,
        background,
        authorizer,
        reader,
        writer,
        pipeline,
        kernel,
        Worker(background, system, deliveries, fault=fault),
        faults,
    )


@pytest_asyncio.fixture(loop_scope="session")
async def bench(database: Database, pools: Pools, tmp_path: Path) -> AsyncIterator[Bench]:
    """A console of one's own."""
    conn = await asyncpg.connect(**database.superuser)
    await conn.execute("SET countersign.cities = '*'")
    made = await build(database, pools, tmp_path, conn)
    yield made
    await made.pipeline.close()
    await made.writer.close()
    await conn.close()


__all__ = ["Bench", "CrashError", "Done", "Faults", "bench", "build"]
