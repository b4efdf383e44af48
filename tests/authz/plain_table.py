"""A second reading of who may do what: the policy rows' conditions as plain comparisons, without the grammar, the file or Casbin.

``facts`` lack what is not known; nothing unknown ever opens a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from authz.caller import Grant
from tests.authz.test_enforcer import FROM_TIER

TIERS: Final = ("AGENT", "SENIOR", "LEAD")
ONE_TIER: Final = ("ADMIN", "AUDITOR", "SERVICE")
# alone, ask, approve: console domain, section 4.
MONEY: Final = {
    ("SUPPORT", "AGENT"): (5_000, 50_000, 0),
    ("SUPPORT", "SENIOR"): (10_000, 200_000, 0),
    ("SUPPORT", "LEAD"): (20_000, 500_000, 20_000),
    ("FINANCE", "AGENT"): (20_000, 1_000_000, 50_000),
    ("FINANCE", "SENIOR"): (50_000, 5_000_000, 500_000),
    ("FINANCE", "LEAD"): (100_000, 20_000_000, 20_000_000),
}
KINDS: Final = {
    "SUPPORT": ("MODERATION", "VERIFICATION", "REFUND", "DISPUTE", "ACCOUNT"),
    "TRUST_SAFETY": ("MODERATION", "VERIFICATION", "APPEAL", "ACCOUNT"),
    "FINANCE": ("REFUND", "DISPUTE"),
    "CONTENT_EDITOR": ("MODERATION",),
    "CITY_OPS": ("CITY",),
}
# "The auditor changes nothing", whatever else he holds; to preview a macro changes nothing.
NOT_FOR_AUDITORS: Final = {
    *(
        "alert:ack",
        "case:claim",
        "case:decide",
        "case:escalate",
        "case:note",
        "case:resolve",
        "case:route",
        "case:skip",
    ),
    *("delivery:retry", "event:publish", "macro:edit", "macro:publish", "macro:run", "refund:cancel", "refund:request"),
    *("report:submit", "schema:introspect", "template:edit"),
}
PROOFS: Final = ("getAuditProof", "getAuditConsistency", "getAuditCheckpoint", "listAuditCheckpoints")
SAFE: Final = ("SFW", "SUGGESTIVE")

Facts = Mapping[str, Any]
Rule = Callable[[Grant, Facts], bool]


def money(grant: Grant) -> tuple[int, int, int]:
    return MONEY.get((grant.role, grant.tier), (0, 0, 0))


def at_most(value: int | None, most: int) -> bool:
    return value is not None and value <= most


# ---------- the conditions of policy rows, section 4 ----------
def own_kinds(grant: Grant, facts: Facts) -> bool:
    if grant.role in ("ADMIN", "AUDITOR"):
        return True
    mine = facts.get("caseKind") in KINDS[grant.role]
    return mine and (grant.role != "CONTENT_EDITOR" or facts.get("contentCategory") in SAFE)


def claims(grant: Grant, facts: Facts) -> bool:
    calm = "caseState" in facts and facts["caseState"] != "ESCALATED"
    return own_kinds(grant, facts) and (calm or grant.tier != "AGENT")


def decides(grant: Grant, facts: Facts) -> bool:
    kind = facts.get("decisionKind")
    never_lower = facts.get("ratingStep") in ("FIRST", "RAISE", "SAME")
    if grant.role == "SUPPORT":
        short = facts.get("indefinite") == 0 and at_most(facts.get("durationHours"), 720)
        return kind in ("NO_ACTION", "WARN", "LABEL") or (kind in ("RESTRICT", "SUSPEND") and short)
    if grant.role == "TRUST_SAFETY":
        return kind is not None and kind != "RESTORE" and (kind != "RATE" or never_lower)
    listed = kind in ("NO_ACTION", "WARN", "LABEL", "REMOVE_CONTENT")
    return facts.get("contentCategory") in SAFE and (listed or (kind == "RATE" and never_lower))


def related(*others: str, lead: str = "TEAM", leads: Sequence[str] = (), free: Sequence[str] = ()) -> Rule:
    """By relation; whoever leads (of ``leads``) also for his team, and ``free`` roles always."""

    def holds(grant: Grant, facts: Facts) -> bool:
        if grant.role in free:
            return True
        wider = (*others, lead) if grant.tier == "LEAD" and grant.role in leads else others
        return facts.get("relation") in wider

    return holds


def reads_requests(grant: Grant, facts: Facts) -> bool:
    if grant.role == "AUDITOR":
        return True
    team = grant.tier == "LEAD" and grant.role != "ADMIN" and facts.get("relation") == "TEAM"
    return facts.get("relation") == "OWN" or facts.get("voteRow") == "HELD" or team


def proves(grant: Grant, facts: Facts) -> bool:
    if grant.role in ("ADMIN", "AUDITOR"):
        return True
    team = grant.tier == "LEAD" and grant.role in ("TRUST_SAFETY", "FINANCE")
    return facts.get("rootField") in PROOFS and facts.get("relation") in (("OWN", "TEAM") if team else ("OWN",))


def to_me(grant: Grant, facts: Facts) -> bool:
    return facts.get("alertTo") == "ME"


def reads_alerts(grant: Grant, facts: Facts) -> bool:
    if grant.role == "SERVICE":
        return facts.get("service") == "OUTBOX"
    return grant.role in ("ADMIN", "AUDITOR") or to_me(grant, facts)


def of_service(service: str, *, own: bool = False) -> Rule:
    """Of SERVICE alone; people are asked nothing."""
    return lambda grant, facts: (
        grant.role != "SERVICE" or (facts.get("service") == service and (not own or facts.get("relation") == "OWN"))
    )


def macro_domain(grant: Grant, facts: Facts) -> bool:
    return facts.get("macroDomain") in ("BOTH", "MONEY" if grant.role == "FINANCE" else "SAFETY")


BUSINESS: Final = tuple(KINDS)
GUARDS: Final = ("TRUST_SAFETY", "FINANCE")
RULES: Final[Mapping[str, Rule]] = {
    "alert:ack": to_me,
    "alert:read": reads_alerts,
    "approval:cancel": related("OWN", leads=BUSINESS),
    "approval:macro.publish": macro_domain,
    "approval:macro.run": lambda _, facts: facts.get("stepsHeld") == 1,
    "approval:read": reads_requests,
    "approval:refund.request": lambda grant, facts: at_most(facts.get("sum24hMinor"), money(grant)[2]),
    "approval:vote": lambda _, facts: facts.get("voteRow") == "HELD",
    "audit:read": related("OWN", leads=GUARDS, free=("ADMIN", "AUDITOR")),
    "audit:verify": proves,
    "case:claim": claims,
    "case:decide": decides,
    "case:escalate": own_kinds,
    "case:note": own_kinds,
    "case:read": own_kinds,
    "case:resolve": own_kinds,
    "case:route": own_kinds,
    "case:skip": own_kinds,
    "event:publish": of_service("OUTBOX"),
    "macro:preview": lambda _, facts: facts.get("macroRoleHeld") == 1,
    "macro:run": lambda _, facts: facts.get("macroRoleHeld") == 1,
    "metrics:read": related("OWN", leads=BUSINESS, free=("ADMIN", "AUDITOR")),
    "queue:read": own_kinds,
    "refund:cancel": related("OWN", leads=("SUPPORT", "FINANCE")),
    "refund:request": lambda grant, facts: at_most(facts.get("amountMinor"), money(grant)[1]),
    "report:read": of_service("MARKETPLACE", own=True),
    "report:submit": of_service("MARKETPLACE"),
    "staff:read": related("SELF", leads=BUSINESS, free=("ADMIN", "AUDITOR")),
}


# ---------- the decision ----------
def carries(grant: Grant, row: str) -> bool:
    """Whether role and tier hold the row at all."""
    least = FROM_TIER[row].get(grant.role)
    return least is not None and (grant.role in ONE_TIER or TIERS.index(grant.tier) >= TIERS.index(least))


def denied(grants: Sequence[Grant], row: str) -> bool:
    return row in NOT_FOR_AUDITORS and any(grant.role == "AUDITOR" for grant in grants)


def reaches(grant: Grant, scope: Mapping[str, str | None]) -> bool:
    """City and category, where they are asked, of one grant."""
    city = "city_id" not in scope or "*" in grant.city_ids or scope["city_id"] in grant.city_ids
    return city and ("category" not in scope or scope["category"] in grant.content_categories)


def allowing(grants: Sequence[Grant], row: str, facts: Facts, scope: Mapping[str, str | None]) -> list[Grant]:
    """Each grant that carries the whole of it by itself."""
    rule = RULES.get(row, lambda _grant, _facts: True)
    if denied(grants, row):
        return []
    return [one for one in grants if carries(one, row) and reaches(one, scope) and rule(one, facts)]


def refusal(grants: Sequence[Grant], row: str, scope: Mapping[str, str | None]) -> str:
    """What somebody hears who is not allowed."""
    only_too_much = row == "refund:request" and not denied(grants, row)
    if only_too_much and any(carries(one, row) and reaches(one, scope) for one in grants):
        return "AMOUNT_CEILING_EXCEEDED"
    return "Unauthorized"


def best(grants: Sequence[Grant]) -> tuple[tuple[int, int, int], int]:
    return max((money(one), TIERS.index(one.tier)) for one in grants)
