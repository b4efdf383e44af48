"""One GraphQL operation without a server: the application is called in this process, as its HTTP server would call it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from countersign.settings import Settings


async def post(settings: Settings, token: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST /graphql with this token; the whole answer. What it did is recorded as from any other client."""
    from app import create_app

    application = create_app(settings)
    async with _lifespan(application):
        return await _call(application, token, orjson.dumps(body))


@asynccontextmanager
async def _lifespan(application: Any) -> AsyncIterator[None]:
    """The ASGI lifespan protocol from the server's side."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(application(scope, to_app.get, from_app.put))
    try:
        await _said(task, from_app, to_app, "lifespan.startup")
        yield
        await _said(task, from_app, to_app, "lifespan.shutdown")
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _said(
    task: asyncio.Task[None], from_app: asyncio.Queue[dict[str, Any]], to_app: asyncio.Queue[dict[str, Any]], event: str
) -> None:
    await to_app.put({"type": event})
    answer = asyncio.create_task(from_app.get())
    await asyncio.wait([task, answer], return_when=asyncio.FIRST_COMPLETED)
    if not answer.done():
        answer.cancel()
        await task  # raises what ended it
        raise RuntimeError(f"The application ended during {event}.")
    message = answer.result()
    if message["type"] != f"{event}.complete":
        raise RuntimeError(message.get("message") or f"The application refused {event}.")


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
