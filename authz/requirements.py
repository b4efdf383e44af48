"""When a second person is needed, and how many of whom: the approval policies and what they ask for.

A book holds the policies in force by approval key; a request keeps the requirement that it was made under. Pure: the book
comes in as an argument, from the snapshot that the decision is taken by.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from authz.conditions import Condition, Facts, canonical, evaluate, facts_of, parse
from authz.scope import BUSINESS_ROLES, ROLES, TIERS

# The built-in floor (console domain, section 6, rule 9): a key with its fewest approvals. A policy that says less, or a
# book without a policy for a key, is refused.
FLOOR: Final[Mapping[str, int]] = MappingProxyType(
    {"refund.request": 1, "case.decide": 1, "macro.publish": 1, "macro.run": 1, "approvalPolicy.propose": 2}
)
# The rows that the floor is of: a deed that one of them holds of is never done alone, whatever the stored policies say. None: every deed.
FLOOR_ROWS: Final[Mapping[str, Condition | None]] = MappingProxyType(
    {
        "refund.request": parse(
            {
                "any": [
                    {"fact": "sum24hMinor", "op": "gt", "value": {"fact": "aloneCeilingMinor"}},
                    {"fact": "destination", "op": "eq", "value": "OTHER_INSTRUMENT"},
                ]
            }
        ),
        "case.decide": parse(
            {
                "any": [
                    {"fact": "decisionKind", "op": "eq", "value": "BAN"},
                    {
                        "all": [
                            {"fact": "decisionKind", "op": "in", "value": ["SUSPEND", "RESTRICT"]},
                            {
                                "any": [
                                    {"fact": "indefinite", "op": "eq", "value": 1},
                                    {"fact": "durationHours", "op": "gt", "value": 720},
                                ]
                            },
                        ]
                    },
                ]
            }
        ),
        "macro.publish": None,
        "macro.run": parse({"fact": "stepApprovals", "op": "gt", "value": 0}),
        "approvalPolicy.propose": None,
    }
)
FROM_STEPS: Final = "STEPS"  # in place of seats: those that the steps of the deed ask for, all of them

_MONEY_KEYS: Final = frozenset({"refund.request"})
_UNKNOWN_KEY_APPROVALS: Final = 2  # console domain, rule 12: a sensitive action without a policy needs two
_DAY, _HOUR = 86_400, 3_600
_STAMP_CHARACTERS: Final = 12  # tells versions apart, and short enough to read


# ---------- seats ----------
@dataclass(frozen=True)
class Seat:
    """A place in a quorum: each ``(role, least tier)`` that may fill it."""

    accepts: tuple[tuple[str, str], ...]

    def takes(self, role: str, tier: str) -> bool:
        return any(role == wanted and TIERS.index(tier) >= TIERS.index(least) for wanted, least in self.accepts)

    def to_json(self) -> list[str]:
        return [f"{role} {tier}" for role, tier in self.accepts]


@dataclass(frozen=True)
class PolicySeats:
    """The seats of one policy that applies; all must be filled."""

    policy_id: str
    seats: tuple[Seat, ...]


@dataclass(frozen=True)
class Requirement:
    """What one request needs: every policy's seats filled, by at least ``approvals`` different people."""

    key: str
    approvals: int
    policies: tuple[PolicySeats, ...]
    approve_within_seconds: int
    execute_within_seconds: int

    @property
    def policy_id(self) -> str:
        """The ids of all policies that apply, as one text: a request is bound to it."""
        return "+".join(policy.policy_id for policy in self.policies)

    @property
    def approver_roles(self) -> tuple[str, ...]:
        found = {role for policy in self.policies for seat in policy.seats for role, _ in seat.accepts}
        return tuple(role for role in ROLES if role in found)

    def seats_for(self, role: str, tier: str) -> int:
        """How many seats, over all policies, this role and tier may fill; 0 = none, so such a vote would not count."""
        return sum(seat.takes(role, tier) for policy in self.policies for seat in policy.seats)

    def to_json(self) -> dict[str, Any]:
        """As stored with the request: its quorum stays what it was when it was made."""
        return {
            "key": self.key,
            "approvals": self.approvals,
            "policies": [
                {
                    "id": policy.policy_id,
                    "seats": [seat.to_json() for seat in policy.seats],
                }
                for policy in self.policies
            ],
            "approveWithinSeconds": self.approve_within_seconds,
            "executeWithinSeconds": self.execute_within_seconds,
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Requirement:
        """Read back what ``to_json`` wrote; ``ValueError`` when it is anything else."""
        policies = tuple(
            PolicySeats(policy["id"], tuple(parse_seat(accepts) for accepts in policy["seats"]))
            for policy in stored["policies"]
        )
        return Requirement(
            stored["key"], stored["approvals"], policies, stored["approveWithinSeconds"], stored["executeWithinSeconds"]
        )


def parse_seat(accepts: Any) -> Seat:
    """One seat as it is written: ``["FINANCE AGENT", "SUPPORT LEAD"]``; ``ValueError`` for anything else."""
    if not isinstance(accepts, Sequence) or isinstance(accepts, str) or not accepts:
        raise ValueError("a seat lists the roles that may fill it")
    pairs: list[tuple[str, str]] = []
    for entry in accepts:
        role, _, tier = str(entry).partition(" ")
        if role not in ROLES or tier not in TIERS:
            raise ValueError("a seat names a role and its least tier, as FINANCE LEAD")
        pairs.append((role, tier))
    return Seat(tuple(pairs))


# ---------- policies ----------
@dataclass(frozen=True)
class ApprovalPolicy:
    """One approval policy: when it applies, and its seats; the number of seats is the number of approvals.

    ``from_steps``: the seats are those of the deed's own steps.
    """

    id: str
    key: str
    condition: Condition | None
    seats: tuple[Seat, ...]
    approve_within_seconds: int
    execute_within_seconds: int
    version: int = 1

    @property
    def from_steps(self) -> bool:
        return not self.seats


@dataclass(frozen=True)
class Gate:
    """A step of a deed that needs a second person by itself: what it needs, and what its voters are judged by."""

    key: str
    facts: Facts
    requirement: Requirement
    concerned_id: str | None = None  # whose own account or grants the step is about: may not vote

    def to_json(self) -> dict[str, Any]:
        """As stored with the request that the deed became."""
        return {
            "action": self.key,
            "facts": stored_facts(self.facts),
            "requirement": self.requirement.to_json(),
            "concerned": self.concerned_id,
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Gate:
        """Read back what ``to_json`` wrote."""
        requirement = Requirement.from_json(stored["requirement"])
        return Gate(stored["action"], read_facts(stored["facts"]), requirement, stored["concerned"])


def stored_facts(facts: Facts) -> dict[str, Any]:
    """Facts as JSON: sets become sorted lists."""
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in facts.items()}


def read_facts(stored: Mapping[str, Any]) -> Facts:
    """Facts from JSON: lists are sets."""
    return {name: frozenset(value) if isinstance(value, list) else value for name, value in stored.items()}


Book: TypeAlias = Mapping[str, tuple[ApprovalPolicy, ...]]

_POLICY_KEYS: Final = {"id", "key", "condition", "seats", "approveWithinSeconds", "executeWithinSeconds"}


def parse_book(text: str) -> Book:
    """Read the approval policies as shipped; ``ValueError`` names the policy that is wrong, unknown, or below the floor."""
    return book_of(parse_policy(entry) for entry in json.loads(text))


def book_of(policies: Iterable[ApprovalPolicy]) -> Book:
    """The policies in force by key; ``ValueError`` where an id is taken twice or a key of the floor has none."""
    book: dict[str, tuple[ApprovalPolicy, ...]] = dict.fromkeys(FLOOR, ())
    seen: set[str] = set()
    for policy in policies:
        if policy.id in seen:
            raise ValueError(f"approval policy {policy.id}: its id is taken")
        seen.add(policy.id)
        book[policy.key] += (policy,)
    bare = sorted(key for key, found in book.items() if not found)
    if bare:
        raise ValueError(f"no approval policy for {', '.join(bare)}")
    return MappingProxyType(book)


def parse_policy(entry: Any) -> ApprovalPolicy:
    """One policy as it is written; ``ValueError`` says what is wrong with it."""
    if not isinstance(entry, Mapping) or set(entry) - {"version"} != _POLICY_KEYS:
        raise ValueError(f"an approval policy has the keys {', '.join(sorted(_POLICY_KEYS))}")
    name, key = entry["id"], entry["key"]
    if not isinstance(name, str) or not isinstance(key, str) or key not in FLOOR:
        raise ValueError(f"approval policy {name}: unknown action {key}")
    try:
        condition = None if entry["condition"] is None else parse(entry["condition"])
        from_steps = entry["seats"] == FROM_STEPS
        seats = () if from_steps else tuple(parse_seat(accepts) for accepts in entry["seats"])
    except ValueError as error:
        raise ValueError(f"approval policy {name}: {error}") from error
    if len(seats) < FLOOR[key] and not from_steps:
        raise ValueError(f"approval policy {name}: below the floor of {FLOOR[key]}")
    for clock in ("approveWithinSeconds", "executeWithinSeconds"):
        if type(entry[clock]) is not int or entry[clock] <= 0:
            raise ValueError(f"approval policy {name}: {clock} is a positive number of seconds")
    clocks = entry["approveWithinSeconds"], entry["executeWithinSeconds"]
    return ApprovalPolicy(name, key, condition, seats, *clocks, entry.get("version", 1))


def entry_of(policy: ApprovalPolicy) -> dict[str, Any]:
    """The policy as it is written: what ``parse_policy`` reads."""
    seats = [seat.to_json() for seat in policy.seats]
    return {
        "id": policy.id,
        "key": policy.key,
        "condition": None if policy.condition is None else json.loads(canonical(policy.condition)),
        "seats": FROM_STEPS if policy.from_steps else seats,
        "approveWithinSeconds": policy.approve_within_seconds,
        "executeWithinSeconds": policy.execute_within_seconds,
        "version": policy.version,
    }


@cache
def shipped() -> Book:
    """The policies as shipped: what a database starts with."""
    return parse_book(files("authz").joinpath("approval_policies.json").read_text(encoding="utf-8"))


def stamp(book: Book, *keys: str) -> str:
    """Which policies of these keys are in force, in a word: a request is void once it reads otherwise."""
    entries = [entry_of(policy) for key in sorted(set(keys)) for policy in book.get(key, ())]
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_STAMP_CHARACTERS]


def required(key: str, facts: Facts, protected: bool, *, book: Book, gates: Sequence[Gate] = ()) -> Requirement | None:
    """What must be approved before ``key`` may run on these facts, or None when one person is enough.

    Every policy applies whose condition is not FALSE: what the facts leave open counts against the caller. A protected
    target adds one seat to each policy that applies, for a LEAD of FINANCE where money moves, else of TRUST_SAFETY, and
    asks for that LEAD alone where none applies. A key without policies needs two LEADs of the business, and so does a deed
    of the floor that every policy spares.

    A policy whose seats are the steps' asks for what ``gates`` ask for: all their seats, the most approvals, the shortest
    clocks. The steps have counted a protected target already.
    """
    policies = book.get(key, ())
    applying = [policy for policy in policies if evaluate(policy.condition, facts) is not False]
    if not policies or (not applying and key in FLOOR_ROWS and evaluate(FLOOR_ROWS[key], facts) is not False):
        seats = (Seat(tuple((role, "LEAD") for role in BUSINESS_ROLES)),) * _UNKNOWN_KEY_APPROVALS
        applying = [ApprovalPolicy("built-in/no-policy", key, None, seats, _DAY, _HOUR)]
    by_steps = any(policy.from_steps for policy in policies)
    extra = (
        (Seat((("FINANCE" if key in _MONEY_KEYS else "TRUST_SAFETY", "LEAD"),)),) if protected and not by_steps else ()
    )
    inner = [gate.requirement for gate in gates] if any(policy.from_steps for policy in applying) else []
    if applying:
        found = tuple(PolicySeats(policy.id, policy.seats + extra) for policy in applying if not policy.from_steps)
        found += tuple(dict.fromkeys(seats for one in inner for seats in one.policies))
    elif extra:
        found, applying = (PolicySeats("built-in/protected", extra),), list(policies)
    else:
        return None
    if not found:
        raise ValueError(f"{key} takes its seats from its steps, and none of them needs approval")
    clocks: list[ApprovalPolicy | Requirement] = [*applying, *inner]
    return Requirement(
        key,
        max(*(len(policy.seats) for policy in found), *(one.approvals for one in inner), 0),
        found,
        min(clock.approve_within_seconds for clock in clocks),
        min(clock.execute_within_seconds for clock in clocks),
    )


def facts_needed(key: str, *, book: Book) -> set[str]:
    """The facts that the policies of a key read."""
    return {fact for policy in book.get(key, ()) for fact in facts_of(policy.condition)}
