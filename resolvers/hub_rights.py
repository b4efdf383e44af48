"""Whether an event may be told to a caller: the policy rows of the read, asked of the event's own city and facts.

The same rows, conditions and scope keys as a read of the object itself (policy-rows sections 2 to 4), for the three
things that can be subscribed to. Pure: one snapshot, one caller, one event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from authz.caller import Caller, Grant
from authz.conditions import Fact
from authz.enforcer import Snapshot
from authz.scope import READS_ANY_AMOUNT, UNSCOPED, Unscoped, ceilings

Facts = Mapping[str, Any]
ObjectFacts = Callable[[Snapshot, Caller, Grant, Facts], "dict[str, Fact] | None"]
_NO_FACTS: Final = frozenset({"action", "requesterId"})  # of the request itself, not of conditions


def may_hear(snapshot: Snapshot, caller: Caller, right: tuple[str, str], *, city_id: str | None, facts: Facts) -> bool:
    """Ask each grant by itself: city, category, condition and amount must hold within one grant, never across two."""
    object_name, action = right
    # Asked with all grants at once first: a deny line of one role overrides them all.
    if not snapshot.opens(caller.grants, object_name, action, caller.facts):
        return False
    describe = _FACTS[object_name]
    category: str | Unscoped | None = facts.get("contentCategory") if object_name == "case" else UNSCOPED
    for grant in caller.grants:
        known = describe(snapshot, caller, grant, facts)
        if known is None:
            continue
        if snapshot.permits(
            (grant,), object_name, action, {**caller.facts, **known}, city_id=city_id, category=category
        ).allowed:
            return True
    return False


def _case(_snapshot: Snapshot, _caller: Caller, _grant: Grant, facts: Facts) -> dict[str, Fact] | None:
    return {name: facts[name] for name in ("caseKind", "contentCategory") if facts.get(name) is not None}


def _approval(snapshot: Snapshot, caller: Caller, grant: Grant, facts: Facts) -> dict[str, Fact] | None:
    own = facts.get("requesterId") == caller.id
    amount = facts.get("amountMinor")
    limited = grant.role not in READS_ANY_AMOUNT
    if limited and amount is not None and not own and amount > ceilings(grant).approve:  # the scope key AMOUNT
        return None
    known = {
        name: frozenset(value) if isinstance(value, list) else value
        for name, value in facts.items()
        if value is not None and name not in _NO_FACTS
    }
    key = str(facts.get("action"))
    denied = snapshot.policy.denied(caller.roles, "approval", key)
    held = not denied and snapshot.permits((grant,), "approval", key, known).allowed
    relation = snapshot.relation(caller.id, grant, facts.get("requesterId"))
    return {**known, "relation": relation, "voteRow": "HELD" if held else "NONE"}


def _alert(_snapshot: Snapshot, caller: Caller, _grant: Grant, facts: Facts) -> dict[str, Fact] | None:
    return {"alertTo": "ME" if caller.id in facts.get("recipientIds", ()) else "OTHER"}


_FACTS: Final[Mapping[str, ObjectFacts]] = {"case": _case, "approval": _approval, "alert": _alert}
