"""The command as a person meets it: its words, its exit codes, and the audit log from the shell."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
import pytest_asyncio
from typer.main import get_command

from audit.anchor import DirectoryAnchor
from audit.keys import Keys, Signer
from audit.record import new_record, service_actor
from audit.sealer import Sealer
from audit.writer import Writer
from authz.issuers import match_api_key, parse_api_keys
from authz.requirements import FLOOR
from countersign.cli import app, main
from countersign.cli_console import Console
from countersign.database import prepare
from countersign.embedded import Cluster, find_binaries
from countersign.settings import Settings, load
from db.pool import open_pool
from db.unit_of_work import uuid7
from tests.conftest import UNSAFE_BUT_FAST, private_folder

ROOT = Path(__file__).parents[2]


def _environment(home: Path, **more: str) -> dict[str, str]:
    ours = [name for name in os.environ if name.startswith("COUNTERSIGN_") and name != "COUNTERSIGN_PG_BIN"]
    kept = {k: v for k, v in os.environ.items() if k not in (*ours, "DATABASE_URL")}
    return {**kept, "COUNTERSIGN_HOME": str(home), **more}


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def _run(home: Path, *args: str, stdin: str = "", **more: str) -> Done:
    """Run the command in this process, a second faster than in one of its own."""
    out, err, code, environment = io.StringIO(), io.StringIO(), 0, _environment(home, **more)
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        for name in [name for name in os.environ if name.startswith("COUNTERSIGN_") or name == "DATABASE_URL"]:
            patched.delenv(name)
        for name, value in environment.items():
            patched.setenv(name, value)
        patched.setattr(sys, "argv", ["countersign", *args])
        patched.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def _process(home: Path, *args: str, **more: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "countersign", *args],
        cwd=ROOT,
        env=_environment(home, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Home:
    """A home with the demo in its cluster, which runs, as beside a server."""

    path: Path
    settings: Settings
    cluster: Cluster

    def run(self, *args: str, **more: Any) -> Done:
        return _run(self.path, *args, **more)

    async def ran(self, *args: str) -> Done:
        """As ``run``, beside the running loop of an async test."""
        return await asyncio.to_thread(self.run, *args)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home() -> AsyncIterator[Home]:
    folder = private_folder()
    pg_bin = os.environ.get("COUNTERSIGN_PG_BIN")
    cluster = Cluster(folder / "home", find_binaries(Path(pg_bin) if pg_bin else None), options=UNSAFE_BUT_FAST)
    cluster.start()
    settings = load(home=folder / "home", socket_dir=cluster.socket_dir, database_url=None)
    await prepare(settings, Console(quiet=True), demo=True)
    yield Home(folder / "home", settings, cluster)
    cluster.stop()
    shutil.rmtree(folder)


@pytest.fixture
def empty() -> Iterator[Path]:
    folder = private_folder()
    yield folder / "home"
    shutil.rmtree(folder)


# ---------- words ----------
def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(_commands(get_command(app)))


def test_the_commands_of_the_interface_are_there() -> None:
    assert {" ".join(path) for path in COMMANDS} >= {
        "serve",
        "work",
        "token",
        "demo",
        "query",
        "staff list",
        "schema print",
        "schema check",
        "amplify-outputs",
        "policy explain",
        "policy approvals",
        "migrate up",
        "migrate down",
        "migrate status",
        "audit verify",
        "audit export",
        "audit checkpoint",
        "audit prove",
        "doctor",
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_helps_with_an_example(path: tuple[str, ...]) -> None:
    assert f"Example: countersign {' '.join(path)}" in COMMANDS[path].help
    for parameter in COMMANDS[path].params:
        assert parameter.name == "as_json" or parameter.help, f"{path} {parameter.name}"


def test_help_loads_nothing_heavy(empty: Path) -> None:
    script = "import sys; sys.argv = ['countersign', '--help']\nfrom countersign.cli import main\ntry: main()\nexcept SystemExit: print(sorted(m for m in ('asyncpg', 'strawberry', 'sqlalchemy', 'uvicorn', 'casbin', 'alembic', 'pydantic') if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=_environment(empty), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("nonsense",), "No such command"),
        (("token",), "--as"),
        (("token", "--as", "x", "--ttl", "soon"), "not a duration"),
        (("token", "--as", "x", "--ttl", "48h"), "at most 24h"),
        (("query", "--as", "x", "{ me }", "--variables", "[1]"), "not a JSON object"),
        (("audit", "verify", "--bundle", "x.tar"), "public key"),
        (("audit", "export", "--from", "5", "--to", "4", "--out", "x.tar"), "before the first"),
        (("serve", "--port", "99999"), "--port"),
        (("policy", "explain", "--as", "support-agent", "Mutation.nothing"), "no field of the schema"),
    ],
)
def test_wrong_use_is_exit_2(home: Home, args: tuple[str, ...], says: str) -> None:
    done = home.run(*args)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_exit_2_and_named(empty: Path) -> None:
    done = _run(empty, "staff", "list", COUNTERSIGN_POOL_SIZE="many")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: COUNTERSIGN_POOL_SIZE: ")


def test_an_error_is_one_sentence_and_debug_tells_more(empty: Path) -> None:
    plain = _process(empty, "staff", "list", DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/x")
    assert plain.returncode == 1
    assert plain.stderr.startswith("Error: The database does not answer")
    assert plain.stderr.count("\n") == 1
    debug = _process(empty, "staff", "list", "--debug", DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/x")
    assert "Traceback" in debug.stderr
    assert "hunter2" not in plain.stderr + debug.stderr


# ---------- people ----------
def test_a_token_is_one_line_of_the_dev_issuer(home: Home) -> None:
    done = home.run("token", "--as", "support-agent", "--ttl", "15m", "--auth-age", "10m")
    assert done.returncode == 0
    claims = jwt.decode(done.stdout.strip(), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 900
    assert claims["iat"] - claims["auth_time"] == 600
    assert "cognito:groups" not in claims


def test_an_unknown_handle_is_told_near_ones(home: Home) -> None:
    done = home.run("token", "--as", "support-boss")
    assert done.returncode == 1
    assert "support-agent" in done.stderr


def test_tokens_are_refused_beside_a_real_issuer(home: Home) -> None:
    issuer = {
        "issuer": "https://idp.example.test",
        "jwks": "https://idp.example.test/jwks",
        "audience": "c",
        "kind": "oidc",
    }
    done = home.run("token", "--as", "support-agent", COUNTERSIGN_ISSUERS=json.dumps([issuer]))
    assert done.returncode == 2
    assert "A real issuer is configured" in done.stderr


def test_the_staff_list_names_roles_scopes_and_amounts(home: Home) -> None:
    people = {person["handle"]: person for person in json.loads(home.run("staff", "list", "--json").stdout)}
    [grant] = people["support-agent"]["grants"]
    assert (grant["role"], grant["tier"]) == ("SUPPORT", "AGENT")
    assert (grant["refund_alone_minor"], grant["refund_request_minor"]) == (5_000, 50_000)
    assert people["ts-agent-berlin"]["grants"][0]["cities"] == ["berlin"]
    assert "support-agent" in home.run("staff", "list").stdout


@pytest.mark.contract("AZ-10")
@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (
            ("--as", "support-agent", "Mutation.requestRefund", "--city", "lisbon", "--amount", "2000"),
            0,
            "May need one approval",
        ),
        (
            ("--as", "support-agent", "Mutation.requestRefund", "--city", "lisbon", "--amount", "12000"),
            0,
            "Needs one approval",
        ),
        (("--as", "support-agent", "Mutation.requestRefund", "--amount", "5000000"), 1, "AMOUNT_CEILING_EXCEEDED"),
        (("--as", "auditor", "Mutation.requestRefund"), 1, "denies"),
    ],
)
def test_policy_explains(home: Home, args: tuple[str, ...], code: int, says: str) -> None:
    done = home.run("policy", "explain", *args)
    assert (done.returncode, done.stderr) == (code, "")
    assert says in done.stdout


def test_policy_approvals_lists_what_the_database_has(home: Home) -> None:
    done = home.run("policy", "approvals")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "refund.request/2 version 1\n  2 approvals: FINANCE; FINANCE LEAD\n  if sum24hMinor > 200000\n  approve within 24 h, execute within 1 h\n"
    ) in done.stdout
    assert "macro.publish/1 version 1\n  1 approval: TRUST_SAFETY LEAD or FINANCE LEAD\n  always\n" in done.stdout
    listed = json.loads(home.run("policy", "approvals", "--json").stdout)
    assert {one["key"] for one in listed} == set(FLOOR)
    assert all(one["version"] == 1 and one["seats"] for one in listed)


# ---------- schema, keys and migrations ----------
def test_the_schema_prints_in_three_forms(home: Home) -> None:
    assert "type Query" in home.run("schema", "print").stdout
    assert "@aws_" in home.run("schema", "print", "--format", "appsync").stdout
    printed = json.loads(home.run("schema", "print", "--format", "json").stdout)
    assert "types" in printed["__schema"]


def test_the_schema_check_passes(home: Home) -> None:
    assert home.run("schema", "check").returncode == 0
    assert json.loads(home.run("schema", "check", "--json").stdout) == {"findings": []}


def test_amplify_outputs_name_the_tls_address(home: Home, tmp_path: Path) -> None:
    printed = json.loads(home.run("amplify-outputs", "--tls-port", "9443").stdout)
    assert printed["data"]["url"] == "https://localhost:9443/graphql"
    home.run("amplify-outputs", "--tls-port", "9443", "--out", str(tmp_path / "o.json"))
    assert json.loads((tmp_path / "o.json").read_text()) == printed


def test_an_api_key_is_shown_once_and_its_entry_is_what_the_setting_takes(empty: Path) -> None:
    made = json.loads(_run(empty, "make-api-key", "app-reports", "--field", "submitReport", "--days", "30").stdout)
    [stored] = parse_api_keys(json.dumps([made["entry"]]), datetime.now(UTC))
    assert match_api_key((stored,), made["key"]) is stored
    assert (stored.service, stored.root_fields) == ("MARKETPLACE", frozenset({"submitReport"}))
    assert made["key"] not in json.dumps(made["entry"])
    refused = _run(empty, "make-api-key", "outbox", "--field", "publishAlert")
    assert refused.returncode == 2
    assert "publish* is for the IAM mode alone" in refused.stderr


def test_keys_are_made_once_and_kept(empty: Path) -> None:
    first = _run(empty, "make-keys")
    assert first.returncode == 0
    assert first.stdout.startswith("countersign.local/audit/main+")
    made = (empty / "keys" / "keys.json").read_bytes()
    assert (empty / "keys").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (empty / "keys").glob("*.[jk]*[ny]")} == {0o600}
    assert _run(empty, "make-keys").stdout == first.stdout
    assert (empty / "keys" / "keys.json").read_bytes() == made


def test_migrations_from_the_shell(empty: Path) -> None:
    before = _run(empty, "migrate", "status", "--json")
    assert before.returncode == 1
    assert json.loads(before.stdout)["current"] is None
    assert _run(empty, "migrate", "up").returncode == 0
    after = _run(empty, "migrate", "status", "--json")
    assert after.returncode == 0
    assert json.loads(after.stdout)["pending"] == []
    refused = _run(empty, "migrate", "down", "base", stdin="n\n")
    assert refused.returncode == 1
    assert _run(empty, "migrate", "down", "base", "--yes").returncode == 0
    assert _run(empty, "migrate", "up").returncode == 0


@pytest.mark.contract("PV-3")
def test_the_doctor_finds_what_is_wrong(home: Home) -> None:
    well = home.run("doctor", "--json")
    findings = json.loads(well.stdout)
    assert {finding["about"] for finding in findings} >= {
        "configuration",
        "schema",
        "issuers",
        "keys",
        "signing key",
        "tls",
        "database",
        "roles",
        "clock",
        "migrations",
    }
    assert [finding for finding in findings if finding["verdict"] == "wrong"] == []
    assert well.returncode == 0
    sick = home.run("doctor", DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/x")
    assert sick.returncode == 1
    assert "hunter2" not in sick.stdout + sick.stderr
    assert "wrong  issuers" in sick.stdout


@pytest.mark.contract("DC-6")
async def test_the_doctor_and_a_migration_tell_where_stored_and_shipped_policies_differ(home: Home) -> None:
    conn = await asyncpg.connect(**home.settings.superuser_kwargs())
    try:
        assert "policies as shipped" in (await home.ran("doctor")).stdout
        await conn.execute("SET session_replication_role = replica")  # behind the triggers' back
        await conn.execute("UPDATE approval_policy SET approve_within_seconds = 60 WHERE id = 'case.decide/1'")
        older = (await home.ran("doctor")).stdout
        assert (
            "case.decide/1 follows this release (version 1 was of an earlier one); run `countersign migrate up`"
            in older
        )
        told = await home.ran("migrate", "up")
        assert "Approval policy case.decide/1 follows this release" in told.stdout
        assert "policies as shipped" in (await home.ran("doctor")).stdout
        await conn.execute(
            "UPDATE approval_policy SET approve_within_seconds = 60, shipped = false, created_by_id = 'x', request_id = 'y'"
            " WHERE id = 'case.decide/1' AND current"
        )
        changed = await home.ran("doctor")
        assert "case.decide/1 version 2 was changed at run time and stays" in changed.stdout
        assert changed.returncode == 0
        assert "changed at run time and stays" in (await home.ran("migrate", "up")).stdout
        await conn.execute(
            "UPDATE approval_policy SET seats = '[[\"BOSS LEAD\"]]' WHERE id = 'case.decide/1' AND current"
        )
        wrong = await home.ran("doctor")
        assert wrong.returncode == 1
        assert "approval_policy case.decide/1 version 2: a seat names a role" in wrong.stdout
        refused = await home.ran("migrate", "up")
        assert (refused.returncode, "a seat names a role" in refused.stderr) == (2, True)
    finally:
        await conn.execute("DELETE FROM approval_policy WHERE id = 'case.decide/1'")
        await conn.close()
        await home.ran("migrate", "up")


async def test_the_doctor_notices_rights_and_guards(home: Home) -> None:
    conn = await asyncpg.connect(**home.settings.superuser_kwargs())
    try:
        await conn.execute(
            "GRANT UPDATE ON staff_grant TO cs_app; ALTER TABLE decision DISABLE TRIGGER decision_is_append_only; ALTER TABLE refund NO FORCE ROW LEVEL SECURITY"
        )
        said = (await home.ran("doctor")).stdout
        assert "cs_app may UPDATE staff_grant: revoke it" in said
        assert "the trigger decision.decision_is_append_only is disabled" in said
        assert "refund does not force row-level security" in said
    finally:
        await conn.execute(
            "REVOKE UPDATE ON staff_grant FROM cs_app; ALTER TABLE decision ENABLE TRIGGER decision_is_append_only; ALTER TABLE refund FORCE ROW LEVEL SECURITY"
        )
        await conn.close()


# ---------- the audit log ----------
async def _log(home: Home, count: int) -> None:
    """Leave sealed and anchored records, as the background process would."""
    settings = home.settings
    keys = Keys.open(settings.keys_dir)
    writer = Writer(keys, origin=settings.audit_origin)
    signer = Signer.open(settings.signer_path, settings.audit_origin)
    sealer = Sealer(
        settings.dsn("cs_sealer"), keys=keys, signer=signer, anchor=DirectoryAnchor(settings.anchor_dir), writer=writer
    )
    async with await open_pool(settings.dsn("cs_app"), size=1) as pool:
        for n in range(count):
            made = str(uuid7())
            record = new_record(
                id=made,
                at=datetime.now(UTC),
                kind="read",
                action="case.read",
                field="Query.getCase",
                actor=service_actor("CLI"),
                request={"id": made},
                object={"type": "Case", "id": f"case_{n}"},
            )
            await writer.reads(pool, [record])
    await writer.close()
    await sealer.run_once()
    await sealer.anchor_once()
    await sealer.close()


async def test_the_log_is_verified_exported_and_proved_from_the_shell(home: Home, tmp_path: Path) -> None:
    await _log(home, 5)
    note = (await home.ran("audit", "checkpoint")).stdout.splitlines()
    size = int(note[1])  # the five, after what the demo's people left
    assert note[0] == home.settings.audit_origin
    assert size > 5
    live = await home.ran("audit", "verify")
    assert (live.returncode, live.stderr) == (0, "")
    assert f" {size} checked" in live.stdout
    assert home.settings.pin_path.exists()
    assert json.loads((await home.ran("audit", "prove", "2", "--json")).stdout)["seq"] == 2
    assert (await home.ran("audit", "prove", "2")).stdout.startswith("c2sp.org/tlog-proof@v1\nindex 2\n")
    assert (await home.ran("audit", "prove", "99")).returncode == 1

    bundle, key = tmp_path / "log.tar", f"{home.settings.signer_path}.pub"
    done = await home.ran("audit", "export", "--from", "0", "--to", str(size - 1), "--out", str(bundle))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Wrote records 0..{size - 1} ")
    offline = await home.ran("audit", "verify", "--bundle", str(bundle), "--key", key, "--json")
    assert offline.returncode == 0
    assert json.loads(offline.stdout)["checked"] == size
    nothing = await home.ran("audit", "verify", "--bundle", str(tmp_path / "none.tar"), "--key", key)
    assert nothing.returncode == 3
    assert nothing.stderr.startswith("Cannot conclude: ")


async def test_a_forged_record_is_named_with_exit_1(home: Home) -> None:
    conn = await asyncpg.connect(**home.settings.superuser_kwargs())
    try:
        row = await conn.fetchrow(
            "SELECT id::text AS id, tableoid::regclass::text AS part FROM audit.record WHERE obj_id = 'case_3'"
        )
        async with conn.transaction():
            await conn.execute("SELECT set_config('countersign.migrating', 'on', true)")
            await conn.execute(f"ALTER TABLE {row['part']} DISABLE TRIGGER ALL")
            await conn.execute(
                f"UPDATE {row['part']} SET body = replace(body, 'case_3', 'case_4') WHERE id = $1", row["id"]
            )
    finally:
        await conn.close()
    done = await home.ran("audit", "verify")
    assert done.returncode == 1
    assert "LEAF_MISMATCH" in done.stdout
    assert row["id"] in done.stdout


def test_without_a_log_there_is_no_conclusion(empty: Path) -> None:
    done = _run(empty, "audit", "verify")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("Cannot conclude: ")
