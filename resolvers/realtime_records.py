"""Audit records of subscriptions: the start, each batch before it leaves, the end (audit-design section 13).

A batch is what one person was told on one root field in one round of the hub, whatever number of sockets he holds.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from resolvers.records import wire_record
from schema.errors import ConsoleError

if TYPE_CHECKING:
    from resolvers.context import Request
    from resolvers.hub import Batch, Event
    from resolvers.parts import Parts
    from resolvers.realtime_connection import Subscription
    from resolvers.roots import RootField

logger = logging.getLogger("countersign.realtime")

_APPEND: Final = 400  # records of one append; the writer takes 500 at once and refuses a queue of 2,000
# Which object an event tells of: the audit's type, and the payload's field that holds its id.
_TARGETS: Final = {
    "CaseEvent": ("Case", "caseId"),
    "ApprovalEvent": ("ApprovalRequest", "requestId"),
    "Alert": ("Alert", "id"),
}


class StreamRecords:
    """Makes and appends them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def started(self, subscription: Subscription) -> None:
        """Durable before the start is acknowledged. Raises AUDIT_UNAVAILABLE."""
        record = self._record(subscription, outcome="STARTED", arguments=subscription.arguments)
        subscription.record_id = record["id"]
        await self._append([record])

    async def denied(self, request: Request, root: RootField, code: str) -> None:
        """A refused start. Raises AUDIT_UNAVAILABLE."""
        record = wire_record(
            request, self._parts.clock(), kind="denied", action=self._action(root.name), field=f"Subscription.{root.name}",
            arguments=root.arguments, verdict="DENIED", code=code, outcome="FAILED",
        )  # fmt: skip
        await self._append([record])

    async def told(self, batches: list[Batch]) -> None:
        """Durable before anything of the round is queued. Raises AUDIT_UNAVAILABLE."""
        merged: dict[tuple[str, str], tuple[Batch, dict[int, Event]]] = {}
        for batch in batches:
            key = (batch.caller.id, batch.subscription.field)
            _, events = merged.setdefault(key, (batch, {}))
            events.update((event.position, event) for event, _ in batch.events)
        records = [self._told(batch, list(events.values())) for batch, events in merged.values()]
        for first in range(0, len(records), _APPEND):
            await self._append(records[first : first + _APPEND])

    def _told(self, batch: Batch, events: list[Event]) -> dict[str, Any]:
        object_type, id_field = _TARGETS[events[0].type]
        ids = list(dict.fromkeys(str(event.payload[id_field]) for event in events))
        cities = {event.city_id for event in events}
        return self._record(
            batch.subscription, outcome="DELIVERED", object_type=object_type, ids=ids, count=len(events), city=cities.pop() if len(cities) == 1 else None,
            cause=batch.subscription.record_id, caller=batch.caller, snapshot=batch.snapshot,
        )  # fmt: skip

    async def ended(self, subscription: Subscription, code: str | None) -> None:
        """Best effort: the data left under the records before it, so a log that is away now loses only the moment of the end."""
        try:
            await self._append(
                [
                    self._record(
                        subscription,
                        outcome="ENDED",
                        code=code,
                        count=subscription.delivered,
                        cause=subscription.record_id,
                    )
                ]
            )
        except ConsoleError as error:
            logger.warning("the end of a subscription is not recorded: %s", error.code)

    def _action(self, field: str) -> str:
        return self._parts.console.rules["Subscription", field].record_action

    def _record(self, subscription: Subscription, **more: Any) -> dict[str, Any]:
        field = subscription.field
        return wire_record(
            subscription.request, self._parts.clock(), kind="subscription", action=self._action(field), field=f"Subscription.{field}",
            policy_row=subscription.policy_row, **more,
        )  # fmt: skip

    async def _append(self, records: list[dict[str, Any]]) -> None:
        await self._parts.writer.reads(self._parts.app_pool, records)
