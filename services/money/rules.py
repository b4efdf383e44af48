"""Rules of refunds and ledgers: state table, what may still be refunded, refusals by amount.

Pure. ``refundable = captured - succeeded - reserved - disputed``; a refund holds its reservation from the request on and
frees it in every terminal state but SUCCEEDED.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

from schema.errors import ConsoleError
from schema.money import RefundState
from schema.states import StateTable

RefundEvent: TypeAlias = Literal[
    "hold",
    "approve",
    "cancel",
    "reject",
    "expire",
    "invalidate",
    "submit",
    "succeed",
    "fail",
    "require_action",
    "kernel_cancel",
]

REFUND: Final[StateTable[RefundEvent]] = StateTable(
    "refund",
    RefundState,
    get_args(RefundEvent),
    {
        ("REQUESTED", "hold"): "PENDING_APPROVAL",
        ("REQUESTED", "approve"): "APPROVED",
        ("REQUESTED", "cancel"): "CANCELED",
        ("PENDING_APPROVAL", "approve"): "APPROVED",
        ("PENDING_APPROVAL", "reject"): "REJECTED",
        ("PENDING_APPROVAL", "expire"): "EXPIRED",
        ("PENDING_APPROVAL", "cancel"): "CANCELED",
        ("PENDING_APPROVAL", "invalidate"): "CANCELED",
        ("APPROVED", "submit"): "SUBMITTED",
        # The kernel's answer may come before our note that we submitted.
        ("APPROVED", "succeed"): "SUCCEEDED",
        ("APPROVED", "fail"): "FAILED",
        ("APPROVED", "require_action"): "REQUIRES_ACTION",
        ("SUBMITTED", "succeed"): "SUCCEEDED",
        ("SUBMITTED", "fail"): "FAILED",
        ("SUBMITTED", "require_action"): "REQUIRES_ACTION",
        ("REQUIRES_ACTION", "succeed"): "SUCCEEDED",
        ("REQUIRES_ACTION", "fail"): "FAILED",
        ("REQUIRES_ACTION", "kernel_cancel"): "CANCELED",
        # We hear the kernel's present state, so we may never have seen the action that it required.
        ("SUBMITTED", "kernel_cancel"): "CANCELED",
        ("APPROVED", "kernel_cancel"): "CANCELED",
    },
)
RESERVING: Final = frozenset(state for state, _ in REFUND)  # every state that has a way out
TERMINAL: Final = frozenset(REFUND.values()) - RESERVING
UNSPENT: Final = TERMINAL - {"SUCCEEDED"}  # what never left does not count against the anti-splitting sum

# What the kernel says of a refund, as an event of ours. PENDING says that it has it.
ANSWERS: Final[Mapping[str, RefundEvent]] = MappingProxyType(
    {
        "PENDING": "submit",
        "SUCCEEDED": "succeed",
        "FAILED": "fail",
        "REQUIRES_ACTION": "require_action",
        "CANCELED": "kernel_cancel",
    }
)
LARGEST_MINOR: Final = 2**31 - 1  # GraphQL's Int


def answered(state: str, kernel_state: str) -> str | None:
    """Where the kernel's answer moves a refund, or None when it says nothing new.

    It may come late, twice or before our own note: a terminal state never moves, and PENDING after SUBMITTED is old.
    """
    return None if state in TERMINAL else REFUND.get((state, ANSWERS[kernel_state]))


def refundable_minor(ledger: Mapping[str, Any]) -> int:
    """What is left of the captured amount."""
    taken = ledger["succeeded_minor"] + ledger["reserved_minor"] + ledger["disputed_minor"]
    return int(ledger["captured_minor"] - taken)


def check_amount(amount_minor: int, currency: str, ledger: Mapping[str, Any]) -> None:
    """Refuse an amount that is none, or not in the order's currency."""
    if not 0 < amount_minor <= LARGEST_MINOR:
        raise ConsoleError("AMOUNT_OUT_OF_RANGE", field="amount.amountMinor")
    if currency != ledger["currency"]:
        raise ConsoleError("CURRENCY_MISMATCH", field="amount.currency", expected=ledger["currency"])


def check_refundable(amount_minor: int, ledger: Mapping[str, Any], *, reserved_already: int = 0) -> None:
    """Refuse while a dispute holds the charge, and more than is left. ``reserved_already`` is the refund's own share."""
    if ledger["disputed_minor"] > 0 and not ledger["charge_refundable"]:
        raise ConsoleError("DISPUTE_OPEN")
    left = refundable_minor(ledger) + reserved_already
    if amount_minor > left:
        raise ConsoleError("REFUND_EXCEEDS_REFUNDABLE", refundableMinor=left)


def ledger_change(before: str | None, after: str, amount_minor: int) -> tuple[int, int]:
    """(reserved, succeeded) to add to the ledger when a refund moves from ``before`` (None: it is new) to ``after``."""
    held = amount_minor if before in RESERVING else 0
    holds = amount_minor if after in RESERVING else 0
    return holds - held, amount_minor if after == "SUCCEEDED" else 0
