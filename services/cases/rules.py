"""Rules of cases, reports and decisions: state tables, priority, strikes, service levels, statements of reasons.

Pure: no clock, no row access. A state table maps (state, event) to the next state; a pair it lacks cannot happen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

from schema.cases import CaseState
from schema.errors import ConsoleError, InvalidTransitionError
from schema.moderation import DecisionState, ReportState
from schema.states import StateTable

CaseEvent: TypeAlias = Literal[
    "claim",
    "release",
    "skip",
    "escalate",
    "resolve",
    "decide",
    "reopen",
    "close",
    "merge",
    "lease_expired",
    "request_info",
    "reply",
    "info_timeout",
    "hold",
    "resume",
    "execute",
    "reject",
    "cancel",
    "expire",
    "invalidate",
]
ReportEvent: TypeAlias = Literal["attach", "action", "dismiss", "invalidate", "reopen"]
DecisionEvent: TypeAlias = Literal["take_effect", "reject", "reverse", "supersede", "expire"]

CASE: Final[StateTable[CaseEvent]] = StateTable(
    "case",
    CaseState,
    get_args(CaseEvent),
    {
        ("OPEN", "claim"): "CLAIMED",
        ("OPEN", "escalate"): "ESCALATED",
        ("OPEN", "merge"): "CLOSED",
        ("CLAIMED", "release"): "OPEN",
        ("CLAIMED", "skip"): "OPEN",
        ("CLAIMED", "lease_expired"): "OPEN",
        ("CLAIMED", "request_info"): "PENDING_INFO",
        ("CLAIMED", "hold"): "PENDING_APPROVAL",
        ("CLAIMED", "escalate"): "ESCALATED",
        ("CLAIMED", "resolve"): "RESOLVED",
        ("CLAIMED", "decide"): "RESOLVED",
        ("CLAIMED", "merge"): "CLOSED",
        ("PENDING_INFO", "reply"): "OPEN",
        ("PENDING_INFO", "info_timeout"): "OPEN",
        ("PENDING_INFO", "claim"): "CLAIMED",
        ("PENDING_APPROVAL", "execute"): "RESOLVED",
        ("PENDING_APPROVAL", "resume"): "CLAIMED",  # an approved macro's steps go on as its requester's
        ("PENDING_APPROVAL", "reject"): "OPEN",
        ("PENDING_APPROVAL", "cancel"): "OPEN",
        ("PENDING_APPROVAL", "expire"): "OPEN",
        ("PENDING_APPROVAL", "invalidate"): "OPEN",
        ("ESCALATED", "claim"): "CLAIMED",
        ("ESCALATED", "release"): "OPEN",
        ("RESOLVED", "reopen"): "OPEN",
        ("RESOLVED", "close"): "CLOSED",
    },
)
CLAIMABLE: Final = frozenset(state for state, event in CASE if event == "claim")

REPORT: Final[StateTable[ReportEvent]] = StateTable(
    "report",
    ReportState,
    get_args(ReportEvent),
    {
        ("RECEIVED", "attach"): "ATTACHED",
        ("ATTACHED", "action"): "ACTIONED",
        ("ATTACHED", "dismiss"): "DISMISSED",
        ("RECEIVED", "invalidate"): "INVALIDATED",
        ("ATTACHED", "invalidate"): "INVALIDATED",
        ("ACTIONED", "reopen"): "ATTACHED",
        ("DISMISSED", "reopen"): "ATTACHED",
    },
)

DECISION: Final[StateTable[DecisionEvent]] = StateTable(
    "decision",
    DecisionState,
    get_args(DecisionEvent),
    {
        ("PROPOSED", "take_effect"): "EFFECTIVE",
        ("PROPOSED", "reject"): "REJECTED",
        ("EFFECTIVE", "reverse"): "REVERSED",
        ("EFFECTIVE", "supersede"): "SUPERSEDED",
        ("EFFECTIVE", "expire"): "EXPIRED",
    },
)


# ---------- leases ----------
LEASE_MINUTES: Final = 15
LEASE_TOTAL: Final = timedelta(hours=8)
LEASES_EACH: Final = 5
SKIP_FOR: Final = timedelta(hours=4)
REOPEN_WITHIN: Final = timedelta(days=30)


def lease_until(now: datetime, started_at: datetime) -> datetime:
    """When a lease taken or renewed now ends: 15 minutes, and never beyond eight hours in one go."""
    return min(now + timedelta(minutes=LEASE_MINUTES), started_at + LEASE_TOTAL)


def holds(case: Mapping[str, Any], staff_id: str, now: datetime) -> bool:
    """Whether this person has a running lease on the case."""
    return bool(case["state"] == "CLAIMED" and case["assignee_id"] == staff_id and case["lease_expires_at"] > now)


def facts(case: Mapping[str, Any], staff_id: str, now: datetime) -> dict[str, int | str]:
    """What conditions ask of a case, and whether it is ``staff_id``'s own at ``now``."""
    return {
        "caseKind": case["kind"],
        "caseState": case["state"],
        "contentCategory": case["content_category"],
        "assigned": int(holds(case, staff_id, now)),
    }


def check_shown(case: Mapping[str, Any], field: str) -> None:
    """Refuse an action that the case's queue hides from its people."""
    if field in case["hidden_actions"]:
        raise InvalidTransitionError("case of this queue", case["state"], field)


def check_step(case: Mapping[str, Any], event: CaseEvent, holder_id: str, token: str | None, now: datetime) -> None:
    """Refuse a step by the lease, where it is one of a claimed case, then by the state."""
    state = case["state"]
    if ("CLAIMED", event) in CASE and (state == "CLAIMED" or (state, event) not in CASE):
        check_lease(case, holder_id, token, now)
    CASE.next(state, event)
    resolved_at = case["resolved_at"]
    if event == "reopen" and (resolved_at is None or resolved_at + REOPEN_WITHIN < now):
        raise InvalidTransitionError("case", f"RESOLVED for more than {REOPEN_WITHIN.days} days", event)


def check_claim(case: Mapping[str, Any], staff_id: str, now: datetime) -> None:
    """Refuse a claim by queue, state and ``leases``, how many the person holds. Claiming again what one holds says the same."""
    check_shown(case, "claimCase")
    if holds(case, staff_id, now):
        return
    if case["state"] != "CLAIMED":
        CASE.next(case["state"], "claim")
    elif case["lease_expires_at"] > now:
        raise ConsoleError("CASE_CLAIMED")
    if case["leases"] >= LEASES_EACH:
        raise ConsoleError("LEASE_LIMIT", held=LEASES_EACH)


def check_lease(case: Mapping[str, Any], holder_id: str, token: str | None, now: datetime) -> None:
    """Refuse unless ``holder_id`` presents the running lease of a CLAIMED case.

    A case that nobody ever held needs a claim first; whoever presents a token that no longer holds has lost it.
    """
    state = case["state"]
    if state not in CLAIMABLE and state != "CLAIMED":
        return  # the state table answers: nobody can hold a lease on it
    if state == "CLAIMED" and token is None and case["assignee_id"] != holder_id and case["lease_expires_at"] > now:
        raise ConsoleError("CASE_CLAIMED")
    if token is None or (state != "CLAIMED" and case["last_claimed_at"] is None):
        raise ConsoleError("LEASE_REQUIRED")
    held = state == "CLAIMED" and case["assignee_id"] == holder_id and case["lease_token"] == token
    if not held or case["lease_expires_at"] <= now:
        raise ConsoleError("LEASE_LOST")


# ---------- reports and priority ----------
# Report categories are the grounds a decision can have; severity as in console-domain section 2 (Decision).
SEVERITY: Final[Mapping[str, int]] = MappingProxyType(
    {
        "UNDERAGE_RISK": 4,
        "NON_CONSENSUAL_IMAGERY": 4,
        "VIOLENCE": 3,
        "HATE": 3,
        "SCAM_FRAUD": 3,
        "ILLEGAL_GOODS": 3,
        "HARASSMENT": 2,
        "IMPERSONATION": 2,
        "BAN_EVASION": 2,
        "UNLABELED_ADULT": 2,
        "OFF_PLATFORM_PAYMENT": 2,
        "IP_INFRINGEMENT": 1,
        "MISLEADING_LISTING": 1,
        "SPAM": 1,
        "OTHER": 1,
    }
)
PROTECTED_BONUS: Final = 50
DEFAULT_ACCURACY: Final = 0.5  # a reporter of whom nothing is known yet


def weight(accuracy: float | None, *, muted: bool) -> float:
    """How much one reporter counts: his accuracy within 0.1 and 1.0, nothing when muted."""
    return 0.0 if muted else min(1.0, max(0.1, DEFAULT_ACCURACY if accuracy is None else accuracy))


def priority(reports: Iterable[Mapping[str, Any]], *, protected: bool) -> int:
    """``100*severity + 10*log2(1 + sum of weights of distinct reporters) + bonus`` (console-domain section 2, Report).

    A reporter counts once, with the greatest weight; reports without one count each. Severity is the gravest report's;
    a category from before this list counts as 1.
    """
    gravest, weights = 0, dict[str, float]()
    for row in reports:
        share = weight(row["reporter_accuracy"], muted=row["reporter_muted"])
        who = row["reporter_id"] or row["id"]
        weights[who] = max(weights.get(who, 0.0), share)
        if share > 0:
            gravest = max(gravest, SEVERITY.get(row["category"], 1))
    bonus = PROTECTED_BONUS if protected else 0
    return 100 * gravest + round(10 * math.log2(1 + sum(weights.values()))) + bonus


# ---------- service levels ----------
def due_at(start: datetime, policy: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """First response and resolution that the policy promises to work that begins at ``start``."""
    first = timedelta(seconds=policy["first_response_seconds"])
    return start + first, start + timedelta(seconds=policy["resolve_seconds"])


# ---------- decisions ----------
KINDS: Final = frozenset({"NO_ACTION", "WARN", "LABEL", "REMOVE_CONTENT", "BAN"})  # what decideCase makes
FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "NO_ACTION": "FINDING",
        "WARN": "WARNING",
        "LABEL": "LABEL",
        "RATE": "RATING",
        "REMOVE_CONTENT": "CONTENT",
        "RESTRICT": "ACCOUNT",
        "SUSPEND": "ACCOUNT",
        "BAN": "ACCOUNT",
        "RESTORE": "RESTORE",
    }
)
TIMED: Final = frozenset({"LABEL", "REMOVE_CONTENT"})  # may carry durationHours
MAXIMUM_HOURS: Final = 24 * 365
LABEL_MAXIMUM: Final = 64
STRIKES: Final[Mapping[int, int]] = MappingProxyType({0: 0, 1: 1, 2: 2, 3: 4, 4: 0})  # 4 proposes a ban instead
STRIKE_DAYS: Final[Mapping[int, int]] = MappingProxyType({0: 0, 1: 90, 2: 180, 3: 365, 4: 0})
STRIKING: Final = ("EFFECTIVE", "SUPERSEDED", "EXPIRED")  # states of a decision whose points count
BAN_PROPOSAL_STRIKES: Final = 8
GRAVEST: Final = 4

# What the European transparency database calls each restriction: labelling is one, so it needs its reasons too.
RESTRICTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "LABEL": "DECISION_VISIBILITY_CONTENT_LABELLED",
        "REMOVE_CONTENT": "DECISION_VISIBILITY_CONTENT_REMOVED",
        "RESTRICT": "DECISION_ACCOUNT_SUSPENDED",
        "SUSPEND": "DECISION_ACCOUNT_SUSPENDED",
        "BAN": "DECISION_ACCOUNT_TERMINATED",
    }
)
_STATEMENT_FIELDS: Final = (
    ("ground", "ground"),
    ("ground_reference", "groundReference"),
    ("facts", "facts"),
    ("explanation", "explanation"),
    ("category", "category"),
    ("content_type", "contentType"),
)


def strikes(kind: str, severity: int) -> int:
    """Points a decision puts on the subject: none for NO_ACTION, else by severity."""
    return 0 if kind == "NO_ACTION" else STRIKES[severity]


def active_strikes(decisions: Iterable[Mapping[str, Any]], now: datetime) -> int:
    """Unexpired points of a subject. A superseded decision's stay, a reversed one's are gone."""
    return sum(
        row["strikes"]
        for row in decisions
        if row["strikes"]
        and row["state"] in STRIKING
        and row["effective_at"] + timedelta(days=STRIKE_DAYS[row["severity"]]) > now
    )


def proposes_ban(kind: str, severity: int, active: int) -> bool:
    """Whether a decision should put a ban up for decision: it never bans by itself."""
    return kind not in {"BAN", "NO_ACTION"} and (severity == GRAVEST or active >= BAN_PROPOSAL_STRIKES)


def subject_state(current: str, effective_kinds: Iterable[str]) -> str:
    """The state of a subject, derived from its effective decisions. DELETED is final."""
    if current == "DELETED":
        return current
    kinds = set(effective_kinds)
    for kind, state in (("BAN", "BANNED"), ("SUSPEND", "SUSPENDED"), ("RESTRICT", "RESTRICTED")):
        if kind in kinds:
            return state
    return "ACTIVE"


def missing_statement_fields(kind: str, statement: object | None) -> tuple[str, ...]:
    """Names of the required fields that a restricting decision's statement lacks; empty when it may stand."""
    if kind not in RESTRICTIONS:
        return ()
    return tuple(name for attribute, name in _STATEMENT_FIELDS if not _filled(getattr(statement, attribute, None)))


def _filled(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, Sequence):
        return bool(value) and all(_filled(item) for item in value)
    return value is not None


def check_decision(
    kind: str, *, severity: int, duration_hours: int | None, label: str | None, statement: object | None
) -> None:
    """Refuse a decision whose parts do not fit its kind; ``STATEMENT_INCOMPLETE`` names every missing field at once."""
    if kind not in KINDS:
        raise ConsoleError("BAD_REQUEST", f"decideCase does not make a {kind}.", field="kind")
    if not 0 <= severity <= GRAVEST:
        raise ConsoleError("BAD_REQUEST", "severity is 0 to 4.", field="severity")
    if kind == "NO_ACTION" and severity:
        raise ConsoleError("BAD_REQUEST", "NO_ACTION has severity 0.", field="severity")
    if duration_hours is not None and (kind not in TIMED or not 1 <= duration_hours <= MAXIMUM_HOURS):
        raise ConsoleError("BAD_REQUEST", f"A {kind} takes no such duration.", field="durationHours")
    if (kind == "LABEL") != bool(label and label.strip()):
        raise ConsoleError("BAD_REQUEST", "A LABEL, and nothing else, names its label.", field="label")
    if label is not None and len(label) > LABEL_MAXIMUM:
        raise ConsoleError("BAD_REQUEST", f"A label has at most {LABEL_MAXIMUM} characters.", field="label")
    missing = missing_statement_fields(kind, statement)
    if missing:
        raise ConsoleError("STATEMENT_INCOMPLETE", fields=list(missing))
