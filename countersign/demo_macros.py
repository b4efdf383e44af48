"""The demo's macros: refund a canceled order in full, say so to its buyer, and close the case. One is in force, one has been."""

from __future__ import annotations

from typing import Any, Final

from countersign import demo_messages
from countersign.demo_rows import Demo, staff_id

MACRO: Final = "mac_refund_and_apologise"
_PARAMETERS: Final = {
    "type": "object",
    "properties": {"orderId": {"type": "string", "title": "The order that was canceled"}},
    "required": ["orderId"],
    "additionalProperties": False,
}
_REFUND: Final = {
    "key": "refund",
    "action": "requestRefund",
    "argsTemplate": {
        "orderId": "{{param.orderId}}",
        "amount": {"amountMinor": "{{order.refundableMinor}}", "currency": "{{order.currency}}"},
        "reason": {"code": "CANCELED_BY_STUDIO"},
    },
    "when": None,
}
_NOTE: Final = {
    "key": "note",
    "action": "addNote",
    "argsTemplate": {"body": "Order {{param.orderId}} was refunded in full.", "internal": True},
    "when": None,
}
_APOLOGISE: Final = {
    "key": "apologise",
    "action": "addNote",
    "argsTemplate": {"templateId": demo_messages.template_id("refund_done", "en"), "body": "", "internal": False},
    "when": None,
}
_RESOLVE: Final = {
    "key": "resolve",
    "action": "resolveCase",
    "argsTemplate": {"reason": {"code": "NO_VIOLATION"}},
    "when": None,
}


def add(demo: Demo) -> None:
    """Add both versions."""
    author = staff_id("support-lead")
    _version(demo, 1, "RETIRED", author, [_REFUND, _NOTE, _RESOLVE], days=60)
    _version(demo, 2, "PUBLISHED", author, [_REFUND, _APOLOGISE, _RESOLVE], days=20)


def _version(demo: Demo, version: int, state: str, author: str, steps: list[dict[str, Any]], *, days: int) -> None:
    demo.add(
        "macro",
        id=MACRO,
        version=version,
        current=state == "PUBLISHED",
        state=state,
        name="Refund and apologise",
        description="For an order that the studio canceled: everything that is left of it goes back.",
        allowed_roles=["SUPPORT"],
        case_kinds=["REFUND"],
        parameters=_PARAMETERS,
        steps=steps,
        author_id=author,
        created_at=demo.ago(days=days),
    )
