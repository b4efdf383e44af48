"""The seats of an approval policy as GraphQL says them, and back without loss: approvals, who may give them, which must be whose.

``approverRoles`` from ``minTier`` are everybody who may approve. ``mustInclude`` lists the narrower seats, each with its roles
and their least tier: ``[["FINANCE LEAD"]]`` is one approval by a FINANCE LEAD, ``[["ADMIN AGENT"], ["AUDITOR AGENT"]]`` one of
each. Approvals that it does not name may come from any approver. So the roles and the tier never say more than the seats do.

A policy whose seats are those of a deed's own steps has ``mustInclude`` ``"STEPS"``, no roles, and asks for one approval at least.
Roles stand in the order of the role table, seats from the widest to the narrowest: neither order means anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from authz.requirements import FROM_STEPS, Seat, parse_seat
from authz.scope import ROLES, TIERS

MOST_APPROVALS: Final = 10
_LEAST: Final = TIERS[0]


class TermsError(ValueError):
    """Terms that do not fit together; ``field`` is the GraphQL name of what is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Terms:
    """How many approvals, by whom. ``must_include`` is JSON: a list of seats, the text STEPS, or None."""

    approvals: int
    approver_roles: tuple[str, ...]
    min_tier: str
    must_include: Any = None


def terms_of(seats: Sequence[Seat]) -> Terms:
    """Seats in the words of the schema; no seats are those of the steps."""
    if not seats:
        return Terms(1, (), _LEAST, FROM_STEPS)
    accepted = {pair for seat in seats for pair in seat.accepts}
    roles = tuple(role for role in ROLES if any(role == one for one, _ in accepted))
    tier = min((tier for _, tier in accepted), key=TIERS.index)
    anybody = _anybody(roles, tier)
    narrower = [seat.to_json() for seat in in_order(seats) if seat != anybody]
    return Terms(len(seats), roles, tier, narrower or None)


def terms_as_stored(seats: Any) -> Terms:
    """The terms of seats as JSON has them: a list of seats, or the text STEPS."""
    return terms_of(() if seats == FROM_STEPS else tuple(parse_seat(accepts) for accepts in seats))


def seats_of(terms: Terms) -> tuple[Seat, ...]:
    """The seats that these terms mean, none for those of the steps; ``TermsError`` says what does not fit together."""
    if not 1 <= terms.approvals <= MOST_APPROVALS:
        raise TermsError("approvals", f"approvals are 1 to {MOST_APPROVALS}")
    if terms.must_include == FROM_STEPS:
        if terms.approver_roles or terms.min_tier != _LEAST or terms.approvals != 1:
            raise TermsError(
                "mustInclude",
                f"with mustInclude {FROM_STEPS} approvals are 1, minTier is {_LEAST} and approverRoles is empty",
            )
        return ()
    if not terms.approver_roles or len(set(terms.approver_roles)) != len(terms.approver_roles):
        raise TermsError("approverRoles", "approverRoles names each role once, and at least one")
    named = _named(terms.must_include)
    if len(named) > terms.approvals:
        raise TermsError("mustInclude", f"mustInclude has {len(named)} seats for {terms.approvals} approvals")
    anybody = _anybody(terms.approver_roles, terms.min_tier)
    for seat in named:
        for role, tier in seat.accepts:
            if not anybody.takes(role, tier):
                raise TermsError(
                    "mustInclude", f"mustInclude names {role} {tier}, which approverRoles from minTier do not allow"
                )
    seats = in_order([*named, *[anybody] * (terms.approvals - len(named))])
    said = terms_of(seats)
    idle = [role for role in terms.approver_roles if role not in said.approver_roles]
    if idle:
        raise TermsError("approverRoles", f"approverRoles names {', '.join(idle)}, but mustInclude leaves them no seat")
    if said.min_tier != terms.min_tier:
        raise TermsError(
            "minTier", f"minTier is {terms.min_tier}, but every seat of mustInclude asks for {said.min_tier} or more"
        )
    return seats


def in_words(seats: Sequence[Seat]) -> str:
    """``2 approvals: FINANCE; FINANCE LEAD``."""
    if not seats:
        return "the approvals of its steps"
    told = "; ".join(
        " or ".join(role if tier == _LEAST else f"{role} {tier}" for role, tier in seat.accepts)
        for seat in in_order(seats)
    )
    return f"{len(seats)} approval{'s' if len(seats) > 1 else ''}: {told}"


def in_order(seats: Sequence[Seat]) -> tuple[Seat, ...]:
    """The same seats in their one written order."""
    return tuple(sorted((_tidy(seat) for seat in seats), key=_place))


def _place(seat: Seat) -> tuple[Any, ...]:
    return -len(seat.accepts), [(ROLES.index(role), TIERS.index(tier)) for role, tier in seat.accepts]


def _tidy(seat: Seat) -> Seat:
    """Each role once, with the least tier that it is named with."""
    least: dict[str, str] = {}
    for role, tier in seat.accepts:
        least[role] = min(least.get(role, tier), tier, key=TIERS.index)
    return Seat(tuple((role, least[role]) for role in ROLES if role in least))


def _anybody(roles: Sequence[str], tier: str) -> Seat:
    return Seat(tuple((role, tier) for role in ROLES if role in roles))


def _named(must_include: Any) -> list[Seat]:
    if must_include is None:
        return []
    if not isinstance(must_include, list) or not must_include:
        raise TermsError("mustInclude", f"mustInclude is a list of seats, or {FROM_STEPS}, or null")
    if len(must_include) > MOST_APPROVALS:
        raise TermsError("mustInclude", f"mustInclude has at most {MOST_APPROVALS} seats")
    try:
        return [_tidy(parse_seat(accepts)) for accepts in must_include]
    except ValueError as error:
        raise TermsError("mustInclude", str(error)) from error
