"""The ground: a temporary cluster with durable commits, migrated and seeded, which vanishes with the run."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit.keys import Keys, Signer
from authz import approval_book
from authz.dev_issuer import DevIssuer
from benchmarks.seed import Seed
from countersign.database import make_database
from countersign.embedded import Cluster, find_binaries
from countersign.settings import DATABASE, Settings, load
from db import migrate

# What PostgreSQL does by itself, said once more so that no packager's default can soften it; WAL files are made ahead and
# kept, or their making would show as p99.
DURABLE: Final = ("fsync=on", "synchronous_commit=on", "full_page_writes=on", "autovacuum=on")
_ROOM: Final = (
    "shared_buffers=512MB",
    "min_wal_size=1GB",
    "max_wal_size=4GB",
    "checkpoint_timeout=30min",
    "max_connections=200",
)
_SYNCS: Final = 200
_PAGE: Final = b"\0" * 8192
_OURS: Final = ("COUNTERSIGN_", "PG", "OTEL_")
_KEPT: Final = "COUNTERSIGN_PG_BIN"


@dataclass(frozen=True)
class Ground:
    """A running, seeded database and the settings of every process on it."""

    folder: Path
    cluster: Cluster
    settings: Settings
    seed: Seed
    flush_ms: float
    seed_seconds: float

    @property
    def superuser(self) -> dict[str, Any]:
        return self.cluster.connect_kwargs(database=DATABASE)

    def tokens(self) -> dict[str, str]:
        """A token for each of the people, good for the run."""
        issuer = DevIssuer(self.settings.dev_issuer_dir)
        return {person: issuer.token(person) for person in self.seed.people_ids}


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can pass through; gone at the end, whatever happened."""
    made = Path(tempfile.mkdtemp(prefix="csb"))
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def forget_environment() -> None:
    """No variable of a developer's shell may change what is measured, or lead to a database of his."""
    for name in list(os.environ):
        if (name.startswith(_OURS) and name != _KEPT) or name == "DATABASE_URL":
            del os.environ[name]


def flush_ms(place: Path) -> float:
    """What the device takes to make one page durable: the median of two hundred ``fdatasync``."""
    taken = []
    with (place / "flush").open("wb") as file:
        for _ in range(_SYNCS):
            file.write(_PAGE)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    (place / "flush").unlink()
    return statistics.median(taken) * 1000


@contextmanager
def started(place: Path) -> Iterator[tuple[Cluster, Settings]]:
    """The cluster alone, stopped at the end."""
    home = place / "home"
    settings = load(home=home)
    cluster = Cluster(home, find_binaries(settings.pg_bin), options=(*DURABLE, *_ROOM))
    cluster.start()
    try:
        yield cluster, settings.with_socket(cluster.socket_dir)
    finally:
        cluster.stop()


async def prepared(place: Path, cluster: Cluster, settings: Settings, seed: Seed) -> Ground:
    """Migrate, seed, make the keys that a first start would make."""
    flush = flush_ms(place)
    await make_database(settings)
    await migrate.upgrade(settings.dsn("cs_owner").connect_kwargs())
    await approval_book.bring(settings.dsn("cs_owner").connect_kwargs())
    began = time.perf_counter()
    ground = Ground(place, cluster, settings, seed, flush, 0.0)
    await seed.write(cluster.connect_kwargs("cs_owner", DATABASE), ground.superuser)
    Keys.open(settings.keys_dir, create=True)
    Signer.open(settings.signer_path, settings.audit_origin, create=True)
    DevIssuer(settings.dev_issuer_dir)
    return Ground(place, cluster, settings, seed, flush, time.perf_counter() - began)
