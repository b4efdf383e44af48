"""One serving process, and the background one: children of ``countersign serve``, each with its own event loop.

A serving process answers on sockets that its parent bound, plain and TLS in one loop. Every child ends when its parent
does, however the parent ended: it holds the reading end of a pipe that nobody writes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
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
from countersign.lifespan import lifespan
from countersign.logs import to_stderr
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
    " import importlib; importlib.import_module(sys.argv[2]).main(*sys.argv[3:])"
)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that calls ``main`` of a module of ours in a process of its own.

    ``-P``: a folder named like ours in the working directory is not imported.
    """
    package = str(Path(countersign.__file__).resolve().parent.parent)
    return [sys.executable, "-P", "-c", _BOOT, package, module, *arguments]


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
        """The command line of the child."""
        return module_command(__name__, json.dumps(asdict(self)))

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
    threading.Thread(target=_watch_parent, args=(me.parent,), daemon=True).start()
    try:
        settings = load()
        if me.kind == "work":
            run_background(settings)
        else:
            to_stderr(settings.log)
            _run_servers(me)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told by the exit code
        raise SystemExit(_judged(error)) from None


def _judged(error: BaseException) -> int:
    """Say why the process ends, a bug with its traceback; return the exit code."""
    import asyncpg

    from audit.keys import KeyFileError
    from authz.policy import PolicyError
    from schema.errors import ConsoleError, described

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    sentence = " ".join(str(error).split())
    if isinstance(error, SettingsError | KeyFileError | PolicyError):
        sys.stderr.write(f"{sentence}\n")
        return WRONG_USE
    if isinstance(
        error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | ConsoleError
    ):
        sys.stderr.write(f"The database does not answer: {sentence}\n")
        return 1
    logging.getLogger(__name__).error("the process ends: %s", described(error))
    return 1


def _watch_parent(descriptor: int) -> None:
    """The pipe ends when the parent does: stop as if asked to, and if that takes too long, at once."""
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


def _run_servers(me: Assignment) -> None:
    from app import app

    common: dict[str, Any] = {
        "lifespan": "off",  # one for both servers, ours
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
    servers = [(_Server(uvicorn.Config(app, **common)), _sockets(me.plain))]
    if me.tls:
        tls = uvicorn.Config(app, ssl_certfile=me.cert, ssl_keyfile=me.key, **common)
        servers.append((_Server(tls), _sockets(me.tls)))
    loop_factory = servers[0][0].config.get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(app, servers))


def _sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    return [socket.socket(fileno=descriptor) for descriptor in descriptors]


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    return stop


async def _serve(app: Any, servers: Sequence[tuple[_Server, list[socket.socket]]]) -> None:
    """Serve until a signal: listeners close first, then the application ends. Raises what its start raises."""
    stop = stop_on_signals()
    async with lifespan(app):
        # What the start has made stays: a collection need not walk schema, policy and modules again to find that out.
        gc.collect()
        gc.freeze()
        stopping = asyncio.create_task(stop.wait())
        running = [asyncio.create_task(server.serve(sockets)) for server, sockets in servers]
        await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for server, _ in servers:
            server.should_exit = True
        for ended in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
    if not stop.is_set():
        raise RuntimeError("A listener ended by itself.")


def run_background(settings: Settings) -> None:
    """Seal, deliver, keep time, until SIGTERM or SIGINT."""
    to_stderr(settings.log)
    from app import run_background as background

    async def run(work: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> None:
        await work(settings, stop_on_signals())

    asyncio.run(run(background))
