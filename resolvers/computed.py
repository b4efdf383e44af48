"""Fields that only Python can say: hints, eligibility, ceilings, names of people.

Hints call the functions that enforce (security-contract AZ-10): policy snapshot, state tables, dual control. Where the
outcome depends on arguments (which decision, what amount), a hint speaks of the mildest form of the action.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from authz import dual_control, reasons
from authz.caller import Grant
from authz.conditions import Fact
from authz.scope import NO_MONEY, UNSCOPED, ceilings, grant_facts
from resolvers.labels import NEED
from schema.errors import ConsoleError
from services.approvals.request import bound
from services.cases import rules as case_rules
from services.money import rules as money_rules

if TYPE_CHECKING:
    from authz.caller import Caller
    from authz.enforcer import Snapshot
    from resolvers.binding import Binding

Row = Mapping[str, Any]
CURRENCY_OF_CEILINGS: Final = "EUR"


def actor(snapshot: Snapshot, staff_id: str, kind: str | None = None) -> dict[str, Any]:
    """Someone who did something, by the staff directory; an id that is in it no more is still told."""
    person = snapshot.staff.get(staff_id)
    if person is None:
        return {
            "id": staff_id,
            "kind": kind or "SYSTEM",
            "displayName": staff_id if kind == "SERVICE" else "System",
            "roles": [],
        }
    held = {grant.role for grant in person.grants}
    return {"id": person.id, "kind": kind or "STAFF", "displayName": person.display_name, "roles": sorted(held)}


def needed(row: Row) -> dict[str, Any]:
    """The hidden columns of a row under their own names."""
    return {name.removeprefix(NEED): value for name, value in row.items() if name.startswith(NEED)}


# ---------- hints ----------
@dataclass(frozen=True)
class _Hint:
    mutation: str
    right: tuple[str, str]
    reason: str | None
    check: Callable[[Caller, Row], None]  # raises the refusal of the attempt
    facts: Mapping[str, Fact] = field(default_factory=dict)  # of the mildest form
    key: str | None = None  # of the approval policies

    def ask(self, binding: Binding, row: Row, facts: Mapping[str, Fact], *, protected: bool) -> dict[str, Any]:
        caller, snapshot = binding.caller, binding.snapshot
        known = {**facts, **self.facts}
        category = row.get("content_category", UNSCOPED)
        verdict = snapshot.permits(caller.grants, *self.right, known, city_id=row["city_id"], category=category)
        code = None if verdict.allowed else verdict.code
        requirement = None
        if code is None:
            try:
                self.check(caller, row)
            except ConsoleError as error:
                code = error.code
        if code is None and self.key and verdict.grant:
            requirement = dual_control.required(
                self.key, {**known, **grant_facts(verdict.grant)}, protected, book=snapshot.policy.approvals
            )
        return {
            "action": ".".join(self.right),
            "allowed": code is None,
            "needsReason": self.reason is not None,
            "reasonList": self.reason,
            "needsApproval": requirement is not None,
            "approvals": requirement.approvals if requirement else 0,
            "approverRoles": list(requirement.approver_roles) if requirement else [],
            "deniedCode": code,
        }


def _at(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _step(field: str, event: str) -> Callable[[Caller, Row], None]:
    """The checks of a step of a case in its command's order: shown, own account, lease, state."""

    def check(caller: Caller, row: Row) -> None:
        _shown(caller, row, field)
        claimed = row["state"] == "CLAIMED"
        if ("CLAIMED", event) in case_rules.CASE and (claimed or (row["state"], event) not in case_rules.CASE):
            mine = row["assignee_id"] == caller.id
            case_rules.check_lease(row, caller.id, row["lease_token"] if mine else None, row["now"])
        case_rules.next_state("case", row["state"], event)
        if event == "reopen" and (
            row["resolved_at"] is None or row["resolved_at"] + case_rules.REOPEN_WITHIN <= row["now"]
        ):
            raise ConsoleError("INVALID_TRANSITION")

    return check


def _shown(caller: Caller, row: Row, field: str) -> None:
    if row["subject_staff_id"] == caller.id:
        raise ConsoleError("SELF_SUBJECT")
    if field in row["hidden_actions"]:
        raise ConsoleError("INVALID_TRANSITION")


def _claim(caller: Caller, row: Row) -> None:
    _shown(caller, row, "claimCase")
    if row["state"] == "CLAIMED":
        if row["lease_expires_at"] > row["now"]:
            if row["assignee_id"] == caller.id:
                return  # says the same again
            raise ConsoleError("CASE_CLAIMED")
    else:
        case_rules.next_state("case", row["state"], "claim")
    if row["leases"] >= case_rules.LEASES_EACH:
        raise ConsoleError("LEASE_LIMIT")


def _note(caller: Caller, row: Row) -> None:
    _shown(caller, row, "addNote")


_MILDEST_DECISION: Final[Mapping[str, Fact]] = MappingProxyType(
    {"decisionKind": "NO_ACTION", "indefinite": 0, "durationHours": 0}
)
_MILDEST_REFUND: Final[Mapping[str, Fact]] = MappingProxyType(
    {"amountMinor": 1, "sum24hMinor": 1, "destination": "ORIGINAL", "reasonCode": "SERVICE_NOT_PROVIDED"}
)

_CASE: Final = (
    _Hint("claimCase", ("case", "claim"), None, _claim),
    _Hint("releaseCase", ("case", "claim"), "ROUTING", _step("releaseCase", "release")),
    _Hint("skipCase", ("case", "skip"), "ROUTING", _step("skipCase", "skip")),
    _Hint("escalateCase", ("case", "escalate"), "ROUTING", _step("escalateCase", "escalate")),
    _Hint("resolveCase", ("case", "resolve"), "DECIDE", _step("resolveCase", "resolve")),
    _Hint("reopenCase", ("case", "route"), "REVERSE", _step("reopenCase", "reopen")),
    _Hint("addNote", ("case", "note"), None, _note),
    _Hint("decideCase", ("case", "decide"), "DECIDE", _step("decideCase", "decide"), _MILDEST_DECISION, "case.decide"),
)
# Two mutations share a row with another one: the hint is named after the audit action instead.
_NAMES: Final = MappingProxyType({"releaseCase": "case.release", "reopenCase": "case.reopen"})


def case_actions(binding: Binding, row: Row) -> list[dict[str, Any]]:
    """What the caller may do with a case as it stands."""
    case = {name: _at(value) if name.endswith(("_at", "now")) else value for name, value in needed(row).items()}
    held = (
        case["state"] == "CLAIMED"
        and case["assignee_id"] == binding.caller.id
        and case["lease_expires_at"] > case["now"]
    )
    facts: dict[str, Fact] = {
        "caseKind": case["kind"],
        "caseState": case["state"],
        "contentCategory": case["content_category"],
        "assigned": int(held),
    }
    hints = []
    for hint in _CASE:
        said = hint.ask(binding, case, facts, protected=bool(case["subject_tags"]))
        hints.append({**said, "action": _NAMES.get(hint.mutation, said["action"])})
    return hints


def _refund(_: Caller, row: Row) -> None:
    money_rules.check_refundable(1, row)


_LEDGER: Final = _Hint("requestRefund", ("refund", "request"), "REFUND", _refund, _MILDEST_REFUND, "refund.request")


def ledger_actions(binding: Binding, row: Row) -> list[dict[str, Any]]:
    """Whether the caller may ask for a refund of this order."""
    return [_LEDGER.ask(binding, needed(row), {}, protected=False)]


# ---------- dual control ----------
def ineligible_code(binding: Binding, row: Row) -> str | None:
    """Why the caller may not vote on a request, or None: the answer a vote would get."""
    request = needed(row)
    caller, snapshot = binding.caller, binding.snapshot
    code = dual_control.eligible(caller.id, caller.grants, bound(request), snapshot.permits)
    if code is not None:
        return code
    if not snapshot.holding(caller.grants, "approval", "vote", caller.facts):
        return "TIER"
    if request["state"] != "PENDING" or request["overdue"]:
        return "APPROVAL_NOT_PENDING"
    return "ALREADY_VOTED" if request["voted"] else None


def _ceiling(name: str) -> Callable[[Binding, Row], dict[str, Any] | None]:
    def compute(_: Binding, row: Row) -> dict[str, Any] | None:
        held = needed(row)
        limits = ceilings(Grant("", held["role"], held["tier"], (), ()))
        return None if limits == NO_MONEY else {"amountMinor": getattr(limits, name), "currency": CURRENCY_OF_CEILINGS}

    return compute


COMPUTED: Final[Mapping[tuple[str, str], Callable[[Binding, Row], Any]]] = MappingProxyType(
    {
        ("Case", "allowedActions"): case_actions,
        ("OrderLedger", "allowedActions"): ledger_actions,
        ("Subject", "allowedActions"): lambda _, __: [],  # a subject's state only follows from decisions on its cases
        ("Decision", "statement"): lambda _, row: row[f"{NEED}statement"],
        ("ApprovalRequest", "eligible"): lambda binding, row: ineligible_code(binding, row) is None,
        ("ApprovalRequest", "ineligibleCode"): ineligible_code,
        ("Grant", "aloneCeiling"): _ceiling("alone"),
        ("Grant", "requestCeiling"): _ceiling("request"),
        ("Grant", "approveCeiling"): _ceiling("approve"),
        ("Viewer", "permissions"): lambda binding, _: list(
            binding.snapshot.rights(binding.caller.grants, binding.caller.facts)
        ),
        ("Viewer", "policyVersion"): lambda binding, _: binding.snapshot.version,
    }
)


# ---------- root fields without a table ----------
@dataclass(frozen=True)
class Call:
    """One root field that a function answers: who asks, and with which arguments."""

    caller: Caller
    snapshot: Snapshot
    arguments: Mapping[str, Any]


async def reason_codes(call: Call) -> list[dict[str, Any]]:
    """``reasonCodes``: one list, the list of one action, or all of them."""
    wanted = call.arguments.get("list")
    names = [getattr(wanted, "value", wanted)] if wanted is not None else list(reasons.LISTS)
    action = call.arguments.get("action")
    if action is not None:
        names = [name for name in names if name == ACTION_LISTS.get(action)]
    return [
        {"code": code.code, "list": code.list_name, "noteRequired": code.note_required, "label": code.label}
        for name in names
        for code in reasons.LISTS.get(name, ())
    ]


Function = Callable[[Call], Awaitable[Any]]

ACTION_LISTS: Final = MappingProxyType(
    {hint.right[0] + "." + hint.right[1]: hint.reason for hint in (*_CASE, _LEDGER) if hint.reason}
)
