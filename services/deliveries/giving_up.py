"""Giving a delivery up: the row is DEAD until a person takes it up again, and those who can do that are alerted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from authz.caller import Grant
from authz.conditions import Facts
from authz.scope import UNSCOPED, Unscoped
from db import outbox
from db.unit_of_work import Row
from schema.errors import InvalidTransitionError
from services.cases import rules as case_rules
from services.command import Act
from services.telling import raise_alert

LOCK: Final = "SELECT * FROM outbox WHERE id = $1 FOR UPDATE"
# The case is asked for what its read row asks, and for whose account it is about.
_CASE = "SELECT c.* FROM note n JOIN case_file c ON c.id = n.case_id WHERE n.id = $1"
_BUYER = "SELECT buyer_id FROM refund WHERE id = $1"
_STANDING = "SELECT staff_id FROM subject_standing($1)"


@dataclass(frozen=True)
class About:
    """What a delivery is about: the row that shows it to somebody, and the subject and case concerned."""

    object: str | None = None
    facts: Facts = field(default_factory=dict)
    category: str | Unscoped | None = UNSCOPED
    subject_id: str | None = None
    staff_id: str | None = None  # whose own account it is about: he does not act on it
    case: Row | None = None


async def about(act: Act[Any], delivery: Row) -> About:
    """The target of a delivery, as far as rights go."""
    if delivery["target_type"] == "Note":
        case = await act.uow.fetchrow(_CASE, delivery["target_id"])
        if case is None:
            return About()
        facts = case_rules.facts(case, act.caller.id, act.uow.now)
        whose = await act.uow.fetchval(_STANDING, case["subject_id"])
        return About("case", facts, case["content_category"], case["subject_id"], whose, case)
    if delivery["target_type"] == "Refund":
        buyer = await act.uow.fetchval(_BUYER, delivery["target_id"])
        return About("refund", subject_id=buyer, staff_id=await act.uow.fetchval(_STANDING, buyer))
    return About()


def check_open(delivery: Row) -> None:
    """Refuse what is no longer on its way."""
    if delivery["state"] not in outbox.OPEN:
        raise InvalidTransitionError("delivery", delivery["state"], "be given up")


async def give_up(act: Act[Any], delivery: Row, code: str, concerned: About, also: Iterable[str] = ()) -> None:
    """Mark a locked row DEAD and alert who may take it up again, and ``also`` these."""
    await outbox.dead(act.uow.conn, delivery["id"], code)
    attempts = f"{delivery['attempts']} attempt{'s' * (delivery['attempts'] != 1)}"
    await raise_alert(
        act.uow,
        "DELIVERY_FAILED",
        2,
        city_id=delivery["city_id"],
        target=("Delivery", delivery["id"]),
        summary=f"{delivery['port']}.{delivery['operation']} was given up after {attempts}.",
        recipients=[*_able(act, delivery["city_id"], concerned), *also],
    )


def _able(act: Act[Any], city_id: str | None, concerned: About) -> list[str]:
    """Everybody who may retry deliveries of the city and sees what this one is about."""

    def may(grants: tuple[Grant, ...]) -> bool:
        def held(name: str, action: str, facts: Facts, category: str | Unscoped | None) -> bool:
            return act.snapshot.permits(grants, name, action, facts, city_id=city_id, category=category).allowed

        sees = concerned.object is None or held(concerned.object, "read", concerned.facts, concerned.category)
        return sees and held("delivery", "retry", {}, UNSCOPED)

    others = (staff_id for staff_id in act.snapshot.staff if staff_id != concerned.staff_id)
    return [staff_id for staff_id in others if may(act.standing(staff_id))]
