"""What one request carries through reader and pipeline.

Immutable. A ``Request`` holds the policy snapshot it is judged by: whoever meets a newer one makes a new ``Request`` with
``under`` and starts the decision over (security-contract AZ-7).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from db.clock import utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from authz.caller import Caller
    from authz.enforcer import Snapshot


@dataclass(frozen=True)
class Request:
    """One operation of one caller: who, under which policy, by which document, from where.

    ``id`` is the ``x-amzn-requestid`` of the answer and the ``request.id`` of every record made for it. ``document_digest``
    is the SHA-256 of the printed document, never the document.
    """

    id: str
    trace_id: str | None
    caller: Caller
    snapshot: Snapshot
    operation_name: str | None
    document_digest: str
    client: str | None
    ip: str
    user_agent: str | None
    received_at: datetime

    def under(self, caller: Caller, snapshot: Snapshot) -> Request:
        """The same request judged by a newer snapshot."""
        return replace(self, caller=caller, snapshot=snapshot)


__all__ = ["Request", "utc_now"]
