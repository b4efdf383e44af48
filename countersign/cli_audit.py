"""``countersign audit``: verify the log, export it, show its newest checkpoint, prove a record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from countersign.cli_console import Console, duration

if TYPE_CHECKING:
    import asyncpg

    from audit.live import Trust
    from audit.verify import Report
    from countersign.settings import Settings

app = typer.Typer(help="The audit log.", no_args_is_help=True, rich_markup_mode=None)

Answer = TypeVar("Answer")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CANNOT_CONCLUDE: Final = 3


@app.command()
def verify(
    bundle: Annotated[Path | None, typer.Option(help="An exported bundle; needs no database.")] = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="File of public keys, one a line. By default the signing key's .pub.")
    ] = None,
    pin: Annotated[Path | None, typer.Option(help="Newest checkpoint seen so far; renewed when all is good.")] = None,
    anchor: Annotated[Path | None, typer.Option(help="Folder of anchored checkpoints.")] = None,
    from_seq: Annotated[int | None, typer.Option("--from", min=0, help="First record.")] = None,
    to_seq: Annotated[int | None, typer.Option("--to", min=0, help="Last record.")] = None,
    max_age: Annotated[str | None, typer.Option(help="How old the newest checkpoint may be: 15m, 1h.")] = None,
    require_independent: Annotated[
        bool, typer.Option("--require-independent", help="Do not conclude without a pin, an anchor or a witness.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify the live log, or a bundle. Exit 0: intact; 1: tampered with, the first bad record is named; 3: cannot conclude.

    Example: countersign audit verify --bundle log.tar --key .countersign/keys/audit-signer.key.pub
    """
    import tarfile

    import asyncpg

    from audit.bundle import verify_bundle, write_pin
    from audit.keys import KeyFileError, read_vkeys
    from audit.live import as_dict
    from countersign.postgres_binaries import EmbeddedError

    oldest = duration("--max-age", max_age) if max_age else None
    if bundle is not None and not key:
        raise typer.BadParameter("A bundle is verified with a public key that you trust already.", param_hint="--key")
    if bundle is not None and (from_seq is not None or to_seq is not None):
        raise typer.BadParameter("A bundle is verified whole.", param_hint="--from, --to")
    try:
        vkeys = [vkey for file in key or () for vkey in read_vkeys(file)]
        if bundle is not None:
            if not bundle.exists():
                raise FileNotFoundError(f"{bundle} does not exist.")
            report = verify_bundle(
                bundle, vkeys=vkeys, pin=pin, anchor=anchor, require_independent=require_independent, max_age=oldest
            )
        else:
            report, pin = _verify_live(vkeys, pin, anchor, (from_seq, to_seq), require_independent, oldest)
    except tarfile.ReadError as error:
        typer.echo(f"Cannot conclude: {bundle} is not a bundle that `countersign audit export` wrote.", err=True)
        raise typer.Exit(CANNOT_CONCLUDE) from error
    except (OSError, tarfile.TarError, KeyFileError, EmbeddedError, asyncpg.PostgresError) as error:
        typer.echo(f"Cannot conclude: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(CANNOT_CONCLUDE) from error
    if pin is not None:
        write_pin(pin, report)
    typer.echo(json.dumps(as_dict(report), indent=2) if as_json else "\n".join(report.lines()))
    raise typer.Exit(report.exit_code)


def _verify_live(
    vkeys: list[str],
    pin: Path | None,
    anchor: Path | None,
    bounds: tuple[int | None, int | None],
    require_independent: bool,
    max_age: timedelta | None,
) -> tuple[Report, Path]:
    """Verify the store; also says where its pin is."""
    from audit.live import verify as verify_live
    from countersign.settings import load

    settings = load()
    trust = _trust(settings, vkeys, pin or settings.pin_path, anchor)
    console = Console()

    async def run(pool: asyncpg.Pool[Any]) -> Report:
        return await verify_live(
            pool,
            trust,
            *bounds,
            require_independent=require_independent,
            max_age=max_age,
            progress=lambda done, total: console.progress("Verifying", done, total),
        )

    return _with_reader(settings, run), pin or settings.pin_path


def _trust(settings: Settings, vkeys: list[str], pin: Path, anchor: Path | None) -> Trust:
    from audit.keys import Keys, public_path, read_vkeys
    from audit.live import Trust

    known = (settings.keys_dir / "keys.json").exists()
    writer_keys = Keys.open(settings.keys_dir, create=False).writer_keys if known else None
    folder = anchor or settings.anchor_dir
    return Trust(
        settings.audit_origin,
        tuple(vkeys or read_vkeys(public_path(settings.signer_path))),
        writer_keys,
        folder if folder.exists() else None,
        pin,
    )


@app.command(short_help="Write a part of the log as a bundle.")
def export(
    from_seq: Annotated[int, typer.Option("--from", min=0, help="First record.")],
    to_seq: Annotated[int, typer.Option("--to", min=0, help="Last record.")],
    out: Annotated[Path, typer.Option(help="The bundle to write: a name in .tar, else a new folder.")],
) -> None:
    """Write records, tiles and checkpoints as a bundle that anyone verifies with the public key. The export is recorded.

    Records go in whole groups of 256, so that the bundle may hold some around those asked for.

    Example: countersign audit export --from 0 --to 9 --out log.tar
    """
    from countersign.exporting import export_bundle
    from countersign.settings import load

    if to_seq < from_seq:
        raise typer.BadParameter("The last record comes before the first.", param_hint="--to")
    typer.echo(_opened(load(), lambda ready: export_bundle(ready, from_seq, to_seq, out)))


@app.command()
def checkpoint(as_json: AsJson = False) -> None:
    """Print the newest signed checkpoint. Exit 1 when there is none yet.

    Example: countersign audit checkpoint
    """
    from audit.live import checkpoint as newest
    from countersign.settings import load

    found = _with_reader(load(), newest)
    if found is None:
        typer.echo("There is no checkpoint yet.", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps(found, indent=2) if as_json else str(found["note"]).rstrip("\n"))


@app.command(short_help="Print a record's inclusion proof.")
def prove(
    seq: Annotated[int, typer.Argument(min=0, help="Place of the record in the log.")], as_json: AsJson = False
) -> None:
    """Print the inclusion proof of a record under the newest checkpoint. Exit 1 when there is none (yet).

    Example: countersign audit prove 42
    """
    from audit.live import proof
    from countersign.settings import load

    found = _with_reader(load(), lambda pool: proof(pool, seq=seq))
    if found is None:
        typer.echo(f"There is no record {seq} under a checkpoint (yet).", err=True)
        raise typer.Exit(1)
    typer.echo(json.dumps(found, indent=2) if as_json else str(found["bundle"]).rstrip("\n"))


def _opened(settings: Settings, run: Callable[[Settings], Awaitable[Answer]]) -> Answer:
    """Run on the live database: the server's, or the embedded one started for it, unchanged."""
    from countersign.database import opened

    async def inside() -> Answer:
        return await run(ready)

    with opened(settings, Console(quiet=True), ready=False) as ready:
        return asyncio.run(inside())


def _with_reader(settings: Settings, run: Callable[[asyncpg.Pool[Any]], Awaitable[Answer]]) -> Answer:
    """Run as the audit's reader, who sees the log and changes nothing."""
    from db.pool import open_pool

    async def inside(ready: Settings) -> Answer:
        async with await open_pool(ready.dsn("cs_audit_reader"), size=4) as pool:
            return await run(pool)

    return _opened(settings, inside)
