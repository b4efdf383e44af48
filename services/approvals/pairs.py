"""Two who keep approving each other: whoever audits is told, once a week about each pair (security-contract DC-8).

The figures are those of ``approvalMetrics``: one function of the database (migration 0007) answers both.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from services.command import Act
from services.telling import raise_alert

WINDOW: Final = timedelta(days=30)
QUIET: Final = timedelta(days=7)
LEAST: Final = 10  # decided requests of the requester; below it one colleague on duty would look like a friend
PERCENT: Final = 80

_PAIRS = (
    "SELECT * FROM pairs_of($1, $2, $3, $4) WHERE NOT told AND decided >= $5 AND agreed * 100 > decided * $6 ORDER BY 1"
)
# The last lock of a unit, so nobody waits for it in a circle. Two votes at once: the second sees that the first has told.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('pair:' || $1, 0))"


async def watch(act: Act[Any], requester_id: str, city_id: str | None) -> None:
    """Alert every AUDITOR to each person who approved too many of this requester's requests; a look once nothing more is to be locked.

    ``city_id`` is that of the request which gave occasion. The two people stand in the alert's target and nowhere else.
    """
    if not await _found(act, requester_id):
        return
    await act.uow.execute(_LOCK, requester_id)
    auditors = act.holders("AUDITOR")
    for pair in await _found(act, requester_id):
        await raise_alert(
            act.uow,
            "APPROVAL_PAIR",
            2,
            city_id=city_id,
            target=("ApprovalPair", f"{requester_id}/{pair['approver_id']}"),
            summary=f"One person approved {pair['agreed']} of the {pair['decided']} requests of another that were decided in {WINDOW.days} days.",
            recipients=auditors,
        )


async def _found(act: Act[Any], requester_id: str) -> Any:
    now = act.uow.now
    return await act.uow.fetch(_PAIRS, requester_id, now - WINDOW, now, now - QUIET, LEAST, PERCENT)
