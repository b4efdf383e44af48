"""Commands of deliveries: giving one up (the outbox's own deed), and taking it up again. Saying it twice says it once.

Lock: the outbox row, the last of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from db import outbox
from db.unit_of_work import Row
from schema.errors import InvalidTransitionError
from services.command import Act, Command, Result, Target
from services.deliveries.giving_up import LOCK, About, about, check_open, give_up
from services.deliveries.standing import Standing, standing
from services.telling import publish_case, tell


@dataclass(frozen=True)
class DeadLetterInput:
    """The row to give up, and the last error's code."""

    delivery_id: str
    code: str


@dataclass(frozen=True)
class DeliveryIdInput:
    """Arguments of ``retryDelivery``."""

    id: str


class FailDelivery(Command[DeadLetterInput]):
    """Give a delivery up; what it was to bring about stays as it is until a person decides."""

    input_type = DeadLetterInput

    async def locate(self, act: Act[DeadLetterInput]) -> Target:
        return _target(await act.find("Delivery", act.input.delivery_id))

    async def lock(self, act: Act[DeadLetterInput], target: Target) -> Target:
        return _target(await act.row(LOCK, target.id))

    def check(self, act: Act[DeadLetterInput], target: Target) -> None:
        check_open(target.row)

    async def execute(self, act: Act[DeadLetterInput], target: Target, entity_id: str | None) -> Result:
        await give_up(act, target.row, act.input.code, await about(act, target.row))
        return Result(changed=("state",), parents=(target.row["target_id"],))


class RetryDelivery(Command[DeliveryIdInput]):
    """Put what was given up on its way again, under its old key: whatever the other system has of it stays one effect.

    Refused where what it was for has ended; what is on its way already is answered as it is.
    """

    input_type = DeliveryIdInput

    async def locate(self, act: Act[DeliveryIdInput]) -> Target:
        row = await act.find("Delivery", act.input.id)
        concerned = await about(act, row)
        own = concerned.staff_id is not None and concerned.staff_id == act.caller.id
        return replace(_target(row), subject_id=concerned.subject_id, own_account=own)

    async def lock(self, act: Act[DeliveryIdInput], target: Target) -> Target:
        return replace(target, row=await act.row(LOCK, target.id))

    async def repeated(self, act: Act[DeliveryIdInput], target: Target) -> Result | None:
        return _result(target.row) if target.row["state"] in outbox.OPEN else None

    def check(self, act: Act[DeliveryIdInput], target: Target) -> None:
        if target.row["state"] != "DEAD":
            raise InvalidTransitionError("delivery", target.row["state"], "be tried again")

    async def execute(self, act: Act[DeliveryIdInput], target: Target, entity_id: str | None) -> Result:
        if await standing(act.uow.conn, target.row) is Standing.ENDED:
            raise InvalidTransitionError("delivery", "DEAD and whose purpose has ended", "be tried again")
        row = await outbox.retried(act.uow.conn, target.id, act.uow.now, act.audit_id)
        if row is None:  # under the lock, and DEAD a moment ago
            raise LookupError("a delivery that was given up is not there to be tried again")
        await _tell(act, await about(act, row))
        return replace(_result(row), after=row, changed=("state", "attempts", "nextAttemptAt"))


async def _tell(act: Act[Any], concerned: About) -> None:
    case = concerned.case
    if case is not None:
        await tell(act, ("Case", case["id"]), case["city_id"], "message_queued", "A message was queued again.")
        publish_case(act.uow, case, "message_queued")


def _target(row: Row) -> Target:
    return Target("Delivery", row["id"], row, city_id=row["city_id"])


def _result(row: Row) -> Result:
    return Result(refs={"delivery": row["id"]}, parents=(row["target_id"],))


COMMANDS: Final[Mapping[str, Command[Any]]] = {"retryDelivery": RetryDelivery()}
SYSTEM_COMMANDS: Final[Mapping[str, Command[Any]]] = {"delivery.fail": FailDelivery()}
