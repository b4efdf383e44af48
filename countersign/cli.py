"""The ``countersign`` command. Exit code 0: yes; 1: it says no; 2: wrong use. Errors are one sentence on stderr.

Everything heavy is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

import countersign

countersign.activate()

from countersign import cli_audit, cli_migrate, cli_policy, cli_schema  # noqa: E402 - after the path is set
from countersign.cli_console import Console, duration, report  # noqa: E402

app = typer.Typer(
    name="countersign",
    help="A back office that an auditor believes. Start with: countersign serve",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="--debug anywhere shows the traceback of an error.",
)
staff = typer.Typer(help="The staff directory.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(staff, name="staff")
app.add_typer(cli_schema.app, name="schema")
app.add_typer(cli_migrate.app, name="migrate")
app.add_typer(cli_policy.app, name="policy")
app.add_typer(cli_audit.app, name="audit")

AsHandle = Annotated[
    str, typer.Option("--as", metavar="HANDLE", help="A staff member's handle; `countersign staff list` names them.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port for plain HTTP; 0 takes a free one.")]
TlsPort = Annotated[int, typer.Option(min=0, max=65535, help="Port for TLS; 0 turns it off.")]


@app.command(short_help="Start everything. This is the first command.")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    tls_port: TlsPort = 8443,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Serving processes; by default one per core, at most four.")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo/--no-demo", help="Seed the demo into an empty embedded database.")
    ] = True,
    migrate: Annotated[bool, typer.Option("--migrate", help="With DATABASE_URL: migrate first.")] = False,
) -> None:
    """Start the server; without DATABASE_URL with its own PostgreSQL and demo data.

    Example: countersign serve --port 8080 --workers 2
    """
    import os

    from countersign import serve as supervisor
    from countersign.settings import load

    console = Console()
    chosen = workers or min(4, os.cpu_count() or 1)
    options = supervisor.Options(host, port, tls_port, chosen, demo, migrate)
    supervisor.serve(load(), options, console.say, console.progress)


@app.command(short_help="Run the background process alone.")
def work() -> None:
    """Run the background process alone: it seals, delivers and keeps time. `serve` starts one by itself.

    Example: countersign work
    """
    from countersign.settings import load
    from countersign.worker_process import run_background

    settings = load()
    typer.echo(f"Working on {settings.database_label}; Ctrl-C stops.", err=True)
    run_background(settings)


@app.command(short_help="Print a token of the local issuer.")
def token(
    handle: AsHandle,
    ttl: Annotated[str, typer.Option(help="How long it is good for: 90s, 15m, 1h.")] = "1h",
    auth_age: Annotated[str, typer.Option(help="How long ago its owner signed in.")] = "0s",
) -> None:
    """Print a token of the local dev issuer for a staff member. Refused when a real issuer is configured.

    Example: countersign token --as support-agent --ttl 15m
    """
    import asyncio

    from countersign.database import opened
    from countersign.dev_tokens import issue
    from countersign.settings import SettingsError, load

    lasting, age = duration("--ttl", ttl), duration("--auth-age", auth_age)
    if not timedelta(0) < lasting <= timedelta(hours=24):
        raise typer.BadParameter("A token lasts more than nothing and at most 24h.", param_hint="--ttl")
    settings = load()
    if not settings.uses_dev_issuer:
        raise SettingsError(
            "A real issuer is configured (COUNTERSIGN_ISSUERS, or DATABASE_URL without COUNTERSIGN_DEV_ISSUER=1); tokens come from there."
        )
    with opened(settings, Console(quiet=True)) as ready:
        typer.echo(asyncio.run(issue(ready, handle, ttl=lasting, auth_age=age)))


@app.command(short_help="Run one GraphQL operation as somebody.")
def query(
    handle: AsHandle,
    document: Annotated[str, typer.Argument(help="The GraphQL document, or - to read it from standard input.")],
    variables: Annotated[str, typer.Option(metavar="JSON", help="Variables as a JSON object.")] = "{}",
) -> None:
    """Run one GraphQL operation as a staff member, with no server needed in embedded mode. Exit 1 when it answers errors.

    Example: countersign query --as support-agent '{ me { staff { displayName } } }'
    """
    import asyncio
    import json

    from countersign.database import opened
    from countersign.dev_tokens import issue
    from countersign.one_operation import post
    from countersign.settings import SettingsError, load

    try:
        values = json.loads(variables)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise typer.BadParameter("The variables are not a JSON object.", param_hint="--variables")
    text = sys.stdin.read() if document == "-" else document
    settings = load()
    if not settings.uses_dev_issuer:
        raise SettingsError(
            "A real issuer is configured (COUNTERSIGN_ISSUERS, or DATABASE_URL without COUNTERSIGN_DEV_ISSUER=1); call the server with"
            " one of its tokens instead."
        )

    async def run() -> dict[str, object]:
        bearer = await issue(ready, handle, ttl=timedelta(minutes=5))
        return await post(ready, bearer, {"query": text, "variables": values})

    with opened(settings, Console(quiet=True)) as ready:
        answer = asyncio.run(run())
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    if answer.get("errors"):
        raise typer.Exit(1)


@app.command(short_help="See one refund from request to proof.")
def demo(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port for plain HTTP.")] = 8000,
    tls_port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port for TLS.")] = 8443,
) -> None:
    """Walk one refund before your eyes: request, refused self-approval, countersignature, proof, tampering, detection.

    Example: countersign demo
    """
    import asyncio

    from countersign import walkthrough
    from countersign.settings import SettingsError, load

    settings = load()
    if not settings.embedded:
        raise SettingsError("The demo forges a record of the embedded database on purpose; unset DATABASE_URL for it.")
    raise typer.Exit(asyncio.run(walkthrough.run(settings, port, tls_port)))


@app.command(short_help="Say what is wrong, and what to do.")
def doctor(as_json: AsJson = False) -> None:
    """Check configuration, database, migrations, rights, keys and clock; say what to do. Exit 1 when something is wrong.

    Example: countersign doctor
    """
    from countersign.doctor import examine, render

    findings = examine()
    typer.echo(render(findings, as_json=as_json))
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


@app.command("make-keys", short_help="Make the keys of a new log.")
def make_keys() -> None:
    """Make the keys of a new log where COUNTERSIGN_KEYS and COUNTERSIGN_AUDIT_SIGNER say, and print the public one. Keeps what is there.

    Example: countersign make-keys
    """
    from audit.keys import Keys, Signer
    from countersign.embedded import make_home
    from countersign.settings import load

    settings = load()
    make_home(settings.home_path)
    Keys.open(settings.keys_dir)
    signer = Signer.open(settings.signer_path, settings.audit_origin)
    typer.echo(
        f"Keys are in {settings.keys_dir}, the signing key is {settings.signer_path}; back both up. Its public key:",
        err=True,
    )
    typer.echo(signer.vkey)


@app.command("make-api-key")
def make_api_key(
    name: Annotated[str, typer.Argument(help="A name for the key, as the log will show it.")],
    field: Annotated[list[str], typer.Option(help="Root field that the key opens; repeat it.")],
    service: Annotated[str, typer.Option(help="The system it stands for.")] = "MARKETPLACE",
    city: Annotated[list[str] | None, typer.Option(help="City it acts in; repeat it, or leave out for all.")] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="Days until it expires.")] = 90,
) -> None:
    """Make an API key for another system. The key is shown once; the entry goes into the list COUNTERSIGN_API_KEYS.

    Example: countersign make-api-key app-reports --field submitReport --days 30
    """
    import json
    from datetime import UTC, datetime, timedelta

    from authz.issuers import new_api_key, parse_api_keys
    from authz.scope import CATEGORIES
    from schema.build import console

    roots = {name for type_name, name in console().rules if type_name in ("Query", "Mutation", "Subscription")}
    now = datetime.now(UTC).replace(microsecond=0)
    key, digest = new_api_key()
    entry = {
        "id": name,
        "hash": digest,
        "service": service,
        "cityIds": city or ["*"],
        "contentCategories": list(CATEGORIES),
        "rootFields": field,
        "createdAt": now.isoformat(),
        "expiresAt": (now + timedelta(days=days)).isoformat(),
    }
    if unknown := [one for one in field if one not in roots]:
        raise typer.BadParameter(f"{', '.join(unknown)}: no such root field of the schema.", param_hint="--field")
    try:
        parse_api_keys(json.dumps([entry]), now)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(json.dumps({"key": key, "entry": entry}, indent=2))


@app.command("amplify-outputs", short_help="Print amplify_outputs.json.")
def amplify_outputs(
    host: Annotated[str, typer.Option(help="Name in the server's certificate.")] = "localhost",
    tls_port: Annotated[int, typer.Option(min=1, max=65535, help="The server's TLS port.")] = 8443,
    out: Annotated[Path | None, typer.Option(help="Write a file instead of printing.")] = None,
) -> None:
    """Print amplify_outputs.json for the server's TLS address, model introspection included.

    Example: countersign amplify-outputs --out amplify_outputs.json
    """
    import json

    from schema import amplify

    text = json.dumps(amplify.amplify_outputs(f"https://{host}:{tls_port}/graphql"), indent=2)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n")
        typer.echo(f"Wrote {out}.", err=True)


@staff.command("list")
def staff_list(as_json: AsJson = False) -> None:
    """List handles, roles, tiers, cities and amounts.

    Example: countersign staff list
    """
    import asyncio
    import json
    from dataclasses import asdict

    from countersign.cli_console import table
    from countersign.database import opened
    from countersign.dev_tokens import directory
    from countersign.settings import load

    with opened(load(), Console(quiet=True)) as ready:
        people = asyncio.run(directory(ready))
    if as_json:
        typer.echo(json.dumps([asdict(person) for person in people], indent=2, default=str))
        return
    rows = [
        (
            p.handle,
            g.role,
            g.tier,
            ", ".join(g.cities),
            ", ".join(g.categories),
            _money(g.refund_alone_minor),
            _money(g.refund_request_minor),
            p.state,
        )
        for p in people
        for g in p.grants
    ]
    typer.echo(table(("handle", "role", "tier", "cities", "categories", "refunds alone", "may request", "state"), rows))


def _money(minor: int) -> str:
    return f"{minor / 100:,.2f}" if minor else "-"


def main() -> None:
    """Entry of the installed command."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except Exception as error:
        if debug:
            raise
        raise SystemExit(report(error)) from None
