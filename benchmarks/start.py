"""``python -m benchmarks.start [--runs N] [--documents N] [--out FILE]``: how soon ``countersign serve`` is ready, and its memory.

Cold: an empty home, so initdb, migrations, demo data and keys are in it (not the installation of the package). Warm: the
same home again. Memory: of the one serving process, at rest and after so many documents that it had never seen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz.dev_issuer import DevIssuer
from benchmarks import ground
from benchmarks.documents import http
from benchmarks.load import Client
from benchmarks.processes import Tree, resident_kib

_ROOT: Final = Path(__file__).resolve().parent.parent
_READY_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 30.0
_REST_SECONDS: Final = 3.0  # the background child starts later than the serving ones; then nothing moves any more
_POLL_SECONDS: Final = 0.01
_PACE_SECONDS: Final = 0.021  # one person's queries are limited to 50 a second: several people ask in turn
_PEOPLE: Final = ("ts-agent", "ts-senior", "ts-lead", "ts-lead-2", "ts-lead-3")  # all of them see the case asked for
_SERVING: Final = '"kind": "serve"'
_READY: Final = b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True)
class Run:
    """One cold start and one warm start, and the memory of the warm one's serving process in MiB."""

    cold_seconds: float
    warm_seconds: float
    rest: dict[str, float]
    half: dict[str, float]  # after half of the documents: equal to the end where the caches are bounded
    used: dict[str, float]
    database_rest: float
    database_used: float
    documents_seconds: float


@contextlib.contextmanager
def _served(home: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    """``countersign serve`` on free ports: the process, the port, and the seconds until it said that it is ready."""
    port, tls_port = _free_ports()
    with log.open("ab") as output:
        began = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "countersign", "serve", "--port", str(port), "--tls-port", str(tls_port)],
            cwd=_ROOT,
            env={**os.environ, "COUNTERSIGN_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        while not _is_ready(port):
            if server.poll() is not None or time.perf_counter() - began > _READY_SECONDS:
                raise RuntimeError(f"countersign serve did not become ready: {log.read_text()[-2000:]}")
            time.sleep(_POLL_SECONDS)
        yield server, port, time.perf_counter() - began
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        return b'"ready":true' in Client.once(port, _READY, seconds=2.0)
    return False


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def _child(supervisor: int) -> int:
    """The serving process of a supervisor."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == supervisor and _SERVING in (entry / "cmdline").read_bytes().decode(errors="replace"):
                return int(entry.name)
    raise RuntimeError("the supervisor has no serving process")


def _mebibytes(pid: int) -> dict[str, float]:
    return {name: kib / 1024 for name, kib in resident_kib(pid).items()}


def _database(home: Path) -> float:
    """PSS of the whole cluster in MiB: its back ends keep a prepared statement for each that the driver keeps."""
    data = next(home.glob("pg-*/data"))
    root = int((data / "postmaster.pid").read_text().split()[0])
    return sum(_mebibytes(pid)["Pss"] for pid in Tree(root).pids())


def _ask_documents(home: Path, port: int, numbers: range) -> float:
    """Send documents that differ from each other, several people in turn; raises when one is refused."""
    issuer = DevIssuer(home / "keys")
    tokens = [issuer.token("st_" + handle.replace("-", "_")) for handle in _PEOPLE]
    host = f"127.0.0.1:{port}"
    began = time.perf_counter()
    for place, n in enumerate(numbers):
        document = (
            f'query D{n} {{ a{n}: getCase(id: "case_001") {{ id b{n}: state kind subject {{ id c{n}: kind }} }} }}'
        )
        body = Client.once(port, http(host, tokens[n % len(tokens)], document, {}))
        if b'"errors":' in body or b'"kind"' not in body:
            raise RuntimeError(f"document {n}: {body[:1000].decode(errors='replace')}")
        ahead = began + (place + 1) * _PACE_SECONDS / len(tokens) - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
    return time.perf_counter() - began


def one_run(place: Path, documents: int) -> Run:
    """A home of its own, started twice."""
    home, log = place / "home", place / "serve.log"
    with _served(home, log) as (_, _, cold):
        pass
    with _served(home, log) as (server, port, warm):
        time.sleep(_REST_SECONDS)
        child = _child(server.pid)
        rest, database_rest = _mebibytes(child), _database(home)
        took = _ask_documents(home, port, range(documents // 2))
        half = _mebibytes(child)
        took += _ask_documents(home, port, range(documents // 2, documents))
        used, database_used = _mebibytes(child), _database(home)
    return Run(cold, warm, rest, half, used, database_rest, database_used, took)


def told(runs: list[Run], documents: int) -> str:
    """Medians, with all runs beside them."""
    lines = [f"{len(runs)} runs, medians (all)"]
    figures = {
        "cold start, s": [run.cold_seconds for run in runs],
        "warm start, s": [run.warm_seconds for run in runs],
        "RSS at rest, MiB": [run.rest["Rss"] for run in runs],
        "PSS at rest, MiB": [run.rest["Pss"] for run in runs],
        f"RSS after {documents // 2} documents, MiB": [run.half["Rss"] for run in runs],
        f"RSS after {documents} documents, MiB": [run.used["Rss"] for run in runs],
        f"PSS after {documents} documents, MiB": [run.used["Pss"] for run in runs],
        "PSS of PostgreSQL at rest, MiB": [run.database_rest for run in runs],
        f"PSS of PostgreSQL after {documents}, MiB": [run.database_used for run in runs],
        "ms for each new document": [run.documents_seconds / documents * 1000 for run in runs],
    }
    for name, values in figures.items():
        every = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"{name:<40}{statistics.median(values):>8.1f}  ({every})")
    return "\n".join(lines)


def main(given: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args(given)
    ground.forget_environment()
    runs = []
    for _ in range(options.runs):
        with ground.folder() as place:
            runs.append(one_run(place, options.documents))
    sys.stdout.write(told(runs, options.documents) + "\n")
    if options.out:
        options.out.write_text(json.dumps([vars(run) for run in runs], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
