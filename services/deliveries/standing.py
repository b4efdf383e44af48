"""Whether a call is still wanted: what it was for may have ended, or come about by itself, since it was queued.

Asked before every call, the first as much as a repeat that a person wants.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

import asyncpg

from db.unit_of_work import Row

_REFUND = "SELECT state, external_ref FROM refund WHERE id = $1"
_RECIPIENT = """
SELECT s.state FROM note n JOIN case_file c ON c.id = n.case_id JOIN subject s ON s.id = c.subject_id WHERE n.id = $1
"""
# The kernel has it: these states come from its word alone.
_SUBMITTED: Final = frozenset({"SUBMITTED", "REQUIRES_ACTION", "SUCCEEDED", "FAILED"})


class Standing(Enum):
    """WANTED: call. DONE: the other system has it already, by its own word. ENDED: never call."""

    WANTED = auto()
    DONE = auto()
    ENDED = auto()


async def standing(conn: asyncpg.Connection[Any], delivery: Row) -> Standing:
    """How the delivery's target stands now. A refund leaves only while it is approved, a message while there is a recipient."""
    if delivery["target_type"] == "Refund":
        refund = await conn.fetchrow(_REFUND, delivery["target_id"])
        if refund is not None and refund["state"] == "APPROVED":
            return Standing.WANTED
        known = refund is not None and (refund["state"] in _SUBMITTED or refund["external_ref"] is not None)
        return Standing.DONE if known else Standing.ENDED
    if delivery["target_type"] == "Note":
        recipient = await conn.fetchval(_RECIPIENT, delivery["target_id"])
        return Standing.ENDED if recipient in (None, "DELETED") else Standing.WANTED
    return Standing.WANTED
