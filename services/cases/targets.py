"""Cases as targets of commands: found in scope, then under their lock, with the facts that policy rows ask of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from db.unit_of_work import Row
from schema.errors import ConsoleError
from services.cases import rules, saving
from services.cases.rules import CaseEvent
from services.command import Act, Target, check_version

_SUBJECT = "SELECT staff_id, protected_tags FROM subject WHERE id = $1"


async def of_case(act: Act[Any], case: Row) -> Target:
    """A case row as target; its subject says whether it is the caller's own account, and protected."""
    subject = await act.row(_SUBJECT, case["subject_id"])
    return _target(case, act.caller.id, act.uow.now, subject["staff_id"], protected=bool(subject["protected_tags"]))


def hinted(case: Row, caller_id: str) -> Target:
    """The same target for a hint, of a row that was read with the time and with what its subject says."""
    return _target(case, caller_id, case["now"], case["subject_staff_id"], protected=bool(case["subject_tags"]))


def _target(case: Row, caller_id: str, now: datetime, staff_id: str | None, *, protected: bool) -> Target:
    return Target(
        "Case",
        case["id"],
        case,
        city_id=case["city_id"],
        content_category=case["content_category"],
        version=case["version"],
        subject_id=case["subject_id"],
        own_account=staff_id == caller_id,
        concerned_id=staff_id,
        protected=protected,
        facts=rules.facts(case, caller_id, now),
    )


async def find(act: Act[Any], case_id: str) -> Target:
    """The case within the caller's read scope."""
    case = await act.find("Case", case_id)
    if "subject_tags" not in case.keys():  # noqa: SIM118 (a Record): found without a reader's scope
        return await of_case(act, case)
    if case["subject_tags"] is None:  # the subject is hidden: whose account it is cannot be asked
        raise ConsoleError("NOT_FOUND")
    return _target(case, act.caller.id, act.uow.now, case["subject_staff_id"], protected=bool(case["subject_tags"]))


async def locked(act: Act[Any], target: Target) -> Target:
    """The same case under its row lock."""
    row = await saving.lock(act, target.id)
    return replace(
        target, row=row, version=row["version"], facts={**target.facts, **rules.facts(row, act.caller.id, act.uow.now)}
    )


def presented(target: Target, caller_id: str) -> dict[str, Any]:
    """What this person would send with a step of the case as it stands: which, by which lease, on which version."""
    token = target.row["lease_token"] if target.row["assignee_id"] == caller_id else None
    return {"caseId": target.id, "leaseToken": token, "expectedVersion": target.row["version"]}


def check_step(
    act: Act[Any], case: Row, *, field: str, event: CaseEvent, lease_token: str | None, expected_version: int
) -> None:
    """Lease and state, then version: the checks of every step of a case."""
    rules.check_shown(case, field)
    rules.check_step(case, event, act.caller.id, lease_token, act.uow.now)
    check_version(case, expected_version)
