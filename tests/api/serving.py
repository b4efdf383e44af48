"""A real uvicorn on loopback, in this process, with the options that the product uses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

# As the serving process sets them (countersign.worker_process).
OPTIONS: dict[str, Any] = {
    "ws": "websockets-sansio",
    "ws_max_size": 131_072,
    "ws_per_message_deflate": False,
    "http": "h11",
    "h11_max_incomplete_event_size": 32_768,
    "server_header": False,
    "proxy_headers": False,
    "access_log": False,
    "log_config": None,
    "timeout_graceful_shutdown": 1,
}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals stay pytest's."""
        yield


@asynccontextmanager
async def served(app: ASGIApp, **options: Any) -> AsyncIterator[str]:
    """Serve ``app`` on a free port; yields ``host:port``."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, lifespan="off", **{**OPTIONS, **options}))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()
