"""A delivery that will not be tried again: the row is given up and those who can act are alerted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from authz.scope import UNSCOPED
from db import outbox
from db.unit_of_work import Row
from schema.errors import InvalidTransitionError
from services.command import Act, Command, Result, Target
from services.telling import raise_alert

_LOCK = "SELECT * FROM outbox WHERE id = $1 FOR UPDATE"
_OPEN: Final = frozenset({"PENDING", "RETRYING"})
_WATCHING: Final = frozenset({"FINANCE", "ADMIN"})


@dataclass(frozen=True)
class DeadLetterInput:
    """The row to give up, and the last error's code."""

    delivery_id: str
    code: str


class FailDelivery(Command[DeadLetterInput]):
    """Give a delivery up; what it was to bring about stays as it is until a person decides."""

    input_type = DeadLetterInput

    async def locate(self, act: Act[DeadLetterInput]) -> Target:
        return _target(await act.find("Delivery", act.input.delivery_id))

    async def lock(self, act: Act[DeadLetterInput], target: Target) -> Target:
        return _target(await act.row(_LOCK, target.id))

    def check(self, act: Act[DeadLetterInput], target: Target) -> None:
        if target.row["state"] not in _OPEN:
            raise InvalidTransitionError("delivery", target.row["state"], "be given up")

    async def execute(self, act: Act[DeadLetterInput], target: Target, entity_id: str | None) -> Result:
        await outbox.dead(act.uow.conn, target.id, act.input.code)
        await raise_alert(
            act.uow,
            "DELIVERY_FAILED",
            2,
            city_id=target.city_id,
            target=("Delivery", target.id),
            summary=f"{target.row['operation']} was given up after {target.row['attempts']} attempts.",
            recipients=_watchers(act, target.city_id),
        )
        return Result(changed=("state",), parents=(target.row["target_id"],))


def _target(row: Row) -> Target:
    return Target("Delivery", row["id"], row, city_id=row["city_id"])


def _watchers(act: Act[Any], city_id: str | None) -> list[str]:
    """Everybody who reads deliveries of the city and leads or administers."""
    found: list[str] = []
    for staff_id in act.snapshot.staff:
        grants = tuple(grant for grant in act.standing(staff_id) if grant.tier == "LEAD" and grant.role in _WATCHING)
        verdict = act.snapshot.permits(grants, "delivery", "read", {}, city_id=city_id, category=UNSCOPED)
        if verdict.allowed:
            found.append(staff_id)
    return found
