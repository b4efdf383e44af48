"""The ASGI shell of the rows that are not the product: a pool, a body in, bytes out, nothing in between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import orjson
from starlette.types import Receive, Scope, Send

from countersign.settings import Role, Settings
from db.pool import Dsn, open_pool
from resolvers.edge import respond
from resolvers.edge_errors import JSON_TYPE


class Bare(ABC):
    """One ASGI application over one pool of the product's size, which resets nothing between uses either."""

    def __init__(self, settings: Settings, role: Role) -> None:
        self.settings = settings
        self.stack = AsyncExitStack()
        self.pool: asyncpg.Pool[Any]
        self._role: Role = role

    @abstractmethod
    async def answer(self, document: str, variables: dict[str, Any]) -> bytes:
        """The body of the response."""

    async def start(self) -> None:
        """Open what answers."""
        self.pool = await self.opened(self._role)

    async def opened(self, role: Role) -> asyncpg.Pool[Any]:
        """A pool that is closed with the application."""
        pool = await open_pool(_seeing_all(self.settings.dsn(role)), size=self.settings.pool_size)
        self.stack.push_async_callback(pool.close)
        return pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await self.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.stack.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
        chunks, more = [], True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = bool(message.get("more_body"))
        if scope["method"] != "POST":
            await respond(send, 200, b"{}", JSON_TYPE)
            return
        asked = orjson.loads(b"".join(chunks))
        await respond(send, 200, await self.answer(asked["query"], asked["variables"]), JSON_TYPE)


def _seeing_all(dsn: Dsn) -> Dsn:
    """Row-level security lets every city through, for the whole session: whoever asks no policy has no other use of it."""

    class Seeing(Dsn):
        def connect_kwargs(self) -> dict[str, Any]:
            given = super().connect_kwargs()
            return {**given, "server_settings": {**given["server_settings"], "countersign.cities": "*"}}

    return Seeing(dsn.arguments, dsn.role)
