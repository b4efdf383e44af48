"""``countersign doctor``: looks at everything the server stands on and says what to do. Changes nothing, prints no secret."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg

from countersign.settings import (
    Exporter,
    Settings,
    SettingsError,
    Signal,
    load,
    printable_endpoint,
    unknown_variables,
)

Verdict = Literal["ok", "note", "wrong"]
_OLDEST: Final = 150_000
_SKEW_NOTE_SECONDS: Final = 5
_SKEW_WRONG_SECONDS: Final = 60  # step-up and approvals are refused beyond it (FC-8)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``wrong`` must be put right; a ``note`` is worth knowing."""

    about: str
    verdict: Verdict
    text: str


# What no serving role may hold, as pg_catalog says it: strong attributes, writing people and grants, touching the log's tables.
_STRONG_ROLES: Final = """
SELECT rolname FROM pg_roles
WHERE rolname = ANY ($1::text[]) AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication) ORDER BY 1
"""
_TOO_MUCH: Final = """
SELECT r.rolname || ' may ' || p.privilege || ' ' || c.oid::regclass AS what
FROM pg_roles r
CROSS JOIN pg_class c
CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('TRIGGER')) AS p (privilege)
WHERE r.rolname IN ('cs_app', 'cs_worker') AND c.relkind IN ('r', 'p')
  AND has_table_privilege(r.oid, c.oid, p.privilege)
  AND (c.relnamespace = to_regnamespace('audit')
       OR (c.relnamespace = to_regnamespace('public') AND (c.relname IN ('staff', 'staff_grant', 'authz_version', 'approval_policy') OR p.privilege IN ('TRUNCATE', 'TRIGGER'))))
ORDER BY 1
"""
_UNPROTECTED: Final = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p') AND a.attname = 'city_id' AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
ORDER BY 1
"""
_UNPINNED: Final = """
SELECT p.oid::regprocedure::text FROM pg_proc p
WHERE p.pronamespace IN (to_regnamespace('public'), to_regnamespace('audit')) AND p.prosecdef
  AND NOT EXISTS (SELECT 1 FROM unnest(p.proconfig) AS setting WHERE setting LIKE 'search_path=%')
ORDER BY 1
"""
_SLEEPING_GUARDS: Final = """
SELECT t.tgrelid::regclass || '.' || t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace IN (to_regnamespace('public'), to_regnamespace('audit')) AND NOT t.tgisinternal AND t.tgenabled = 'D' ORDER BY 1
"""


def examine() -> list[Finding]:
    """Look at everything, in the order in which one thing rests on another."""
    try:
        settings = load()
    except SettingsError as error:
        return [Finding("configuration", "wrong", str(error))]
    findings = [_home(settings.home_path)]
    findings += [
        Finding("configuration", "note", f"{name} is set, but no setting has that name; is it a misspelling?")
        for name in unknown_variables()
    ]
    findings += _contract()
    findings += _issuers(settings)
    findings += _files(settings)
    findings += _telemetry(settings)
    findings += _database(settings)
    return findings


def render(findings: list[Finding], *, as_json: bool) -> str:
    """For people, one line each; or JSON."""
    if as_json:
        return json.dumps([asdict(finding) for finding in findings], indent=2)
    width = max(len(finding.about) for finding in findings)
    return "\n".join(f"{finding.verdict:<5}  {finding.about.ljust(width)}  {finding.text}" for finding in findings)


def _home(home: Path) -> Finding:
    """Whether the folder is there and ours to write into, or can be made."""
    there = home
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding("configuration", "ok", f"home {home}")
    return Finding(
        "configuration",
        "wrong",
        f"home {home} cannot be made or written; set COUNTERSIGN_HOME to a folder of yours",
    )


def _contract() -> Iterator[Finding]:
    from resolvers.startup import findings

    found = findings()
    for one in found:
        yield Finding("schema", "wrong", one)
    if not found:
        yield Finding("schema", "ok", "every field has its rules")


def _issuers(settings: Settings) -> Iterator[Finding]:
    if settings.issuers:
        yield Finding("issuers", "ok", ", ".join(issuer.issuer for issuer in settings.issuers))
    elif settings.uses_dev_issuer:
        yield Finding(
            "issuers", "note", "tokens of the local dev issuer are trusted; set COUNTERSIGN_ISSUERS for real people"
        )
    else:
        yield Finding(
            "issuers", "wrong", "nobody can sign in: set COUNTERSIGN_ISSUERS (or COUNTERSIGN_DEV_ISSUER=1 for a trial)"
        )
    for key in settings.api_keys:
        if key.expires_at <= datetime.now(UTC):
            yield Finding("api keys", "note", f"{key.id} has expired")


def _files(settings: Settings) -> Iterator[Finding]:
    for about, path in (("keys", settings.keys_dir / "keys.json"), ("signing key", settings.signer_path)):
        if not path.exists():
            if settings.makes_keys:
                yield Finding(about, "ok", f"{path} is made at the first start")
            else:
                yield Finding(
                    about,
                    "wrong",
                    f"{path} is missing; restore it from its backup, or run `countersign make-keys` for a new log",
                )
        elif path.stat().st_mode & 0o077:
            yield Finding(about, "wrong", f"{path} can be read by others; run: chmod 600 {path}")
        else:
            yield Finding(about, "ok", str(path))
    yield Finding("anchor", "note", f"{settings.anchor_dir} is a folder: not WORM, its owner can replace what is in it")
    yield from _certificate(settings.tls_cert or settings.tls_dir / "server.pem", own=settings.tls_cert is not None)


def _certificate(path: Path, *, own: bool) -> Iterator[Finding]:
    from cryptography import x509

    if not path.exists():
        yield Finding("tls", "ok", f"{path} is made at the first start")
        return
    try:
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except ValueError:
        yield Finding("tls", "wrong", f"{path} is not a certificate")
        return
    left = ends - datetime.now(UTC)
    renewal = "replace it" if own else "it is renewed at the next start"
    yield Finding(
        "tls",
        "wrong" if left < timedelta(0) and own else "note" if left < timedelta(days=14) else "ok",
        f"good until {ends:%Y-%m-%d}; {renewal}",
    )


def _telemetry(settings: Settings) -> Iterator[Finding]:
    """A collector that is not there costs nothing but what it would have been told, so it is a note (FC-12)."""
    from countersign.collector import knock

    told = settings.telemetry
    if not told.on:
        yield Finding("telemetry", "ok", "off; OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 turns it on")
        return
    chosen: list[tuple[Signal, tuple[Exporter, ...]]]
    chosen = [("traces", told.traces), ("metrics", told.metrics), ("logs", told.logs)]
    for signal, exporters in chosen:
        for exporter in exporters:
            problem = knock(told, signal) if exporter == "otlp" else None
            where = "the console" if exporter == "console" else printable_endpoint(told.endpoint(signal))
            yield Finding("telemetry", "note" if problem else "ok", f"{signal} to {where}{problem or ''}")


class _Quiet:
    """Takes no notice."""

    def say(self, text: str) -> None:
        """Nothing."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Nothing."""


def _database(settings: Settings) -> list[Finding]:
    from countersign.database import opened
    from countersign.embedded import EmbeddedError, find_binaries

    found: list[Finding] = []
    if settings.embedded:
        try:
            binaries = find_binaries(settings.pg_bin)
        except EmbeddedError as error:
            return [Finding("database", "wrong", str(error))]
        found.append(Finding("database", "ok", f"embedded PostgreSQL {binaries.version}, from {binaries.source}"))
        if not (settings.home_path / "keys").exists():
            return [*found, Finding("database", "ok", "nothing there yet; the first `countersign serve` makes it")]
    else:
        found.append(Finding("database", "ok", settings.database_label))
    try:
        with opened(settings, _Quiet(), ready=False) as ready:
            return [*found, *asyncio.run(_inside(ready))]
    except EmbeddedError as error:
        return [*found, Finding("database", "wrong", str(error))]
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [*found, Finding("database", "wrong", f"does not answer: {' '.join(str(error).split())}")]


async def _inside(settings: Settings) -> list[Finding]:
    from db import migrate

    found: list[Finding] = []
    conn: asyncpg.Connection[Any] = await asyncpg.connect(**settings.superuser_kwargs())
    try:
        version, number = (
            await conn.fetchval("SHOW server_version"),
            await conn.fetchval("SELECT current_setting('server_version_num')::int"),
        )
        verdict: Verdict = "ok" if number >= _OLDEST else "wrong"
        found.append(
            Finding(
                "database",
                verdict,
                f"answers, PostgreSQL {version}" + ("" if verdict == "ok" else "; 15 or newer is needed"),
            )
        )
        found += await _rights(conn)
        skew = abs((datetime.now(UTC) - await conn.fetchval("SELECT clock_timestamp()")).total_seconds())
        far: Verdict = "wrong" if skew > _SKEW_WRONG_SECONDS else "note" if skew > _SKEW_NOTE_SECONDS else "ok"
        found.append(
            Finding(
                "clock",
                far,
                f"{skew:.1f} s from the database's" + ("" if far == "ok" else "; set the clocks by one source"),
            )
        )
    finally:
        await conn.close()
    try:
        standing = await migrate.status(settings.dsn("cs_owner").connect_kwargs())
    except (migrate.MigrationError, asyncpg.PostgresError) as error:
        return [*found, Finding("migrations", "wrong", " ".join(str(error).split()))]
    if standing.at_head:
        found.append(Finding("migrations", "ok", f"at {standing.current}"))
        found += await _approval_policies(settings.dsn("cs_owner").connect_kwargs())
    else:
        found.append(
            Finding("migrations", "wrong", f"missing: {', '.join(standing.pending)}; run `countersign migrate up`")
        )
    return found


async def _approval_policies(owner: dict[str, Any]) -> list[Finding]:
    """Whether the stored approval policies can be decided by, and where they are not those of this release."""
    from authz import approval_book

    try:
        found = await approval_book.checked(owner)
    except approval_book.BookError as error:
        return [
            Finding(
                "approvals",
                "wrong",
                f"{error}; `countersign migrate up` brings what this release ships, a wrong row needs an administrator",
            )
        ]
    notes = [
        Finding("approvals", "note", one.text if one.kind == "CHANGED" else f"{one.text}; run `countersign migrate up`")
        for one in found
    ]
    return notes or [Finding("approvals", "ok", "policies as shipped")]


async def _rights(conn: asyncpg.Connection[Any]) -> list[Finding]:
    from db.migrate import ROLES

    existing = {
        row["rolname"]
        for row in await conn.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY ($1::text[])", list(ROLES))
    }
    missing = [role for role in ROLES if role not in existing]
    if missing:
        return [Finding("roles", "wrong", f"missing: {', '.join(missing)}; run `countersign migrate up`")]
    found = [
        Finding(
            "roles",
            "wrong",
            f"{row['rolname']} is too strong: take SUPERUSER, BYPASSRLS, CREATEROLE, CREATEDB, REPLICATION from it",
        )
        for row in await conn.fetch(_STRONG_ROLES, list(ROLES))
    ]
    found += [Finding("roles", "wrong", f"{row['what']}: revoke it") for row in await conn.fetch(_TOO_MUCH)]
    found += [
        Finding("guards", "wrong", f"{row[0]} does not force row-level security")
        for row in await conn.fetch(_UNPROTECTED)
    ]
    found += [
        Finding("guards", "wrong", f"{row[0]} is SECURITY DEFINER without a search_path")
        for row in await conn.fetch(_UNPINNED)
    ]
    found += [
        Finding("guards", "wrong", f"the trigger {row[0]} is disabled") for row in await conn.fetch(_SLEEPING_GUARDS)
    ]
    return found or [Finding("roles", "ok", "rights, row-level security and guards are as migrated")]
