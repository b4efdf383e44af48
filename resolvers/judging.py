"""The object step of a mutation: one policy row asked of one target, by the function that reads are scoped by too.

City, category, condition and, where it is asked, the caller's relation to the owner must hold within one grant.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from authz.caller import Caller, Grant
from authz.conditions import Fact
from authz.enforcer import Snapshot, Verdict
from authz.scope import UNSCOPED
from schema.directives import FieldRules
from schema.errors import ConsoleError, NotAuthorizedError
from services.command import Act, Target

_PASSED: Final = Verdict(True)


def open_field(act: Act[Any], rule: FieldRules) -> None:
    """The field step: refuse when no line of the row could hold, whatever the object."""
    limited = act.caller.root_fields is not None and rule.field not in act.caller.root_fields
    if limited or not act.snapshot.opens(act.caller.grants, *rule.row, _static(act.caller, rule.field)):
        raise NotAuthorizedError(rule.type, rule.field)


def judge(act: Act[Any], rule: FieldRules, target: Target) -> Verdict:
    """The object step: the line and grant that carry the deed, or a refusal by the fact's own code."""
    if act.system or not target.judged:
        return _PASSED
    facts = {**target.facts, **_static(act.caller, rule.field)}
    verdict = _best(act, rule.row, target, facts)
    if not verdict.allowed:
        if verdict.code in (None, "Unauthorized"):
            raise NotAuthorizedError(rule.type, rule.field)
        raise ConsoleError(str(verdict.code))
    if target.own_account:
        raise ConsoleError("SELF_SUBJECT")
    return verdict


def _static(caller: Caller, field: str) -> dict[str, str]:
    return {"rootField": field, **caller.facts}


def _best(act: Act[Any], row: tuple[str, str], target: Target, facts: Mapping[str, Any]) -> Verdict:
    category = UNSCOPED if target.content_category is None else target.content_category
    city_id = UNSCOPED if target.everywhere else target.city_id

    def ask(grants: tuple[Grant, ...], known: Mapping[str, Any]) -> Verdict:
        return act.snapshot.permits(grants, *row, known, city_id=city_id, category=category)

    if target.owner_id is None and target.by_grant is None:
        return ask(act.caller.grants, facts)
    refusal: Verdict | None = None
    for grant in act.caller.grants:
        verdict = ask((grant,), {**facts, **_of_grant(act, target, grant)})
        if verdict.allowed:
            return verdict
        refusal = refusal or verdict
    return refusal or Verdict(False)


def _of_grant(act: Act[Any], target: Target, grant: Grant) -> dict[str, Fact]:
    """Questions to one grant, each asked with its own answer: is the owner of its team, does the command say more of it."""
    facts = {} if target.by_grant is None else dict(target.by_grant(grant))
    if target.owner_id is not None:
        facts["relation"] = act.snapshot.relation(act.caller.id, grant, target.owner_id)
    return facts


def standing_caller(snapshot: Snapshot, staff_id: str, now: datetime) -> Caller:
    """A person as the store has him, without a token: the requester at the execution of his request."""
    person = snapshot.staff.get(staff_id)
    name = person.display_name if person else staff_id
    handle = person.handle if person else staff_id
    return Caller(staff_id, handle, name, snapshot.grants_of(staff_id, now), now, None, now, "")


def system_caller(now: datetime) -> Caller:
    """Nobody: timers, webhooks and the outbox."""
    return Caller("system", "system", "System", (), now, None, now, "")
