"""``countersign schema``: print the contract, or check that it is complete."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

app = typer.Typer(help="The GraphQL schema.", no_args_is_help=True, rich_markup_mode=None)


@app.command("print")
def print_schema(
    form: Annotated[
        Literal["sdl", "appsync", "json"],
        typer.Option("--format", help="SDL with our directives, SDL for AppSync, or introspection."),
    ] = "sdl",
) -> None:
    """Print the schema.

    Example: countersign schema print --format appsync
    """
    from schema.build import console
    from schema.printing import render

    typer.echo(render(console(), form).rstrip("\n"))


@app.command()
def check(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check that every field has a policy, every mutation an audit action, every sensitive action its approvals. Exit 1 if not.

    Example: countersign schema check
    """
    from resolvers.startup import findings

    found = findings()
    if as_json:
        typer.echo(json.dumps({"findings": found}, indent=2))
    elif found:
        typer.echo("\n".join(found))
    else:
        typer.echo("Every field has its rules.")
    if found:
        raise typer.Exit(1)
