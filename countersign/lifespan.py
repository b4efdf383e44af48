"""The ASGI lifespan protocol from the server's side: what the application raises at its start arrives here as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

_Messages = asyncio.Queue[dict[str, Any]]


class LifespanError(Exception):
    """The application refused to start or stop and gave no exception of its own."""


@asynccontextmanager
async def lifespan(application: Any) -> AsyncIterator[None]:
    """Start the application, and stop it at the end. Raises what its start raised."""
    to_app: _Messages = asyncio.Queue()
    from_app: _Messages = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.create_task(application(scope, to_app.get, from_app.put), name="lifespan")
    try:
        await _exchange(task, to_app, from_app, "lifespan.startup")
        yield
        await _exchange(task, to_app, from_app, "lifespan.shutdown")
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _exchange(task: asyncio.Task[None], to_app: _Messages, from_app: _Messages, event: str) -> None:
    await to_app.put({"type": event})
    answer = asyncio.create_task(from_app.get())
    await asyncio.wait([task, answer], return_when=asyncio.FIRST_COMPLETED)
    message: dict[str, Any] = {}
    if answer.done():
        message = answer.result()
    else:
        answer.cancel()
    if message.get("type") != f"{event}.complete":
        await task  # raises what ended it
        raise LifespanError(message.get("message") or f"The application ended during {event}.")
