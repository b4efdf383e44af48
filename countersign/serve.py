"""``countersign serve``: starts the database, migrates, seeds, binds the ports, and keeps the processes alive.

The supervisor itself serves nothing and has no thread. Everything it starts ends with it: children by a pipe, the cluster
by the kernel. Order of a stop: serving processes (running requests end), the background child (seals what they wrote),
the cluster.
"""

from __future__ import annotations

import asyncio
import fcntl
import http
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO, Final

from countersign import tls
from countersign.children import Child, GivenUpError, life_line, stop_all
from countersign.database import prepare
from countersign.embedded import Cluster, find_binaries, make_home
from countersign.listening import bind, visible
from countersign.settings import Settings
from countersign.worker_process import Assignment, module_command

_POLL_SECONDS: Final = 0.2
_DRAIN_SECONDS: Final = 9.0
_BACKGROUND_SECONDS: Final = 4.0
_CLUSTER_DEATHS: Final = 100
_IMPATIENT_SECONDS: Final = 60.0
_BACKGROUND_LATER_SECONDS: Final = 1.5
_SHOWN_HANDLE: Final = "support-agent"

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


class ServeError(Exception):
    """The server cannot start or go on; the message says what to do."""


@dataclass(frozen=True)
class Options:
    """The command's options."""

    host: str = "127.0.0.1"
    port: int = 8000
    tls_port: int = 8443
    workers: int = 1
    demo: bool = True
    migrate: bool = False


@dataclass(frozen=True)
class _Voice:
    say: Say
    progress: Progress


class _Stop(BaseException):
    """A signal asked for the end while something was being prepared. Not an ``Exception``: nothing may swallow it."""


def serve(settings: Settings, options: Options, say: Say, progress: Progress) -> None:
    """Run until SIGINT or SIGTERM. Raises ``ServeError``, ``EmbeddedError``, ``PortError`` or ``MigrationError``."""
    with ExitStack() as stack, _signals() as signals:
        try:
            if not settings.serves_loopback and not settings.hosts:
                raise ServeError(
                    "Nobody could call this server: set COUNTERSIGN_ALLOWED_HOSTS to the names that its clients use."
                )
            make_home(settings.home_path)
            stack.enter_context(_only_server(settings))
            plain = bind(options.host, options.port, "--port")
            secure = bind(options.host, options.tls_port, "--tls-port") if options.tls_port else []
            for listener in (*plain, *secure):
                stack.enter_context(listener)
            port, tls_port = plain[0].getsockname()[1], secure[0].getsockname()[1] if secure else 0
            cluster: Cluster | None = None
            if settings.embedded:
                say("Starting PostgreSQL")
                cluster = Cluster(settings.home_path, find_binaries(settings.pg_bin))
                stack.callback(cluster.stop)
                cluster.start()
                settings = settings.with_socket(cluster.socket_dir)
            asyncio.run(prepare(settings, _Voice(say, progress), demo=options.demo, may_migrate=options.migrate))
            certificate = _certificate(settings) if secure else None
            public = f"http://{visible(options.host)}:{port}"
            reading, writing = life_line()
            stack.callback(os.close, writing)
            stack.callback(os.close, reading)
            environment = settings.child_environment(_child_settings(settings, options, public, tls_port))
            assignment = Assignment(
                "serve",
                reading,
                tuple(one.fileno() for one in plain),
                tuple(one.fileno() for one in secure),
                str(certificate.cert) if certificate else "",
                str(certificate.key) if certificate else "",
            )
            serving = [Child(f"serving ({n})", assignment, environment, say) for n in range(1, options.workers + 1)]
            background = [Child("background", Assignment("work", reading), environment, say)]
            # Reverse order of what a stop does: the cluster's callback stands first, so it runs last.
            stack.callback(stop_all, background, _BACKGROUND_SECONDS)
            stack.callback(stop_all, serving, _DRAIN_SECONDS)
            if settings.uses_dev_issuer:
                stack.enter_context(_graphiql(environment, say))
            say(
                f"Starting {options.workers} serving process{'es' if options.workers > 1 else ''} and the background one"
            )
            _Watch(settings, options, cluster, [*background, *serving], say, public, tls_port).run(signals)
        except _Stop:
            pass
        finally:
            signals.stopping = True  # a second signal while stopping does not cut the stop short
        say("Stopping")


@dataclass
class _Signals:
    asked: bool = False
    raising: bool = True
    stopping: bool = False

    def handle(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self.raising and not self.stopping:
            self.stopping = True
            raise _Stop


@contextmanager
def _signals() -> Iterator[_Signals]:
    state = _Signals()
    before = {sig: signal.signal(sig, state.handle) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield state
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


@contextmanager
def _only_server(settings: Settings) -> Iterator[IO[str]]:
    """One server per home: the second one would stop the first one's cluster. The lock ends with the process."""
    with (settings.home_path / "serve.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise ServeError(
                f"Another server runs with COUNTERSIGN_HOME={settings.home_path} (process {lock.read().strip() or 'unknown'}). Stop it, or set"
                " COUNTERSIGN_HOME to another folder."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


@contextmanager
def _graphiql(environment: Mapping[str, str], say: Say) -> Iterator[None]:
    """Fetch GraphiQL beside the starting server where it is missing; nothing waits for it, and it ends with the server."""
    from resolvers.graphiql import installed

    if installed():
        yield
        return
    say("GraphiQL is being fetched in the background")
    fetching = subprocess.Popen(
        module_command("countersign.graphiql"), env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        if fetching.poll() is None:
            os.killpg(fetching.pid, signal.SIGKILL)  # npm and what it started
        fetching.wait()


def _certificate(settings: Settings) -> tls.Certificate:
    if settings.tls_cert is not None and settings.tls_key is not None:
        return tls.Certificate(settings.tls_cert, settings.tls_key, None)
    return tls.ensure(settings.tls_dir)


def _child_settings(settings: Settings, options: Options, public: str, tls_port: int) -> dict[str, str]:
    told = {"COUNTERSIGN_PUBLIC_URL": public}
    if tls_port:
        told["COUNTERSIGN_TLS_PORT"] = str(tls_port)
    if settings.embedded and not options.demo:
        told["COUNTERSIGN_DEMO"] = "false"
    return told


@dataclass
class _Watch:
    """The supervisor's loop: keeps children and cluster alive, and says once when all is ready."""

    settings: Settings
    options: Options
    cluster: Cluster | None
    children: list[Child]
    say: Say
    public: str
    tls_port: int

    def run(self, signals: _Signals) -> None:
        for child in self.children:
            if child.assignment.kind == "work":
                # What it does can wait for those who answer: on two cores a third start would slow all of them down.
                child.not_before = time.monotonic() + _BACKGROUND_LATER_SECONDS
            else:
                child.start()
        signals.raising = False  # from here on the loop looks by itself
        began, announced, worried, cluster_deaths = time.monotonic(), False, False, 0
        while not signals.asked:
            if self.cluster is not None and not self.cluster.running():
                cluster_deaths += 1
                if cluster_deaths > _CLUSTER_DEATHS:
                    raise ServeError(f"PostgreSQL died {cluster_deaths} times; see {self.cluster.log}.")
                self.say("PostgreSQL ended; starting it again")
                self.cluster.start()
            try:
                for child in self.children:
                    child.tend()
            except GivenUpError as error:
                raise ServeError(str(error)) from None
            if not announced:
                ready, body = _ready(self.public, min(self.settings.hosts, default=None))
                if ready:
                    announced = True
                    self._announce()
                elif not worried and time.monotonic() - began > _IMPATIENT_SECONDS:
                    worried = True
                    self.say(f"Not ready yet after {_IMPATIENT_SECONDS:.0f} s: {body}")
            time.sleep(_POLL_SECONDS)

    def _announce(self) -> None:
        lines = [
            f"Countersign is ready ({self.settings.database_label}).",
            f"  GraphiQL     {self.public}/graphql",
            f"  API          POST {self.public}/graphql",
        ]
        if self.tls_port:
            secure = f"https://localhost:{self.tls_port}/graphql"
            authority = "" if self.settings.tls_cert else f"  (authority: {self.settings.tls_dir / 'ca.pem'})"
            lines.append(f"  TLS          {secure}{authority}")
            lines.append(f"  Real time    wss://localhost:{self.tls_port}/graphql/realtime")
        if self.settings.uses_dev_issuer:
            lines += self._token()
        self.say("\n".join(lines))

    def _token(self) -> list[str]:
        from datetime import timedelta

        from countersign.dev_tokens import NobodyError, issue

        if not self.options.demo:
            return ["  Token        countersign token --as HANDLE   (`countersign staff list` names the handles)"]
        try:
            token = asyncio.run(issue(self.settings, _SHOWN_HANDLE, ttl=timedelta(hours=1)))
        except NobodyError:
            return ["  Token        countersign token --as HANDLE   (`countersign staff list` names the handles)"]
        demo = f"countersign demo{self._ports()}   |   " if self.tls_port else ""  # the demo listens over TLS
        return [
            f"  Token        of {_SHOWN_HANDLE}, one hour (others: countersign token --as HANDLE, countersign staff list):",
            token,
            f"  Try next     {demo}countersign query --as support-agent '{{ me {{ staff {{ displayName }} }} }}'",
        ]

    def _ports(self) -> str:
        """What `countersign demo` must be told to find this server."""
        port = self.public.rpartition(":")[2]
        told = f" --port {port}" if port != "8000" else ""
        return told + (f" --tls-port {self.tls_port}" if self.tls_port != 8443 else "")  # noqa: PLR2004 - the demo's defaults


def _ready(public: str, host: str | None) -> tuple[bool, str]:
    """Whether the server answers that it is ready, asked by a ``host`` name that it lets in; and what it said."""
    connection = http.client.HTTPConnection(public.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", "/readyz", headers={"Host": host} if host else {})
        answer = connection.getresponse()
        body = answer.read(4096).decode(errors="replace")
        return answer.status == http.HTTPStatus.OK, _compact(body)
    except (OSError, http.client.HTTPException) as error:
        return False, str(error)
    finally:
        connection.close()


def _compact(body: str) -> str:
    try:
        return json.dumps(json.loads(body))
    except ValueError:
        return body.strip()
