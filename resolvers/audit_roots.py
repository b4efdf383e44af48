"""The audit log's own root fields: verification, proofs, checkpoints, health. They have no table; the log answers.

Whoever may verify everything has a line without condition; everyone else may prove his own records, and a lead his team's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

import asyncpg

from audit import health, live
from audit.writer import Limits
from resolvers.computed import Call, Function
from resolvers.filters import scalar
from resolvers.paging import page_limit
from schema.errors import ConsoleError, NotAuthorizedError

_ROW: Final = ("audit", "verify")
_SIZES: Final = 2**63  # Postgres' bigint


def functions(
    pool: asyncpg.Pool[Any], trust: Callable[[], live.Trust], limits: Limits, *, worm: bool
) -> Mapping[str, Function]:
    """By root field. ``pool`` is of the audit reader's role; ``trust`` is asked at each verification, since keys may be made after us."""

    async def verify_audit(call: Call) -> dict[str, Any]:
        _require(call, "verifyAudit", "OTHER")
        return await live.verification(pool, trust(), call.arguments.get("fromSeq"), call.arguments.get("toSeq"))

    async def prove(call: Call) -> dict[str, Any] | None:
        record_id = str(call.arguments["id"])
        found = _uuid(record_id)  # a cast of the column instead would read the whole log
        actor = await pool.fetchval("SELECT actor_id FROM audit.entry WHERE id = $1", found) if found else None
        # Absent and out of reach answer alike.
        return (
            await live.proof(pool, record_id) if actor is not None and _proves(call, "getAuditProof", actor) else None
        )

    async def checkpoint(call: Call) -> dict[str, Any] | None:
        _require(call, "getAuditCheckpoint", "OWN")
        return await live.checkpoint(pool, call.arguments.get("size"))

    async def checkpoints(call: Call) -> dict[str, Any]:
        _require(call, "listAuditCheckpoints", "OWN")
        limit = page_limit(call.arguments)
        ascending = scalar(call.arguments.get("sortDirection")) == "ASC"
        page = await live.checkpoints(
            pool, limit=limit + 1, after_size=_after(call.arguments.get("nextToken")), descending=not ascending
        )
        more = len(page) > limit
        return {"items": page[:limit], "nextToken": _token(page[limit - 1]) if more else None}

    async def audit_health(call: Call) -> dict[str, Any]:
        _require(call, "auditHealth", "OTHER")
        return await health.health(pool, limits=limits, worm=worm)

    return {
        "verifyAudit": verify_audit,
        "getAuditProof": prove,
        "getAuditCheckpoint": checkpoint,
        "listAuditCheckpoints": checkpoints,
        "auditHealth": audit_health,
    }


def _proves(call: Call, field: str, actor_id: str) -> bool:
    for grant in call.caller.grants:
        relation = call.snapshot.relation(call.caller.id, grant, actor_id)
        if call.snapshot.permits((grant,), *_ROW, {"relation": relation, "rootField": field}).allowed:
            return True
    return False


def _require(call: Call, field: str, relation: str) -> None:
    if not call.snapshot.permits(call.caller.grants, *_ROW, {"relation": relation, "rootField": field}).allowed:
        raise NotAuthorizedError("Query", field)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _token(last: Mapping[str, Any]) -> str:
    """Checkpoints are public to whoever may list them, so their page token only names the last size; nothing in it is secret."""
    return base64.urlsafe_b64encode(f"checkpoint:{last['size']:.0f}".encode()).decode()


def _after(token: str | None) -> int | None:
    if token is None:
        return None
    try:
        kind, _, size = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if kind == "checkpoint" and 0 <= int(size) < _SIZES:
            return int(size)
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise ConsoleError("INVALID_NEXT_TOKEN")
