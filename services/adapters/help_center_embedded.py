"""The embedded Help Center: another system that happens to live in the same Postgres, with a log of what it sent.

Its catalogue is the console's own templates, every version of them. ``help_sim`` lets calls for a template or a recipient
go wrong: ``unavailable:TIMES`` (before anything is sent), ``lost:TIMES`` (sent, and the answer never comes),
``slow:SECONDS`` (sent, and the answer comes late) or ``refuse:CODE``. Each call is a transaction of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from db.pool import connection
from schema.errors import ConsoleError
from services.messages import rules
from services.ports import HelpMessage, PortRefusedError, PortUnavailableError

_SIM = """
UPDATE help_sim SET calls = calls + 1
WHERE (kind, name) = ('template', $1) OR (kind, name) = ('recipient', $2) RETURNING sim, calls
"""
_GET = "SELECT * FROM help_message WHERE key = $1"
_TEMPLATE = """
SELECT v.subject, v.body, t.disabled FROM template t JOIN template_version v ON v.template_id = t.id
WHERE t.name = $1 AND t.locale = $2 AND v.version = $3
"""
_SEND = """
INSERT INTO help_message
  (key, template, locale, version, variables, recipient, external_ref, subject, body, created_at)
VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, $8, $9, console_now())
ON CONFLICT (key) DO NOTHING
"""


@dataclass(frozen=True)
class Plan:
    """What goes wrong with one call."""

    unavailable: bool = False
    lost: bool = False
    slow_seconds: float = 0.0
    refusal: str | None = None

    def __or__(self, other: Plan) -> Plan:
        return Plan(
            self.unavailable or other.unavailable,
            self.lost or other.lost,
            max(self.slow_seconds, other.slow_seconds),
            self.refusal or other.refusal,
        )


def plan(sim: str, calls: int) -> Plan:
    """What a sim does to the call that is its ``calls``-th; ``ValueError`` for one it does not know."""
    word, _, rest = sim.partition(":")
    if word == "unavailable":
        return Plan(unavailable=calls <= int(rest))
    if word == "lost":
        return Plan(lost=calls <= int(rest))
    if word == "slow":
        return Plan(slow_seconds=float(rest))
    if word == "refuse" and rest:
        return Plan(refusal=rest)
    raise ValueError(f"no such sim: {sim}")


@dataclass(frozen=True)
class _Wanted:
    """The content of a message, as a key stands for it."""

    template: str
    locale: str
    version: int
    variables: Mapping[str, str]
    recipient: str

    def is_of(self, row: Any) -> bool:
        same = all(row[name] == getattr(self, name) for name in ("template", "locale", "version", "recipient"))
        return same and orjson.loads(row["variables"]) == dict(self.variables)


class EmbeddedHelpCenter:
    """Adapter of ``HelpCenter`` on tables of its own."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def _conn(self) -> AsyncGenerator[asyncpg.Connection[Any], None]:
        try:
            async with connection(self._pool) as conn:
                yield conn
        except ConsoleError as error:  # of the pool: busy, or the database away
            raise PortUnavailableError(error.code) from error

    async def send(
        self, *, key: str, template: str, locale: str, version: int, variables: Mapping[str, str], recipient: str
    ) -> HelpMessage:
        wanted = _Wanted(template, locale, version, variables, recipient)
        async with self._conn() as conn:
            wrong = Plan()
            for row in await conn.fetch(_SIM, template, recipient):
                wrong |= plan(row["sim"], row["calls"])
            if wrong.unavailable:
                raise PortUnavailableError
            sent = await self._send(conn, key, wanted, wrong.refusal)
        if wrong.slow_seconds:
            await asyncio.sleep(wrong.slow_seconds)
        if wrong.lost:
            raise PortUnavailableError("NO_ANSWER")
        return sent

    async def _send(self, conn: asyncpg.Connection[Any], key: str, wanted: _Wanted, refusal: str | None) -> HelpMessage:
        row = await conn.fetchrow(_GET, key)
        if row is None:
            if refusal is not None:
                raise PortRefusedError(refusal)
            subject, body = await self._rendered(conn, wanted)
            variables = orjson.dumps(dict(wanted.variables)).decode()
            named = (wanted.template, wanted.locale, wanted.version, variables, wanted.recipient)
            await conn.execute(_SEND, key, *named, f"hm_{key}", subject, body)
            row = await conn.fetchrow(_GET, key)
        if row is None or not wanted.is_of(row):
            raise PortRefusedError("KEY_REUSED")
        return _message(row)

    async def _rendered(self, conn: asyncpg.Connection[Any], wanted: _Wanted) -> tuple[str, str]:
        text = await conn.fetchrow(_TEMPLATE, wanted.template, wanted.locale, wanted.version)
        if text is None:
            raise PortRefusedError("TEMPLATE_UNKNOWN")
        if text["disabled"]:
            raise PortRefusedError("TEMPLATE_DISABLED")
        subject, body = text["subject"], text["body"]
        lacking = rules.missing(rules.placeholders(subject, body), wanted.variables)
        if lacking or rules.unclosed(subject) or rules.unclosed(body):
            raise PortRefusedError("PLACEHOLDER_MISSING")
        return rules.render(subject, wanted.variables), rules.render(body, wanted.variables)

    async def get_message(self, key: str) -> HelpMessage | None:
        async with self._conn() as conn:
            row = await conn.fetchrow(_GET, key)
        return None if row is None else _message(row)


def _message(row: Any) -> HelpMessage:
    return HelpMessage(row["key"], row["external_ref"], row["subject"], row["body"])
