"""One serving process, and the background one: children of ``countersign serve``, each with its own event loop.

A serving process answers on sockets that its parent bound, plain and TLS in one loop. Every child ends when its parent
does, however the parent ended: it holds the reading end of a pipe that nobody writes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import uvicorn

import countersign
from countersign.settings import Settings, SettingsError, load

WRONG_USE: Final = 2  # exit code of a child that cannot run like this, however often it is started
_DRAIN_SECONDS: Final = 5
_ORPHAN_SECONDS: Final = 10.0
# Amplify carries the whole token in a subprotocol header: 8 KiB of token are 11 KiB of base64.
_HEADER_BYTES: Final = 32 * 1024
# Above WS-4's 128 KiB, so that the application answers with its own close code for what is just too big.
_FRAME_BYTES: Final = 160 * 1024
_DEAD_PEER_SECONDS: Final = 25.0  # a dead peer is found within 60 s (WS-8)
_BOOT: Final = (
    "import sys; sys.path.append(sys.argv[1]); import countersign; countersign.activate();"
    " from countersign.worker_process import main; main(sys.argv[2])"
)


@dataclass(frozen=True)
class Assignment:
    """What a child is told: its kind (``serve`` or ``work``) and the descriptors it inherits."""

    kind: str
    parent: int
    plain: tuple[int, ...] = ()
    tls: tuple[int, ...] = ()
    cert: str = ""
    key: str = ""

    def command(self) -> list[str]:
        """The command line of the child. ``-P``: a folder named like ours in the working directory is not imported."""
        package = str(Path(countersign.__file__).resolve().parent.parent)
        return [sys.executable, "-P", "-c", _BOOT, package, json.dumps(asdict(self))]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.parent, *self.plain, *self.tls)


class _Server(uvicorn.Server):
    """Signals are the process's business, not each server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(assignment: str) -> None:
    """Entry of a child. Exit 0 after a clean stop, 2 when it must not be tried again, another code when it may."""
    told = json.loads(assignment)
    me = Assignment(**{**told, "plain": tuple(told["plain"]), "tls": tuple(told["tls"])})
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    threading.Thread(target=_watch_parent, args=(me.parent,), daemon=True).start()
    try:
        settings = load()
        if me.kind == "work":
            run_background(settings)
        else:
            _run_servers(me)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(WRONG_USE) from None


def _watch_parent(descriptor: int) -> None:
    """The pipe ends when the parent does: stop as if asked to, and if that takes too long, at once."""
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


def _run_servers(me: Assignment) -> None:
    from app import app

    common: dict[str, Any] = {
        "ws": "websockets-sansio",  # the fastest of uvicorn's for a fan-out, and its writes wait for the peer
        "ws_max_size": _FRAME_BYTES,
        "ws_per_message_deflate": False,
        "ws_ping_interval": _DEAD_PEER_SECONDS,
        "ws_ping_timeout": _DEAD_PEER_SECONDS,
        "http": "h11",  # the one that bounds headers
        "h11_max_incomplete_event_size": 2 * _HEADER_BYTES,
        "server_header": False,
        "proxy_headers": False,  # limits count by peer address; a header must not choose it
        "access_log": False,
        "log_config": None,
        "timeout_keep_alive": 60,
        "timeout_graceful_shutdown": _DRAIN_SECONDS,
    }
    servers = [(_Server(uvicorn.Config(app, lifespan="on", **common)), _sockets(me.plain))]
    if me.tls:
        tls = uvicorn.Config(app, lifespan="off", ssl_certfile=me.cert, ssl_keyfile=me.key, **common)
        servers.append((_Server(tls), _sockets(me.tls)))
    loop_factory = servers[0][0].config.get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(servers))


def _sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    return stop


async def _serve(servers: Sequence[tuple[_Server, list[socket.socket]]]) -> None:
    """Serve until a signal. The first server carries the lifespan, so it starts first and ends last."""
    stop = stop_on_signals()
    stopping = asyncio.create_task(stop.wait())
    running: list[asyncio.Task[None]] = []
    for server, sockets in servers:
        task = asyncio.create_task(server.serve(sockets))
        running.append(task)
        while not server.started and not task.done() and not stop.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # uvicorn tells of its start by a flag alone
        if task.done():
            break
    await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
    failed = not stop.is_set()
    for (server, _), task in reversed(list(zip(servers, running, strict=False))):
        server.should_exit = True
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is not None:
            logging.getLogger(__name__).error("a listener ended", exc_info=task.exception())
            failed = True
    stopping.cancel()
    if failed:
        raise SystemExit(1)


def run_background(settings: Settings) -> None:
    """Seal, deliver, keep time, until SIGTERM or SIGINT."""
    from app import run_background as background

    async def run(work: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> None:
        await work(settings, stop_on_signals())

    asyncio.run(run(background))
