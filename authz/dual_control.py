"""Who may vote on a request, and when enough have agreed: pure rules over stored facts.

Quorum, eligibility, and the binding of a vote to a payload. What needs a second person is in ``requirements``, what
becomes of a request in ``approval_states``. Nothing here reads a clock or a database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from authz.caller import Grant
from authz.conditions import Facts
from authz.requirements import Gate, Requirement, Seat
from authz.scope import UNSCOPED, Unscoped


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
    gates: tuple[Gate, ...] = ()  # its steps that would need approval by themselves


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

    steps = {"stepsHeld": int(_holds_steps(grants, request, permits))} if request.gates else {}

    def ask(some: Sequence[Grant]) -> Answer:
        facts = {**request.facts, **steps}
        return permits(some, "approval", request.key, facts, city_id=request.city_id, category=request.content_category)

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


def _holds_steps(grants: Sequence[Grant], request: Bound, permits: Permits) -> bool:
    """The fact ``stepsHeld``: whoever approves the whole could approve each of its steps."""
    return all(
        permits(
            grants, "approval", gate.key, gate.facts, city_id=request.city_id, category=request.content_category
        ).allowed
        for gate in request.gates
    )


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
    return text, payload_hash(text)


def payload_hash(text: str) -> str:
    """What a voter presents: the SHA-256 of a payload, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


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
