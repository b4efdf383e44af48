"""The embedded PostgreSQL: one cluster per ``$COUNTERSIGN_HOME``, a direct child of the process that starts it.

Reached through a Unix socket in a folder of mode 0700 only, so ``trust`` is sound; nothing listens on TCP. Where the
platform can (Linux) the cluster goes down with the process that started it, however that one dies. A cluster that runs
already is adopted. A cluster killed with -9 recovers by its log at the next start.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

from countersign.postgres_binaries import (
    SHARED_STATE,
    Binaries,
    EmbeddedError,
    can_use,
    find_binaries,
    owner_user,
    reachable,
)
from countersign.settings import SOCKET_FILE, SUPERUSER, program_environment

__all__ = ["SUPERUSER", "Binaries", "Cluster", "EmbeddedError", "find_binaries"]

_PORT: Final = 5432  # only the name of the socket file
_SOCKET_LIMIT: Final = 103 if sys.platform == "darwin" else 107
_READY_SECONDS: Final = 90.0  # recovery after a crash is part of it
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.005
_LOG_BYTES: Final = 10_000_000
_PR_SET_PDEATHSIG: Final = 1
# Lines of postmaster.pid: process, data folder, start, port, socket folder, address, shared memory, status.
_PID_LINES: Final = 8
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
_LINUX: Final = sys.platform.startswith("linux")
_libc: Final = ctypes.CDLL(None, use_errno=True) if _LINUX else None


def die_with_parent(sig: signal.Signals) -> Callable[[], None] | None:
    """What a child runs before its program: ask the kernel for ``sig`` when the parent dies. ``None`` where it cannot."""
    if _libc is None:
        return None
    libc, parent = _libc, os.getpid()

    def ask() -> None:
        # After the change of user, which would clear it. The parent may have died before the call: then leave at once.
        libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


class Cluster:
    """One database cluster. ``start`` returns when it answers; ``stop`` when nothing of it runs any more.

    Call ``start`` from a thread that lives as long as the cluster should: Linux ties the child to that thread.
    """

    def __init__(self, home: Path, binaries: Binaries, *, options: Sequence[str] = ()) -> None:
        self.user = owner_user()
        self.binaries = binaries
        self.options = tuple(options)
        self.home = home.absolute()
        self.root = self._place()
        self.data = self.root / "data"
        self.log = self.root / "postgres.log"
        self.socket_dir = self.root
        self.adopted = False
        self._made_socket_dir: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None

    # ---------- what callers need ----------
    def start(self) -> None:
        """Make the cluster if there is none, adopt it if it runs, else start it. Raises ``EmbeddedError``."""
        self.binaries = reachable(self.binaries, self.user)
        if not self._adopt():
            self._start()
        (self.home / SOCKET_FILE).write_text(str(self.socket_dir))  # for other commands of this home

    def _start(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._initialize()
        self._choose_socket_dir()
        deadline = time.monotonic() + _READY_SECONDS
        while not self._launch(deadline):
            # Back ends of a killed server need a moment to notice; PostgreSQL refuses to start until they are gone.
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it, started or adopted: sessions are cut, the log is flushed, no process stays."""
        pid, child = self._pid, self._child
        if pid is None:
            return
        if child is not None:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)  # fast shutdown
                try:
                    child.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGQUIT)  # immediate: recovers by its log next time
                    child.wait(_STOP_SECONDS)
        else:
            self._stop_other(pid)
        self._pid = self._child = None
        (self.home / SOCKET_FILE).unlink(missing_ok=True)
        if self._made_socket_dir is not None:
            shutil.rmtree(self._made_socket_dir, ignore_errors=True)
            self._made_socket_dir = None

    def release(self) -> None:
        """Stop it only if this process started it; an adopted one goes on for the process that serves from it."""
        if not self.adopted:
            self.stop()

    def running(self) -> bool:
        """Whether the postmaster lives (reaps it if it was ours and died)."""
        if self._child is not None:
            return self._child.poll() is None
        return self._pid is not None and _alive(self._pid)

    @property
    def pid(self) -> int | None:
        return self._pid

    def connect_kwargs(self, user: str = SUPERUSER, database: str = "postgres") -> dict[str, Any]:
        """Arguments for ``asyncpg.connect``."""
        return {"host": str(self.socket_dir), "port": _PORT, "user": user, "database": database}

    # ---------- places ----------
    def _place(self) -> Path:
        """``home/pg-<major>``, or a folder of the system's where PostgreSQL's user cannot reach the home."""
        make_home(self.home)
        name = f"pg-{self.binaries.major}"
        root = self.home / name
        if self.user is not None and not can_use(self.user, self.home, "-x"):
            root = SHARED_STATE / hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16] / name
            root.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        if not root.exists():
            root.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(root, self.user.uid, self.user.gid)
        root.chmod(0o700)
        return root

    def _choose_socket_dir(self) -> None:
        if len(os.fsencode(self.root / f".s.PGSQL.{_PORT}")) <= _SOCKET_LIMIT:
            self.socket_dir = self.root
            return
        if self._made_socket_dir is None:
            self._made_socket_dir = Path(tempfile.mkdtemp(prefix="countersign-"))  # 0700
            if self.user is not None:
                os.chown(self._made_socket_dir, self.user.uid, self.user.gid)
        self.socket_dir = self._made_socket_dir

    # ---------- making and starting ----------
    def _run_kwargs(self) -> dict[str, Any]:
        kwargs: dict[str, Any] = {"cwd": "/", "env": program_environment(), "stdin": subprocess.DEVNULL}
        if self.user is not None:
            kwargs |= self.user.popen_kwargs()
        return kwargs

    def _initialize(self) -> None:
        """``initdb`` beside the final place, then one rename: an interrupted one leaves no half-made cluster behind."""
        if self.data.exists() and any(self.data.iterdir()):
            raise EmbeddedError(
                f"{self.data} is not a PostgreSQL data folder (no PG_VERSION), and it is not empty. Move it away to begin with a new database,"
                " or restore it from a backup."
            )
        staging = self.root / "data.new"
        shutil.rmtree(staging, ignore_errors=True)
        command: list[str | Path] = [
            self.binaries.directory / "initdb",
            "-D",
            staging,
            "-U",
            SUPERUSER,
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        command += ["--no-locale", "-N", "-k", "--no-instructions"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, **self._run_kwargs())
        except subprocess.CalledProcessError as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise EmbeddedError(
                f"initdb failed in {self.root}: {_last_line(error.stderr)} Set DATABASE_URL, or COUNTERSIGN_HOME to another folder."
            ) from error
        except OSError as error:
            raise EmbeddedError(
                f"initdb of {self.binaries.directory} cannot be run ({error}). Set COUNTERSIGN_PG_BIN, or DATABASE_URL."
            ) from error
        if self.data.exists():
            self.data.rmdir()
        staging.rename(self.data)

    def _launch(self, deadline: float) -> bool:
        """Start the postmaster and wait for it. False: try again, the back ends of its killed predecessor are still leaving."""
        found = (self.data / "PG_VERSION").read_text().strip()
        if found != str(self.binaries.major):
            raise EmbeddedError(
                f"{self.data} belongs to PostgreSQL {found}, not {self.binaries.major}. Set COUNTERSIGN_PG_BIN to PostgreSQL {found}."
            )
        self._remove_stale_pid_file()
        command: list[str | Path] = [
            self.binaries.directory / "postgres",
            "-D",
            self.data,
            "-k",
            self.socket_dir,
            "-p",
            str(_PORT),
        ]
        command += [
            "-c",
            "listen_addresses=",
            "-c",
            "max_connections=200",
            "-c",
            f"shared_preload_libraries={self.binaries.preload}",
        ]
        for option in self.options:
            command += ["-c", option]
        with self._open_log() as log:
            start = log.tell()
            child = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGINT),  # noqa: PLW1509 - one call into the C library, loaded before the fork
                **self._run_kwargs(),
            )
        while True:
            lines = self._pid_file()
            if len(lines) >= _PID_LINES and lines[0] == str(child.pid) and lines[7].strip() == "ready":
                break
            if child.poll() is not None:
                said = self._log_since(start)
                if "pre-existing shared memory block" in said and time.monotonic() < deadline:
                    return False
                raise EmbeddedError(
                    f"PostgreSQL does not start on {self.data}: {_last_line(said)} The whole story is in {self.log}. Restore the folder from a"
                    " backup, or move it away to begin with a new database."
                )
            if time.monotonic() > deadline:
                child.send_signal(signal.SIGQUIT)
                child.wait(_STOP_SECONDS)
                raise EmbeddedError(f"PostgreSQL was not ready after {_READY_SECONDS:.0f} s; see {self.log}.")
            time.sleep(_POLL_SECONDS)
        self._child, self._pid, self.adopted = child, child.pid, False
        (self.root / "starter.pid").write_text(str(os.getpid()))
        return True

    def _open_log(self) -> IO[bytes]:
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        log = self.log.open("ab")
        if self.user is not None:
            os.chown(self.log, self.user.uid, self.user.gid)
        log.seek(0, os.SEEK_END)
        return log

    def _log_since(self, start: int) -> str:
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    # ---------- a server that is there already ----------
    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _adopt(self) -> bool:
        """Use the running server of this folder, once it is ready; False when there is none or it is on its way down."""
        deadline = time.monotonic() + _READY_SECONDS
        orphan_until = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            lines = self._pid_file()
            if len(lines) < _PID_LINES - 3 or not lines[0].isdigit() or not self._is_postmaster(int(lines[0])):
                return False
            status = lines[7].strip() if len(lines) >= _PID_LINES else "starting"
            # Where its starter was killed, the kernel is taking it down at this moment, unless it was started without that bond.
            staying = not self._starter_is_dead() or time.monotonic() > orphan_until
            if status == "ready" and staying and _answers(Path(lines[4]) / f".s.PGSQL.{lines[3]}"):
                self.socket_dir, self._pid, self._child, self.adopted = Path(lines[4]), int(lines[0]), None, True
                return True
            time.sleep(0.02)
        raise EmbeddedError(
            f"Another PostgreSQL (process {self._pid_file()[0]}) holds {self.data} and does not answer. Stop it, then try again."
        )

    def _starter_is_dead(self) -> bool:
        try:
            starter = int((self.root / "starter.pid").read_text())
        except (FileNotFoundError, ValueError):
            return False
        return _LINUX and not _alive(starter)

    def _is_postmaster(self, pid: int) -> bool:
        """Whether ``pid`` is alive and may be this folder's server. In a container a dead server's number is soon another's."""
        if not _alive(pid):
            return False
        if not _LINUX:
            return True
        try:
            return (
                Path(f"/proc/{pid}/cwd").readlink() == self.data.resolve()
            )  # the postmaster changes into its data folder
        except OSError:
            return True

    def _remove_stale_pid_file(self) -> None:
        """PostgreSQL removes a dead server's file itself; not one whose number belongs to another program by now, or to a zombie.

        Only when no process works in the data folder: a killed server's back ends may still write to its files.
        """
        lines = self._pid_file()
        if (
            not lines
            or not _LINUX
            or not lines[0].isdigit()
            or not _exists(int(lines[0]))
            or self._is_postmaster(int(lines[0]))
        ):
            return
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    if (process / "cwd").readlink() == self.data.resolve():
                        return
                except OSError:
                    continue
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _stop_other(self, pid: int) -> None:
        for sig in (signal.SIGINT, signal.SIGQUIT):
            if not self._is_postmaster(pid):
                return
            os.kill(pid, sig)
            deadline = time.monotonic() + _STOP_SECONDS
            while _alive(pid) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        if _alive(pid):
            raise EmbeddedError(f"PostgreSQL (process {pid}) does not stop; see {self.log}.")


def make_home(home: Path) -> None:
    """Make ``$COUNTERSIGN_HOME``: 0711, so that PostgreSQL's user can pass through to its own folder and see nothing else.

    A folder with something in it may be more than ours: its mode stays.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        if next(home.iterdir(), None) is None:
            home.chmod(0o711)
    except OSError as error:
        raise EmbeddedError(
            f"COUNTERSIGN_HOME={home} cannot be made ({error.strerror}). Set COUNTERSIGN_HOME to a folder of yours."
        ) from error


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _alive(pid: int) -> bool:
    """Whether the process runs: a zombie that nobody reaps does not."""
    if not _exists(pid):
        return False
    if not _LINUX:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _answers(path: Path) -> bool:
    """Whether a PostgreSQL speaks at this socket: it answers an SSL request with one letter."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
            probe.sendall(_SSL_REQUEST)
            return probe.recv(1) in (b"S", b"N")
        except OSError:
            return False


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if "FATAL" in line or "PANIC" in line or "error" in line]
    chosen = (fatal or lines or ["it said nothing."])[-1]
    return chosen if chosen.endswith(".") else chosen + "."
