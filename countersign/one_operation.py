"""One GraphQL operation without a server: the application is called in this process, as its HTTP server would call it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson

from countersign.lifespan import lifespan
from countersign.settings import Settings

# A token and a body to the whole answer.
Post = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def session(settings: Settings) -> AsyncIterator[Post]:
    """Calls of one application: each posts a body to /graphql with a token and gives the whole answer."""
    from app import create_app

    # Nothing is told of it: what serves for one call is no process that somebody watches.
    application = create_app(settings, told=False)
    async with lifespan(application):

        async def post(token: str, body: dict[str, Any]) -> dict[str, Any]:
            return await _call(application, token, orjson.dumps(body))

        yield post


async def post(settings: Settings, token: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call. What it did is recorded as from any other client."""
    async with session(settings) as call:
        return await call(token, body)


async def _call(application: Any, token: str, body: bytes) -> dict[str, Any]:
    sent: list[dict[str, Any]] = []
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await asyncio.Event().wait()  # the client stays until the answer is there
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"accept", b"application/json"),
        (b"user-agent", b"countersign query"),
        (b"authorization", token.encode()),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/graphql",
        "raw_path": b"/graphql",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
        "state": {},
    }
    await application(scope, receive, send)
    answer = orjson.loads(
        b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    )
    if not isinstance(answer, dict):
        raise TypeError("The application did not answer with a JSON object.")
    return answer
