"""``countersign schema``: print the contract, check that it is complete, or say what a change means to those who use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schema.changes import Change

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


@app.command()
def diff(
    base: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|REF", help="A printed schema, or a git ref; else the last release, else the parent commit."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what changed for users of the schema. Exit 1 on a breaking change that CHANGELOG.md does not announce.

    It is announced where its coordinate stands under "### Breaking" of the Unreleased section.

    Example: countersign schema diff --base schema/schema.graphql
    """
    from graphql import GraphQLError

    import schema
    from countersign import schema_base
    from schema.build import console
    from schema.changes import changes, unannounced

    root = Path(schema.__file__).parent.parent
    try:
        before = schema_base.found(root) if base is None else schema_base.given(root, base)
    except schema_base.BaseError as error:
        raise typer.BadParameter(str(error), param_hint="--base") from None
    if before is None:
        nothing = "No git history here: there is no earlier schema to compare with."
        typer.echo(json.dumps({"base": None, "changes": []}, indent=2) if as_json else nothing)
        return
    try:
        found = changes(before.sdl, console().sdl)
    except (GraphQLError, TypeError):  # no SDL, or none that holds together
        unread = f"{before.name} is no schema as countersign schema print writes it"
        raise typer.BadParameter(unread, param_hint="--base") from None
    silent = unannounced(found, schema_base.announced(root / "CHANGELOG.md"))
    typer.echo(_as_json(before.name, found, silent) if as_json else _in_words(before.name, found, silent))
    if silent:
        raise typer.Exit(1)


def _as_json(base: str, found: Sequence[Change], silent: Sequence[Change]) -> str:
    listed = [
        {"level": one.level, "coordinate": one.coordinate, "text": one.text, "announced": one not in silent}
        if one.level == "breaking"
        else {"level": one.level, "coordinate": one.coordinate, "text": one.text}
        for one in found
    ]
    return json.dumps({"base": base, "changes": listed}, indent=2)


def _in_words(base: str, found: Sequence[Change], silent: Sequence[Change]) -> str:
    from schema.changes import LEVELS

    if not found:
        return f"Nothing changed for users since {base}."
    lines = [f"Since {base}:"]
    for level in LEVELS:
        of = [one for one in found if one.level == level]
        if of:
            lines += ["", f"{level} ({len(of)})", *(f"  {one.text}" for one in of)]
    if silent:
        lines += ["", "Not announced under '### Breaking' of CHANGELOG.md's Unreleased section:"]
        lines += [f"  {coordinate}" for coordinate in dict.fromkeys(one.coordinate for one in silent)]
    return "\n".join(lines)
