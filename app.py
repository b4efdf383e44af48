"""Composition and nothing else: settings in, the ASGI application (``app:app``) or the background work out.

Everything that a process needs is made here and handed down; nothing below imports this module.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from audit import live
from audit.health import lag_seconds
from audit.keys import Keys, public_path, read_vkeys
from audit.writer import Limits as AuditLimits
from audit.writer import Writer
from authz.enforcer import Authorizer
from authz.identity import Authenticator
from countersign.settings import Role, Settings, SettingsError, load
from db.migrate import head
from db.pool import open_pool
from resolvers import audit_roots, macro_preview
from resolvers.callers import Callers
from resolvers.clock_watch import Alarm, ClockWatch
from resolvers.context import utc_now
from resolvers.cursors import Cursors
from resolvers.documents import Documents
from resolvers.edge import Edge
from resolvers.graphiql import GraphiQL, Person
from resolvers.graphiql_tabs import TABS
from resolvers.http import GraphQL
from resolvers.hub import Hub
from resolvers.limits import Front, Limits
from resolvers.parts import Parts
from resolvers.pipeline import Pipeline, no_fault
from resolvers.reader import Reader
from resolvers.realtime import RealTime
from resolvers.realtime_records import StreamRecords
from resolvers.rest import (
    Probe,
    Readiness,
    Routes,
    database_probe,
    healthz,
    jwks,
    root,
    unnumbered_seconds,
    waiting_probe,
)
from resolvers.startup import findings
from resolvers.tokens import Tokens
from schema import telemetry
from schema.build import console
from schema.console import Console
from schema.errors import ConsoleError
from services.alerts.chain import AlarmInput

if TYPE_CHECKING:
    import asyncpg
    from starlette.types import ASGIApp, Receive, Scope, Send

    from authz.dev_issuer import DevIssuer
    from resolvers.pipeline import Fault

logger = logging.getLogger("countersign.audit")

_HAS_RECORDS = "SELECT EXISTS (SELECT FROM audit.intake) OR EXISTS (SELECT FROM audit.head WHERE size > 0)"
_HAS_CHECKPOINTS = "SELECT EXISTS (SELECT FROM audit.checkpoint)"
_STALE_SECONDS = 60.0  # security-contract FC-3: not ready when the oldest record waits longer for its anchor
_STALE_LOG = "The oldest audit record waits {} for its anchor; is `countersign work` running?"
_STALE_EVENTS = "The oldest event waits {} for its number; is `countersign work` running?"


class Application:
    """The ASGI application of one serving process; its parts live from lifespan startup to shutdown."""

    def __init__(self, settings: Settings, *, told: bool = True) -> None:
        """``told``: to telemetry, where that is on."""
        self._settings = settings
        self._told = told
        self._stack = AsyncExitStack()
        self._edge: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif self._edge is None:
            raise RuntimeError("The application was called before its lifespan began.")
        else:
            await self._edge(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            if self._told:
                await _telling(self._stack, self._settings, "serve")
            self._edge = await self._stack.enter_async_context(serving(self._settings))
        except Exception as error:
            await self._stack.aclose()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


@dataclass(frozen=True)
class _Base:
    """What serving and background work both stand on, each under its own database role."""

    pool: asyncpg.Pool[Any]
    audit_pool: asyncpg.Pool[Any]
    keys: Keys
    writer: Writer
    authorizer: Authorizer
    schema: Console
    reader: Reader
    pipeline: Pipeline


async def _base(stack: AsyncExitStack, settings: Settings, role: Role) -> _Base:
    """Open it, unless something does not fit together; ``stack`` closes it in the opposite order."""
    refuse_misfits()
    pool = await _pool(stack, settings, role)
    audit_pool = await _pool(stack, settings, "cs_audit_reader")
    # Made for a log without records only: to replace a lost key would call everything before it forged.
    new = settings.makes_keys and not await audit_pool.fetchval(_HAS_RECORDS)
    keys = Keys.open(settings.keys_dir, create=new)
    audit_limits = AuditLimits(unanchored_seconds=settings.max_unanchored_seconds, intake_rows=settings.max_intake_rows)
    writer = Writer(keys, origin=settings.audit_origin, limits=audit_limits)
    stack.push_async_callback(writer.close)
    authorizer = Authorizer(pool, settings.dsn(role))
    await authorizer.start()
    stack.push_async_callback(authorizer.stop)
    schema = console()

    def trust() -> live.Trust:
        vkeys = tuple(read_vkeys(public_path(settings.signer_path)))
        return live.Trust(settings.audit_origin, vkeys, keys.writer_keys, anchor=settings.anchor_dir)

    reader = Reader(
        schema,
        pool,
        audit_pool,
        Tokens({"1": keys.next_token_key}, "1", clock=time.time),
        salt=keys.tag("mask"),
        functions={
            **audit_roots.functions(audit_pool, trust, audit_limits, worm=False),
            **macro_preview.functions(lambda: pipeline),
        },
    )
    pipeline = Pipeline(pool, authorizer, writer, reader.find, schema.rules, fault=_fault(settings))
    stack.push_async_callback(pipeline.close)
    return _Base(pool, audit_pool, keys, writer, authorizer, schema, reader, pipeline)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncGenerator[ASGIApp, None]:
    """Everything a serving process has, in the order in which it leans on each other."""
    limits = Limits()
    async with AsyncExitStack() as stack:
        base = await _base(stack, settings, "cs_app")
        dev = _dev_issuer(settings)
        parts = Parts(
            console=base.schema,
            callers=Callers(
                Authenticator(settings.issuers, settings.api_keys, dev),
                base.authorizer,
                clock=utc_now,
                bad_credential_rate=limits.bad_credential_rate,
            ),
            authorizer=base.authorizer,
            documents=Documents(base.schema.core),
            reader=base.reader,
            pipeline=base.pipeline,
            writer=base.writer,
            app_pool=base.pool,
            limits=limits,
            front=Front(
                hosts=settings.hosts,
                origins=settings.origins,
                loopback=settings.serves_loopback,
                introspection=settings.uses_dev_issuer,
            ),
        )
        records = StreamRecords(parts)
        realtime = RealTime(parts, records)
        hub = Hub(
            parts,
            settings.dsn("cs_app"),
            cursor=Cursors(base.keys.next_token_key).seal,
            disclose=records.told,
            fail=realtime.fail,
        )
        realtime.attach(hub)
        await hub.start()
        stack.push_async_callback(hub.stop)
        await realtime.start()
        stack.push_async_callback(realtime.stop)
        clocks = ClockWatch(base.pool, _alarm(base.pipeline))
        await stack.enter_async_context(clocks.watching())
        graphiql = GraphiQL(
            tabs=TABS, people=lambda: _people(base.authorizer, dev) if dev and settings.demo_mode else []
        )
        graphql = GraphQL(parts, graphiql)
        stack.push_async_callback(graphql.stop)
        if telemetry.on():
            from countersign import gauges

            gauges.pools({"cs_app": base.pool, "cs_audit_reader": base.audit_pool})
            gauges.serving(parts.documents, base.reader, realtime)
        http: dict[str, ASGIApp] = {
            **graphiql.routes(),
            "/": root,
            "/graphql": graphql,
            "/healthz": healthz,
            "/readyz": Readiness(
                {
                    "database": database_probe(base.pool, head()),
                    "policy": _policy_probe(base.authorizer),
                    "audit": waiting_probe(base.pool, lag_seconds, _STALE_SECONDS, _STALE_LOG),
                    "events": waiting_probe(base.pool, unnumbered_seconds, _STALE_SECONDS, _STALE_EVENTS),
                    "clock": clocks.probe,
                }
            ),
        }
        if dev is not None:
            http["/.well-known/jwks.json"] = jwks(dev)
        yield Edge(Routes(http, {"/graphql/realtime": realtime}), parts.front)


async def run_background(settings: Settings, stop: asyncio.Event) -> None:
    """Seal, anchor, number events, deliver the outbox, keep the timers, until ``stop``. The signing key is opened here alone."""
    from audit.anchor import DirectoryAnchor
    from audit.keys import Signer
    from audit.sealer import Sealer
    from resolvers.deliveries import Deliveries
    from resolvers.routes import routes
    from resolvers.worker import Worker
    from services.adapters.help_center_embedded import EmbeddedHelpCenter
    from services.adapters.kernel_embedded import EmbeddedKernel

    async with AsyncExitStack() as stack:
        await _telling(stack, settings, "work")
        base = await _base(stack, settings, "cs_worker")
        fault = _fault(settings)
        calls = routes(EmbeddedKernel(base.pool), EmbeddedHelpCenter(base.pool))
        deliveries = Deliveries(base.pool, base.pipeline, calls, fault=fault)
        worker = Worker(base.pool, base.pipeline, deliveries, listen=settings.dsn("cs_worker"), fault=fault)
        new = settings.makes_keys and not await base.audit_pool.fetchval(_HAS_CHECKPOINTS)
        signer = Signer.open(settings.signer_path, settings.audit_origin, create=new)

        alarm = _alarm(base.pipeline)
        sealer = Sealer(
            settings.dsn("cs_sealer"),
            keys=base.keys,
            signer=signer,
            anchor=DirectoryAnchor(settings.anchor_dir),
            writer=base.writer,
            alarm=alarm,
        )
        stack.push_async_callback(sealer.close)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(stop))
            group.create_task(sealer.run(stop))
            group.create_task(ClockWatch(base.pool, alarm).run(stop))
            if telemetry.on():
                from countersign import gauges

                gauges.pools({"cs_worker": base.pool, "cs_audit_reader": base.audit_pool})
                group.create_task(gauges.Waiting(base.pool, deliveries).run(stop))


def _alarm(pipeline: Pipeline) -> Alarm:
    """Log it, and alert those who answer for the console."""

    async def alarm(code: str, text: str) -> None:
        logger.error("audit alarm %s: %s", code, text)
        try:
            await pipeline.system("audit.alarm", AlarmInput(code, text))
        except ConsoleError as error:  # work goes on: the log line stands, and readiness says what is wrong
            logger.error("the alarm was not delivered: %s", error.code)  # noqa: TRY400 - the code says it

    return alarm


def refuse_misfits() -> None:
    """Start only when schema, policy, approval policies and commands fit each other. Raises ``SettingsError`` naming each misfit."""
    found = findings()
    if found:
        raise SettingsError("This does not fit together; `countersign schema check` lists it too: " + "; ".join(found))


async def _telling(stack: AsyncExitStack, settings: Settings, role: Literal["serve", "work"]) -> None:
    """Telemetry around everything else, where ``OTEL_*`` asks for it; otherwise its code is not even loaded."""
    if settings.telemetry.on:
        from countersign.telemetry import running

        await stack.enter_async_context(running(settings.telemetry, role))


async def _pool(stack: AsyncExitStack, settings: Settings, role: Role) -> asyncpg.Pool[Any]:
    pool = await open_pool(settings.dsn(role), size=settings.pool_size)
    stack.push_async_callback(pool.close)
    return pool


def _dev_issuer(settings: Settings) -> DevIssuer | None:
    if not settings.uses_dev_issuer:
        return None
    from authz.dev_issuer import DevIssuer

    return DevIssuer(settings.dev_issuer_dir)


def _people(authorizer: Authorizer, dev: DevIssuer) -> list[Person]:
    """Whom GraphiQL may ask as: everybody of the directory, each with a fresh token of the dev issuer."""
    staff = authorizer.latest.staff.values() if authorizer.latest else ()
    return [
        Person(row.handle, row.display_name, dev.token(row.id)) for row in sorted(staff, key=lambda row: row.handle)
    ]


def _policy_probe(authorizer: Authorizer) -> Probe:
    async def probe() -> str | None:
        return authorizer.problem

    return probe


def _fault(settings: Settings) -> Fault:
    """Crash tests name one point in COUNTERSIGN_CRASH_AT: the first process of this home that reaches it is killed there, once."""
    point = settings.crash_at
    if point is None:
        return no_fault
    marker = settings.home_path / f"crashed-{point}"

    async def fault(reached: str) -> None:
        if reached == point and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


def create_app(settings: Settings, *, told: bool = True) -> Application:
    """The application for these settings."""
    return Application(settings, told=told)


def __getattr__(name: str) -> Any:
    """``app:app`` is made when it is first asked for, so that importing this module reads no configuration."""
    if name == "app":
        return create_app(load())
    raise AttributeError(name)
