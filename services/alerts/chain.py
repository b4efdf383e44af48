"""Something is wrong with the audit log: the people who answer for it are alerted, at the highest severity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schema.errors import ConsoleError
from services.command import Act, Command, Result, Target
from services.telling import raise_alert

_QUIET_SECONDS: Final = 600  # one alert a cause in ten minutes: a quarantine that fills would bury everything else
_RECENT = """
SELECT 1 FROM alert WHERE kind = 'AUDIT_CHAIN' AND target_id = $1 AND created_at > $2::timestamptz - make_interval(secs => $3)
"""


@dataclass(frozen=True)
class AlarmInput:
    """The verifier's code of what was found, and a sentence without personal data."""

    code: str
    text: str


class RaiseChainAlarm(Command[AlarmInput]):
    """Tell every ADMIN and AUDITOR; the record of this deed says what was found."""

    input_type = AlarmInput

    async def locate(self, act: Act[AlarmInput]) -> Target:
        return Target("AuditLog", act.input.code, {}, judged=False)

    async def lock(self, act: Act[AlarmInput], target: Target) -> Target:
        if await act.uow.fetchval(_RECENT, act.input.code, act.uow.now, _QUIET_SECONDS):
            raise ConsoleError("INVALID_TRANSITION", "This was told already.")
        return target

    async def execute(self, act: Act[AlarmInput], target: Target, entity_id: str | None) -> Result:
        await raise_alert(
            act.uow,
            "AUDIT_CHAIN",
            1,
            city_id=None,
            target=("AuditLog", act.input.code),
            summary=f"{act.input.code}: {act.input.text}",
            recipients=act.holders("ADMIN", "AUDITOR"),
        )
        return Result()
