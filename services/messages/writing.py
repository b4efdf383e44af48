"""A note that is a message: the words its recipient will read, and the call that sends them.

Everything is settled when the note is written: language, version, values. What waits in the outbox only has to leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from authz import reasons
from authz.scope import UNSCOPED
from db.unit_of_work import Delivery, Row
from schema.errors import ConsoleError, InvalidTransitionError
from services.command import Act
from services.messages import rules

PORT: Final = "HelpCenter"
SEND: Final = "send"

_CITY = "SELECT name, locale FROM city WHERE id = $1"
_IN_LOCALE = "SELECT * FROM template WHERE name = $1 AND locale = $2 AND NOT disabled"
_SUBJECT = "SELECT state FROM subject WHERE id = $1"
# Approved: what still waits for a second person, or was called off, is nothing to tell anybody of.
_REFUND = """
SELECT order_id, amount_minor, currency, reason_code FROM refund
WHERE (case_id = $1 OR order_id = $2) AND state IN ('APPROVED', 'SUBMITTED', 'REQUIRES_ACTION', 'SUCCEEDED')
ORDER BY created_at DESC, id DESC LIMIT 1
"""


@dataclass(frozen=True)
class Message:
    """A template chosen and filled for one case."""

    template: Row
    variables: Mapping[str, str]

    @property
    def text(self) -> str:
        """What the recipient will read, as the note keeps it."""
        return f"{rules.render(self.template['subject'], self.variables)}\n\n{rules.render(self.template['body'], self.variables)}"


async def compose(act: Act[Any], case: Row, template_id: str) -> Message:
    """Fill a template for a case, in its city's language where there is one of that name, else the one named.

    Refuses a disabled template, a recipient who is gone, and (``missing`` names them) variables without a value. A value
    that the caller may not read by himself is none: a template is no way around a policy row.
    """
    named = await act.find("Template", template_id)
    city = await act.uow.fetchrow(_CITY, case["city_id"])
    chosen = named
    if city is not None and city["locale"] != named["locale"]:
        chosen = await act.uow.fetchrow(_IN_LOCALE, named["name"], city["locale"]) or named
    if chosen["disabled"]:
        raise ConsoleError("BAD_REQUEST", "This template is disabled.", field="templateId")
    if await act.uow.fetchval(_SUBJECT, case["subject_id"]) == "DELETED":
        raise InvalidTransitionError("subject", "DELETED", "be written to")
    known = await _known(act, case, city)
    variables = {name: known[name] for name in chosen["variables"] if known.get(name)}
    lacking = rules.missing(chosen["variables"], variables)
    if lacking:
        names = ", ".join(lacking)
        message = f"This case has no {names} for the template."
        raise ConsoleError("BAD_REQUEST", message, field="templateId", missing=list(lacking))
    return Message(chosen, variables)


async def _known(act: Act[Any], case: Row, city: Row | None) -> dict[str, str]:
    """The variables that this case has a value for, as far as the caller may know it."""
    found = {"caseId": str(case["id"]), "cityName": city["name"] if city is not None else case["city_id"] or ""}
    refund: Row | None = None
    if _may_read(act, "refund", case["city_id"]):
        refund = await act.uow.fetchrow(_REFUND, case["id"], case["order_id"])
    if refund is not None:
        labels = {reason.code: reason.label for reason in reasons.codes("REFUND")}
        found |= {
            "amount": rules.amount(refund["amount_minor"]),
            "currency": refund["currency"],
            "reasonLabel": labels.get(refund["reason_code"], ""),
        }
    order_id = case["order_id"] or (refund and refund["order_id"])
    if order_id and _may_read(act, "ledger", case["city_id"]):
        found["orderId"] = order_id
    return found


def _may_read(act: Act[Any], object_: str, city_id: str | None) -> bool:
    return act.snapshot.permits(act.caller.grants, object_, "read", {}, city_id=city_id, category=UNSCOPED).allowed


def send(act: Act[Any], case: Row, note_id: str, message: Message) -> None:
    """Leave the message for the help center. Messages about one case leave in their order."""
    template = message.template
    act.uow.enqueue(
        Delivery(
            PORT,
            SEND,
            note_id,
            ("Note", note_id),
            case["city_id"],
            {
                "template": template["name"],
                "locale": template["locale"],
                "version": template["version"],
                "variables": dict(message.variables),
                "recipient": case["subject_id"],
            },
            audit_id=act.audit_id,
            lane=case["id"],
        )
    )
