"""The small routes: alive, ready and why not, the dev issuer's keys; and the switch between GraphiQL and the API by method."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from db.pool import connection
from resolvers.edge import respond
from resolvers.edge_errors import JSON_TYPE, RefusalError
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from authz.dev_issuer import DevIssuer

# Why a part is not ready, or None. Raises nothing: what cannot be asked is itself a reason.
Probe = Callable[[], Awaitable[str | None]]

_FRESH_SECONDS: Final = 1.0  # readiness is asked by anyone; the parts are asked once a second at most
_ASKED_SECONDS: Final = 2.0
_REVISION: Final = "SELECT version_num FROM alembic_version"
_UNNUMBERED: Final = """
SELECT extract(epoch FROM console_now() - created_at) FROM event WHERE position IS NULL ORDER BY id LIMIT 1
"""


def database_probe(pool: asyncpg.Pool[Any], head: str) -> Probe:
    """The database answers and its migrations are at ``head``."""

    async def judged(conn: asyncpg.Connection[Any]) -> str | None:
        found = await conn.fetchval(_REVISION, timeout=_ASKED_SECONDS)
        return None if found == head else f"The database is at migration {found}, this release needs {head}."

    return _asked(pool, judged)


def waiting_probe(
    pool: asyncpg.Pool[Any], age: Callable[[asyncpg.Connection[Any]], Awaitable[float]], most: float, what: str
) -> Probe:
    """Nothing waits longer than ``most`` seconds; ``what`` waits for whom, as a sentence with the seconds in it."""

    async def judged(conn: asyncpg.Connection[Any]) -> str | None:
        waiting = await age(conn)
        return None if waiting < most else what.format(f"{waiting:.0f} s")

    return _asked(pool, judged)


async def unnumbered_seconds(conn: asyncpg.Connection[Any]) -> float:
    """Age of the oldest committed event that has no number yet: until then no subscriber hears of it."""
    return float(await conn.fetchval(_UNNUMBERED, timeout=_ASKED_SECONDS) or 0)


def _asked(pool: asyncpg.Pool[Any], judged: Callable[[asyncpg.Connection[Any]], Awaitable[str | None]]) -> Probe:
    async def probe() -> str | None:
        try:
            async with connection(pool) as conn:
                return await judged(conn)
        except ConsoleError as error:
            return error.message
        except (asyncpg.PostgresError, TimeoutError) as error:
            return f"The database cannot be asked ({type(error).__name__})."

    return probe


class Readiness:
    """``GET /readyz``: 200 when every part is ready, else 503; the body names each part and why."""

    def __init__(self, probes: Mapping[str, Probe], clock: Callable[[], float] = time.monotonic) -> None:
        self._probes = probes
        self._clock = clock
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()  # anyone may ask, so all who ask at once share one round
        self._answer: dict[str, str | None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _only_get(scope)
        async with self._asking:
            if self._clock() - self._asked_at >= _FRESH_SECONDS:
                # Side by side: a database that hangs is found out within one probe's patience (FC-1).
                said = await asyncio.gather(*(probe() for probe in self._probes.values()))
                self._answer = dict(zip(self._probes, said, strict=True))
                self._asked_at = self._clock()
        ready = all(reason is None for reason in self._answer.values())
        body = {"ready": ready, "parts": {name: reason or "ok" for name, reason in self._answer.items()}}
        await respond(send, 200 if ready else 503, orjson.dumps(body), JSON_TYPE)


async def healthz(scope: Scope, _: Receive, send: Send) -> None:
    """The process is alive; says nothing of what it depends on."""
    _only_get(scope)
    await respond(send, 200, b'{"alive":true}', JSON_TYPE)


async def root(scope: Scope, _: Receive, send: Send) -> None:
    """Whoever types the address alone is led to the page."""
    _only_get(scope)
    await respond(send, 303, b"", JSON_TYPE, [(b"location", b"/graphql")])


def jwks(dev: DevIssuer) -> ASGIApp:
    """``GET /.well-known/jwks.json`` of the dev issuer; the route exists in embedded mode only."""
    body = orjson.dumps(dev.jwks())

    async def keys(scope: Scope, _: Receive, send: Send) -> None:
        _only_get(scope)
        await respond(send, 200, body, JSON_TYPE)

    return keys


def _only_get(scope: Scope) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        raise RefusalError(405, "MethodNotAllowedException", "Use GET.", [(b"allow", b"GET, HEAD")])


class Routes:
    """Exact paths to ASGI applications: HTTP and WebSocket, nothing by pattern, everything else 404."""

    def __init__(self, http: Mapping[str, ASGIApp], websocket: Mapping[str, ASGIApp]) -> None:
        self._tables: Mapping[str, Mapping[str, ASGIApp]] = {"http": http, "websocket": websocket}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._tables[scope["type"]].get(scope["path"])
        if app is not None:
            await app(scope, receive, send)
        elif scope["type"] == "http":
            raise RefusalError(404, "NotFoundException", "There is nothing at this path.")
        else:
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008})
