"""Why a field is open or shut for somebody, in words and as data: the decision function asked once more, never another one.

With facts (an amount, a city) the answer is the one an attempt would get; what no fact settles is told as a condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from authz import conditions, requirements
from authz.caller import Grant
from authz.conditions import Facts
from authz.enforcer import NO_FACTS, UNAUTHORIZED, Held, Snapshot
from authz.scope import UNSCOPED, Unscoped, grant_facts, rank
from schema.directives import FieldRules


@dataclass(frozen=True)
class Explanation:
    """One answer. ``access`` is VALUE, MASKED or DENIED; ``scope`` names the cities and categories of the grant it rests on."""

    field: str
    action: str
    allowed: bool
    access: str
    policy_version: int
    text: str
    row_id: str | None = None
    condition: str | None = None
    grant_id: str | None = None
    role: str | None = None
    cities: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    approvals: int = 0
    approver_roles: tuple[str, ...] = ()
    denied_code: str | None = None


def explain(
    snapshot: Snapshot,
    grants: Sequence[Grant],
    rule: FieldRules,
    *,
    static_facts: Facts = NO_FACTS,
    facts: Facts = NO_FACTS,
    city_id: str | Unscoped | None = UNSCOPED,
    category: str | Unscoped | None = UNSCOPED,
) -> Explanation:
    """Say whether these grants pass the field, by which line, within which scope, and whom it needs besides.

    ``facts`` are what is known of the object; what is not known leaves the line standing with its condition told.
    """
    if rule.policy is None:
        return _without_row(snapshot, rule)
    object_, action = rule.policy
    name = f"{object_}:{action}"
    held = snapshot.holding(grants, object_, action, static_facts)
    if not held:
        return _no_line(snapshot, grants, rule, object_, action)
    verdict = snapshot.permits(grants, object_, action, {**static_facts, **facts}, city_id=city_id, category=category)
    if verdict.step == "SCOPE":
        text = (
            f"No grant that holds {name} covers this city and category, so the object does not exist for this person."
        )
        return Explanation(rule.name, name, False, "DENIED", snapshot.version, text, denied_code="NOT_FOUND")
    if verdict.allowed and verdict.grant and verdict.line:
        return _open(snapshot, rule, name, Held(verdict.grant, verdict.line), facts, certain=True)
    undecided = [
        one for one in held if conditions.evaluate(one.line.condition, {**facts, **grant_facts(one.grant)}) is None
    ]
    if undecided:
        return _open(snapshot, rule, name, max(undecided, key=lambda one: rank(one.grant)), facts, certain=False)
    condition = conditions.text(verdict.line.condition if verdict.line else None)
    text = f"{name} is held, but only if {condition}, and that is not so here."
    row = verdict.policy_row_id
    return Explanation(
        rule.name, name, False, "DENIED", snapshot.version, text, row, condition, denied_code=verdict.code
    )


def _without_row(snapshot: Snapshot, rule: FieldRules) -> Explanation:
    if rule.own:
        text = "Everybody reads this of himself, and of nobody else."
        return Explanation(rule.name, "self", True, "VALUE", snapshot.version, text, condition="own row")
    text = "The field has no row of its own: it is open wherever the object it belongs to is."
    return Explanation(rule.name, "inherit", True, "VALUE", snapshot.version, text)


def _no_line(snapshot: Snapshot, grants: Sequence[Grant], rule: FieldRules, object_: str, action: str) -> Explanation:
    name = f"{object_}:{action}"
    for grant in grants:
        allowed, line = snapshot.policy.explain(grant.role, grant.tier, object_, action)
        if line is not None and not allowed:
            text = f"The line {line.id} denies {name}, whatever else is granted."
            return Explanation(
                rule.name, name, False, "DENIED", snapshot.version, text, line.id, denied_code=UNAUTHORIZED
            )
    holders = sorted({f"{line.role} from {line.tier}" for line in snapshot.policy.holders(object_, action)})
    text = f"No grant of this person holds {name}; held by: {', '.join(holders) or 'nobody'}."
    return Explanation(rule.name, name, False, "DENIED", snapshot.version, text, denied_code=UNAUTHORIZED)


def _open(snapshot: Snapshot, rule: FieldRules, name: str, held: Held, facts: Facts, *, certain: bool) -> Explanation:
    grant, line = held.grant, held.line
    condition = conditions.text(line.condition)
    where = "in every city" if grant.every_city else f"in {', '.join(grant.city_ids) or 'no city'}"
    told = "" if line.condition is None or certain else f", if {condition}"
    approvals, roles, sentence = _approvals(snapshot, rule, {**facts, **grant_facts(grant)})
    masked = " The value is shown masked." if rule.pii else ""
    text = f"Allowed by {line.id} of the grant {grant.id} {where}{told}.{masked}{sentence}"
    return Explanation(
        field=rule.name,
        action=name,
        allowed=True,
        access="MASKED" if rule.pii else "VALUE",
        policy_version=snapshot.version,
        text=text,
        row_id=line.id,
        condition=condition,
        grant_id=grant.id,
        role=grant.role,
        cities=grant.city_ids,
        categories=grant.content_categories,
        approvals=approvals,
        approver_roles=roles,
    )


def _approvals(snapshot: Snapshot, rule: FieldRules, facts: Facts) -> tuple[int, tuple[str, ...], str]:
    """How many approvals the known facts ask for at least, of whom, and what more might be asked."""
    if rule.dual is None:
        return 0, (), ""
    key = rule.dual[0]
    book = snapshot.approvals
    worst = requirements.required(key, facts, False, book=book)
    if worst is None:
        return 0, (), " One person is enough."
    sure_policies = tuple(
        policy for policy in book.get(key, ()) if conditions.evaluate(policy.condition, facts) is True
    )
    sure = requirements.required(key, facts, False, book={key: sure_policies}) if sure_policies else None
    if sure is not None:
        return (
            sure.approvals,
            sure.approver_roles,
            f" Needs {_people(sure.approvals)} of {', '.join(sure.approver_roles)}.",
        )
    open_facts = sorted(requirements.facts_needed(key, book=book) - set(facts))
    return (
        0,
        worst.approver_roles,
        f" May need {_people(worst.approvals)} of {', '.join(worst.approver_roles)}, by {', '.join(open_facts)}.",
    )


def _people(count: int) -> str:
    return "one approval" if count == 1 else f"{count} approvals"
