"""The server as one whole: it comes up, keeps its processes and its database alive, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from countersign.settings import load
from tests.clients.conftest import Server, free_port
from tests.conftest import private_folder

LINUX = Path("/proc/self/cwd").exists()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = private_folder()
    running = Server(folder / "home", workers=2)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


def _until(condition: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


def _family(pid: int) -> dict[int, str]:
    """The living children of a process, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def _answers(url: str, cafile: Path | None = None) -> int:
    context = ssl.create_default_context(cafile=str(cafile)) if cafile else None
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _asks(server: Server, handle: str = "support-agent") -> str:
    """Who the server says the person is."""
    request = urllib.request.Request(
        f"{server.url}/graphql",
        json.dumps({"query": "{ me { staff { displayName } } }"}).encode(),
        {"Content-Type": "application/json", "Authorization": server.token_file(handle).read_text()},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            data = json.load(answer)["data"]
            return str(data["me"]["staff"]["displayName"]) if data else ""
    except OSError:
        return ""


async def _listeners(server: Server) -> int:
    """How many of the serving processes' listening connections there are: two each, of grants and of events."""
    conn = await asyncpg.connect(**load(home=server.home, database_url=None).superuser_kwargs())
    try:
        return int(
            await conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'cs_app' AND query LIKE 'LISTEN%'"
            )
        )
    finally:
        await conn.close()


def _pid(server: Server) -> int:
    assert server.process is not None
    return server.process.pid


def test_it_says_where_it_is_and_gives_a_token(server: Server) -> None:
    assert _until(lambda: "Countersign is ready" in server.log())
    said = server.log()
    assert f"http://127.0.0.1:{server.port}/graphql" in said
    assert f"wss://localhost:{server.tls_port}/graphql/realtime" in said
    [token] = [line for line in said.splitlines() if line.startswith("eyJ")]
    server.home.parent.joinpath("home-printed.jwt").write_text(token)
    assert _asks(server, "printed") == "Support Agent"


@pytest.mark.contract("FC-8")
def test_readiness_asks_each_part_and_the_clock_too(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=5) as answer:
        parts = json.load(answer)["parts"]
    assert {"database", "policy", "audit", "clock"} <= parts.keys()
    assert set(parts.values()) == {"ok"}


def test_plain_and_tls_answer_on_every_name_of_this_machine(server: Server) -> None:
    authority = server.home / "tls" / "ca.pem"
    assert _answers(f"http://localhost:{server.port}/healthz") == 200
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert _answers(f"https://{host}:{server.tls_port}/healthz", authority) == 200


def test_a_second_server_of_the_home_is_refused(server: Server) -> None:
    done = server.cli("serve", "--port", "0", "--tls-port", "0", check=False)
    assert done.returncode == 1
    assert f"Another server runs with COUNTERSIGN_HOME={server.home} (process {_pid(server)})" in done.stderr


def test_a_taken_port_is_said_at_once(server: Server) -> None:
    other = Server(server.home.parent / "other")
    done = other.cli("serve", "--port", str(server.port), "--tls-port", "0", check=False)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"Error: Port {server.port} on 127.0.0.1 is taken by another program. Stop it, or choose another with --port.\n"
    )
    assert sorted(path.name for path in other.home.iterdir()) == ["serve.lock"]


@pytest.mark.skipif(not LINUX, reason="reads /proc")
@pytest.mark.contract("RL-1", "RL-2")
@pytest.mark.parametrize("kind", ["serve", "work"])
def test_a_killed_child_is_replaced(server: Server, kind: str) -> None:
    def children() -> set[int]:
        return {pid for pid, line in _family(_pid(server)).items() if f'"kind": "{kind}"' in line}

    before = children()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    assert _until(lambda: len(children() - {victim}) == len(before))
    assert _until(lambda: _asks(server) == "Support Agent")


@pytest.mark.skipif(not LINUX, reason="reads /proc")
@pytest.mark.contract("RL-3", "FC-1")
def test_a_killed_database_is_started_again_and_the_workers_go_on(server: Server) -> None:
    def postmaster() -> int:
        return next((pid for pid, line in _family(_pid(server)).items() if "/postgres -D" in line), 0)

    assert _until(lambda: asyncio.run(_listeners(server)) == 2 * server.workers)  # nobody is still starting
    workers = {pid for pid, line in _family(_pid(server)).items() if '"kind": "serve"' in line}
    first = postmaster()
    os.kill(first, signal.SIGKILL)
    began = time.monotonic()
    assert _until(lambda: postmaster() not in (0, first))
    assert _until(lambda: _asks(server) == "Support Agent", 10)
    assert time.monotonic() - began < 10
    assert {pid for pid, line in _family(_pid(server)).items() if '"kind": "serve"' in line} == workers


@pytest.mark.contract("RL-13")
def test_a_stop_is_clean_and_the_next_start_finds_everything(server: Server) -> None:
    family = set(_family(_pid(server))) if LINUX else set()
    verified = server.cli("audit", "verify", check=False)
    assert verified.returncode in (0, 3), verified.stdout
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert server.process.wait(20) == 0
    assert time.monotonic() - began < 15
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []
    assert "killing it" not in server.log()
    server.start()
    assert _asks(server) == "Support Agent"


@pytest.mark.skipif(not LINUX, reason="elsewhere the next start adopts the cluster")
def test_everything_goes_down_with_a_killed_server(server: Server) -> None:
    assert _until(lambda: len(_family(_pid(server))) == 4)  # two that serve, the background one, the database
    family = set(_family(_pid(server)))
    assert server.process is not None
    server.process.kill()
    server.process.wait()

    def left() -> list[int]:
        return [
            pid for pid in family if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text()
        ]

    assert _until(lambda: left() == [])
    server.start()
    assert _asks(server) == "Support Agent"


@pytest.mark.contract("FC-14")
@pytest.mark.parametrize("name", ["keys.json", "audit-signer.key"])
def test_a_lost_key_of_a_log_with_records_is_never_replaced(server: Server, name: str) -> None:
    assert _until(lambda: server.cli("audit", "checkpoint", check=False).returncode == 0, 30)  # the log is signed
    server.stop()
    lost = server.home / "keys" / name
    kept = lost.rename(lost.with_name("kept"))
    try:
        done = server.cli("serve", "--port", str(free_port()), "--tls-port", "0", "--workers", "1", check=False)
        assert not lost.exists()
    finally:
        kept.rename(lost)
    assert done.returncode == 1
    assert f"Key file {lost} is missing. Restore it from its backup" in done.stderr
    server.start()
    assert server.cli("audit", "verify").returncode == 0


@pytest.mark.contract("FC-14")
def test_a_damaged_key_stops_the_start_with_its_name(server: Server) -> None:
    server.stop()
    keys = server.home / "keys" / "keys.json"
    good = keys.read_text()
    keys.write_text("{}")
    try:
        done = server.cli("serve", "--port", str(free_port()), "--tls-port", "0", "--workers", "1", check=False)
    finally:
        keys.write_text(good)
    assert done.returncode == 1
    # Each process that meets it says it once; after the first one's end no other is started.
    assert 1 <= done.stderr.count(f"{keys} is damaged") <= 2
    assert "cannot run like this" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
