"""The serving processes of a run: started, pinned, asked for their CPU time, and ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.load import Client
from countersign.children import life_line
from countersign.settings import Settings
from countersign.worker_process import Assignment

_ROOT: Final = Path(__file__).resolve().parent.parent
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 15.0


class NotReadyError(Exception):
    """A row does not serve; the message has its last words."""


@dataclass(frozen=True)
class Serving:
    """A row that answers at ``port``."""

    row: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cpu(self) -> float:
        """CPU seconds so far, all threads."""
        return _cpu(self.process.pid)

    def ask_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def serving(settings: Settings, rows: dict[str, str], log: Path) -> Iterator[dict[str, Serving]]:
    """Start every row (name -> what ``benchmarks.serving`` is told), wait until each listens and answers, pin, yield."""
    with contextlib.ExitStack() as stack:
        reading, writing = life_line()
        stack.callback(os.close, writing)
        stack.callback(os.close, reading)
        output = stack.enter_context(log.open("ab"))
        started: dict[str, Serving] = {}
        for name, told in rows.items():
            listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            assignment = json.dumps(asdict(Assignment("serve", reading, (listener.fileno(),))))
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.serving", told, assignment],
                cwd=_ROOT,
                env=settings.child_environment({"COUNTERSIGN_MAX_INTAKE_ROWS": "10000000"}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(reading, listener.fileno()),
            )
            started[name] = Serving(name, listener.getsockname()[1], process)
            stack.callback(started[name].wait)
            listener.close()
        for one in started.values():
            stack.callback(one.ask_to_stop)  # all of them are asked before the first is waited for
        for one in started.values():
            _wait(one, log)
        pin([one.process.pid for one in started.values()], server_cores())
        yield started


def _wait(one: Serving, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while one.process.poll() is None and time.monotonic() < deadline:
        # The listener exists before the process serves: whoever connects waits for its first answer.
        with contextlib.suppress(OSError, TimeoutError):
            if Client.once(one.port, b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n\r\n{}"):
                return
    raise NotReadyError(f"{one.row} does not serve: {log.read_text(errors='replace')[-2000:]}")


def pin(pids: Iterable[int], cores: set[int]) -> None:
    """Keep processes on these cores; where that is not allowed, or there is only one, nothing is pinned."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cores)


def server_cores() -> set[int]:
    """One core is the servers' alone; there is only one loaded at a time."""
    return {0}


def other_cores() -> set[int]:
    """Load and database share the rest."""
    return set(range(1, os.cpu_count() or 1)) or {0}


@dataclass
class Tree:
    """The CPU time of a postmaster and its back ends."""

    root: int

    def pids(self) -> list[int]:
        found = [self.root]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == self.root:
                        found.append(int(entry.name))
        return found

    def spent(self) -> dict[int, float]:
        """CPU seconds by process."""
        return {pid: _cpu(pid) for pid in self.pids()}

    def since(self, before: dict[int, float]) -> float:
        """CPU seconds since ``before``, of those that still run: what an ended one took is not known any more."""
        return sum(seconds - before.get(pid, 0.0) for pid, seconds in self.spent().items())


def _cpu(pid: int) -> float:
    """CPU seconds of all threads: in nanoseconds where the kernel keeps them, else in ticks."""
    try:
        spent = [int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()]
    except (OSError, IndexError):
        spent = [0]
    if any(spent):
        return sum(spent) / 1e9
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_kib(pid: int) -> dict[str, int]:
    """``Rss`` and ``Pss`` of one process, from the kernel's own sum."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name] = int(value.split()[0])
    return found
