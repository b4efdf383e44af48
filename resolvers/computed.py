"""Fields that only Python can say: hints, eligibility, ceilings, names of people.

Hints call the functions that enforce (security-contract AZ-10): policy snapshot, state tables, dual control. Where the
outcome depends on arguments (which decision, what amount), a hint speaks of the mildest form of the action.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from authz import dual_control, reasons, requirements
from authz.approval_terms import Terms, terms_as_stored
from authz.caller import Grant
from authz.scope import NO_MONEY, ceilings
from resolvers import hints
from resolvers.labels import NEED
from schema.build import console
from services.approvals.request import bound

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


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _terms(row: Row) -> Terms:
    return terms_as_stored(needed(row)["seats"])


def _actions(type_name: str) -> Callable[[Binding, Row], list[dict[str, Any]]]:
    return lambda binding, row: hints.actions(binding, type_name, needed(row))


_HINTED: Final = [of.name for of in console().objects() if hints.FIELD in of.fields]

COMPUTED: Final[Mapping[tuple[str, str], Callable[[Binding, Row], Any]]] = MappingProxyType(
    {
        **{(name, hints.FIELD): _actions(name) for name in _HINTED},
        ("Decision", "statement"): lambda _, row: row[f"{NEED}statement"],
        ("ApprovalRequest", "eligible"): lambda binding, row: ineligible_code(binding, row) is None,
        ("ApprovalRequest", "ineligibleCode"): ineligible_code,
        # JSON in a string: a condition that is not there is the text null, it always applies.
        ("ApprovalPolicy", "condition"): lambda _, row: json.dumps(needed(row)["condition"], sort_keys=True),
        ("ApprovalPolicy", "floor"): lambda _, row: requirements.FLOOR.get(needed(row)["action"], 1),
        ("ApprovalPolicy", "approvals"): lambda _, row: _terms(row).approvals,
        ("ApprovalPolicy", "approverRoles"): lambda _, row: list(_terms(row).approver_roles),
        ("ApprovalPolicy", "minTier"): lambda _, row: _terms(row).min_tier,
        ("ApprovalPolicy", "mustInclude"): lambda _, row: _json(_terms(row).must_include),
        ("Macro", "steps"): lambda _, row: row[f"{NEED}steps"],
        ("MacroRun", "steps"): lambda _, row: row[f"{NEED}steps"],
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
