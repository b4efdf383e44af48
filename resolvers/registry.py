"""Root field -> command, for every mutation of the schema and for what timers, webhooks and the outbox do.

``misfits`` is asked at start: a mutation without a command, or a command without a mutation, stops the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from schema.build import console
from services.alerts import commands as alerts
from services.approvals import commands as approvals
from services.cases import commands as cases
from services.command import Command
from services.deliveries import commands as deliveries
from services.macros import commands as macros
from services.messages import commands as messages
from services.money import commands as money


def _merged(*areas: Mapping[str, Command[Any]]) -> Mapping[str, Command[Any]]:
    found = dict(chain.from_iterable(area.items() for area in areas))
    if len(found) != sum(len(area) for area in areas):
        raise ValueError("two areas have a command of one name")
    return MappingProxyType(found)


COMMANDS: Final = _merged(
    cases.COMMANDS,
    money.COMMANDS,
    deliveries.COMMANDS,
    messages.COMMANDS,
    macros.COMMANDS,
    approvals.COMMANDS,
    alerts.COMMANDS,
)


# By action key; the audit record of a deed bears the same name.
SYSTEM: Final = _merged(
    cases.SYSTEM_COMMANDS,
    money.SYSTEM_COMMANDS,
    deliveries.SYSTEM_COMMANDS,
    messages.SYSTEM_COMMANDS,
    approvals.SYSTEM_COMMANDS,
    alerts.SYSTEM_COMMANDS,
)


def misfits(mutations: Iterable[str]) -> list[str]:
    """Where commands and mutations are not the same set, each naming its field.

    What subscriptions deliver has none: those mutations run behind real AppSync only.
    """
    wanted = {*mutations} - console().published
    missing = [f"Mutation.{name}: no command of services/ runs it" for name in sorted(wanted - COMMANDS.keys())]
    surplus = [f"{name}: a command whose mutation is not in the schema" for name in sorted(COMMANDS.keys() - wanted)]
    return missing + surplus
