"""Commands of alerts: taking note of one, for all whom it is for. Saying it twice says it once.

Lock: the alert's row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from services.alerts.chain import RaiseChainAlarm
from services.command import Act, Command, Result, Target
from services.telling import publish_alert

_LOCK = "SELECT * FROM alert WHERE id = $1 FOR UPDATE"
_ACKNOWLEDGE = "UPDATE alert SET acknowledged_at = $2, acknowledged_by_id = $3 WHERE id = $1 RETURNING *"


@dataclass(frozen=True)
class AlertIdInput:
    """Arguments of ``acknowledgeAlert``."""

    id: str


class AcknowledgeAlert(Command[AlertIdInput]):
    """Say that somebody has seen it."""

    input_type = AlertIdInput

    async def locate(self, act: Act[AlertIdInput]) -> Target:
        row = await act.find("Alert", act.input.id)
        mine = act.caller.id in row["recipient_ids"]
        return Target("Alert", row["id"], row, city_id=row["city_id"], facts={"alertTo": "ME" if mine else "OTHER"})

    async def lock(self, act: Act[AlertIdInput], target: Target) -> Target:
        return replace(target, row=await act.row(_LOCK, target.id))

    async def repeated(self, act: Act[AlertIdInput], target: Target) -> Result | None:
        return Result(refs={"alert": target.id}) if target.row["acknowledged_at"] is not None else None

    async def execute(self, act: Act[AlertIdInput], target: Target, entity_id: str | None) -> Result:
        row = await act.uow.fetchone(_ACKNOWLEDGE, target.id, act.uow.now, act.caller.id)
        publish_alert(act.uow, row)
        return Result(refs={"alert": row["id"]}, after=row, changed=("acknowledgedAt", "acknowledgedById"))


COMMANDS: Final[Mapping[str, Command[Any]]] = {"acknowledgeAlert": AcknowledgeAlert()}
SYSTEM_COMMANDS: Final[Mapping[str, Command[Any]]] = {"audit.alarm": RaiseChainAlarm()}
