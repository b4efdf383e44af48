"""Cities, categories and ceilings of a grant: what it covers and up to which amount.

The table of ceilings is the console domain's, section 4, in EUR minor units. A person with several grants has the best
single one, never a sum, so nothing here ever adds two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

from authz.caller import EVERY_CITY, Grant, StaffRow

ROLES: Final = ("SUPPORT", "TRUST_SAFETY", "FINANCE", "CONTENT_EDITOR", "CITY_OPS", "ADMIN", "AUDITOR")
BUSINESS_ROLES: Final = ROLES[:5]
SERVICE: Final = "SERVICE"  # not a role that a person can be granted: API keys of other systems
TIERS: Final = ("AGENT", "SENIOR", "LEAD")
CATEGORIES: Final = ("SFW", "SUGGESTIVE", "NSFW", "PROHIBITED")
ONE_TIER: Final = frozenset({"ADMIN", "AUDITOR"})  # their grants store LEAD
_EDITOR_CATEGORIES: Final = frozenset({"SFW", "SUGGESTIVE"})
READS_ANY_AMOUNT: Final = frozenset({"AUDITOR"})  # approves no request, so no ceiling bounds which ones he reads


class Unscoped(Enum):
    """Marks a question that does not ask for a city or category; None would mean "without a city"."""

    UNSCOPED = "UNSCOPED"


UNSCOPED: Final = Unscoped.UNSCOPED


class Ceilings(NamedTuple):
    """Up to which amount a grant acts alone, may request, and may approve for others."""

    alone: int
    request: int
    approve: int


NO_MONEY: Final = Ceilings(0, 0, 0)

CEILINGS: Final[Mapping[tuple[str, str], Ceilings]] = MappingProxyType(
    {
        ("SUPPORT", "AGENT"): Ceilings(5_000, 50_000, 0),
        ("SUPPORT", "SENIOR"): Ceilings(10_000, 200_000, 0),
        ("SUPPORT", "LEAD"): Ceilings(20_000, 500_000, 20_000),
        ("FINANCE", "AGENT"): Ceilings(20_000, 1_000_000, 50_000),
        ("FINANCE", "SENIOR"): Ceilings(50_000, 5_000_000, 500_000),
        ("FINANCE", "LEAD"): Ceilings(100_000, 20_000_000, 20_000_000),
    }
)


def ceilings(grant: Grant) -> Ceilings:
    """The three amounts of a grant; roles that handle no money have zero."""
    return CEILINGS.get((grant.role, grant.tier), NO_MONEY)


def grant_facts(grant: Grant) -> dict[str, int | str]:
    """The facts of the acting grant that conditions ask for."""
    limits = ceilings(grant)
    return {
        "role": grant.role,
        "tier": grant.tier,
        "aloneCeilingMinor": limits.alone,
        "requestCeilingMinor": limits.request,
        "approveCeilingMinor": limits.approve,
    }


def rank(grant: Grant) -> tuple[int, int, int, int]:
    """Orders grants that carry the same right: more money first, then tier."""
    limits = ceilings(grant)
    return (limits.alone, limits.request, limits.approve, TIERS.index(grant.tier))


def covers(grant: Grant, city_id: str | Unscoped | None, category: str | Unscoped | None) -> bool:
    """Whether one grant covers both, of those that are asked. An unknown category is covered by none."""
    if not isinstance(city_id, Unscoped) and not grant.covers_city(city_id):
        return False
    return isinstance(category, Unscoped) or category in grant.content_categories


def in_team(lead: Grant, member: StaffRow | None) -> bool:
    """TEAM: an active member whose grants of the lead's role all lie inside the lead's cities."""
    if lead.tier != "LEAD" or member is None or member.state != "ACTIVE":
        return False
    grants = [grant for grant in member.grants if grant.role == lead.role]
    return bool(grants) and (lead.every_city or all(set(grant.city_ids) <= set(lead.city_ids) for grant in grants))


def cities_context(grants: Iterable[Grant]) -> str:
    """The cities that row-level security lets through, ``*`` for all. The second line: it knows neither roles nor rows."""
    grants = tuple(grants)
    if any(grant.every_city for grant in grants):
        return EVERY_CITY[0]
    return ",".join(sorted({city for grant in grants for city in grant.city_ids}))


def grant_problem(grant: Grant, roles: Sequence[str] = ROLES) -> str | None:
    """What is wrong with a grant, or None. One bad stored grant refuses the whole staff directory (AZ-9)."""
    if grant.role not in roles:
        return f"unknown role {grant.role}"
    if grant.tier not in TIERS or (grant.role in ONE_TIER and grant.tier != "LEAD"):
        return f"tier {grant.tier} for role {grant.role}"
    unknown = sorted(set(grant.content_categories) - set(CATEGORIES))
    if unknown:
        return f"unknown category {', '.join(unknown)}"
    if grant.role == "CONTENT_EDITOR" and not set(grant.content_categories) <= _EDITOR_CATEGORIES:
        return "a CONTENT_EDITOR covers SFW and SUGGESTIVE only"
    if EVERY_CITY[0] in grant.city_ids and not grant.every_city:
        return "every city and a list of cities at once"
    if any(not city or "," in city for city in grant.city_ids):  # the comma separates cities_context
        return "a city id that is empty or has a comma"
    return None
