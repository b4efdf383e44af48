"""A TCP proxy in front of PostgreSQL that cuts connections where a test wants: at a byte, or with COMMIT's answer in hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMIT = b"COMMIT\0"  # in the query, and in the command's completion
_CHUNK = 65_536


@dataclass
class Proxy:
    """``up`` counts bytes towards the server, ``down`` from it, since the last ``arm``."""

    server: Mapping[str, Any]
    port: int = 0
    up: int = 0
    down: int = 0
    cuts: int = 0  # connections that were cut
    _cut_up: int | None = None
    _cut_down: int | None = None
    _swallow: bool = False
    _asked: bool = False  # COMMIT is on its way
    _pumps: set[asyncio.Task[None]] = field(default_factory=set)
    _ends: set[Callable[[], None]] = field(default_factory=set)  # of the connections that stand

    def arm(self, *, up: int | None = None, down: int | None = None, swallow: bool = False) -> None:
        """Cut after so many bytes from now on, or once the server has committed and before anybody hears of it."""
        self.up = self.down = 0
        self._cut_up, self._cut_down, self._swallow, self._asked = up, down, swallow, False

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of ``asyncpg.connect`` that go through here."""
        return {**given, "host": "127.0.0.1", "port": self.port, "ssl": False}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket = Path(self.server["host"]) / f".s.PGSQL.{self.server['port']}"
        upstream, towards = await asyncio.open_unix_connection(str(socket))

        def end() -> None:
            writer.transport.abort()  # a reset, not a goodbye
            towards.transport.abort()
            self._ends.discard(end)

        self._ends.add(end)
        for pump in (self._upwards(reader, towards, end), self._downwards(upstream, writer, end)):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _upwards(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: Callable[[], None]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                kept = data if self._cut_up is None else data[: max(0, self._cut_up - self.up)]
                self._asked = self._asked or COMMIT in kept
                self.up += len(data)
                writer.write(kept)
                await writer.drain()
                if len(kept) < len(data):
                    self._cut_up = None
                    self.cuts += 1
                    break
        end()

    async def _downwards(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: Callable[[], None]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                if self._swallow and self._asked and COMMIT in data:
                    self._swallow = False
                    self.cuts += 1
                    break
                kept = data if self._cut_down is None else data[: max(0, self._cut_down - self.down)]
                self.down += len(data)
                writer.write(kept)
                await writer.drain()
                if len(kept) < len(data):
                    self._cut_down = None
                    self.cuts += 1
                    break
        end()

    async def close(self) -> None:
        for end in tuple(self._ends):
            end()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@asynccontextmanager
async def proxied(server: Mapping[str, Any]) -> AsyncIterator[Proxy]:
    """A proxy to the server whose socket ``server`` names."""
    proxy = Proxy(server)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        await listening.wait_closed()
        await proxy.close()
