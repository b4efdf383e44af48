"""``countersign migrate``: schema migrations of Postgres."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from countersign.cli_console import Console

app = typer.Typer(help="Schema migrations.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def up() -> None:
    """Bring the database to this release; make roles where they are missing.

    Example: countersign migrate up
    """
    from countersign.database import opened, prepare
    from countersign.settings import load
    from db import migrate

    console = Console()
    with opened(load(), console, ready=False) as ready:
        asyncio.run(prepare(ready, console, demo=False, may_migrate=True))
        standing = asyncio.run(migrate.status(ready.dsn("cs_owner").connect_kwargs()))
    console.say(f"The database is at revision {standing.current}.")


@app.command()
def down(
    revision: Annotated[str, typer.Argument(help="The revision to go back to; `base` is the empty database.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take migrations back. The data of what they made is lost.

    Example: countersign migrate down 0001
    """
    from countersign.database import opened
    from countersign.settings import load
    from db import migrate

    if revision not in (known := ("base", *migrate.revisions())):
        raise typer.BadParameter(f"{revision} is no revision; there are {', '.join(known)}.", param_hint="REVISION")
    if not yes:
        typer.confirm(
            f"Going back to {revision} loses the data of everything newer, the audit log included. Go on?", abort=True
        )
    console = Console()
    with opened(load(), console, ready=False) as ready:
        asyncio.run(migrate.downgrade(ready.dsn("cs_owner").connect_kwargs(), revision))
    console.say(f"The database is at revision {revision}.")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say where the database stands. Exit 1 when migrations are missing.

    Example: countersign migrate status
    """
    from countersign.database import opened
    from countersign.settings import load
    from db import migrate

    with opened(load(), Console(quiet=True), ready=False) as ready:
        standing = asyncio.run(migrate.status(ready.dsn("cs_owner").connect_kwargs()))
    if as_json:
        typer.echo(json.dumps({"current": standing.current, "head": standing.head, "pending": standing.pending}))
    elif standing.at_head:
        typer.echo(f"At revision {standing.current}, the newest.")
    else:
        typer.echo(
            f"At revision {standing.current or 'none'}; missing: {', '.join(standing.pending)}. Run `countersign migrate up`."
        )
    if not standing.at_head:
        raise typer.Exit(1)
