"""What needs a second person, who that may be, and when enough have agreed: pure rules over stored facts.

Policies (how many, from which seats, how long), eligibility, quorum, and the binding of a vote to a payload. What becomes
of a request is in ``approval_states``. Nothing here reads a clock or a database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

from authz.caller import Grant
from authz.conditions import Condition, Facts, evaluate, facts_of, parse
from authz.scope import BUSINESS_ROLES, ROLES, TIERS, UNSCOPED, Unscoped

# The built-in floor (console domain, section 6, rule 9): a key with its fewest approvals. A policy file that says less, or
# says nothing about a key, is refused.
FLOOR: Final[Mapping[str, int]] = MappingProxyType({"refund.request": 1, "case.decide": 1})

_MONEY_KEYS: Final = frozenset({"refund.request"})
_UNKNOWN_KEY_APPROVALS: Final = 2  # console domain, rule 12: a sensitive action without a policy needs two
_DAY, _HOUR = 86_400, 3_600


# ---------- seats ----------
@dataclass(frozen=True)
class Seat:
    """A place in a quorum: each ``(role, least tier)`` that may fill it."""

    accepts: tuple[tuple[str, str], ...]

    def takes(self, role: str, tier: str) -> bool:
        return any(role == wanted and TIERS.index(tier) >= TIERS.index(least) for wanted, least in self.accepts)


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
                    "seats": [[f"{role} {tier}" for role, tier in seat.accepts] for seat in policy.seats],
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
            PolicySeats(policy["id"], tuple(_seat(accepts) for accepts in policy["seats"]))
            for policy in stored["policies"]
        )
        return Requirement(
            stored["key"], stored["approvals"], policies, stored["approveWithinSeconds"], stored["executeWithinSeconds"]
        )


def _seat(accepts: Any) -> Seat:
    if not isinstance(accepts, Sequence) or isinstance(accepts, str) or not accepts:
        raise ValueError("a seat lists the roles that may fill it")
    pairs: list[tuple[str, str]] = []
    for entry in accepts:
        role, _, tier = str(entry).partition(" ")
        if role not in ROLES or tier not in TIERS:
            raise ValueError(f"a seat names a role and its least tier, not {entry}")
        pairs.append((role, tier))
    return Seat(tuple(pairs))


# ---------- policies ----------
@dataclass(frozen=True)
class ApprovalPolicy:
    """One approval policy: when it applies, and its seats; the number of seats is the number of approvals."""

    id: str
    key: str
    condition: Condition | None
    seats: tuple[Seat, ...]
    approve_within_seconds: int
    execute_within_seconds: int


Book: TypeAlias = Mapping[str, tuple[ApprovalPolicy, ...]]

_POLICY_KEYS: Final = {"id", "key", "condition", "seats", "approveWithinSeconds", "executeWithinSeconds"}


def parse_book(text: str) -> Book:
    """Read the approval policies; ``ValueError`` names the policy that is wrong, unknown, or below the floor."""
    book: dict[str, tuple[ApprovalPolicy, ...]] = dict.fromkeys(FLOOR, ())
    seen: set[str] = set()
    for entry in json.loads(text):
        policy = _policy(entry)
        if policy.id in seen:
            raise ValueError(f"approval policy {policy.id}: its id is taken")
        seen.add(policy.id)
        book[policy.key] += (policy,)
    bare = sorted(key for key, policies in book.items() if not policies)
    if bare:
        raise ValueError(f"no approval policy for {', '.join(bare)}")
    return MappingProxyType(book)


def _policy(entry: Any) -> ApprovalPolicy:
    if not isinstance(entry, Mapping) or set(entry) != _POLICY_KEYS:
        raise ValueError(f"an approval policy has the keys {', '.join(sorted(_POLICY_KEYS))}")
    name, key = entry["id"], entry["key"]
    if not isinstance(name, str) or not isinstance(key, str) or key not in FLOOR:
        raise ValueError(f"approval policy {name}: unknown action {key}")
    try:
        condition = None if entry["condition"] is None else parse(entry["condition"])
        seats = tuple(_seat(accepts) for accepts in entry["seats"])
    except ValueError as error:
        raise ValueError(f"approval policy {name}: {error}") from error
    if len(seats) < FLOOR[key]:
        raise ValueError(f"approval policy {name}: below the floor of {FLOOR[key]}")
    for clock in ("approveWithinSeconds", "executeWithinSeconds"):
        if type(entry[clock]) is not int or entry[clock] <= 0:
            raise ValueError(f"approval policy {name}: {clock} is a positive number of seconds")
    return ApprovalPolicy(name, key, condition, seats, entry["approveWithinSeconds"], entry["executeWithinSeconds"])


@cache
def shipped() -> Book:
    """The policies as shipped."""
    return parse_book(files("authz").joinpath("approval_policies.json").read_text(encoding="utf-8"))


def required(key: str, facts: Facts, protected: bool, *, book: Book | None = None) -> Requirement | None:
    """What must be approved before ``key`` may run on these facts, or None when one person is enough.

    Every policy applies whose condition is not FALSE: what the facts leave open counts against the caller. A protected
    target adds one seat to each policy that applies, for a LEAD of FINANCE where money moves, else of TRUST_SAFETY, and
    asks for that LEAD alone where none applies. A key without policies needs two LEADs of the business.
    """
    policies = (shipped() if book is None else book).get(key, ())
    if not policies:
        seats = (Seat(tuple((role, "LEAD") for role in BUSINESS_ROLES)),) * _UNKNOWN_KEY_APPROVALS
        policies = (ApprovalPolicy("built-in/no-policy", key, None, seats, _DAY, _HOUR),)
    applying = [policy for policy in policies if evaluate(policy.condition, facts) is not False]
    extra = (Seat((("FINANCE" if key in _MONEY_KEYS else "TRUST_SAFETY", "LEAD"),)),) if protected else ()
    if applying:
        found = tuple(PolicySeats(policy.id, policy.seats + extra) for policy in applying)
    elif extra:
        found, applying = (PolicySeats("built-in/protected", extra),), list(policies)
    else:
        return None
    return Requirement(
        key,
        max(len(policy.seats) for policy in found),
        found,
        min(policy.approve_within_seconds for policy in applying),
        min(policy.execute_within_seconds for policy in applying),
    )


def facts_needed(key: str, *, book: Book | None = None) -> set[str]:
    """The facts that the policies of a key read."""
    return {
        fact for policy in (shipped() if book is None else book).get(key, ()) for fact in facts_of(policy.condition)
    }


# ---------- quorum ----------
@dataclass(frozen=True)
class Vote:
    """One person's vote, in the one role it was cast in."""

    voter_id: str
    role: str
    tier: str
    approve: bool = True
    counts: bool = True


@dataclass(frozen=True)
class Quorum:
    """How far a request is: ``missing`` are the seats still empty, ``people`` how many more must agree whatever the seats."""

    reached: bool
    people: int
    missing: tuple[tuple[str, Seat], ...]


def fill(requirement: Requirement, votes: Iterable[Vote]) -> Quorum:
    """Seat the approvals: a person once, one seat per policy, and never worse than the best seating there is.

    Votes that do not count, that reject, or that fit no seat are nobody; of two votes of one person the first stands.
    """
    people: dict[str, Vote] = {}
    for vote in votes:
        if vote.approve and vote.counts and requirement.seats_for(vote.role, vote.tier):
            people.setdefault(vote.voter_id, vote)
    voters = tuple(people.values())
    missing = tuple(
        (policy.policy_id, seat) for policy in requirement.policies for seat in _empty_seats(policy.seats, voters)
    )
    short = max(0, requirement.approvals - len(voters))
    return Quorum(not missing and not short, short, missing)


def _empty_seats(seats: Sequence[Seat], voters: Sequence[Vote]) -> list[Seat]:
    """The seats that the largest matching leaves empty (augmenting paths, Kuhn 1955)."""
    taken_by: dict[int, int] = {}  # voter -> seat

    def place(seat: int, tried: set[int]) -> bool:
        for voter, vote in enumerate(voters):
            if voter in tried or not seats[seat].takes(vote.role, vote.tier):
                continue
            tried.add(voter)
            if voter not in taken_by or place(taken_by[voter], tried):
                taken_by[voter] = seat
                return True
        return False

    return [seats[seat] for seat in range(len(seats)) if not place(seat, set())]


def enough(requirement: Requirement, candidates: Iterable[Vote]) -> bool:
    """Whether these people could reach the quorum at all (rule 7). ``candidates``: the vote each eligible person could cast."""
    return fill(requirement, candidates).reached


# ---------- who may vote ----------
@dataclass(frozen=True)
class Bound:
    """What a vote is judged by: the request as it was stored, never as things stand now."""

    key: str
    requester_id: str
    facts: Facts
    requirement: Requirement
    city_id: str | None = None
    content_category: str | Unscoped | None = UNSCOPED  # money has none
    contributor_ids: frozenset[str] = frozenset()  # wrote or edited the payload, beside the requester
    concerned_ids: frozenset[str] = frozenset()  # whose own account or grants it is about; the decider of an appeal


class Answer(Protocol):
    """The part of the decision function's answer that eligibility needs."""

    @property
    def allowed(self) -> bool: ...
    @property
    def fact(self) -> str | None: ...
    @property
    def step(self) -> str | None: ...


class Permits(Protocol):
    """``Snapshot.permits``."""

    def __call__(
        self,
        grants: Sequence[Grant],
        object_: str,
        action: str,
        facts: Facts,
        *,
        city_id: str | None,
        category: str | Unscoped | None,
    ) -> Answer: ...


@dataclass(frozen=True)
class Ballot:
    """The answer about one person: why not, or the grant that his vote would rest on."""

    code: str | None
    grant: Grant | None = None

    def vote(self, voter_id: str, *, approve: bool = True) -> Vote:
        """The vote this person could cast. Asking it of somebody ineligible is a bug."""
        if self.grant is None:
            raise ValueError("a person who is not eligible has no vote")
        return Vote(voter_id, self.grant.role, self.grant.tier, approve)


# The order in which reasons are looked for, and so the one that is told when several hold: first who the person is, then
# the right, then the object. It is the order of all checks (security contract): role, scope, amount.
INELIGIBLE: Final = ("SELF_APPROVAL", "CONTRIBUTOR", "CONFLICT", "TIER", "OUT_OF_SCOPE", "AMOUNT")
_STEP_CODES: Final[Mapping[str | None, str]] = MappingProxyType({"ROW": "TIER", "SCOPE": "OUT_OF_SCOPE"})


def ballot(voter_id: str, grants: Sequence[Grant], request: Bound, permits: Permits) -> Ballot:
    """Say why this person may not vote, or in which grant he would.

    Asked when he votes and again at execution: a vote whose owner lost the right stays, with ``counts`` false. Row, seat,
    scope and amount must meet in one grant; of several the one that fits most seats, then the first.
    """
    if voter_id == request.requester_id:
        return Ballot("SELF_APPROVAL")
    if voter_id in request.contributor_ids:
        return Ballot("CONTRIBUTOR")
    if voter_id in request.concerned_ids:
        return Ballot("CONFLICT")

    def ask(some: Sequence[Grant]) -> Answer:
        return permits(
            some, "approval", request.key, request.facts, city_id=request.city_id, category=request.content_category
        )

    answer = ask(grants)
    if not answer.allowed and answer.step == "ROW":  # asked with all grants at once: a deny of one overrides the others
        return Ballot("TIER")
    code = "TIER"
    best: tuple[int, Grant] | None = None
    for grant in grants:
        seats = request.requirement.seats_for(grant.role, grant.tier)
        if not seats:
            continue
        answer = ask((grant,))
        if answer.allowed:
            if best is None or seats > best[0]:
                best = (seats, grant)
        else:
            code = max(code, _code(answer), key=INELIGIBLE.index)  # the refusal that came nearest
    return Ballot(code) if best is None else Ballot(None, best[1])


def _code(answer: Answer) -> str:
    return _STEP_CODES.get(answer.step) or ("AMOUNT" if answer.fact in ("sum24hMinor", "amountMinor") else "TIER")


def eligible(voter_id: str, grants: Sequence[Grant], request: Bound, permits: Permits) -> str | None:
    """Say why this person may not vote, or None. The code is one of ``INELIGIBLE``."""
    return ballot(voter_id, grants, request, permits).code


def approvers(people: Iterable[tuple[str, Sequence[Grant]]], request: Bound, permits: Permits) -> tuple[Vote, ...]:
    """The vote that each eligible person could cast: who is asked, and whether the pool is large enough."""
    ballots = ((person, ballot(person, grants, request, permits)) for person, grants in people)
    return tuple(found.vote(person) for person, found in ballots if found.code is None)


# ---------- binding ----------
def payload(
    *,
    action: str,
    arguments: Mapping[str, Any],
    target_id: str,
    target_version: int | None,
    requester_id: str,
    policy_id: str,
    policy_version: int,
) -> tuple[str, str]:
    """What is voted on: the canonical JSON of everything that an approval means, and its SHA-256 in hex.

    ``arguments`` go in whole but for the idempotency key. ``ValueError`` for what has no canonical form.
    """
    bound = {
        "action": action,
        "arguments": _without_key(arguments),
        "policyId": policy_id,
        "policyVersion": policy_version,
        "requesterId": requester_id,
        "targetId": target_id,
        "targetVersion": target_version,
    }
    text = canonical(bound)
    return text, hashlib.sha256(text.encode()).hexdigest()


def _without_key(arguments: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in arguments.items() if name != "idempotencyKey"}
    return {
        name: _without_key(value) if name == "input" and isinstance(value, Mapping) else value
        for name, value in kept.items()
    }


def canonical(value: Any) -> str:
    """JSON with sorted keys, no space and whole numbers only: the same value is always the same text."""
    text = json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode()  # a lone surrogate has no UTF-8 form and ends here (UnicodeEncodeError is a ValueError)
    return text


def _whole(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a payload's keys are texts")
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    raise ValueError(
        f"a payload holds texts, whole numbers, truth values, lists and objects, not {type(value).__name__}"
    )
