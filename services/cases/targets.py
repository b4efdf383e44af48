"""Cases as targets of commands: found in scope, then under their lock, with the facts that policy rows ask of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from db.unit_of_work import Row
from services.cases import rules, saving
from services.command import Act, Target, check_version

_SUBJECT = "SELECT * FROM subject WHERE id = $1"


def _facts(act: Act[Any], case: Row) -> dict[str, int | str]:
    return rules.facts(case, act.caller.id, act.uow.now)


async def of_case(act: Act[Any], case: Row) -> Target:
    """A case row as target; its subject says whether it is the caller's own account, and protected."""
    subject = await act.row(_SUBJECT, case["subject_id"])
    return Target(
        "Case",
        case["id"],
        case,
        city_id=case["city_id"],
        content_category=case["content_category"],
        version=case["version"],
        subject_id=case["subject_id"],
        own_account=subject["staff_id"] == act.caller.id,
        protected=bool(subject["protected_tags"]),
        facts=_facts(act, case),
    )


async def find(act: Act[Any], case_id: str) -> Target:
    """The case within the caller's read scope."""
    return await of_case(act, await act.find("Case", case_id))


async def locked(act: Act[Any], target: Target) -> Target:
    """The same case under its row lock."""
    row = await saving.lock(act, target.id)
    return replace(target, row=row, version=row["version"], facts={**target.facts, **_facts(act, row)})


def check_step(
    act: Act[Any], case: Row, *, field: str, event: str, lease_token: str | None, expected_version: int
) -> None:
    """Lease and state, then version: the checks of every step of a case."""
    rules.check_shown(case, field)
    rules.check_step(case, event, act.caller.id, lease_token, act.uow.now)
    check_version(case, expected_version)
