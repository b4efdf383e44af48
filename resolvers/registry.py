"""Root field -> command, for every mutation of the schema and for what timers, webhooks and the outbox do.

``check`` is asked at start: a mutation without a command, or a command without a mutation, stops the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from services.alerts import commands as alerts
from services.approvals import commands as approvals
from services.cases import commands as cases
from services.command import Command
from services.money import commands as money


def _merged(*areas: Mapping[str, Command[Any]]) -> Mapping[str, Command[Any]]:
    found = dict(chain.from_iterable(area.items() for area in areas))
    if len(found) != sum(len(area) for area in areas):
        raise ValueError("two areas have a command of one name")
    return MappingProxyType(found)


COMMANDS: Final = _merged(cases.COMMANDS, money.COMMANDS, approvals.COMMANDS, alerts.COMMANDS)


# By action key; the audit record of a deed bears the same name.
SYSTEM: Final = _merged(cases.SYSTEM_COMMANDS, money.SYSTEM_COMMANDS, approvals.SYSTEM_COMMANDS, alerts.SYSTEM_COMMANDS)


def check(mutations: Iterable[str]) -> None:
    """Refuse to start unless commands and mutations are the same set (``publish*`` run behind real AppSync only)."""
    wanted = {name for name in mutations if not name.startswith("publish")}
    missing, surplus = sorted(wanted - COMMANDS.keys()), sorted(COMMANDS.keys() - wanted)
    if missing or surplus:
        raise ValueError(f"mutations without a command: {missing}; commands without a mutation: {surplus}")
