"""How far the log is behind: for the GraphQL ``AuditHealth``, readiness and ``doctor``. Runs as the audit reader."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from audit.checkpoint import signers
from audit.writer import Limits

_HEALTH: Final = """
SELECT h.size, (SELECT count(*) FROM audit.intake) AS pending,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - db_at) FROM audit.intake ORDER BY n LIMIT 1), 0)::bigint AS oldest,
       c.size AS anchored, c.note, extract(epoch FROM clock_timestamp() - c.anchored_at)::bigint AS anchor_age,
       (SELECT count(*) FROM audit.quarantine) AS quarantined,
       (SELECT coalesce(sum((SELECT count(*) FROM unnest(w.holes) AS n WHERE n < w.settled)), 0) FROM audit.writer w)::bigint AS gaps,
       (SELECT array_agg(DISTINCT kid) FROM (SELECT kid FROM audit.record ORDER BY db_at DESC LIMIT 1000) AS recent) AS kids,
       b.waiting, b.unanchored_seconds
  FROM audit.head h CROSS JOIN audit.backlog($1) b
  LEFT JOIN LATERAL (SELECT * FROM audit.checkpoint ORDER BY size DESC LIMIT 1) c ON true
"""
_LAG: Final = "SELECT unanchored_seconds FROM audit.backlog(1)"


async def health(pool: asyncpg.Pool[Any], *, limits: Limits | None = None, worm: bool = False) -> dict[str, Any]:
    """The fields of ``AuditHealth``. ``failClosed``: privileged operations are refused now."""
    limits = limits or Limits()
    row = await pool.fetchrow(_HEALTH, limits.intake_rows)
    if row is None:
        raise LookupError("the audit log has no head")
    closed = row["unanchored_seconds"] > limits.unanchored_seconds or row["waiting"] > limits.intake_rows
    return {
        "size": float(row["size"]),
        "pending": row["pending"],
        "oldestPendingSeconds": row["oldest"],
        "anchoredSize": float(row["anchored"] or 0),
        "anchorAgeSeconds": row["anchor_age"],
        "quarantined": row["quarantined"],
        "writerGaps": row["gaps"],
        "failClosed": closed,
        "keyIds": [*(signers(row["note"]) if row["note"] else []), *(row["kids"] or [])],
        "worm": worm,
    }


async def lag_seconds(conn: asyncpg.Connection[Any]) -> float:
    """Age of the oldest record that is not anchored: readiness says no at 60 s (security-contract FC-3). Any role of ours may ask."""
    return float(await conn.fetchval(_LAG, timeout=2))
