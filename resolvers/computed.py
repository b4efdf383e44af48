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
from schema.build import console
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
    """One mutation as a hint. Its row, reason list and approval key are what the schema says of the mutation."""

    mutation: str
    check: Callable[[Caller, Row], None]  # raises the refusal of the attempt
    facts: Mapping[str, Fact] = field(default_factory=dict)  # of the mildest form

    def ask(self, binding: Binding, row: Row, facts: Mapping[str, Fact], *, protected: bool) -> dict[str, Any]:
        caller, snapshot, rule = binding.caller, binding.snapshot, console().rules["Mutation", self.mutation]
        known = {**facts, **self.facts}
        category = row.get("content_category", UNSCOPED)
        verdict = snapshot.permits(caller.grants, *rule.row, known, city_id=row["city_id"], category=category)
        code = None if verdict.allowed else verdict.code
        requirement = None
        if code is None:
            try:
                self.check(caller, row)
            except ConsoleError as error:
                code = error.code
        if code is None and rule.dual and verdict.grant:
            requirement = dual_control.required(
                rule.dual[0], {**known, **grant_facts(verdict.grant)}, protected, book=snapshot.policy.approvals
            )
        return {
            "action": rule.record_action,
            "allowed": code is None,
            "needsReason": rule.reason is not None,
            "reasonList": rule.reason,
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
        token = row["lease_token"] if row["assignee_id"] == caller.id else None
        case_rules.check_step(row, event, caller.id, token, row["now"])

    return check


def _shown(caller: Caller, row: Row, field: str) -> None:
    if row["subject_staff_id"] == caller.id:
        raise ConsoleError("SELF_SUBJECT")
    case_rules.check_shown(row, field)


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
    _Hint("claimCase", _claim),
    _Hint("releaseCase", _step("releaseCase", "release")),
    _Hint("skipCase", _step("skipCase", "skip")),
    _Hint("escalateCase", _step("escalateCase", "escalate")),
    _Hint("resolveCase", _step("resolveCase", "resolve")),
    _Hint("reopenCase", _step("reopenCase", "reopen")),
    _Hint("addNote", _note),
    _Hint("decideCase", _step("decideCase", "decide"), _MILDEST_DECISION),
)


def case_actions(binding: Binding, row: Row) -> list[dict[str, Any]]:
    """What the caller may do with a case as it stands."""
    case = {name: _at(value) if name.endswith(("_at", "now")) else value for name, value in needed(row).items()}
    facts = case_rules.facts(case, binding.caller.id, case["now"])
    return [hint.ask(binding, case, facts, protected=bool(case["subject_tags"])) for hint in _CASE]


def _refund(_: Caller, row: Row) -> None:
    money_rules.check_refundable(1, row)


_LEDGER: Final = _Hint("requestRefund", _refund, _MILDEST_REFUND)


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
        asked = {rule.reason for rule in console().rules.values() if rule.reason and rule.record_action == action}
        names = [name for name in names if name in asked]
    return [
        {"code": code.code, "list": code.list_name, "noteRequired": code.note_required, "label": code.label}
        for name in names
        for code in reasons.LISTS.get(name, ())
    ]


Function = Callable[[Call], Awaitable[Any]]
