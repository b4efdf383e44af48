"""Reason codes: which list an action takes its reasons from, which code needs a note, and how people read it.

The one source of the lists (console domain, section 5); conditions take the tokens of ``reasonCode`` from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from schema.errors import ConsoleError

NOTE_MINIMUM: Final = 10
NOTE_MAXIMUM: Final = 2_000
TICKET_MAXIMUM: Final = 200
# It stands in the audit log in clear, so it is a reference and never a sentence or an address.
_TICKET: Final = re.compile(r"[!-?A-~]+")


class Reason(Protocol):
    """What is judged here: a code, and perhaps a note and a ticket."""

    @property
    def code(self) -> str: ...
    @property
    def note(self) -> str | None: ...
    @property
    def ticket_ref(self) -> str | None: ...


@dataclass(frozen=True)
class ReasonCode:
    """One code of one list."""

    code: str
    list_name: str
    note_required: bool
    label: str


def _list(name: str, *codes: tuple[str, str]) -> tuple[str, tuple[ReasonCode, ...]]:
    """A list as written in the console domain: a code that ends in ``*`` needs a note."""
    return name, tuple(ReasonCode(code.rstrip("*"), name, code.endswith("*"), label) for code, label in codes)


LISTS: Final[Mapping[str, tuple[ReasonCode, ...]]] = MappingProxyType(
    dict(
        (
            _list(
                "DECIDE",
                ("SPAM", "Spam"),
                ("SCAM_FRAUD", "Scam or fraud"),
                ("IMPERSONATION", "Impersonation"),
                ("HARASSMENT", "Harassment"),
                ("HATE", "Hate"),
                ("VIOLENCE", "Violence"),
                ("NON_CONSENSUAL_IMAGERY*", "Imagery without consent"),
                ("UNDERAGE_RISK*", "Possibly under age"),
                ("ILLEGAL_GOODS", "Illegal goods"),
                ("IP_INFRINGEMENT", "Infringes intellectual property"),
                ("UNLABELED_ADULT", "Adult content without label"),
                ("MISLEADING_LISTING", "Misleading listing"),
                ("OFF_PLATFORM_PAYMENT", "Payment outside the platform"),
                ("BAN_EVASION", "Evades a ban"),
                ("NO_VIOLATION", "No violation"),
                ("DUPLICATE_REPORT", "Duplicate report"),
                ("OTHER*", "Other"),
            ),
            _list(
                "REVERSE",
                ("WRONG_POLICY", "Wrong policy applied"),
                ("WRONG_SUBJECT", "Wrong subject"),
                ("NEW_EVIDENCE*", "New evidence"),
                ("DISPROPORTIONATE", "Out of proportion"),
                ("USER_REMEDIED", "The user has put it right"),
                ("COURT_OR_AUTHORITY*", "Court or authority"),
                ("TERM_SERVED", "Term served"),
                ("DECISION_CORRECT", "The decision was correct"),
                ("PROCEDURAL_ERROR*", "Procedural error"),
            ),
            _list(
                "SUSPEND",
                ("REPEAT_STRIKES", "Repeated strikes"),
                ("SEVERE_VIOLATION*", "Severe violation"),
                ("FRAUD_INVESTIGATION", "Fraud investigation"),
                ("PAYMENT_RISK", "Payment risk"),
                ("VERIFICATION_LAPSED", "Verification lapsed"),
                ("SAFETY_EMERGENCY*", "Safety emergency"),
                ("LEGAL_ORDER*", "Legal order"),
            ),
            _list(
                "VERIFICATION",
                ("ALL_CHECKS_PASSED", "All checks passed"),
                ("DOCUMENT_EXPIRED", "Document expired"),
                ("DOCUMENT_UNREADABLE", "Document unreadable"),
                ("SELFIE_MISMATCH", "Selfie does not match"),
                ("UNDERAGE", "Under age"),
                ("REGISTRY_MISMATCH", "Registry does not match"),
                ("SANCTIONS_HIT*", "On a sanctions list"),
                ("ADDRESS_UNVERIFIED", "Address not verified"),
                ("MANUAL_EVIDENCE*", "Evidence seen by hand"),
                ("ERASURE_REQUEST", "Erasure request"),
            ),
            _list(
                "REFUND",
                ("DUPLICATE", "Charged twice"),
                ("FRAUDULENT", "Fraudulent charge"),
                ("SERVICE_NOT_PROVIDED", "Service not provided"),
                ("QUALITY_ISSUE", "Quality issue"),
                ("CANCELED_BY_STUDIO", "Canceled by the studio"),
                ("CANCELED_IN_WINDOW", "Canceled within the window"),
                ("PRICE_ERROR", "Wrong price"),
                ("GOODWILL*", "Goodwill"),
                ("CHARGEBACK_PREVENTION", "Prevents a chargeback"),
                ("LEGAL*", "Legal"),
            ),
            _list(
                "DISPUTE",
                ("EVIDENCE_COMPLETE", "Evidence complete"),
                ("BELOW_COST_OF_DEFENSE", "Below the cost of defense"),
                ("CUSTOMER_CORRECT", "The customer is right"),
                ("MISSED_DEADLINE*", "Deadline missed"),
            ),
            _list(
                "REVEAL",
                ("CASE_INVESTIGATION", "Case investigation"),
                ("USER_CONTACT_REQUEST", "The user asked for contact"),
                ("FRAUD_CHECK", "Fraud check"),
                ("LEGAL_REQUEST*", "Legal request"),
                ("SAFETY_EMERGENCY*", "Safety emergency"),
                ("PAYMENT_RECONCILIATION", "Payment reconciliation"),
            ),
            _list(
                "RATE",
                ("CLASSIFIER_WRONG*", "The classifier was wrong"),
                ("UPLOADER_LABEL_WRONG", "The uploader's label was wrong"),
                ("POLICY_CHANGE", "Policy change"),
                ("HASH_MATCH", "Known hash"),
                ("REVIEWED", "Reviewed"),
            ),
            _list(
                "FLAG_CITY",
                ("PLANNED_RELEASE", "Planned release"),
                ("INCIDENT*", "Incident"),
                ("ROLLBACK", "Rollback"),
                ("EXPERIMENT", "Experiment"),
                ("REGULATORY*", "Regulatory"),
                ("SEASONAL", "Seasonal"),
                ("CLEANUP", "Cleanup"),
            ),
            _list(
                "ROUTING",
                ("WRONG_QUEUE", "Wrong queue"),
                ("NEEDS_SENIOR", "Needs a senior"),
                ("CONFLICT_OF_INTEREST", "Conflict of interest"),
                ("LANGUAGE", "Language"),
                ("WELLNESS", "Wellness"),
                ("SHIFT_END", "End of shift"),
                ("DUPLICATE", "Duplicate"),
                ("WAITING_ON_USER", "Waiting for the user"),
            ),
            _list(
                "STAFF_POLICY",
                ("JOINED", "Joined"),
                ("LEFT", "Left"),
                ("ROLE_CHANGE", "Change of role"),
                ("SECURITY_INCIDENT*", "Security incident"),
                ("ACCESS_REVIEW", "Access review"),
                ("REGULATOR_REQUEST*", "Request of a regulator"),
                ("DATA_SUBJECT_REQUEST", "Request of a data subject"),
                ("INTERNAL_AUDIT", "Internal audit"),
            ),
        )
    )
)

ALL_CODES: Final = frozenset(reason.code for codes in LISTS.values() for reason in codes)


def codes(list_name: str) -> tuple[ReasonCode, ...]:
    """The codes of one list, in its order. A list that does not exist is a bug (KeyError)."""
    return LISTS[list_name]


def check(list_name: str, reason: Reason | None) -> None:
    """Refuse a reason that is missing, of another list, or lacks the note that its code needs.

    A required note has 10 to 2,000 characters after trimming; an optional one is only bounded above.
    """
    if reason is None or not reason.code:
        raise ConsoleError("REASON_REQUIRED", field="reason")
    found = next((entry for entry in codes(list_name) if entry.code == reason.code), None)
    if found is None:
        raise ConsoleError("REASON_INVALID", field="reason.code", list=list_name)
    note = (reason.note or "").strip()
    if found.note_required and len(note) < NOTE_MINIMUM:
        raise ConsoleError(
            "BAD_REQUEST",
            f"The reason {found.code} needs a note of at least {NOTE_MINIMUM} characters.",
            field="reason.note",
        )
    if len(note) > NOTE_MAXIMUM:
        raise ConsoleError("BAD_REQUEST", f"A note has at most {NOTE_MAXIMUM:,} characters.", field="reason.note")
    if reason.ticket_ref and (len(reason.ticket_ref) > TICKET_MAXIMUM or not _TICKET.fullmatch(reason.ticket_ref)):
        raise ConsoleError(
            "BAD_REQUEST",
            f"A ticket reference has at most {TICKET_MAXIMUM} characters, without spaces and without @.",
            field="reason.ticketRef",
        )
