"""How the command speaks: progress on a terminal, plain lines in a pipe, errors as one sentence."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import typer

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BAR: Final = 24
_REDRAW_SECONDS: Final = 0.1


class Console:
    """Says what happens. ``quiet``: nothing at all, for commands whose output is data."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()
        self._drawn = 0.0
        self._open_line = False

    def say(self, text: str) -> None:
        if self._quiet:
            return
        if self._open_line:
            typer.echo()
            self._open_line = False
        typer.echo(text)
        sys.stdout.flush()

    def progress(self, what: str, done: int, total: int) -> None:
        """A bar that redraws itself; only on a terminal."""
        if self._quiet or not self._terminal:
            return
        now = time.monotonic()
        if done < total and now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        filled = _BAR * done // total if total else _BAR
        typer.echo(f"\r{what} [{'#' * filled}{'.' * (_BAR - filled)}] {done}/{total}", nl=done >= total)
        self._open_line = done < total
        sys.stdout.flush()


def duration(option: str, text: str) -> timedelta:
    """``90s``, ``15m``, ``1h``, ``2d``."""
    match = re.fullmatch(r"(\d{1,7})([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a duration like 90s, 15m or 1h.", param_hint=option)
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, left-aligned."""
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(lines)


def report(error: Exception) -> int:
    """Say an error in one sentence on stderr; return the exit code (2 for wrong configuration, else 1)."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    typer.echo(f"Error: {_sentence(error)}", err=True)
    return 2 if type(error).__name__ == "SettingsError" else 1


def _sentence(error: Exception) -> str:
    import asyncpg

    from audit.keys import KeyFileError
    from countersign.children import GivenUpError
    from countersign.dev_tokens import NobodyError
    from countersign.listening import PortError
    from countersign.postgres_binaries import EmbeddedError
    from countersign.serve import ServeError
    from countersign.settings import SettingsError
    from db.migrate import MigrationError
    from schema.errors import ConsoleError

    ours = (
        KeyFileError,
        GivenUpError,
        NobodyError,
        PortError,
        EmbeddedError,
        ServeError,
        SettingsError,
        MigrationError,
        ConsoleError,
    )
    text = " ".join(str(error).split())
    if isinstance(error, ours):
        return text
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.InvalidCatalogNameError):
        return f"The database is not migrated ({text}). Run `countersign migrate up`."
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return f"The database refuses the login ({text}). Check DATABASE_URL; `countersign migrate up` makes the roles."
    if (
        isinstance(error, ConnectionError | asyncpg.PostgresConnectionError | asyncpg.CannotConnectNowError)
        or type(error).__name__ == "gaierror"
    ):
        return f"The database does not answer ({text}). Check DATABASE_URL, or start `countersign serve`."
    if isinstance(error, FileExistsError) and error.filename is not None:
        return f"{error.filename} is there already and is not overwritten. Move it away, or choose another name."
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return f"{error.strerror}: {error.filename}."
    return f"{type(error).__name__}: {text} (--debug shows where)."
