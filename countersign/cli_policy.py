"""``countersign policy``: what would be decided, by which line, for whom, with which approvals; and the approval policies in force."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from countersign.cli_console import Console

app = typer.Typer(help="The policy.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def policy() -> None:
    """The policy."""


@app.command()
def explain(
    handle: Annotated[str, typer.Option("--as", metavar="HANDLE", help="A staff member's handle.")],
    field: Annotated[str, typer.Argument(metavar="TYPE.FIELD", help="A field of the schema, Mutation.requestRefund.")],
    city: Annotated[str | None, typer.Option(help="City of the object.")] = None,
    category: Annotated[str | None, typer.Option(help="Content category of the object.")] = None,
    amount: Annotated[int | None, typer.Option(min=0, help="Amount in minor units (cents).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a field is allowed, by which policy line and scope, and which approvals it needs. Exit 1 when refused.

    Example: countersign policy explain --as support-agent Mutation.requestRefund --city lisbon --amount 12000
    """
    from countersign.database import opened
    from countersign.explaining import Question, UnknownFieldError, explained
    from countersign.settings import load

    question = Question(handle, field, city, category, amount)
    with opened(load(), Console(quiet=True)) as ready:
        try:
            answer: dict[str, Any] = asyncio.run(explained(ready, question))
        except UnknownFieldError as error:
            raise typer.BadParameter(str(error), param_hint="TYPE.FIELD") from None
    typer.echo(json.dumps(answer, indent=2) if as_json else _in_words(answer))
    if not answer["allowed"]:
        raise typer.Exit(1)


@app.command()
def approvals(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the approval policies in force: when an action needs approval, by whom, and for how long it waits.

    Example: countersign policy approvals
    """
    from countersign.database import opened
    from countersign.explaining import approvals as in_force
    from countersign.settings import load

    with opened(load(), Console(quiet=True)) as ready:
        found = asyncio.run(in_force(ready))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for one in found:
        clocks = f"approve within {_hours(one['approveWithinSeconds'])}, execute within {_hours(one['executeWithinSeconds'])}"
        when = one["applies"] if one["condition"] is None else f"if {one['applies']}"
        typer.echo(f"{one['id']} version {one['version']}\n  {one['asks']}\n  {when}\n  {clocks}")


def _hours(seconds: int) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _in_words(answer: dict[str, Any]) -> str:
    lines = ["allowed" if answer["allowed"] else f"refused ({answer['denied_code']})", answer["text"], ""]
    for name in (
        "handle",
        "field",
        "action",
        "row_id",
        "condition",
        "grant_id",
        "cities",
        "categories",
        "approvals",
        "approver_roles",
        "policy_version",
    ):
        value = answer[name]
        if value:
            lines.append(f"{name.replace('_', ' '):<15} {', '.join(value) if isinstance(value, tuple) else value}")
    return "\n".join(lines)
