"""Seeds the demo once: history written as the owner, then what waits for people asked for through the pipeline."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import asyncpg
import orjson

from countersign import ROOT
from countersign.demo_data import build
from countersign.demo_rows import Demo
from countersign.settings import Settings, SettingsError

Progress = Callable[[str, int, int], None]  # what, rows done, rows in all
_BATCH: Final = 200


async def _write(conn: asyncpg.Connection[Any], demo: Demo, progress: Progress) -> None:
    total = sum(len(rows) for rows in demo.rows.values())
    done = 0
    for table, rows in demo.rows.items():
        # Rows of one table may fill different columns; each set is its own statement, so that unnamed ones keep their default.
        by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in rows:
            by_columns.setdefault(tuple(sorted(row)), []).append(row)
        for columns, alike in by_columns.items():
            names = ", ".join(columns)  # our own column names, never input
            statement = (
                f"INSERT INTO {table} ({names}) SELECT {names} FROM jsonb_populate_recordset(null::{table}, $1::jsonb)"  # noqa: S608 - no input in it
            )
            for start in range(0, len(alike), _BATCH):
                batch = alike[start : start + _BATCH]
                await conn.execute(statement, orjson.dumps(batch).decode())
                done += len(batch)
                progress("demo data", done, total)


async def seed(settings: Settings, progress: Progress) -> bool:
    """Seed the demo unless somebody is in the directory already. Returns whether it did."""
    conn: asyncpg.Connection[Any] = await asyncpg.connect(**settings.dsn("cs_owner").connect_kwargs())
    try:
        if await conn.fetchval("SELECT EXISTS (SELECT 1 FROM staff)"):
            return False
        now: datetime = await conn.fetchval("SELECT console_now()")
        async with conn.transaction():  # all or nothing: a killed start seeds again
            await _write(conn, build(now), progress)
    finally:
        await conn.close()
    if settings.uses_dev_issuer:
        await asyncio.to_thread(_ask, settings)
    return True


def _ask(settings: Settings) -> None:
    """The demo's people ask for what waits. A start that is killed right here leaves the demo without that, and otherwise whole."""
    done = subprocess.run(
        [sys.executable, "-m", "countersign.demo_requests"],
        env=settings.child_environment({"COUNTERSIGN_CRASH_AT": ""}),  # a crash test is about the server
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise SettingsError(f"The demo's people could not ask for what waits: {done.stderr.strip()}")
